"""The hash of frozen weights: computed once, and anew after any write to them."""

import copy

import pytest
import torch
import torch.nn as nn

from mmlora.adapters import adapt_with, draw_lora
from mmlora.engine import base_weights
from mmlora.engine.base_weights import base_sha256


@pytest.fixture
def hashed(monkeypatch):
    runs, real = [], base_weights.weights_sha256
    monkeypatch.setattr(base_weights, 'weights_sha256', lambda weights: runs.append(1) or real(weights))
    return runs


def replaced(model):
    model[0].weight = nn.Parameter(model[0].weight.detach() + 1)


def through_data(*place):
    def write(model):
        model[0].weight.data[place] = 0
    return write


def rows_swapped(model):
    model[0].weight.data[:] = model[0].weight.data.roll(12, 0)


WRITES = {
    'in place': lambda model: model[0].weight.requires_grad_(False).add_(1),
    'load_state_dict': lambda model: model.load_state_dict({n: v + 1 for n, v in model.state_dict().items()}),
    'replaced': replaced,
    'data': lambda model: model[0].weight.data.add_(1),
    'data, all but a column': through_data(slice(None), slice(1, None)),
    'data, a block': through_data(slice(100, 164), slice(64, 128)),
    'data, a row': through_data(5),
    'data, one number': through_data(333, 77),
    'data, the last number': through_data(-1, -1),
    'data, a bias': lambda model: model[1].bias.data.mul_(2),
    'data, all signs': lambda model: model[0].weight.data.neg_(),
    'data, signs of odd columns': lambda model: model[0].weight.data[:, 1::2].neg_(),
    'data, signs of odd rows': lambda model: model[0].weight.data[1::2].neg_(),
    'data, doubled': lambda model: model[0].weight.data.mul_(2),
    'data, rows in another order': rows_swapped,
    'data, columns in another order': lambda model: model[0].weight.data.copy_(model[0].weight.data.flip(1)),
    'another tensor as data': lambda model: setattr(model[0].weight, 'data', model[0].weight.data + 1),
}


@pytest.mark.parametrize('write', WRITES.values(), ids=WRITES)
def test_a_write_is_noticed(write, hashed):
    """Layers as wide as those of a ViT-B, in which each 18432nd number lies in the first column."""
    model = nn.Sequential(nn.Linear(768, 768), nn.Linear(768, 3))
    before = base_sha256(model)
    twin = copy.deepcopy(model)
    assert base_sha256(model) == before and len(hashed) == 1
    write(model)
    assert base_sha256(model) != before and len(hashed) == 2
    assert base_sha256(twin) == before


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.int8, torch.bool])
def test_tensors_of_any_type_and_place_are_compared(dtype, hashed):
    model = nn.Module()
    whole = torch.ones(3, 100_001).to(dtype)
    views = {'part': whole[1, 1:], 'spread': whole[:, ::7], 'empty': whole[:0], 'number': whole[2, 5]}
    for name, value in views.items():
        model.register_buffer(name, value)
    with torch.inference_mode():
        model.register_buffer('inferred', torch.ones(5, dtype=dtype))
    before = base_sha256(model)
    for place in ((1, 50_000), (0, 7), (2, 5)):
        whole.data[place] = 0
        after = base_sha256(model)
        assert after != before and base_sha256(model) == after
        before = after
    assert len(hashed) == 4


def test_adapters_change_nothing_and_cost_nothing(hashed):
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 2))
    before = base_sha256(model)
    adapt_with(model, draw_lora(model, ['0'], 2, None, 1.0, torch.Generator()))
    assert base_sha256(model) == before and len(hashed) == 1
    assert base_sha256(nn.Sequential()) == base_sha256(nn.Sequential())
