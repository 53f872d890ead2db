"""Meta-training with the LoRAs of a hub as teachers: what they say, that the student stays itself, and going on."""

import os
import shutil
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from recycle_pool import CLASSES, LORAS, write_pool
from recycle_tiny import Classifier, arrays
from tiny import one_thread  # noqa: F401

from mmlora.adapters import Pair, SparseTokens, adapt_with, adapter_modules, draw_lora, freeze, frozen_twin, read_lora
from mmlora.apis import train
from mmlora.datasets import EpisodeSampler, EpisodicDataset, PoolImages, SeededDataset
from mmlora.engine import MetaLoRADistillationHook
from mmlora.engine.adaptation import unwrap_model
from mmlora.engine.hub_distillation import HubTeachers
from mmlora.io.hub import LoRAHub, write_index
from mmlora.io.lora_folder import Head, write_lora_folder
from mmlora.models import prototype_scores
from mmlora.ranks import weights_sha256

SITES = ['layers.0.attn.qkv', 'layers.1.attn.qkv']
VIT = dict(type='mmpretrain.VisionTransformer', img_size=32, patch_size=8, out_type='cls_token',
           arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16))
NORM = dict(mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0], to_rgb=True)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def plain_backbone():
    init_default_scope('mmpretrain')
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = MODELS.build(VIT)
        backbone.init_weights()
    backbone.eval()
    return backbone


def write_world(folder):
    """Write a hub of 2 LoRAs, of ranks 2 and 1, the pool of their classes, and the weights that they stand on."""
    backbone = plain_backbone()
    torch.save(backbone.state_dict(), folder / 'base.pth')
    digest = weights_sha256({name: torch.atleast_1d(value) for name, value in backbone.state_dict().items()})
    for number, (name, labels) in enumerate(LORAS.items()):
        generator = torch.Generator().manual_seed(number)
        weights = draw_lora(backbone, SITES, 2 - number, 'qv', 1.5, generator)
        weights = {site: pair._replace(b=torch.randn(pair.b.shape, generator=generator))
                   for site, pair in weights.items()}
        head = Head(torch.randn(3, 16, generator=generator), torch.randn(3, generator=generator))
        record = dict(classes=[CLASSES[k] for k in labels], class_ids=[10 + k for k in labels], task={}, metrics={},
                      base=dict(sha256=digest), normalization=NORM)
        write_lora_folder(folder / 'hub' / name, weights, record, head)
    write_index(folder / 'hub', mixed_ranks=True)
    write_pool(folder / 'pool')
    return folder


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp('world'))


def student(world, **kwargs):
    backbone = dict(type='AdaptedBackbone', backbone=VIT, targets=['attn.qkv'], lora_ranks=3, lora_slices='qkv')
    torch.manual_seed(0)
    model = MODELS.build(dict(type='MetaClassifier', backbone=backbone, data_preprocessor=dict(NORM), **kwargs))
    model.backbone.load_state_dict(torch.load(world / 'base.pth', weights_only=True), strict=False)
    for layer in adapter_modules(model).values():
        torch.nn.init.normal_(layer.lora_B_q)
    return model


def alone(world, member):
    """A member as a model of its own: logits of normalised images."""
    folder = LoRAHub.open(world / 'hub')[member]
    backbone = plain_backbone()
    adapt_with(backbone, folder.weights)
    return lambda x: F.linear(backbone(x)[-1], *folder.head)


def test_teachers_say_what_the_members_say_alone(world):
    model, images = student(world), torch.randn(4, 3, 32, 32)
    teachers = HubTeachers(LoRAHub.open(world / 'hub'), list(LORAS), model.backbone)
    names = ['00001', '00000', '00000', '00001']
    logits = teachers(images, names)
    for image, name, own in zip(images, names, logits, strict=True):
        torch.testing.assert_close(own, alone(world, name)(image[None])[0].detach(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits[0], logits[1], atol=0.1)


def test_teachers_share_the_frozen_weights_and_leave_the_student_alone(world):
    model, images = student(world), torch.randn(3, 3, 32, 32)
    parameters = dict(model.named_parameters())
    before, features = {name: p.detach().clone() for name, p in parameters.items()}, model(images)
    teachers = HubTeachers(LoRAHub.open(world / 'hub'), list(LORAS), model.backbone)
    teachers(images, ['00001'] * 3)
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(p is parameters[name] and torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(model(images), features)
    own = {p.data_ptr() for p in teachers.backbone.parameters()}
    frozen = {p.data_ptr() for p in model.backbone.parameters() if not p.requires_grad}
    assert frozen <= own and not own & {p.data_ptr() for p in model.parameters() if p.requires_grad}
    assert not teachers.backbone.training and model.training


def test_a_twin_is_the_plain_model(world):
    model, images = student(world), torch.randn(2, 3, 32, 32)
    twin = frozen_twin(model.backbone)
    torch.testing.assert_close(twin(images)[-1], plain_backbone()(images)[-1], rtol=0, atol=0)
    assert not torch.allclose(twin(images)[-1], model.backbone(images)[-1])
    assert not adapter_modules(twin) and not any(p.requires_grad for p in twin.parameters())
    for layer in adapter_modules(model).values():
        layer.merge()
    with pytest.raises(ValueError, match="2 layers are merged, such as 'layers.0.attn.qkv'"):
        frozen_twin(model.backbone)
    tuned = MODELS.build(dict(type='AdaptedBackbone', backbone=VIT, kind='AdaptFormer'))
    with pytest.raises(ValueError, match='needs adapters of linear layers, not AdaptFormer'):
        frozen_twin(tuned)


def test_the_golden_teacher(tmp_path):
    """The LoRA and head of the golden teacher on the base of the golden student give the golden logits."""
    teacher, golden = Classifier('teacher'), arrays('meta_step')
    freeze(teacher, [f'backbone.layers.{i}.attn.qkv.lora_{x}_{p}' for i in range(4) for x in 'AB' for p in 'qv'])
    weights = {(site, part): Pair(pair.a, pair.b, pair.scaling)
               for (site, part), pair in read_lora(teacher).items()}
    record = dict(classes=list('abc'), class_ids=[0, 1, 2], task={}, metrics={}, base={}, normalization=NORM)
    write_lora_folder(tmp_path / '00000', weights, record, Head(teacher.head.weight.data, teacher.head.bias.data))

    class Features(torch.nn.Module):
        def __init__(self, tower):
            super().__init__()
            self.backbone, self.projection = tower.backbone, tower.projection

        def forward(self, x):
            return (self.projection(self.backbone(x)[-1]),)

    student = Classifier('student')
    freeze(student, [f'backbone.layers.{i}.attn.qkv.lora_{x}_{p}' for i in range(4) for x in 'AB' for p in 'qv'])
    teachers = HubTeachers(write_index(tmp_path), ['00000'], Features(student))
    for tokens in ('dense', 'sparse'):
        logits = torch.stack(teachers(golden[f'{tokens}_query'], ['00000'] * 6))
        torch.testing.assert_close(logits, golden[f'{tokens}_teacher_logits_dense'].float(), rtol=1e-5, atol=1e-5)


class Run:
    """As much of a runner as the hook looks at."""

    def __init__(self, world, mask_ratio=None, hub='hub', channels='bgr', loras=None, **changes):
        data = PoolImages(str(world / 'pool'), mask_ratio, channels, pipeline=[dict(type='PackInputs')])
        data = EpisodicDataset(data)
        sizes = dict(n_way=3, n_shot=1, n_query=2, num_episodes=40, p_interpolate=0.5, seed=0, batch_size=4)
        self.sampler = EpisodeSampler(dataset=data, **{**sizes, **changes.pop('sampler', {})})
        self.train_dataloader = type('Loader', (), dict(dataset=SeededDataset(data), batch_sampler=self.sampler))
        self.model = student(world, **changes)
        self.logger = type('Logger', (), dict(info=lambda self, text: None))()

    def batch(self, number=0):
        return pseudo_collate([self.train_dataloader.dataset[i] for i in list(self.sampler)[number]])

    def prepare(self, batch):
        return unwrap_model(self.model).data_preprocessor(batch, True)


@pytest.mark.parametrize('tokens', ['dense', 'sparse'])
@pytest.mark.parametrize('seen', ['dense', 'sparse'])
def test_the_loss_of_a_batch(world, tokens, seen):
    """Divergence from the LoRA in episodes of one LoRA, cross entropy in the others."""
    run = Run(world, 0.5, sparse=seen == 'sparse')
    hook = MetaLoRADistillationHook(str(world / 'hub'), tokens)
    hook.before_train(run)
    batch = run.batch()
    hook.before_train_iter(run, 0, batch)
    data = run.prepare(batch)
    loras = [sample.lora for sample in data['data_samples']][::9]
    assert None in loras and len(set(loras) - {None}) >= 1
    loss = run.model.loss(**data)['loss']
    wanted = 0
    for number, lora in enumerate(loras):
        own = slice(9 * number, 9 * number + 9)
        samples, images = data['data_samples'][own], data['inputs'][own]
        keep = torch.stack([sample.patch_mask for sample in samples])
        sparse = SparseTokens()
        if seen == 'sparse':
            sparse.attach(run.model.backbone)
            with sparse.only(keep):
                features = run.model.backbone(images)[-1]
            sparse.detach()
        else:
            features = run.model.backbone(images)[-1]
        scores = prototype_scores(features[:3], torch.arange(3), features[3:], 3)
        labels = torch.tensor([0, 1, 2] * 2)
        if lora is None:
            wanted = wanted + F.cross_entropy(scores, labels)
            continue
        outputs = [sample.lora_label for sample in samples[:3]]
        assert sorted(outputs) == [0, 1, 2]
        with torch.no_grad():
            teachers = HubTeachers(LoRAHub.open(world / 'hub'), [lora], run.model.backbone)
            said = teachers(images[3:], [lora] * 6, keep[3:] if tokens == 'sparse' else None)
            logits = torch.stack(said)[:, outputs]
        p = logits.softmax(-1)
        wanted = wanted + (p * (p.log() - scores.log_softmax(-1))).sum() / 6
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)


def test_the_outputs_of_the_head_are_those_of_the_classes_of_the_episode(world):
    run = Run(world, sampler=dict(p_interpolate=0.0, n_way=2))
    hook = MetaLoRADistillationHook(str(world / 'hub'))
    hook.before_train(run)
    orders = set()
    for number in range(5):
        batch = run.batch(number)
        hook.before_train_iter(run, 0, batch)
        data = run.prepare(batch)
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            assert ('teacher_logits' in sample) != sample.support
            if not sample.support:
                all_three = alone(world, sample.lora)(image[None])[0].detach()
                torch.testing.assert_close(sample.teacher_logits[int(sample.gt_label)], all_three[sample.lora_label],
                                           rtol=1e-4, atol=1e-5)
                assert sample.teacher_logits.shape == (2,)
                orders.add((sample.lora, int(sample.gt_label), sample.lora_label))
    assert len(orders) == 2 * 2 * 3


def test_nothing_is_read_where_all_episodes_cross(world, tmp_path):
    run = Run(world, sampler=dict(p_interpolate=1.0))
    hook = MetaLoRADistillationHook(str(tmp_path / 'no hub'))
    hook.before_train(run)
    batch = run.batch()
    hook.before_train_iter(run, 0, batch)
    assert not any('teacher_logits' in sample for sample in batch['data_samples'])


def broken(change):
    def make(world, tmp_path):
        run = Run(world)
        change(run, world, tmp_path)
        return run

    return make


def move_weights(run, world, tmp_path):
    run.model.backbone.cls_token.data.add_(1)


def other_classes(run, world, tmp_path):
    pool = run.train_dataloader.dataset.datasets[0].pool
    pool.classes[0], pool.classes[1] = pool.classes[1], pool.classes[0]


def other_mean(run, world, tmp_path):
    run.model.data_preprocessor.mean += 1


@pytest.mark.parametrize('make, error, message', [
    (lambda w, t: Run(w, channels='rgb'), ValueError, "would swap red and blue: set channels='bgr'"),
    (broken(move_weights), ValueError, 'those of the backbone that learns have'),
    (broken(other_classes), ValueError, "output 0 of the LoRA '00000' is 'bee' in the pool .*, and is 'ant' in"),
    (broken(other_mean), ValueError, 'give data_preprocessor the values of the hub'),
    (broken(lambda run, w, t: setattr(run.train_dataloader, 'batch_sampler', None)), TypeError, 'and NoneType'),
])
def test_what_does_not_belong_together(world, tmp_path, make, error, message):
    run = make(world, tmp_path)
    with pytest.raises(error, match=message):
        MetaLoRADistillationHook(str(world / 'hub')).before_train(run)


def test_hooks_that_cannot_be(world, tmp_path):
    with pytest.raises(ValueError, match="tokens='some' must be one of dense, sparse"):
        MetaLoRADistillationHook('hub', 'some')
    with pytest.raises(FileNotFoundError, match='is no hub'):
        MetaLoRADistillationHook(str(tmp_path / 'hub')).before_train(Run(world))


def config(world, work_dir):
    pack = [dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
    pool = dict(type='PoolImages', pool=str(world / 'pool'), mask_ratio=0.5, pipeline=pack)
    backbone = dict(type='AdaptedBackbone', backbone=dict(VIT, init_cfg=dict(
        type='Pretrained', checkpoint=str(world / 'base.pth'))), targets=['attn.qkv'], lora_ranks=3)
    return Config(dict(
        default_scope='mmpretrain', work_dir=str(work_dir), randomness=dict(seed=0), visualizer=None, log_level='ERROR',
        model=dict(type='MetaClassifier', backbone=backbone, sparse=True, data_preprocessor=dict(NORM)),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=dict(type='EpisodicDataset', dataset=pool),
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_sampler=dict(type='EpisodeSampler', n_way=3, n_shot=1, n_query=2, num_episodes=6, p_interpolate=0.5)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=8),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=1e-2)),
        param_scheduler=dict(type='PeriodicWarmupCosineLR', period=4, warmup=1, by_epoch=False),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5)),
        custom_hooks=[dict(type='MetaLoRADistillationHook', hub=str(world / 'hub'))],
    ))  # fmt: skip


def test_a_run_killed_in_the_middle_of_a_write_goes_on(world, tmp_path, one_thread, monkeypatch):  # noqa: F811
    """By SIGKILL, as its second checkpoint is written; it goes on from the first."""
    def run(name, **kwargs):
        cfg = config(world, tmp_path / name)
        cfg.train_cfg.max_iters, cfg.default_hooks.checkpoint.interval = 4, 2
        train(cfg, **kwargs)

    written, replace = [], os.replace
    monkeypatch.setattr(os, 'replace', lambda *names: written.append(Path(names[1]).name) or replace(*names))
    run('whole')
    tiny.killed_at(1 + written.index('iter_4.pth'), lambda: run('killed'))
    assert (tmp_path / 'killed' / 'iter_2.pth').is_file() and not (tmp_path / 'killed' / 'iter_4.pth').exists()
    run('killed', resume='auto')
    assert not tiny.differing_runs(tmp_path / 'whole' / 'iter_4.pth', tmp_path / 'killed' / 'iter_4.pth')


def test_a_resumed_run_equals_the_uninterrupted_one(world, tmp_path):
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    runner = train(config(world, whole))
    base = torch.load(world / 'base.pth', weights_only=True)
    state = unwrap_model(runner.model).backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in base.items())
    assert all(state[f'{site}.lora_B_q'].abs().max() > 0 for site in SITES)
    assert not any('teacher' in name or 'bank' in name for name in state)
    resumed.mkdir()
    shutil.copy(whole / 'iter_5.pth', resumed)
    train(config(world, resumed), resume=str(resumed / 'iter_5.pth'))
    assert not tiny.differing_runs(whole / 'iter_8.pth', resumed / 'iter_8.pth')
