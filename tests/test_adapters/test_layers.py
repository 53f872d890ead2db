"""Invariants of the adapted linears: kinds x invariants, in float64."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mmlora.adapters import LoRALinear, SlicedLoRALinear

CASES = {
    'lora': (LoRALinear, dict(rank=3)),
    'lora_rs': (LoRALinear, dict(rank=3, alpha=6, scaling='alpha/sqrt(r)')),
    'lora_constant': (LoRALinear, dict(rank=2, alpha=0.7, scaling='constant')),
    'lora_number': (LoRALinear, dict(rank=2, scaling=0.25)),
    'qv': (SlicedLoRALinear, dict(rank=3)),
    'qkv': (SlicedLoRALinear, dict(rank=2, slices='qkv')),
    'k': (SlicedLoRALinear, dict(rank=4, slices='k', alpha=8)),
    'ranks_differ': (SlicedLoRALinear, dict(rank={'q': 1, 'k': 0, 'v': 4})),
}
DTYPE = torch.float64


def build(case: str, bias: bool = True, **kwargs) -> tuple[nn.Linear, nn.Linear]:
    """Return a plain layer and its adapted twin with factors that are not zero."""
    cls, own = CASES[case]
    torch.manual_seed(0)
    plain = nn.Linear(8, 12, bias=bias, dtype=DTYPE)
    adapted = cls.from_linear(copy.deepcopy(plain), **{**own, **kwargs})
    return plain, adapted


def fill(layer: nn.Linear) -> nn.Linear:
    torch.manual_seed(1)
    for parameter in layer.adapter_parameters().values():
        nn.init.normal_(parameter)
    return layer


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, 8, dtype=DTYPE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('bias', [True, False])
class TestInvariants:
    def test_fresh_is_a_bit_exact_no_op(self, case, bias, x):
        plain, adapted = build(case, bias)
        assert torch.equal(plain(x), adapted(x))

    def test_forward_is_the_layer_of_the_changed_weight(self, case, bias, x):
        plain, adapted = build(case, bias)
        fill(adapted)
        assert not torch.allclose(plain(x), adapted(x))
        expected = F.linear(x, plain.weight + adapted.delta(), plain.bias)
        torch.testing.assert_close(adapted(x), expected, rtol=0, atol=1e-10)

    def test_only_factors_learn_and_all_of_them_do(self, case, bias, x):
        _, adapted = build(case, bias)
        fill(adapted)
        adapted(x).square().sum().backward()
        for name, parameter in adapted.named_parameters():
            if name.startswith('lora_'):
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, f'no gradient for {name}'
            else:
                assert parameter.grad is None, f'a gradient for {name}'

    def test_merge_unmerge(self, case, bias, x):
        plain, adapted = build(case, bias)
        fill(adapted).eval()
        before, weight, expected = adapted(x), adapted.weight.clone(), plain.weight + adapted.delta()
        state = copy.deepcopy(adapted.state_dict())
        adapted.merge()
        adapted.merge()
        torch.testing.assert_close(adapted.weight.detach(), expected.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(adapted(x), before, rtol=0, atol=1e-10)
        assert torch.equal(adapted.frozen_weight, weight)
        for key, value in adapted.state_dict().items():
            assert torch.equal(value, state[key]), f'{key} of a merged layer'
        assert set(adapted.state_dict()) == set(state)
        adapted.unmerge()
        adapted.unmerge()
        assert torch.equal(adapted.weight, weight)
        assert torch.equal(adapted(x), before)

    def test_modes_change_no_weight_and_return_self(self, case, bias, x):
        _, adapted = build(case, bias)
        fill(adapted)
        state = copy.deepcopy(adapted.state_dict())
        assert adapted.train() is adapted and adapted.eval() is adapted and adapted.to('cpu') is adapted
        assert not adapted.merged
        assert all(torch.equal(value, state[key]) for key, value in adapted.state_dict().items())

    def test_merged_layer_refuses_training_and_loading(self, case, bias, x):
        _, adapted = build(case, bias)
        fill(adapted).train().merge()
        with pytest.raises(RuntimeError, match='unmerge'):
            adapted(x)
        with pytest.raises(ValueError, match='unmerge'):
            adapted.load_state_dict(adapted.state_dict())
        with torch.no_grad():
            assert adapted(x).shape == (2, 5, 12)

    def test_copies(self, case, bias, x):
        _, adapted = build(case, bias)
        fill(adapted)
        for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
            assert torch.equal(twin(x), adapted(x))
        twin = copy.deepcopy(adapted.eval().merge())
        assert twin.merged and torch.equal(twin.unmerge().weight, adapted.unmerge().weight)

    def test_state_dict_loads_into_a_twin_of_another_seed(self, case, bias, x):
        _, adapted = build(case, bias)
        fill(adapted)
        torch.manual_seed(7)
        cls, own = CASES[case]
        twin = cls.from_linear(nn.Linear(8, 12, bias=bias, dtype=DTYPE), **own)
        assert not torch.allclose(twin(x), adapted(x))
        twin.load_state_dict(adapted.state_dict())
        assert torch.equal(twin(x), adapted(x))

    def test_plain_weights_load_without_a_key_map(self, case, bias, x):
        plain, adapted = build(case, bias)
        missing, unexpected = adapted.load_state_dict(plain.state_dict(), strict=False)
        assert not unexpected and set(missing) == set(adapted.adapter_parameters())

    def test_factors_are_exchangeable(self, case, bias, x):
        _, adapted = build(case, bias)
        fill(adapted)
        _, other = build(case, bias)
        other.set_factors({name: (a.clone(), b.clone()) for name, (a, b) in adapted.factors().items()})
        assert torch.equal(other(x), adapted(x))
        assert {k: a.shape[0] for k, (a, _) in adapted.factors().items()} == adapted.ranks
        assert set(adapted.scalings) == set(adapted.ranks)

    def test_gradients_are_exact(self, case, bias, x):
        _, adapted = build(case, bias)
        fill(adapted)
        names = list(adapted.adapter_parameters())

        def function(*values):
            return torch.func.functional_call(adapted, dict(zip(names, values, strict=True)), (x[0, :2],))

        assert torch.autograd.gradcheck(function, tuple(adapted.adapter_parameters().values()))


def test_base_parameters_are_shared_not_copied():
    plain = nn.Linear(8, 12)
    weight, bias = plain.weight, plain.bias
    adapted = LoRALinear.from_linear(plain, rank=2)
    assert adapted.weight is weight and adapted.bias is bias


@pytest.mark.parametrize('case', ['lora', 'qv'])
def test_dropout_acts_in_training_alone(case, x):
    _, adapted = build(case, dropout=0.5)
    fill(adapted)
    adapted.eval()
    assert torch.equal(adapted(x), adapted(x))
    torch.testing.assert_close(
        adapted(x), F.linear(x, adapted.weight + adapted.delta(), adapted.bias), rtol=0, atol=1e-10
    )
    adapted.train()
    assert not torch.equal(adapted(x), adapted(x))


@pytest.mark.parametrize('case', ['lora', 'qv'])
def test_half_base_keeps_factors_in_float32(case):
    cls, own = CASES[case]
    base = nn.Linear(8, 12, dtype=torch.bfloat16)
    adapted = fill(cls.from_linear(base, **own))
    assert {p.dtype for p in adapted.adapter_parameters().values()} == {torch.float32}
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert adapted(x).dtype == torch.bfloat16
    asked = cls.from_linear(nn.Linear(8, 12, dtype=torch.bfloat16), **own, lora_dtype=torch.bfloat16)
    assert {p.dtype for p in asked.adapter_parameters().values()} == {torch.bfloat16}
    weight = adapted.weight.clone()
    assert torch.equal(adapted.eval().merge().unmerge().weight, weight)


@pytest.mark.parametrize('case', ['lora', 'qv'])
def test_autocast(case):
    cls, own = CASES[case]
    adapted = fill(cls.from_linear(nn.Linear(8, 12), **own))
    x = torch.randn(3, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = adapted(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), adapted(x), rtol=0.05, atol=0.2)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapted.adapter_parameters().values())


@pytest.mark.parametrize('case', ['lora', 'qv'])
def test_compiles_into_one_graph(case, x):
    _, adapted = build(case)
    fill(adapted)
    compiled = torch.compile(adapted, backend='eager', fullgraph=True)
    assert torch.equal(compiled(x), adapted(x))


def test_golden_loralib_linear(golden):
    z = {k: torch.from_numpy(v) for k, v in np.load(golden / 'sr_lora' / 'loralib_linear.npz').items()}
    layer = LoRALinear(6, 5, rank=4, alpha=1, dtype=DTYPE)
    layer.load_state_dict({k: z[k] for k in ('weight', 'bias', 'lora_A', 'lora_B')})
    y = layer(z['x'])
    (y * z['G']).sum().backward()
    for ours, theirs in ((y, 'y'), (layer.lora_A.grad, 'gA'), (layer.lora_B.grad, 'gB')):
        torch.testing.assert_close(ours, z[theirs], rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.merge().weight.detach(), z['merged_weight'], rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.eval()(z['x']), z['y_eval'], rtol=0, atol=1e-12)


def test_golden_merged_linear_at_full_rank(golden):
    z = {
        k: torch.from_numpy(v)
        for k, v in np.load(golden / 'sr_lora' / 'spu_merged_linear.npz').items()
        if v.dtype == np.float64
    }
    layer = SlicedLoRALinear(6, 12, rank=3, alpha=1, dtype=DTYPE)
    with torch.no_grad():
        layer.weight.copy_(z['weight'])
        layer.bias.copy_(z['bias'])
    a, b = z['lora_A'].chunk(2), z['lora_B'].chunk(2)
    layer.set_factors({'q': (a[0], b[0]), 'v': (a[1], b[1])})
    y = layer(z['x'])
    (y * z['G']).sum().backward()
    torch.testing.assert_close(y, z['train_k2_y'], rtol=0, atol=1e-12)
    grads = {name: p.grad for name, p in layer.adapter_parameters().items()}
    torch.testing.assert_close(
        torch.cat([grads['lora_A_q'], grads['lora_A_v']]), z['train_k2_gA'], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        torch.cat([grads['lora_B_q'], grads['lora_B_v']]), z['train_k2_gB'], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(layer.merge().weight.detach(), z['eval_k2_merged_weight'], rtol=0, atol=1e-12)


def test_saving_in_evaluation_and_reloading_applies_the_change_once(x):
    _, adapted = build('qv')
    fill(adapted).eval()
    expected = adapted(x)
    adapted.merge()
    _, twin = build('qv')
    twin.load_state_dict(adapted.state_dict())
    assert torch.equal(twin.eval()(x), expected)


BAD = {
    'rank_zero': (LoRALinear, dict(rank=0), ValueError, r'1\.\.8.*got 0'),
    'rank_negative': (LoRALinear, dict(rank=-3), ValueError, 'got -3'),
    'rank_above': (LoRALinear, dict(rank=9), ValueError, r'1\.\.8.*12 x 8.*got 9'),
    'rank_float': (LoRALinear, dict(rank=2.5), TypeError, '2.5'),
    'rank_bool': (LoRALinear, dict(rank=True), TypeError, 'True'),
    'slice_rank_above': (SlicedLoRALinear, dict(rank=5), ValueError, r"1\.\.4.*slice 'q'|slice 'q'.*1\.\.4"),
    'no_slice': (SlicedLoRALinear, dict(rank={'q': 0}), ValueError, 'no slice'),
    'unknown_slice': (SlicedLoRALinear, dict(rank={'o': 2}), ValueError, "'o'"),
    'layout': (SlicedLoRALinear, dict(rank=1, layout='abcde', slices='a'), ValueError, '12 outputs'),
    'scaling': (LoRALinear, dict(rank=2, scaling='alpha/r2'), ValueError, 'alpha/r2'),
    'scaling_nan': (LoRALinear, dict(rank=2, scaling=float('nan')), ValueError, 'finite'),
    'dropout': (LoRALinear, dict(rank=2, dropout=1.0), ValueError, r'\[0, 1\), got 1'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_arguments(case):
    cls, kwargs, error, match = BAD[case]
    with pytest.raises(error, match=match):
        cls(8, 12, **kwargs)


def test_a_change_that_is_not_finite_is_never_merged(x):
    _, adapted = build('lora')
    fill(adapted)
    weight = adapted.weight.clone()
    with torch.no_grad():
        adapted.lora_B[0, 0] = float('inf')
    with pytest.raises(ValueError, match='not finite'):
        adapted.merge()
    assert torch.equal(adapted.weight, weight) and not adapted.merged


def test_adapting_twice_is_refused():
    adapted = LoRALinear.from_linear(nn.Linear(4, 4), rank=1)
    with pytest.raises(TypeError, match='LoRALinear'):
        LoRALinear.from_linear(adapted, rank=1)


def test_set_factors_refuses_other_shapes():
    _, adapted = build('lora')
    with pytest.raises(ValueError, match=r'\(3, 8\).*\(2, 8\)'):
        adapted.set_factors({'': (torch.zeros(2, 8), torch.zeros(12, 2))})
    with pytest.raises(ValueError, match='factors for'):
        adapted.set_factors({'q': (torch.zeros(3, 8), torch.zeros(12, 3))})
