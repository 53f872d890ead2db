"""Whole runs with the relatives of LoRA: loading by the runner, resuming, testing, merging, and what is refused."""

import csv

import pytest
import tiny
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from tiny import images, quick  # noqa: F401

from mmlora.adapters import adapted_layers
from mmlora.apis import rank_curve, train
from mmlora.apis import test as run_test
from mmlora.apis.merge import merge_checkpoint
from mmlora.apis.truncate import truncate_checkpoint

KINDS = ['MoSLoRA', 'MELoRA', 'GLoRA', 'PiSSA', 'DoRA']


def config(images, folder, kind, **options):  # noqa: F811
    cfg = tiny.tiny_config(images, folder, **options)
    inner = dict(cfg.model.backbone)
    cfg.model.backbone = dict(
        type='AdaptedBackbone', backbone=inner, targets=['attn.qkv', 'attn.proj'], kind=kind, lora_ranks=2
    )
    return Config(cfg.to_dict())


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory, images):  # noqa: F811
    """A plain classifier that was saved with another head."""
    torch.manual_seed(3)
    cfg = tiny.tiny_config(images, tmp_path_factory.mktemp('unused'))
    model = MODELS.build(cfg.model)
    model.init_weights()
    path = tmp_path_factory.mktemp('pretrained') / 'vit.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return str(path)


@pytest.fixture(scope='module', params=KINDS)
def run(request, tmp_path_factory, images, pretrained):  # noqa: F811
    """The kind, and the folder of a run that started from weights which the runner has loaded."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = config(images, folder, request.param, custom_hooks=[dict(type='StableRankHook')])
    cfg.load_from = pretrained
    with tiny.quick_runs():
        train(cfg)
    return request.param, folder


def test_frozen_weights_are_those_loaded_and_the_change_is_tracked(run, images, pretrained, tmp_path):  # noqa: F811
    kind, folder = run
    base = torch.load(pretrained, weights_only=True)['state_dict']
    state = tiny.load(folder / 'epoch_3.pth')['state_dict']
    frozen = [key for key in base if key.startswith('backbone.')]
    assert frozen and all(torch.equal(state[key], base[key]) for key in frozen)
    model = MODELS.build(config(images, tmp_path, kind).model)
    model.load_state_dict(state, strict=True)
    layers = adapted_layers(model)
    assert len(layers) == 4
    with open(folder / 'stable_ranks.csv', newline='') as file:
        last = {row['module']: row for row in csv.DictReader(file) if row['epoch'] == '3'}
    for name, layer in layers.items():
        delta = layer.delta().detach()
        wanted = float(delta.norm() ** 2 / torch.linalg.matrix_norm(delta, 2) ** 2)
        assert float(last[name.removeprefix('backbone.')]['change']) == pytest.approx(wanted, rel=1e-3)
    if kind == 'PiSSA':
        for layer in layers.values():
            for part, (a, b) in layer.starts().items():
                u, s, vh = torch.linalg.svd(layer.weight.detach()[layer.rows(part)])
                best = (u[:, :2] * s[:2]) @ vh[:2]
                torch.testing.assert_close(layer.scalings[part] * b @ a, best, rtol=0, atol=1e-5)


def test_a_resumed_run_equals_the_whole_one(run, images, tmp_path):  # noqa: F811
    kind, folder = run
    cfg = config(images, tmp_path, kind, custom_hooks=[dict(type='StableRankHook')])
    cfg.load_from, cfg.resume = str(folder / 'epoch_1.pth'), True
    train(cfg)
    assert not tiny.differing_runs(tmp_path / 'epoch_3.pth', folder / 'epoch_3.pth')


def test_the_merged_checkpoint_is_as_good(run, images, tmp_path):  # noqa: F811
    kind, folder = run
    checkpoint = str(folder / 'epoch_3.pth')
    metrics = run_test(config(images, tmp_path / 'test', kind), checkpoint)
    weights, merged = merge_checkpoint(config(images, tmp_path, kind), checkpoint, str(tmp_path / 'merged.pth'))
    plain = Config.fromfile(merged)
    plain.work_dir = str(tmp_path / 'plain')
    assert run_test(plain, str(weights)) == metrics


def test_what_has_no_sub_ranks_is_refused(run, images, tmp_path):  # noqa: F811
    kind, folder = run
    checkpoint = str(folder / 'epoch_3.pth')
    with pytest.raises(TypeError, match='has no sub-ranks'):
        truncate_checkpoint(config(images, tmp_path, kind), checkpoint, str(tmp_path / 'cut.pth'), rank=1)
    with pytest.raises(TypeError, match='has no sub-ranks'):
        rank_curve(config(images, tmp_path / 'curve', kind), checkpoint, ranks=[1])
    with pytest.raises(TypeError, match='has no sub-ranks'):
        train(config(images, tmp_path / 'spu', kind, custom_hooks=[dict(type='SPUHook')]))
