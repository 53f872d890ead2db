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


@pytest.mark.parametrize('write', [
    lambda model: model[0].weight.requires_grad_(False).add_(1),
    lambda model: model[0].weight.data.add_(1),
    lambda model: model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()}),
    replaced,
], ids=['in place', 'data', 'load_state_dict', 'replaced'])  # fmt: skip
def test_a_write_is_noticed(write, hashed):
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 2))
    before = base_sha256(model)
    twin = copy.deepcopy(model)
    assert base_sha256(model) == before and len(hashed) == 1
    write(model)
    assert base_sha256(model) != before and len(hashed) == 2
    assert base_sha256(twin) == before


def test_adapters_change_nothing_and_cost_nothing(hashed):
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 2))
    before = base_sha256(model)
    adapt_with(model, draw_lora(model, ['0'], 2, None, 1.0, torch.Generator()))
    assert base_sha256(model) == before and len(hashed) == 1
    assert base_sha256(nn.Sequential()) == base_sha256(nn.Sequential())
