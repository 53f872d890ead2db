"""A bank as a layer: what comes out of it, its state, its routes, and the change in the memory of the output."""

import copy
import io

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mmlora.adapters import LoRABank, LoRALinear, SlicedLoRALinear
from mmlora.adapters.bank_change import add_bank_change, bank_change
from mmlora.adapters.lora_weights import Pair
from mmlora.adapters.route import Route


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def make_layers(sliced, ranks=(2, 3, 1), weight=None):
    plain = nn.Linear(6, 12)
    layers = []
    for number, rank in enumerate(ranks):
        if sliced:
            layer = SlicedLoRALinear.from_linear(plain, rank=rank, slices='qv', layout='qkv', alpha=4)
        else:
            layer = LoRALinear.from_linear(plain, rank=rank, scaling=0.1 * (number + 1))
        for _, b in layer.factors().values():
            nn.init.normal_(b)
        layers.append(layer)
    return layers


@pytest.mark.parametrize('sliced', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_what_comes_out_of_a_bank_is_an_ordinary_layer(sliced, dtype):
    torch.set_default_dtype(dtype)
    layers = make_layers(sliced)
    bank = LoRABank.from_adapters(layers)
    assert len(bank) == 3 and bank.weight is layers[0].weight
    for k, layer in enumerate(layers):
        own = bank[k]
        assert type(own) is type(layer) and own.scalings == layer.scalings and own.ranks == layer.ranks
        assert list(own.state_dict()) == list(layer.state_dict())
        assert all(torch.equal(value, layer.state_dict()[name]) for name, value in own.state_dict().items())
        nn.init.zeros_(next(iter(own.adapter_parameters().values())))  # a copy: the bank keeps its own
        x = torch.randn(2, 5, 6)
        bank.route = Route(k, 3)
        torch.testing.assert_close(bank(x), layer(x))
    bank.put(0, bank.pairs(0))  # views of the bank itself
    assert all(torch.equal(bank[0].state_dict()[name], value) for name, value in layers[0].state_dict().items())
    bank.put(0, layers[2])
    bank.put(1, dict(layers[2].state_dict()), scaling=7.0)
    assert bank[0].scalings == layers[2].scalings and set(bank[1].scalings.values()) == {7.0}
    assert all(torch.equal(bank[1].state_dict()[name], value) for name, value in layers[2].state_dict().items())


def test_a_saved_bank_loads_as_it_was(tmp_path):
    bank = LoRABank.from_adapters(make_layers(True))
    torch.save(bank.state_dict(), tmp_path / 'bank.pth')
    other = LoRABank(6, 12, 3, {'q': 3, 'v': 3}, slices='qv')
    other.load_state_dict(torch.load(tmp_path / 'bank.pth', weights_only=True))
    assert other[2].ranks == {'q': 1, 'v': 1} and other[0].scalings == {'q': 2.0, 'v': 2.0}


def test_fresh_adapters_change_nothing_and_differ():
    bank = LoRABank.from_linear(nn.Linear(6, 12), 3, 2)
    x = torch.randn(3, 6)
    bank.route = Route([0, 1, 2], 3)
    assert torch.equal(bank(x), F.linear(x, bank.weight, bank.bias))
    assert not torch.equal(bank.lora_A[0], bank.lora_A[1]) and bank.lora_A.abs().max() <= 6**-0.5
    assert [n for n, p in bank.named_parameters() if p.requires_grad] == ['lora_A', 'lora_B']


def test_factors_stay_float32_over_half_precision():
    bank = LoRABank.from_linear(nn.Linear(6, 12).to(torch.bfloat16), 2, 2)
    bank.route = Route([0, 1], 2)
    assert bank.lora_A.dtype == torch.float32 and bank(torch.randn(2, 6).to(torch.bfloat16)).dtype == torch.bfloat16


BAD_ROUTES = [
    ([0, 3], ValueError, r'numbers 0..2, and -1 for none; the route names \[3\]'),
    ([-2], ValueError, r'names \[-2\]'),
    ([0.5], TypeError, 'whole numbers of adapters, got torch.float64'),
    ([[0], [1]], ValueError, r'got the shape \(2, 1\)'),
    ([], (ValueError, TypeError), 'route'),
]


@pytest.mark.parametrize('indices, error, message', BAD_ROUTES)
def test_wrong_routes_are_refused(indices, error, message):
    with pytest.raises(error, match=message):
        Route(indices, 3)


def test_layers_that_do_not_belong_together_are_refused():
    layers = make_layers(False)
    for change, message in (
        (lambda layer: setattr(layer, 'weight', nn.Parameter(layer.weight + 1)), 'adapter 1 stands on another weight'),
        (lambda layer: layer.merge(), 'adapter 1 is merged'),
        (lambda layer: setattr(layer, 'lora_dropout', nn.Dropout(0.5)), 'dropout of 0.5, which a bank has not'),
    ):
        other = copy.deepcopy(layers[1])
        change(other)
        with pytest.raises(ValueError, match=message):
            LoRABank.from_adapters([layers[0], other])
    with pytest.raises(TypeError, match='adapter 1 is a Linear'):
        LoRABank.from_adapters([layers[0], nn.Linear(6, 12)])


def test_slices_whose_scalings_no_rule_gives_are_refused():
    bank = LoRABank(6, 12, 1, {'q': 2, 'v': 2}, slices='qv')
    a, b = torch.ones(1, 6), torch.ones(4, 1)
    bank.put(0, {'q': Pair(a, b, 0.5), 'v': Pair(torch.ones(2, 6), torch.ones(4, 2), 0.25)})
    assert bank[0].scalings == {'q': 0.5, 'v': 0.25} and bank[0].scaling_rule == 'alpha/r'
    bank.put(0, {'q': Pair(a, b, 0.5), 'v': Pair(a, b, 0.25)})
    with pytest.raises(ValueError, match="no rule gives its slices the scalings {'q': 0.5, 'v': 0.25}"):
        bank[0]


@pytest.mark.parametrize('learns', [False, True])
@pytest.mark.parametrize('layout, ranks', [
    (('',), {'': 3}), (('q', 'k', 'v'), {'q': 2, 'v': 3}), (('q', 'k', 'v'), {'q': 10, 'k': 1, 'v': 9}),
])  # fmt: skip
def test_the_change_is_added_in_the_memory_of_the_output(layout, ranks, learns):
    draw = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_(learns)

    x, w = leaf(4, 6, 10), leaf(10 * len(layout), 10).detach()
    factors = {name: (leaf(4, r, 10), leaf(4, 10, r), leaf(4).detach()) for name, r in ranks.items()}
    learned = [x, *(tensor for a, b, _ in factors.values() for tensor in (a, b))]
    apart = F.linear(x, w) + bank_change(x, factors, layout)
    y = F.linear(x, w)
    place = y.data_ptr()
    added = add_bank_change(y, x, factors, layout)
    assert (apart - F.linear(x, w)).abs().max() > 1 and torch.allclose(added, apart, atol=1e-10)
    assert (added.data_ptr() == place) == (not learns or sum(ranks.values()) <= 16)
    if learns:
        toward = torch.randn(apart.shape, generator=draw, dtype=torch.float64)
        grads = (torch.autograd.grad(out, learned, toward) for out in (apart, added))
        assert all(torch.allclose(one, other, atol=1e-10) for one, other in zip(*grads, strict=True))


def test_a_grown_bank_saves_no_room_for_more():
    def saved(bank):
        file = io.BytesIO()
        torch.save(bank.state_dict(), file)
        return len(file.getvalue())

    bank = LoRABank(64, 64, 2, 4)
    bank.grow()
    assert bank.lora_A.untyped_storage().nbytes() == 2 * bank.lora_A.nbytes  # room for 6
    other = LoRABank(64, 64, 3, 4)
    assert saved(bank) == saved(other)
    bank.lora_A.data[2], bank.lora_B.data[2] = 3, 5
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.lora_A, bank.lora_A) and torch.equal(other.lora_B, bank.lora_B)
