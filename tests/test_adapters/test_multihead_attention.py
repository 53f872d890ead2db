"""LoRA of ``nn.MultiheadAttention``: shapes x options x invariants in float64, and the published layer's numbers."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mmlora.adapters import (
    LoRALinear,
    LoRAMultiheadAttention,
    PlainMultiheadAttentionLoRA,
    SlicedLoRALinear,
    adapter_parameter_names,
    inject_attention,
    merge_adapters,
    merged_state_dict,
    parameter_report,
    to_plain,
    unmerge_adapters,
)

DTYPE, E, H, N, L, S = torch.float64, 16, 4, 3, 5, 7
SHAPES = {
    'self': dict(),
    'batch_first': dict(batch_first=True),
    'no_bias': dict(bias=False),
    'separate': dict(kdim=12, vdim=10),
    'separate_no_bias': dict(kdim=12, bias=False, batch_first=True),
    'bias_kv': dict(add_bias_kv=True),
    'zero_attn': dict(add_zero_attn=True, batch_first=True),
    'both_appended': dict(add_bias_kv=True, add_zero_attn=True),
}
PARAMS = ['qkv', 'qkvo', 'v', 'o', 'ko']


def build(shape: str, params: str = 'qkvo', **kwargs) -> tuple[nn.MultiheadAttention, LoRAMultiheadAttention]:
    """Return a plain layer with biases that are not zero, and its adapted twin."""
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(E, H, dtype=DTYPE, **SHAPES[shape])
    for name, parameter in plain.named_parameters():
        if 'bias' in name:
            nn.init.normal_(parameter)
    return plain, LoRAMultiheadAttention.from_attention(copy.deepcopy(plain), params=params, **kwargs)


def fill(layer: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for name in sorted(adapter_parameter_names(layer)):
        nn.init.normal_(layer.get_parameter(name), std=0.5)
    return layer


def inputs(layer: nn.MultiheadAttention, batched: bool = True, self_attention: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = ((L, E), (S, layer.kdim), (S, layer.vdim))
    if self_attention:
        sizes = sizes[:1]
    shapes = [(n, N, width) if batched else (n, width) for n, width in sizes]
    if batched and layer.batch_first:
        shapes = [(N, n, width) for n, width in sizes]
    tensors = [torch.randn(shape, dtype=DTYPE, generator=generator, requires_grad=True) for shape in shapes]
    return tensors * 3 if self_attention else tensors


def masks(length: int, keys: int) -> dict[str, dict]:
    generator = torch.Generator().manual_seed(3)
    padding = torch.rand(N, keys, generator=generator) > 0.6
    padding[:, 0] = False
    forbidden = torch.ones(length, keys, dtype=torch.bool).triu(1)
    floating = torch.randn(length, keys, dtype=DTYPE, generator=generator)
    each = torch.randn(N * H, length, keys, dtype=DTYPE, generator=generator)
    return {
        'none': {},
        'boolean': dict(attn_mask=forbidden),
        'floating': dict(attn_mask=floating),
        'of_each_head': dict(attn_mask=each),
        'padding': dict(key_padding_mask=padding),
        'both': dict(attn_mask=forbidden, key_padding_mask=padding),
        'floating_padding': dict(attn_mask=floating, key_padding_mask=padding.double().masked_fill(padding, -1e4)),
    }


def oracle(plain: nn.MultiheadAttention, adapted: LoRAMultiheadAttention) -> nn.MultiheadAttention:
    """Return the plain layer with the dense change in its weights, made here and not by the layer."""
    changed = copy.deepcopy(plain)
    with torch.no_grad():
        for name, (a, b) in adapted.factors().items():
            delta = adapted.scalings[name] * b @ a
            if name == 'o':
                changed.out_proj.weight += delta
            elif changed.in_proj_weight is None:
                getattr(changed, f'{name}_proj_weight').add_(delta)
            else:
                changed.in_proj_weight['qkv'.index(name) * E :][:E] += delta
    return changed.train()  # the slow path


def assert_close(first, second, atol=1e-10):
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize('params', PARAMS)
@pytest.mark.parametrize('shape', SHAPES)
class TestInvariants:
    def test_a_fresh_one_is_the_plain_one(self, shape, params):
        plain, adapted = build(shape, params)
        x = inputs(plain)
        assert_close(adapted(*x), plain.train()(*x), atol=1e-12)

    @pytest.mark.parametrize('weights', [dict(need_weights=False), {}, dict(average_attn_weights=False)], ids=str)
    def test_it_is_the_layer_of_the_changed_weights(self, shape, params, weights):
        plain, adapted = build(shape, params, rank=3, alpha=2)
        fill(adapted)
        for batched in (True, False):
            x = inputs(plain, batched)
            result = adapted(*x, **weights)
            assert_close(result, oracle(plain, adapted)(*x, **weights))
            assert not torch.allclose(result[0], plain(*x)[0])

    def test_only_factors_learn_and_all_of_them_do(self, shape, params):
        plain, adapted = build(shape, params)
        x = inputs(plain)
        fill(adapted)(*x)[0].square().sum().backward()
        for name, parameter in adapted.named_parameters():
            learns = name.startswith('lora_')
            assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == learns, name
        assert adapter_parameter_names(adapted) == {f'lora_{m}_{p}' for m in 'AB' for p in params}

    def test_merging_is_exact_and_undone_bit_for_bit(self, shape, params):
        plain, adapted = build(shape, params)
        x, state = inputs(plain), copy.deepcopy(fill(adapted).eval().state_dict())
        before, frozen = adapted(*x), copy.deepcopy(dict(adapted.named_parameters()))
        assert adapted.merge().merge() is adapted and adapted.merged
        assert_close(adapted(*x), before)
        expected = dict(oracle(plain, adapted).named_parameters())
        for name, parameter in adapted.named_parameters():
            torch.testing.assert_close(parameter, expected.get(name, parameter), rtol=0, atol=1e-12)
        assert list(adapted.state_dict()) == list(state)
        assert all(torch.equal(value, state[key]) for key, value in adapted.state_dict().items())
        assert adapted.unmerge().unmerge() is adapted and not adapted.merged
        assert all(torch.equal(p, frozen[name]) for name, p in adapted.named_parameters())
        assert all(torch.equal(a, b) for a, b in zip(adapted(*x), before, strict=True))

    def test_a_plain_checkpoint_fits_and_so_does_the_way_back(self, shape, params):
        plain, adapted = build(shape, params)
        keys = adapted.load_state_dict(plain.state_dict(), strict=False)
        assert not keys.unexpected_keys and set(keys.missing_keys) == adapter_parameter_names(adapted)
        x = inputs(plain)
        expected = fill(adapted).train()(*x)
        once_more = copy.deepcopy(plain)
        once_more.load_state_dict(merged_state_dict(adapted))
        assert_close(once_more.train()(*x), expected)
        deployed = adapted.to_plain()
        assert type(deployed) is nn.MultiheadAttention and deployed.training
        assert list(deployed.state_dict()) == list(plain.state_dict())
        assert_close(deployed(*x), expected)
        assert_close(copy.deepcopy(adapted).eval().merge().to_plain().train()(*x), expected)

    def test_copies_and_pickles(self, shape, params):
        plain, adapted = build(shape, params)
        x = inputs(plain)
        fill(adapted).eval()
        for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted)), copy.deepcopy(adapted.merge())):
            twin.unmerge()
            assert all(torch.equal(v, adapted.state_dict()[k]) for k, v in twin.state_dict().items())
            twin.merge()
            assert_close(twin(*x), adapted(*x))
            state = twin.state_dict()
            twin.unmerge()
            assert all(torch.equal(value, twin.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize('need_weights', [True, False])
@pytest.mark.parametrize('mask', masks(L, S))
@pytest.mark.parametrize('shape', SHAPES)
def test_masks_are_those_of_the_plain_layer(shape, mask, need_weights):
    plain, adapted = build(shape)
    fill(adapted)
    x, given = inputs(plain), masks(L, S)[mask]
    result = adapted(*x, **given, need_weights=need_weights)
    assert_close(result, oracle(plain, adapted)(*x, **given, need_weights=need_weights))
    if mask != 'none':
        assert not torch.allclose(result[0], adapted(*x)[0])


@pytest.mark.parametrize('need_weights', [True, False])
@pytest.mark.parametrize('shape', ['self', 'batch_first', 'no_bias', 'bias_kv', 'zero_attn'])
def test_causal(shape, need_weights):
    plain, adapted = build(shape)
    x, mask = inputs(plain, self_attention=True), nn.Transformer.generate_square_subsequent_mask(L, dtype=DTYPE)
    fill(adapted)
    expected = oracle(plain, adapted)(*x, attn_mask=mask, need_weights=need_weights)
    for given in (dict(attn_mask=mask), dict(attn_mask=mask, is_causal=True), dict(is_causal=True)):
        assert_close(adapted(*x, **given, need_weights=need_weights), expected)
    padding = torch.zeros(N, L, dtype=torch.bool)
    padding[1, 3:] = True
    both = dict(attn_mask=mask == -torch.inf, key_padding_mask=padding, need_weights=need_weights)
    assert_close(adapted(*x, **both, is_causal=True), oracle(plain, adapted)(*x, **both))


def test_attention_dropout_is_kept_and_only_in_training():
    plain = nn.MultiheadAttention(E, H, dropout=0.5, dtype=DTYPE)
    adapted = LoRAMultiheadAttention.from_attention(copy.deepcopy(plain))
    x = inputs(plain, self_attention=True)
    torch.manual_seed(5)
    expected = plain.train()(*x)
    torch.manual_seed(5)
    assert adapted.training
    result = adapted(*x)
    assert_close(result, expected)
    assert (result[1] == 0).any()
    assert_close(adapted.eval()(*x), plain.eval()(*x))


def test_each_projection_draws_a_mask_of_its_own():
    # With A all ones and inputs all ones the change of a projection is the number of inputs kept, times a constant.
    plain = nn.MultiheadAttention(E, H, dtype=DTYPE)
    adapted = LoRAMultiheadAttention.from_attention(plain, rank=1, params='qkvo', lora_dropout=0.5)
    seen = []
    adapted.lora_dropout.register_forward_hook(lambda module, args, output: seen.append(output == 0))
    x = torch.ones(L, N, E, dtype=DTYPE)
    adapted(x, x, x)
    q, k, v, o = seen
    assert not torch.equal(q, k) and not torch.equal(k, v) and not torch.equal(v, o)
    assert all(0.2 < mask.double().mean() < 0.8 for mask in seen)
    seen.clear()
    first, second = adapted.eval()(x, x, x), adapted(x, x, x)
    assert torch.equal(first[0], second[0]) and not any(mask.any() for mask in seen)


def test_a_fused_projection_can_draw_separate_masks():
    torch.manual_seed(0)
    layer = SlicedLoRALinear(8, 24, rank=2, slices='qkv', dropout=0.5, dtype=DTYPE)
    fill(layer)
    x, seen = torch.randn(3, 8, dtype=DTYPE), []
    layer.lora_dropout.register_forward_hook(lambda module, args, output: seen.append(output))
    for separate, count in ((False, 1), (True, 3)):
        layer.separate_dropout = separate
        seen.clear()
        torch.manual_seed(4)
        y = layer.train().change(x)
        assert len(seen) == count
        for part, own, (a, b) in zip(y.chunk(3, -1), seen * (3 // count), layer.factors().values(), strict=True):
            torch.testing.assert_close(part, layer.scalings['q'] * own @ a.T @ b.T, rtol=0, atol=1e-12)
    assert not torch.equal(seen[0] == 0, seen[1] == 0)
    one_mask = layer.eval().change(x)
    layer.separate_dropout = False
    assert torch.equal(layer.change(x), one_mask)


@pytest.mark.parametrize('case', ['attn_qkv_r2', 'attn_qkv_r2_causal', 'attn_v_r1'])
@pytest.mark.parametrize('published', [True, False])
def test_published_numbers(golden, case, published):
    data = dict(np.load(golden / 'clip_lora' / f'{case}.npz'))
    meta = json.loads(str(data.pop('meta')))
    data = {key: torch.from_numpy(value) for key, value in data.items()}
    plain = nn.MultiheadAttention(meta['E'], meta['H'])
    plain.load_state_dict({
        'in_proj_weight': data['in_proj_weight'], 'in_proj_bias': data['in_proj_bias'],
        'out_proj.weight': data['out_proj_weight'], 'out_proj.bias': data['out_proj_bias'],
    })
    if published:
        layer = PlainMultiheadAttentionLoRA(plain, meta['params'], meta['r'], meta['alpha'], 0.0)
    else:
        layer = LoRAMultiheadAttention.from_attention(
            plain, rank=meta['r'], params=meta['params'], alpha=meta['alpha']
        )
    assert layer.scalings == {name: pytest.approx(meta['scaling']) for name in meta['params']}
    layer.set_factors({name: (data[f'lora_A_{name}'], data[f'lora_B_{name}']) for name in meta['params']})
    x = data['x'].requires_grad_()
    mask = nn.Transformer.generate_square_subsequent_mask(meta['L']) if meta['causal'] else None
    y = layer.train()(x, x, x, attn_mask=mask)[0]
    close = dict(rtol=0, atol=1e-6)
    torch.testing.assert_close(y, data['out_lora_unmerged'], **close)
    y.square().mean().backward()
    torch.testing.assert_close(x.grad, data['grad_x'], **close)
    for name in meta['params']:
        for letter in 'AB':
            gradient = getattr(layer, f'lora_{letter}_{name}').grad
            torch.testing.assert_close(gradient, data[f'grad_{letter}_{name}'], **close)
    layer.eval().merge()
    torch.testing.assert_close(layer(x, x, x, attn_mask=mask)[0], data['out_lora_merged'], **close)
    parts = dict(zip('qkv', layer.in_proj_weight.chunk(3), strict=True), o=layer.out_proj.weight)
    for name in meta['params']:
        torch.testing.assert_close(parts[name], data[f'merged_weight_{name}'], **close)


class TestInsideModels:
    def model(self):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(E, H, 8, dropout=0.0, batch_first=True, dtype=DTYPE)
        return nn.TransformerEncoder(layer, 2).requires_grad_(False)

    @pytest.mark.parametrize('padding', [False, True])
    def test_the_fast_path_of_torch_does_not_skip_the_adapters(self, padding):
        model, x = self.model(), torch.randn(N, L, E, dtype=DTYPE)
        given = {}
        if padding:
            given = dict(src_key_padding_mask=torch.tensor([[False] * (L - i) + [True] * i for i in range(N)]))
        plain = copy.deepcopy(model)
        adapted = inject_attention(model, r'layers\.\d\.self_attn', params='qkvo', rank=2)
        assert list(adapted) == ['layers.0.self_attn', 'layers.1.self_attn']
        fill(model)
        kept = torch.ones(N, L, dtype=torch.bool) if not padding else ~given['src_key_padding_mask']
        expected = model.train()(x, **given)[kept]
        with torch.no_grad():
            assert_close([model.eval()(x, **given)[kept]], [expected])
            assert not torch.allclose(plain.eval()(x, **given)[kept], expected)
            assert merge_adapters(model) == 2
            assert_close([model(x, **given)[kept]], [expected])
            assert unmerge_adapters(model) == 2 and to_plain(model) == 2
            assert_close([model(x, **given)[kept]], [expected])
        assert not adapter_parameter_names(model)

    def test_report_and_choice_of_layers(self):
        model = self.model()
        inject_attention(model, 'layers.1.self_attn', rank=3, params='qv')
        (row,) = parameter_report(model).rows
        assert (row.module, row.ranks) == ('layers.1.self_attn', {'q': 3, 'v': 3})
        assert row.trainable == 2 * 3 * 2 * E
        with pytest.raises(ValueError, match=r"\['layers.1.self_attn'\] are adapted already"):
            inject_attention(model, 'layers.1.self_attn')
        with pytest.raises(ValueError, match="'nothing' matches no attention layer of the 1 there are"):
            inject_attention(model, 'nothing')
        with pytest.raises(ValueError, match='use_nested_tensor'):
            x = torch.nested.nested_tensor([torch.randn(3, E), torch.randn(2, E)])
            model.layers[1].self_attn(x, x, x)

    @pytest.mark.parametrize('weights', [True, False])
    @pytest.mark.parametrize('batch_first', [True, False])
    @pytest.mark.parametrize('query, key, value', [
        ((3, 1), (5, 2), (5, 2)), ((3, 2), (4, 1), (4, 1)), ((3, 2), (5, 2), (6, 2)), ((3,), (5,), (6,)),
    ])  # fmt: skip
    def test_inputs_that_do_not_fit_each_other(self, query, key, value, batch_first, weights):
        adapted = LoRAMultiheadAttention(E, H, batch_first=batch_first)
        x = [torch.randn(*(size[::-1] if batch_first else size), E) for size in (query, key, value)]
        with pytest.raises(ValueError, match='key and value must be of the same length, and all inputs of the same'):
            adapted(*x, need_weights=weights)

    @pytest.mark.parametrize('shape', ['bias_kv', 'zero_attn', 'both_appended'])
    def test_every_query_sees_appended_keys_under_the_causal_mask(self, shape):
        plain, adapted = build(shape)
        x = inputs(plain, self_attention=True)
        causal = dict(attn_mask=torch.ones(L, L, dtype=torch.bool).triu(1), is_causal=True)
        expected = oracle(plain, fill(adapted))(*x, **causal)[0]
        for given in (causal, dict(is_causal=True)):
            assert_close([adapted(*x, **given, need_weights=False)[0]], [expected])

    def test_an_empty_batch(self):
        x = torch.randn(L, 0, E)
        y, weights = LoRAMultiheadAttention(E, H)(x, x, x)
        assert y.shape == (L, 0, E) and weights.shape == (0, L, L)

    def test_half_precision_keeps_the_factors_in_float32(self):
        plain = nn.MultiheadAttention(E, H, dtype=torch.bfloat16)
        adapted = fill(LoRAMultiheadAttention.from_attention(plain))
        assert adapted.lora_A_q.dtype == torch.float32
        x = torch.randn(L, N, E, dtype=torch.bfloat16)
        assert adapted(x, x, x)[0].dtype == torch.bfloat16
        assert adapted.to_plain().in_proj_weight.dtype == torch.bfloat16
        before = plain.in_proj_weight.clone()
        assert torch.equal(adapted.merge().unmerge().in_proj_weight, before)

    def test_autocast(self):
        plain, adapted = build('self')
        adapted = fill(adapted).float()
        x = torch.randn(L, N, E)
        with torch.autocast('cpu', torch.bfloat16):
            y = adapted(x, x, x, is_causal=True, need_weights=False)[0]
        exact = adapted(x, x, x, is_causal=True, need_weights=False)[0]
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.1)

    def test_no_dense_product_is_formed(self, monkeypatch):
        _, adapted = build('self', rank=1)
        seen, linear = [], F.linear
        monkeypatch.setattr(F, 'linear', lambda x, w, b=None: seen.append(tuple(w.shape)) or linear(x, w, b))
        monkeypatch.setattr(LoRAMultiheadAttention, 'deltas', None)
        x = inputs(adapted, self_attention=True)
        adapted(*x)
        assert sorted(set(seen)) == [(1, E), (E, 1), (E, E), (3 * E, E)]


class TestBadInput:
    @pytest.mark.parametrize('kwargs, error, message', [
        (dict(params=''), ValueError, "params must name some of 'q', 'k', 'v' and 'o'"),
        (dict(params='qx'), ValueError, "got 'qx'"),
        (dict(params=['q', 'q']), ValueError, 'each once'),
        (dict(rank=0), ValueError, r'rank of q must lie in 1..16'),
        (dict(rank=2.5), TypeError, 'must be an integer, got 2.5'),
        (dict(rank={'k': 99}), ValueError, 'rank of k'),
        (dict(lora_dropout=1.0), ValueError, r'\[0, 1\), got 1.0'),
        (dict(scaling='alpha'), ValueError, "unknown scaling 'alpha'"),
    ])  # fmt: skip
    def test_arguments(self, kwargs, error, message):
        with pytest.raises(error, match=message):
            LoRAMultiheadAttention(E, H, **kwargs)

    def test_layers(self):
        _, adapted = build('self')
        for wrong in (adapted, nn.Linear(2, 2), LoRALinear(2, 2, 1), torch.ao.nn.quantizable.MultiheadAttention(E, H)):
            with pytest.raises(TypeError, match='can adapt layers that compute what nn.MultiheadAttention'):
                LoRAMultiheadAttention.from_attention(wrong)
        with pytest.raises(ValueError, match='the model itself'):
            inject_attention(nn.MultiheadAttention(E, H), 'x')
        with pytest.raises(ValueError, match=r'rank of q must lie in 1..16.*got 0'):
            PlainMultiheadAttentionLoRA(nn.MultiheadAttention(E, H))

    @pytest.mark.parametrize('given, error, message', [
        (dict(attn_mask=torch.zeros(L, L + 1)), ValueError, r'attn_mask must be \(5, 5\) or \(12, 5, 5\)'),
        (dict(key_padding_mask=torch.zeros(L, N)), ValueError, r'key_padding_mask must be \(3, 5\)'),
        (dict(attn_mask=torch.zeros(L, L, dtype=torch.int)), TypeError, 'boolean or floating, got torch.int32'),
    ])  # fmt: skip
    def test_masks(self, given, error, message):
        _, adapted = build('self')
        with pytest.raises(error, match=message):
            adapted(*inputs(adapted, self_attention=True), **given)

    def test_a_merged_layer_refuses_training_loading_and_new_factors(self):
        plain, adapted = build('self')
        fill(adapted).merge()
        x = inputs(plain)
        for call, error in (
            (lambda: adapted(*x), RuntimeError),
            (lambda: adapted.load_state_dict(adapted.state_dict()), ValueError),
            (adapted.reset_adapter, ValueError),
            (lambda: adapted.set_factors(adapted.factors()), ValueError),
        ):
            with pytest.raises(error, match='unmerge'):
                call()

    def test_factors_that_are_not_finite_do_not_reach_the_weights(self):
        _, adapted = build('separate')
        fill(adapted)
        state = copy.deepcopy(adapted.state_dict())
        with torch.no_grad():
            adapted.lora_B_v[0] = float('nan')
        for call in (adapted.merge, adapted.to_plain):
            with pytest.raises(ValueError, match='not finite'):
                call()
        assert not adapted.merged
        assert all(torch.equal(v, state[k]) for k, v in adapted.state_dict().items() if k != 'lora_B_v')
