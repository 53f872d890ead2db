"""Products of low rank that are added while they are formed, and beside each other: equal to the plain sums."""

import pytest
import torch
import torch.nn.functional as F

from mmlora.adapters import LoRAMultiheadAttention, sliced
from mmlora.adapters.lora import add_product
from mmlora.adapters.multihead_math import linear_rows
from mmlora.adapters.sliced import expand_slices

DTYPE = torch.float64


@pytest.mark.parametrize('few', [0, 100])
@pytest.mark.parametrize('ranks', [dict(q=2, k=3, v=1), dict(q=2, v=2), dict(k=4), dict(v=1, q=3)])
def test_slices_beside_each_other(ranks, few, monkeypatch):
    monkeypatch.setattr(sliced, 'FEW_COLUMNS', few)
    torch.manual_seed(0)
    low = {name: torch.randn(2, 5, r, dtype=DTYPE, requires_grad=True) for name, r in ranks.items()}
    b = {name: torch.randn(4, r, dtype=DTYPE, requires_grad=True) for name, r in ranks.items()}
    zero = torch.zeros(2, 5, 4, dtype=DTYPE)
    expected = torch.cat([low[n] @ b[n].t() if n in ranks else zero for n in 'qkv'], dim=-1)
    result = expand_slices(low, b, 'qkv')
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    toward, leaves = torch.randn_like(expected), [*low.values(), *b.values()]
    own, theirs = (torch.autograd.grad(y, leaves, toward) for y in (result, expected))
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize('few, products', [(0, 3), (100, 1)])
def test_the_number_of_columns_decides(few, products, monkeypatch):
    monkeypatch.setattr(sliced, 'FEW_COLUMNS', few)
    seen, linear = [], F.linear
    monkeypatch.setattr(F, 'linear', lambda *args: seen.append(args) or linear(*args))
    expand_slices({n: torch.randn(5, 2) for n in 'qkv'}, {n: torch.randn(4, 2) for n in 'qkv'}, 'qkv')
    assert len(seen) == products


@pytest.mark.parametrize('dtype, low_dtype', [(DTYPE, DTYPE), (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize('shape', [(7,), (2, 7), (0, 7)])
def test_a_product_is_added(shape, dtype, low_dtype):
    torch.manual_seed(0)
    whole = torch.randn(*shape, 12).to(dtype)
    low, b = torch.randn(*shape, 3).to(low_dtype), torch.randn(4, 3).to(low_dtype)
    for part in whole.chunk(3, dim=-1):
        result = add_product(part, low, b, 0.7)
        assert result.dtype == dtype and result.shape == part.shape
        expected = part + (0.7 * low @ b.t()).to(dtype)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12 if dtype == DTYPE else 2e-2)


@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('transposed', [True, False])
def test_no_layout_of_the_input_copies_the_weight(batch_first, transposed):
    layer = LoRAMultiheadAttention(8, 2, batch_first=batch_first)
    x = torch.randn(3, 5, 8)
    x = x.transpose(0, 1).requires_grad_() if transposed else x.requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        layer(x, x, x, need_weights=False)[0].sum().backward()
    calls = {event.key for event in record.key_averages()}
    assert 'aten::mm' in calls and 'aten::bmm' not in calls
    y = linear_rows(x, layer.in_proj_weight, None)
    torch.testing.assert_close(y, x @ layer.in_proj_weight.t())
