"""A frozen projection and its change in one: the plain sum in value, gradient, further gradient and transforms."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mmlora.adapters import LoRALinear, LoRAMultiheadAttention, MoSLoRALinear, SlicedLoRALinear, low_rank_sum
from mmlora.adapters.input_dropout import InputDropout, draw_bits, kept_elements, kept_scale
from mmlora.adapters.low_rank_sum import Product

DTYPE = torch.float64
WIDTH = 3
PARTS = {'whole': [(0, 6, 3)], 'q, v': [(0, 2, 2), (4, 6, 1)]}
P, SCALING = 0.25, 0.7


@pytest.fixture(params=PARTS)
def tensors(request):
    torch.manual_seed(0)
    products = [Product(i, j, torch.randn(r, WIDTH, dtype=DTYPE), torch.randn(j - i, r, dtype=DTYPE), SCALING)
                for i, j, r in PARTS[request.param]]
    x, weight, bias = (torch.randn(*s, dtype=DTYPE) for s in ((2, 5, WIDTH), (6, WIDTH), (6,)))
    leaves = [x, weight, bias, *(p.a for p in products), *(p.b for p in products)]
    for leaf in leaves:
        leaf.requires_grad_()
    return leaves, [(p.first, p.stop) for p in products]


def split(leaves, rows):
    x, weight, bias, *factors = leaves
    pairs = zip(factors[: len(rows)], factors[len(rows) :], strict=True)
    return x, weight, bias, [Product(*place, a, b, SCALING) for place, (a, b) in zip(rows, pairs, strict=True)]


def joint(rows, p=0.0, separate=False):
    def function(*leaves):
        torch.manual_seed(1)
        return low_rank_sum.low_rank_sum(*split(leaves, rows), InputDropout(p), separate)

    return function


def written_out(rows, p=0.0, separate=False):
    def function(*leaves):
        x, weight, bias, products = split(leaves, rows)
        torch.manual_seed(1)
        masks = [draw_bits(x.numel(), p) for _ in range(len(products) if separate else 1)] if p else []
        y = F.linear(x, weight, bias)
        for i, (first, stop, a, b, scaling) in enumerate(products):
            seen = x
            if masks:
                seen = x * kept_elements(masks[i if separate else 0], 0, x.shape, DTYPE) * kept_scale(p)
            y = y + F.pad(scaling * seen @ a.t() @ b.t(), (first, weight.shape[0] - stop))
        return y

    return function


MODES = [(0.0, False), (P, False), (P, True)]


@pytest.mark.parametrize('block', [8, 256])
@pytest.mark.parametrize('p, separate', MODES)
def test_value_and_gradients(tensors, p, separate, block, monkeypatch):
    for name in ('BLOCK', 'READ'):
        monkeypatch.setattr(low_rank_sum, name, block)  # 8 rows at a time, of 10
    leaves, rows = tensors
    y, expected = joint(rows, p, separate)(*leaves), written_out(rows, p, separate)(*leaves)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    toward = torch.randn_like(y)
    for own, other in zip(*(torch.autograd.grad(each, leaves, toward) for each in (y, expected)), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize('p, separate', MODES)
def test_further_derivatives_and_forward_mode(tensors, p, separate):
    leaves, rows = tensors
    leaves = (leaves[0].detach()[0, :1].requires_grad_(), *leaves[1:])
    function = joint(rows, p, separate)
    assert torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, check_batched_grad=True, check_undefined_grad=False, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize('p', [0.0, P])
def test_per_sample_gradients_and_ensembles(tensors, p):
    leaves, rows = tensors
    plain, own = written_out(rows, p), joint(rows, p)
    last = len(leaves) - 1

    def per_sample(function):
        gradient = torch.func.grad(lambda *given: function(*given).square().sum(), argnums=(0, *range(2, last + 1)))
        return torch.vmap(gradient, (0, *[None] * last), randomness='same')(*leaves)

    def ensemble(function):
        many = torch.stack([leaves[3], 2 * leaves[3]])
        gradient = torch.func.grad(lambda a: function(*leaves[:3], a, *leaves[4:]).sum())
        forward = torch.func.jacfwd(lambda b: function(*leaves[:last], b), randomness='same')
        return torch.vmap(gradient, randomness='same')(many), forward(leaves[last])

    for transform in (per_sample, ensemble):
        for one, other in zip(transform(own), transform(plain), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize('learned, sizes', [
    (('x', 'lora_A', 'lora_B'), {'x', 'low'}), (('x',), set()), (('lora_A',), {'x'}), (('x', 'lora_B'), {'low'}),
])  # fmt: skip
def test_what_is_kept_for_the_gradient(learned, sizes):
    layer = LoRALinear(WIDTH, 12, rank=2)
    x = torch.randn(10, WIDTH, requires_grad='x' in learned)
    for name, parameter in layer.adapter_parameters().items():
        parameter.requires_grad_(name in learned)
    seen, own = set(), {p.untyped_storage().data_ptr() for p in layer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.add(t) or t, lambda t: t):
        layer(x)
    large = {t.shape for t in seen if t.untyped_storage().data_ptr() not in own and len(t) == len(x)}
    assert large == {dict(x=torch.Size((10, WIDTH)), low=torch.Size((10, 2)))[size] for size in sizes}


@pytest.mark.parametrize('make', [
    lambda p: LoRALinear(16, 12, rank=2, dropout=p),
    lambda p: SlicedLoRALinear(16, 12, rank=2, dropout=p),
    lambda p: MoSLoRALinear(16, 12, rank=2, dropout=p, slices='qv'),
])  # fmt: skip
def test_a_dropout_that_is_watched_is_called_and_draws_the_same(make):
    layer, x, seen = make(0.5), torch.randn(3, 16), []
    for parameter in layer.adapter_parameters().values():
        nn.init.normal_(parameter)
    torch.manual_seed(2)
    y = layer(x)
    layer.lora_dropout.register_forward_hook(lambda module, args, output: seen.append(output))
    torch.manual_seed(2)
    torch.testing.assert_close(layer(x), y)
    assert len(seen) == 1 and (seen[0] == 0).any()


def test_dropout_keeps_one_bit_an_element():
    attention = LoRAMultiheadAttention(64, 4, batch_first=True, lora_dropout=P)
    x, sizes = torch.randn(4, 8, 64), []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size()) if tensor.dtype == torch.uint8 else None
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention(x, x, x, need_weights=False)
    assert sizes == [x.numel() // 8] * 3


def test_checkpointing_draws_the_same_masks_again():
    layer = SlicedLoRALinear(16, 12, rank=2, dropout=0.5, dtype=DTYPE)
    for parameter in layer.adapter_parameters().values():
        nn.init.normal_(parameter)
    x, leaves = torch.randn(3, 16, dtype=DTYPE), list(layer.adapter_parameters().values())

    def gradients(function):
        torch.manual_seed(2)
        return torch.autograd.grad(function(x).square().sum(), leaves)

    again = gradients(lambda x: checkpoint(layer, x, use_reentrant=False))
    assert all(torch.equal(*pair) for pair in zip(again, gradients(layer), strict=True))


@pytest.mark.parametrize('p', [0.0, P])
def test_gradients_in_half_precision_do_not_lose_the_sum(p):
    # Summed up in bfloat16 block by block, many rows would stand still at 2^8 times the share of a block.
    torch.manual_seed(0)
    layer, rows = LoRALinear(8, 8, rank=2, dropout=p), 40_000
    nn.init.normal_(layer.lora_B)
    x, toward = torch.randn(rows, 8) + 1, torch.rand(rows, 8)
    torch.manual_seed(1)
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(x)
    y.backward(toward.bfloat16())
    torch.manual_seed(1)
    exact = layer.double()
    own = {name: value.grad.clone() for name, value in layer.adapter_parameters().items()}
    layer.zero_grad()
    exact(x.double()).backward(toward.double())
    for name, value in exact.adapter_parameters().items():
        assert (own[name] - value.grad).norm() < 0.01 * value.grad.norm()


@pytest.mark.parametrize('strided', [
    lambda x: x.transpose(0, 1), lambda x: x[:, 1:], lambda x: x[..., :248], lambda x: x[:1].expand(4, -1, -1)
])  # fmt: skip
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_fresh_change_is_none_on_inputs_with_gaps(strided, dtype):
    torch.manual_seed(0)
    x = strided(torch.randn(7, 9, 256, dtype=dtype))
    plain = nn.Linear(x.shape[-1], 48).to(dtype)
    for kind in (LoRALinear, SlicedLoRALinear):
        assert torch.equal(kind.from_linear(plain, rank=4, lora_dtype=dtype)(x), plain(x))


def test_a_dropout_whose_gradient_is_watched_is_called():
    layer, seen = LoRALinear(WIDTH, 6, rank=2, dropout=P), []
    nn.init.normal_(layer.lora_B)
    layer.lora_dropout.register_full_backward_hook(lambda *given: seen.append(1))
    layer(torch.randn(4, WIDTH, requires_grad=True)).sum().backward()
    assert seen
