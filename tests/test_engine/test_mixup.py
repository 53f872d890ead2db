"""MixupCutMix against timm's Mixup, what it does with odd batches, and that a resumed run draws the same."""

import shutil

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmpretrain.models.utils.batch_augments import CutMix
from mmpretrain.registry import BATCH_AUGMENTS, MODELS
from mmpretrain.structures import DataSample
from tiny import images, quick  # noqa: F401

from mmlora.apis import train
from mmlora.models import MixupCutMix

CLASSES = 5
OPTIONS = {  # ours: timm's
    'mixup': 'mixup_alpha', 'cutmix': 'cutmix_alpha', 'prob': 'prob', 'switch_prob': 'switch_prob',
    'smoothing': 'label_smoothing',
}
PUBLISHED = dict(mixup=0.8, cutmix=1.0, prob=1.0, switch_prob=0.5, smoothing=0.1)
CASES = {
    'published': PUBLISHED,
    'mixup alone': dict(PUBLISHED, cutmix=0.0),
    'cutmix alone': dict(PUBLISHED, mixup=0.0),
    'sometimes': dict(PUBLISHED, prob=0.5),
    'never': dict(PUBLISHED, prob=0.0),
    'hard labels': dict(PUBLISHED, smoothing=0.0),
    'other shapes of the distribution': dict(PUBLISHED, mixup=0.2, cutmix=3.0, switch_prob=0.9),
}


def batch(size: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(size, 3, 12, 20, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return pictures, labels, F.one_hot(labels, CLASSES)


@pytest.fixture
def timm_mixup(monkeypatch):
    """timm's module, with the box of its version 0.9, which mmpretrain has kept."""
    mixup = pytest.importorskip('timm.data.mixup')
    old = CutMix(alpha=1.0)
    monkeypatch.setattr(mixup, 'rand_bbox', lambda shape, lam, **rest: old.rand_bbox(shape[-2:], lam, **rest))
    return mixup


@pytest.mark.parametrize('case', CASES)
def test_the_same_as_timm(timm_mixup, case):
    options = CASES[case]
    theirs = timm_mixup.Mixup(**{OPTIONS[k]: v for k, v in options.items()}, mode='batch', num_classes=CLASSES)
    ours, changed = MixupCutMix(**options), 0
    for seed in range(20):
        pictures, labels, scores = batch(seed=seed)
        np.random.seed(seed)
        wanted = theirs(pictures.clone(), labels)
        np.random.seed(seed)
        found = ours(pictures, scores)
        assert torch.equal(found[0], wanted[0])
        torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[1].sum(1), torch.ones(6))
        changed += not torch.equal(found[0], pictures)
    assert {'never': changed == 0, 'sometimes': 0 < changed < 20}.get(case, changed > 15)


def test_both_kinds_are_drawn():
    mixer = MixupCutMix()
    np.random.seed(0)
    drawn = [mixer.draw()[0] for _ in range(200)]
    assert 70 < sum(drawn) < 130


def test_the_arguments_stay_as_they_are():
    pictures, _, scores = batch()
    kept = pictures.clone(), scores.clone()
    for seed in range(6):
        np.random.seed(seed)
        MixupCutMix()(pictures, scores)
    assert torch.equal(pictures, kept[0]) and torch.equal(scores, kept[1])


@pytest.mark.parametrize('options', [dict(cutmix=0.0), dict(mixup=0.0)])
def test_the_image_in_the_middle_of_an_odd_batch_stays_unmixed(options):
    pictures, _, scores = batch(7)
    np.random.seed(3)
    mixed, targets = MixupCutMix(**options)(pictures, scores)
    torch.testing.assert_close(mixed[3], pictures[3])
    torch.testing.assert_close(targets[3], scores[3] * 0.9 + 0.1 / CLASSES)
    assert all(not torch.equal(mixed[i], pictures[i]) for i in range(7) if i != 3)


def test_what_cannot_be_mixed():
    pictures, labels, scores = batch()
    with pytest.raises(ValueError, match=r'batch of 1: .*batch_size.*drop_last=True'):
        MixupCutMix()(pictures[:1], scores[:1])
    with pytest.raises(ValueError, match=r'one label an image.*\(6,\)'):
        MixupCutMix()(pictures, labels)
    with pytest.raises(ValueError, match='one label an image'):
        MixupCutMix()(pictures, torch.ones(6, CLASSES))


@pytest.mark.parametrize(('options', 'message'), [
    (dict(mixup=-1), 'mixup must be at least 0, got -1'), (dict(prob=1.5), r'prob must lie in 0\.\.1, got 1\.5'),
    (dict(smoothing=-0.1), 'smoothing must lie'), (dict(switch_prob=2), 'switch_prob must lie'),
    (dict(mixup=0, cutmix=0), 'leave nothing to do'),
])  # fmt: skip
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MixupCutMix(**options)


def test_registered_under_both_names():
    for name in ('MixupCutMix', 'mmlora.MixupCutMix'):
        assert BATCH_AUGMENTS.get(name) is MixupCutMix


def test_the_loss_of_a_classifier_is_timms(timm_mixup, root):
    from timm.loss import SoftTargetCrossEntropy

    cfg = Config.fromfile(root / 'configs' / '_base_' / 'models' / 'rlrr_vit-base-p16_mixup.py').model
    cfg.backbone.update(arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16), img_size=32)
    cfg.head.update(in_channels=8, num_classes=CLASSES, init_cfg=None)
    cfg.data_preprocessor = dict(num_classes=CLASSES)
    model = MODELS.build(cfg)
    model.eval()  # No dropout.
    pictures, labels, _ = batch()
    pictures = F.interpolate(pictures, 32)
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    np.random.seed(1)
    np.random.choice(1)  # RandomBatchAugment draws which of its one augmentations to use.
    mixed, targets = timm_mixup.Mixup(
        mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=CLASSES)(pictures.clone(), labels)
    wanted = SoftTargetCrossEntropy()(model(mixed), targets)
    np.random.seed(1)
    data = model.data_preprocessor(dict(inputs=pictures, data_samples=samples), training=True)
    assert not torch.equal(data['inputs'], pictures)
    torch.testing.assert_close(model(**data, mode='loss')['loss'], wanted)


def test_the_bases_of_the_published_runs_go_together(tmp_path, root):
    bases = ('models/rlrr_vit-base-p16_mixup.py', 'datasets/fgvc/nabirds.py', 'schedules/rlrr_fgvc_aug_100e.py',
             'ema_runtime.py')
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(f"_base_ = {[str(root / 'configs' / '_base_' / base) for base in bases]}\n"
                    'model = dict(head=dict(num_classes=555))\n'
                    'data_preprocessor = dict(num_classes=555)\n'
                    'train_dataloader = dict(drop_last=True)\n')
    cfg = Config.fromfile(leaf)
    assert cfg.dataset_name == 'fgvc-nabirds' and cfg.train_dataloader.drop_last
    assert cfg.model.train_cfg.augments == dict(type='MixupCutMix', **PUBLISHED) and cfg.model.head.loss.use_soft
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (110, 32)
    assert [hook.type for hook in cfg.custom_hooks] == ['StepSeedHook', 'EMAHook']


def test_a_run_that_is_resumed_draws_the_same(tmp_path, images):  # noqa: F811
    options = dict(
        model__train_cfg=dict(_delete_=True, augments=dict(type='MixupCutMix')),
        model__head__loss__use_soft=True,
        train_dataloader__batch_size=7,  # Odd, and the last batch is a single image.
        train_dataloader__drop_last=True,
        default_hooks__checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4),
    )
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train(tiny.tiny_config(images, whole, **options))
    resumed.mkdir()
    shutil.copy(whole / 'iter_8.pth', resumed)
    train(tiny.tiny_config(images, resumed, **options), resume=str(resumed / 'iter_8.pth'))
    assert not tiny.differing_runs(whole / 'iter_15.pth', resumed / 'iter_15.pth')
