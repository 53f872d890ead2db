"""What LoRA-Recycle refuses, as a user meets it: the tools with hubs, pools and configs that cannot be used.

Every message quotes what was given and says what to do.
"""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image
from recycle_pool import CLASSES, LORAS, write_pool
from tiny import call_tool

from mmlora.adapters import draw_lora
from mmlora.apis import train
from mmlora.apis.hub_members import build_frozen
from mmlora.engine.adaptation import unwrap_model
from mmlora.engine.hub_distillation import HubTeachers
from mmlora.io.hub import LoRAHub, write_index
from mmlora.io.lora_folder import Head, read_lora_folder, read_record, write_lora_folder

VIT = dict(type='VisionTransformer', img_size=32, patch_size=8, out_type='cls_token',
           arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16))
NORM = dict(mean=[54.0] * 3, std=[72.0] * 3, to_rgb=True)
CONFIG = """
default_scope = 'mmpretrain'
model = dict(backbone=dict(**{vit!r}, init_cfg=dict(type='Pretrained', checkpoint={weights!r})))
data_preprocessor = {norm!r}
hub_sources = [dict(name='toy', dataset=dict(type='CustomDataset', pipeline=[dict(type='LoadImageFromFile')]))]
"""


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A config, a hub of two LoRAs and their pool. Not to be written to."""
    from mmpretrain.models import VisionTransformer

    folder = tmp_path_factory.mktemp('made')
    torch.manual_seed(0)
    model = VisionTransformer(**{key: value for key, value in VIT.items() if key != 'type'})
    torch.save(model.state_dict(), folder / 'base.pth')
    torch.save({key: value + 1 for key, value in model.state_dict().items()}, folder / 'other.pth')
    (folder / 'hub.py').write_text(CONFIG.format(vit=VIT, weights=str(folder / 'base.pth'), norm=NORM))
    _, digest = build_frozen(Config.fromfile(folder / 'hub.py'), 'cpu')
    for number, (name, labels) in enumerate(LORAS.items()):
        weights = draw_lora(model, ['layers.0.attn.qkv'], 2, 'qv', 1.0, torch.Generator().manual_seed(number))
        record = dict(classes=[CLASSES[k] for k in labels], class_ids=[10 + k for k in labels], task={}, metrics={},
                      base=dict(sha256=digest, name='base.pth'), normalization=NORM)
        write_lora_folder(folder / 'hub' / name, weights, record, Head(torch.eye(3, 16), torch.zeros(3)))
    hub = write_index(folder / 'hub')
    write_pool(folder / 'pool', base=digest, per_class=4, weights={name: hub.digest(name) for name in hub})
    return folder


@pytest.fixture
def world(made, tmp_path):
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / 'world'))


def rewrite(world, head=None, weights=None, **changes):
    """Let the second member of the hub be another, and the index say so."""
    folder = world / 'hub' / '00001'
    found = read_lora_folder(folder)
    write_lora_folder(folder, weights or found.weights, {**found.record, **changes}, head or found.head)
    edit(world / 'hub' / 'index.json', lambda index: index['members'].update({'00001': read_record(folder)}))


def other_rank(world):
    weights = read_lora_folder(world / 'hub' / '00001').weights
    rewrite(world, weights={key: pair._replace(a=pair.a[:1], b=pair.b[:, :1]) for key, pair in weights.items()})


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def pool(change):
    """Return what changes the index of the pool."""
    return lambda world: edit(world / 'pool' / 'index.json', change)


def invert(world):
    return call_tool('invert', world / 'hub', '--config', world / 'hub.py', '--out', world / 'out', '--prior', 'none',
                     '--iterations', 1, '--per-class', 1)


def config(world, pool=None, sampler=None, model=None, hub='hub', weights='base.pth', norm=NORM):
    backbone = dict(type='AdaptedBackbone', targets=['attn.qkv'], lora_ranks=2, backbone=dict(
        VIT, init_cfg=dict(type='Pretrained', checkpoint=str(world / weights))))
    data = dict(type='PoolImages', pool=str(world / 'pool'), pipeline=[dict(type='PackInputs')], **(pool or {}))
    episodes = dict(type='EpisodeSampler', n_way=3, n_shot=1, n_query=2, num_episodes=2, p_interpolate=0.0)
    return Config(dict(
        default_scope='mmpretrain', work_dir=str(world / 'run'), randomness=dict(seed=0), log_level='ERROR',
        model=dict(type='MetaClassifier', backbone=backbone, data_preprocessor=dict(norm), **(model or {})),
        train_dataloader=dict(
            batch_size=1, num_workers=0, dataset=dict(type='EpisodicDataset', dataset=data),
            sampler=dict(type='DefaultSampler', shuffle=False), batch_sampler={**episodes, **(sampler or {})}),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[dict(type='MetaLoRADistillationHook', hub=str(world / hub))] if hub else [],
    ))  # fmt: skip


@pytest.mark.parametrize('change, message', [
    (lambda w: rewrite(w, base=dict(sha256='e' * 64)), "'00001' of .* differs in the frozen weights: it has 'eee"),
    (other_rank, "'00001' of .* differs in the rank: it has {'q': 1.* has {'q': 2.*: a hub of several ranks says"),
    (lambda w: rewrite(w, normalization=dict(NORM, mean=[0.0] * 3)), "differs in the preparation of images: .*0.0"),
    (lambda w: rewrite(w, head=Head(torch.ones(3, 8), torch.zeros(3))), 'differs in the size of features: it has 8'),
    (lambda w: rewrite(w, class_ids=[10, 11, 13]), "class 10 is 'eel' in 00001 and 'ant' in another LoRA"),
    (lambda w: shutil.rmtree(w / 'hub' / '00001'), "names the member '00001', which has no mmlora.json: copy the hub"),
    (lambda w: (w / 'hub' / 'index.json').unlink(), 'has no index.json, but 2 members: go on with the command'),
    (lambda w: (w / 'hub' / '00001' / 'head.safetensors').unlink(), 'head.safetensors is missing'),
    (lambda w: (w / 'hub.py').write_text((w / 'hub.py').read_text().replace('base.pth', 'other.pth')),
     'stand on weights with the sha256 .* have .*: load the weights of the hub'),
])
def test_hubs_that_are_not_inverted(world, capsys, change, message):
    change(world)
    assert invert(world) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_hub_of_bgr_images_is_not_inverted(world, capsys):
    """The pool would hold blue faces, and the prior would see them."""
    for number in range(2):
        folder = world / 'hub' / f'{number:05d}'
        found = read_lora_folder(folder)
        record = {**found.record, 'normalization': dict(NORM, to_rgb=False)}
        write_lora_folder(folder, found.weights, record, found.head)
    write_index(world / 'hub')
    assert invert(world) == 2
    assert 'are read as BGR (LoadImageFromFile) and stayed so (to_rgb=False)' in capsys.readouterr().err
    text = (world / 'hub.py').read_text()
    (world / 'hub.py').write_text(text.replace("FromFile'", "FromFile', color_type='grayscale'"))
    assert invert(world) == 0


def lose(count):
    def change(index):
        index['about']['per_class'] = 4
        del index['images'][-count:]

    return pool(change)


def blank_mask(index):
    index['images'][5]['masks']['0.5'] = '0000'


def small_image(world):
    (path, *_) = sorted((world / 'pool' / 'images').glob('*/*.png'))
    Image.new('RGB', (16, 16)).save(path)


@pytest.mark.parametrize('change, options, message', [
    (None, {}, None),
    (None, dict(pool=dict(mask_ratio=0.5), model=dict(sparse=True)), None),
    (None, dict(sampler=dict(n_way=2)), None),
    (None, dict(sampler=dict(n_way=4)), "LoRA '00000': 4-way episodes need 4 classes, but the data has 3; or"),
    (None, dict(sampler=dict(n_shot=3)), r"need 5 images of each class, but class 0 \(ant\) has 4; lower n_shot"),
    (None, dict(model=dict(sparse=True)), 'have no mask, which sparse=True needs: set mask_ratio'),
    (None, dict(pool=dict(mask_ratio=0.75)), 'has no mask of ratio 0.75: this pool has 0.5; name the ratio'),
    (None, dict(hub=None), 'no logits of a teacher: list'),
    (None, dict(hub='nowhere'), "nowhere' is no hub: .* the folder does not exist"),
    (None, dict(weights='other.pth'), 'those of the backbone that learns have .*: load the weights of the hub'),
    (None, dict(norm=dict(NORM, mean=[0.0] * 3)), 'give data_preprocessor the values of the hub'),
    (pool(blank_mask), dict(pool=dict(mask_ratio=0.5)), "ratio 0.5: the mask '0000' keeps no patch; make the"),
    (lose(1), {}, "not finished: label 2 of the LoRA '00001' has 3 of 4 images; the command that"),
    (lose(12), {}, "not finished: the LoRA '00001' has no image yet; the command that"),
    (pool(lambda index: index['about'].update(grid=[3, 4])), {}, r'grid=\[3, 4\] does not divide image_size=\[32'),
    (pool(lambda index: index['about'].update(image_size='32')), {}, "image_size='32' must be two whole numbers"),
    (pool(lambda index: index['about'].update(grid=None)), {}, 'has masks, but grid=None does not say'),
    (pool(lambda index: index['about'].update(image_size=[64, 64])), {}, r'has \(32, 32\) pixels, but the pool \[64'),
    (small_image, {}, r'has \(16, 16\) pixels, but the pool \[32, 32\]: make the pool again'),
    (lambda w: shutil.rmtree(w / 'pool' / 'images'), {}, 'in the index of the pool but not on the disk: make'),
    (pool(lambda index: index['about'].update(base='e' * 64)), {}, 'was made on weights with the sha256 eee.* load'),
    (lambda w: (rewrite(w, head=Head(torch.ones(3, 16), torch.zeros(3)))), {},
     "LoRA '00001' of .* has other weights than when the pool .* was made: make the pool again"),
    (other_rank, {}, 'differs in the rank'),
])
def test_meta_training_that_does_not_start(world, change, options, message):
    """The first ones do."""
    if change is not None:
        change(world)
    with nullcontext() if message is None else pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config(world, **options))
    assert (world / 'run' / 'iter_1.pth').is_file() == (message is None)


def test_pools_of_two_hubs_and_real_images(world):
    """Each pool has the teachers of its hub, whose LoRAs have the same names; real images have none."""
    cfg = config(world, sampler=dict(num_episodes=12, p_interpolate=0.5))
    shutil.copytree(world / 'hub', world / 'hub2')
    found = read_lora_folder(world / 'hub2' / '00000')
    write_lora_folder(world / 'hub2' / '00000', found.weights, {**found.record, 'classes': ['fox', 'gnu', 'hen']},
                      Head(-torch.eye(3, 16), torch.ones(3)))
    write_index(world / 'hub2')
    shutil.copytree(world / 'pool', world / 'pool2')
    digest = LoRAHub.open(world / 'hub2').digest('00000')
    edit(world / 'pool2' / 'index.json', lambda index: index.update(
        classes=['fox', 'gnu', 'hen'], class_ids=[0, 1, 2], images=[i for i in index['images'] if i['lora'] == '00000'],
        about={**index['about'], 'loras': ['00000'], 'weights': {'00000': digest}}))
    first = cfg.train_dataloader.dataset.dataset
    real = dict(type='Glyphs', split='test', samples_per_class=4, scripts=['ARMENIAN'], subset='base',
                pipeline=first.pipeline)
    cfg.train_dataloader.dataset.dataset = [real, first, dict(first, pool=str(world / 'pool2'))]
    cfg.train_cfg.max_iters = cfg.default_hooks.checkpoint.interval = 12
    with pytest.raises(ValueError, match=r'LoRA .00000. is .fox. in the pool .*, and is .ant. in the hub'):
        train(cfg)
    cfg.custom_hooks[0].hub = [str(world / 'hub')] * 3
    with pytest.raises(ValueError, match='3 hubs are named .* for 2 pools: name one for each PoolImages'):
        train(cfg)
    cfg.custom_hooks[0].hub = [str(world / 'hub'), str(world / 'hub2')]
    said = {}

    class Listener(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            for image, sample in zip(data_batch['inputs'], data_batch['data_samples'], strict=True):
                if 'teacher_logits' in sample:
                    said.setdefault((sample.source, sample.lora), []).append((image, sample))

    cfg.custom_hooks.append(dict(type=Listener))
    runner = train(cfg)
    assert set(said) == {(1, '00000'), (1, '00001'), (2, '00000')}
    model = unwrap_model(runner.model)
    for (source, lora), pairs in said.items():
        teachers = HubTeachers(LoRAHub.open(world / ('hub' if source == 1 else 'hub2')), [lora], model.backbone)
        for image, sample in pairs[:2]:
            x = model.data_preprocessor(dict(inputs=[image]))['inputs']
            own = teachers(x, [lora])[0][sample.lora_label]
            torch.testing.assert_close(sample.teacher_logits[int(sample.gt_label)], own, rtol=1e-4, atol=1e-5)
