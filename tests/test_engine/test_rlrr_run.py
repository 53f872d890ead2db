"""A run with RLRR: what is tracked, saved and resumed."""

import csv

import pytest
import tiny
import torch
from mmpretrain.registry import MODELS
from tiny import images, quick  # noqa: F401

from mmlora.adapters import adapted_layers, adapter_parameter_names
from mmlora.apis import settle_ranks, train

RLRR = dict(model__backbone__type='RLRRViT', model__backbone__lora_ranks=1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, images):  # noqa: F811
    folder = tmp_path_factory.mktemp('run')
    with tiny.quick_runs():
        train(tiny.tiny_config(images, folder, custom_hooks=[dict(type='StableRankHook')], **RLRR))
    return folder


def test_the_change_is_tracked_and_all_of_it_is_saved(folder, images):  # noqa: F811
    checkpoint = tiny.load(folder / 'epoch_3.pth')
    cfg = tiny.tiny_config(images, folder, **RLRR)
    table = settle_ranks(cfg, str(folder / 'epoch_3.pth'))
    assert {f'backbone.{name}' for name in table.ranks} == set(checkpoint['meta']['mmlora']['ranks'])
    model = MODELS.build(cfg.model)
    fresh = {name: model.get_parameter(name).clone() for name in adapter_parameter_names(model)}
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert all(not torch.equal(model.get_parameter(name), value) for name, value in fresh.items())
    with open(folder / 'stable_ranks.csv', newline='') as file:
        last = {row['module']: row for row in csv.DictReader(file) if row['epoch'] == '3'}
    layers = adapted_layers(model.backbone)
    assert set(last) == set(layers) and len(layers) == 8
    for name, layer in layers.items():
        delta = layer.delta().detach()
        wanted = float(delta.norm() ** 2 / torch.linalg.matrix_norm(delta, 2) ** 2)
        assert float(last[name]['change']) == pytest.approx(wanted, rel=1e-3)
        assert float(last[name]['relative_norm']) == pytest.approx(float(delta.norm() / layer.weight.norm()), rel=1e-4)


def test_a_resumed_run_equals_the_whole_one(folder, images, tmp_path):  # noqa: F811
    torch.save(tiny.load(folder / 'epoch_1.pth'), tmp_path / 'epoch_1.pth')
    cfg = tiny.tiny_config(images, tmp_path, custom_hooks=[dict(type='StableRankHook')], **RLRR)
    cfg.load_from, cfg.resume = str(tmp_path / 'epoch_1.pth'), True
    train(cfg)
    assert not tiny.differing_runs(tmp_path / 'epoch_3.pth', folder / 'epoch_3.pth')
