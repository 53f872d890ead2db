"""RLRR and scale-and-shift layers: golden files and invariants, in float64."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mmlora.adapters import (
    RLRRConv2d,
    RLRRLinear,
    ScaleShiftConv2d,
    ScaleShiftLayerNorm,
    adapter_parameter_names,
    freeze,
    inject,
    inject_rlrr_conv,
    inject_scale_shift,
    merge_adapters,
    merged_state_dict,
    parameter_report,
    to_plain,
    unmerge_adapters,
)

DTYPE = torch.float64
X = (2, 5, 8)


def linear(bias=True):
    return nn.Linear(8, 12, bias=bias, dtype=DTYPE)


CASES = {
    'rlrr': (RLRRLinear.from_linear, linear, dict(), X),
    'rlrr_no_bias': (RLRRLinear.from_linear, lambda: linear(False), dict(), X),
    'rlrr_rank3': (RLRRLinear.from_linear, linear, dict(rank=3), X),
    'qkv': (RLRRLinear.from_linear, linear, dict(slices='qkv'), X),
    'qkv_no_bias': (RLRRLinear.from_linear, lambda: linear(False), dict(slices='qkv', rank=2), X),
    'k': (RLRRLinear.from_linear, linear, dict(slices='k'), X),
    'qv': (RLRRLinear.from_linear, linear, dict(slices='qv'), X),
    'ranks_differ': (RLRRLinear.from_linear, linear, dict(slices='qkv', rank={'q': 1, 'k': 0, 'v': 4}), X),
    'norm': (ScaleShiftLayerNorm.from_layer, lambda: nn.LayerNorm(8, dtype=DTYPE), dict(), X),
    'norm_no_bias': (ScaleShiftLayerNorm.from_layer, lambda: nn.LayerNorm(8, bias=False, dtype=DTYPE), dict(), X),
    'conv': (ScaleShiftConv2d.from_layer, lambda: nn.Conv2d(3, 4, 2, 2, dtype=DTYPE), dict(), (2, 3, 6, 6)),
    'rlrr_conv': (
        RLRRConv2d.from_conv, lambda: nn.Conv2d(3, 4, (3, 2), 2, dtype=DTYPE), dict(rank=2), (2, 3, 6, 6)
    ),
    'rlrr_conv_no_bias': (
        RLRRConv2d.from_conv, lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False, dtype=DTYPE), dict(),
        (2, 4, 6, 6)
    ),
    'conv_no_bias': (
        ScaleShiftConv2d.from_layer,
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False, padding_mode='reflect', dtype=DTYPE),
        dict(),
        (2, 4, 6, 6),
    ),
}  # fmt: skip


def build(case: str, **kwargs) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Return a plain layer, its adapted twin as it starts, and an input."""
    adapt, make, own, shape = CASES[case]
    torch.manual_seed(0)
    plain = make()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    adapted = adapt(copy.deepcopy(plain), **{**own, **kwargs})
    return plain, adapted, torch.randn(shape, dtype=DTYPE, generator=torch.Generator().manual_seed(2))


def fill(layer: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in layer.adapter_parameters().values():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize('case', CASES)
class TestInvariants:
    def test_identity_start_is_a_no_op_that_learns(self, case):
        plain, adapted, x = build(case, init='identity')
        if case in ('rlrr_no_bias', 'qkv_no_bias'):  # Another kernel: the layer has a bias of zero now.
            torch.testing.assert_close(adapted(x), plain(x), rtol=0, atol=1e-14)
        else:
            assert torch.equal(plain(x), adapted(x))
        before = {name: p.detach().clone() for name, p in adapted.adapter_parameters().items()}
        optimizer = torch.optim.SGD(adapted.adapter_parameters().values(), lr=0.01)
        for _ in range(2):  # What stands beside a zero learns from the second step on.
            optimizer.zero_grad()
            (adapted(x) - 1).square().sum().backward()
            optimizer.step()
        for name, p in adapted.adapter_parameters().items():
            assert not torch.equal(p, before[name]), f'{name} does not learn'

    def test_published_start_is_near_but_not_at_the_frozen_layer(self, case):
        plain, adapted, x = build(case)
        assert not torch.allclose(plain(x), adapted(x))

    def test_forward_is_the_plain_layer_with_the_changed_tensors(self, case):
        plain, adapted, x = build(case)
        fill(adapted)
        twin = copy.deepcopy(plain)
        weight, bias = adapted.changed()
        twin.weight = nn.Parameter(weight.detach())
        twin.bias = None if bias is None else nn.Parameter(bias.detach())
        torch.testing.assert_close(adapted(x), twin(x), rtol=0, atol=1e-10)
        deployed = adapted.to_plain()
        assert type(deployed) is type(plain) and (deployed.bias is None) == (bias is None)
        torch.testing.assert_close(deployed(x), adapted(x), rtol=0, atol=1e-10)

    def test_merge_unmerge(self, case):
        plain, adapted, x = build(case)
        fill(adapted).eval()
        before, state = adapted(x), copy.deepcopy(adapted.state_dict())
        names = [name for name, _ in adapted.named_parameters()]
        adapted.merge()
        adapted.merge()
        weight, bias = adapted.changed()
        assert not torch.allclose(adapted.weight, plain.weight) and (adapted.bias is None) == (bias is None)
        assert torch.equal(adapted.weight, weight) and (bias is None or torch.equal(adapted.bias, bias))
        torch.testing.assert_close(adapted(x), before, rtol=0, atol=1e-10)
        merged = adapted.state_dict()
        assert list(merged) == list(state) and all(torch.equal(merged[k], state[k]) for k in state)
        twin = copy.deepcopy(adapted)
        for layer in (adapted, twin):
            layer.unmerge()
            layer.unmerge()
            assert torch.equal(layer.weight, plain.weight) and (layer.bias is None) == (plain.bias is None)
            assert plain.bias is None or torch.equal(layer.bias, plain.bias)
            assert torch.equal(layer(x), before) and [name for name, _ in layer.named_parameters()] == names

    def test_merged_layer_refuses_training_and_loading(self, case):
        _, adapted, x = build(case)
        adapted.train().merge()
        with pytest.raises(RuntimeError, match='unmerge'):
            adapted(x)
        for change in (lambda: adapted.load_state_dict(adapted.state_dict()), adapted.reset_adapter):
            with pytest.raises(ValueError, match='unmerge'):
                change()

    def test_what_is_not_finite_is_never_merged(self, case):
        _, adapted, _ = build(case)
        last = list(adapted.adapter_parameters().values())[-1]  # The shift.
        with torch.no_grad():
            last[0] = float('nan')
        for change in (adapted.merge, adapted.to_plain):
            with pytest.raises(ValueError, match='not finite'):
                change()
        assert not adapted.merged

    def test_only_the_learned_tensors_learn_and_gradients_are_exact(self, case):
        _, adapted, x = build(case)
        fill(adapted)
        names = list(adapted.adapter_parameters())
        assert [n for n, p in adapted.named_parameters() if p.requires_grad] == names

        def function(x, *values):
            return torch.func.functional_call(adapted, dict(zip(names, values, strict=True)), (x,))

        inputs = (x[:1].clone().requires_grad_(), *adapted.adapter_parameters().values())
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)

    def test_copies_and_states(self, case):
        plain, adapted, x = build(case)
        fill(adapted)
        for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
            assert torch.equal(twin(x), adapted(x))
        _, other, _ = build(case, init='identity')
        other.load_state_dict(adapted.state_dict())
        assert torch.equal(other(x), adapted(x))
        missing, unexpected = adapted.load_state_dict(plain.state_dict(), strict=False)
        assert not unexpected and set(missing) == set(adapted.adapter_parameters())

    def test_autocast(self, case):
        _, adapted, x = build(case)
        fill(adapted).float()
        x = x.float().requires_grad_()
        expected = adapted(x).float()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            y = adapted(x)
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.3)
        y.float().sum().backward()
        for p in (x, *adapted.adapter_parameters().values()):
            assert p.grad.dtype == torch.float32 and p.grad.isfinite().all()

    def test_half_base(self, case):
        adapt, make, own, shape = CASES[case]
        adapted = fill(adapt(make().bfloat16(), **own))
        assert {p.dtype for p in adapted.adapter_parameters().values()} == {torch.float32}
        y = adapted(torch.randn(shape, dtype=torch.bfloat16))
        assert y.dtype == torch.bfloat16
        y.sum().backward()
        weight = adapted.weight.clone()
        adapted.eval().merge()
        assert {p.dtype for p in (adapted.weight, adapted.bias) if p is not None} == {torch.bfloat16}
        assert torch.equal(adapted.unmerge().weight, weight)

    def test_compiles_into_one_graph(self, case):
        _, adapted, x = build(case)
        compiled = torch.compile(adapted, backend='eager', fullgraph=True)
        torch.testing.assert_close(compiled(x), adapted(x), rtol=0, atol=1e-12)
        compiled(x).sum().backward()


def test_the_frozen_weight_can_learn_too():
    _, adapted, x = build('qkv')
    fill(adapted)
    adapted.weight.requires_grad_(True)
    naive = copy.deepcopy(adapted)
    adapted(x).square().sum().backward()
    F.linear(x, *naive.changed()).square().sum().backward()
    for name, p in naive.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(adapted.get_parameter(name).grad, p.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize('base', [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize('learned', [torch.float32, torch.bfloat16])
def test_learned_tensors_of_a_narrower_type_learn(base, learned):
    layer = fill(RLRRLinear(6, 4, rank=2, dtype=base, lora_dtype=learned))
    y = layer(torch.randn(3, 6, dtype=base))
    assert y.dtype == base
    y.sum().backward()
    for name, p in layer.adapter_parameters().items():
        assert p.grad.dtype == learned and p.grad.any(), name


def test_types_are_those_of_a_plain_layer():
    layer = RLRRLinear(6, 4)
    for x in (torch.randn(3, 6, dtype=torch.float64), torch.ones(3, 6, dtype=torch.int64)):
        with pytest.raises(RuntimeError, match='dtype'):
            layer(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert layer.double()(torch.randn(3, 6, dtype=torch.float64)).dtype == torch.float64
    assert layer.to('meta')(torch.randn(3, 6, dtype=torch.float64, device='meta')).shape == (3, 4)


@pytest.mark.parametrize('case', CASES)
def test_autocast_does_not_round_the_change(case):
    _, adapted, _ = build(case)
    fill(adapted).float()
    expected = adapted.changed()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        for one, other in zip(adapted.changed(), expected, strict=True):
            assert one is other or torch.equal(one, other)


def test_nothing_of_the_size_of_the_weight_is_kept_for_the_gradient():
    _, adapted, x = build('rlrr')
    own = {p.data_ptr() for p in adapted.parameters()}
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        adapted(x)
    assert any(t.data_ptr() == adapted.weight.data_ptr() for t in kept)
    assert not [t.shape for t in kept if t.numel() == adapted.weight.numel() and t.data_ptr() not in own]


def test_published_distribution():
    torch.manual_seed(0)
    layer = RLRRLinear(768, 3072)
    assert layer.rlrr_in.abs().max() <= (6 / 768) ** 0.5 and layer.rlrr_out.abs().max() <= 6**0.5
    assert torch.equal(layer.rlrr_bias, torch.zeros(3072))
    assert (layer.rlrr_out @ layer.rlrr_in).std().item() == pytest.approx(0.0722, rel=0.05)
    norm = ScaleShiftLayerNorm(10_000)
    for tensor, mean in ((norm.ssf_scale, 1), (norm.ssf_shift, 0)):
        assert tensor.mean().item() == pytest.approx(mean, abs=1e-3)
        assert tensor.std().item() == pytest.approx(0.02, rel=0.05)


class TestGolden:
    def read(self, golden, name):
        return {k: torch.from_numpy(v) for k, v in np.load(golden / 'rlrr' / f'{name}.npz').items()}

    def set(self, layer, **tensors):
        with torch.no_grad():
            for name, value in tensors.items():
                layer.get_parameter(name).copy_(value.reshape(layer.get_parameter(name).shape))
        return layer

    def test_linear(self, golden):
        z = self.read(golden, 'linear')
        layer = self.set(
            RLRRLinear(6, 4, dtype=DTYPE), weight=z['weight'], bias=z['bias'], rlrr_in=z['scale_col'],
            rlrr_out=z['scale_line'], rlrr_bias=z['shift_bias'],
        )  # fmt: skip
        x = z['x'].requires_grad_()
        y = layer(x)
        (y * z['gy']).sum().backward()
        for ours, theirs in (
            (y, 'y'), (x.grad, 'grad_x'), (layer.rlrr_in.grad, 'grad_scale_col'),
            (layer.rlrr_out.grad, 'grad_scale_line'), (layer.rlrr_bias.grad, 'grad_shift_bias'),
        ):  # fmt: skip
            torch.testing.assert_close(ours, z[theirs].reshape(ours.shape), rtol=0, atol=1e-12)
        layer.eval().merge()
        torch.testing.assert_close(layer.weight.data, z['merged_weight'], rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.bias.data, z['merged_bias'].reshape(-1), rtol=0, atol=1e-12)
        torch.testing.assert_close(layer(x), z['y_merged'], rtol=0, atol=1e-12)

    def test_rank_3_of_the_paper(self, golden):
        z = self.read(golden, 'linear_rank3_paper_formula')
        layer = self.set(
            RLRRLinear(6, 4, rank=3, dtype=DTYPE), weight=z['weight'], bias=z['bias'], rlrr_in=z['S_in'],
            rlrr_out=z['S_out'], rlrr_bias=z['shift'],
        )  # fmt: skip
        torch.testing.assert_close(layer(z['x']), z['y'], rtol=0, atol=1e-12)
        layer.merge()
        torch.testing.assert_close(layer.weight.data, z['merged_weight'], rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.bias.data, z['merged_bias'], rtol=0, atol=1e-12)

    def test_convolution(self, golden):
        z = self.read(golden, 'conv')
        layer = self.set(
            RLRRConv2d(3, 4, 3, padding=1, bias=False, dtype=DTYPE), weight=z['weight'], rlrr_in=z['scale_col'],
            rlrr_out=z['scale_line'],
        )  # fmt: skip
        y = layer(z['x'])
        (y * z['gy']).sum().backward()
        for ours, theirs in (
            (y, 'y'), (layer.rlrr_in.grad, 'grad_scale_col'), (layer.rlrr_out.grad, 'grad_scale_line'),
            (layer.merge().weight.data, 'merged_weight'),
        ):  # fmt: skip
            torch.testing.assert_close(ours, z[theirs], rtol=0, atol=1e-12)

    def test_two_layers(self, golden):
        z = self.read(golden, 'mlp')
        layers = {}
        for name, (i, o) in {'fc1': (8, 16), 'fc2': (16, 8)}.items():
            p = f'param.{name}.'
            layers[name] = self.set(
                RLRRLinear(i, o, dtype=DTYPE), weight=z[p + 'mlp.weight'], bias=z[p + 'mlp.bias'],
                rlrr_in=z[p + 'scale_col'], rlrr_out=z[p + 'scale_line'], rlrr_bias=z[p + 'shift_bias'],
            )  # fmt: skip
        x = z['x'].requires_grad_()
        y = layers['fc2'](F.gelu(layers['fc1'](x)))
        (y * z['gy']).sum().backward()
        torch.testing.assert_close(y, z['y'], rtol=0, atol=1e-12)
        torch.testing.assert_close(x.grad, z['grad_x'], rtol=0, atol=1e-12)
        for name, layer in layers.items():
            for ours, theirs in (('in', 'scale_col'), ('out', 'scale_line'), ('bias', 'shift_bias')):
                grad = layer.get_parameter(f'rlrr_{ours}').grad
                torch.testing.assert_close(grad, z[f'grad.{name}.{theirs}'].reshape(grad.shape), rtol=0, atol=1e-12)


class Net(nn.Module):
    """A block with a fused projection without bias, and a layer that it holds twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.proj = nn.Linear(24, 8)
        self.again = self.norm

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.again(self.proj(self.qkv(self.norm(x))))


class TestWholeModel:
    @pytest.fixture
    def net(self):
        torch.manual_seed(0)
        net = Net().to(DTYPE)
        inject(net, ['qkv', 'proj'], rank=1, kind='rlrr', slices='qkv')
        inject_scale_shift(net, ['norm', 'stem'])
        freeze(net, adapter_parameter_names(net))
        return net.eval()

    def test_names_and_counts(self, net):
        assert net.again is net.norm
        learned = {name for name, p in net.named_parameters() if p.requires_grad}
        assert learned == adapter_parameter_names(net) == {
            'stem.ssf_scale', 'stem.ssf_shift', 'norm.ssf_scale', 'norm.ssf_shift',
            *(f'qkv.rlrr_{what}_{s}' for what in ('in', 'out', 'bias') for s in 'qkv'),
            'proj.rlrr_in', 'proj.rlrr_out', 'proj.rlrr_bias',
        }  # fmt: skip
        report = parameter_report(net)
        assert report.trainable == 16 + 16 + (3 * 8 + 2 * 24) + (24 + 2 * 8) == sum(r.trainable for r in report.rows)
        assert 'ScaleShiftConv2d' in str(report) and not report.others

    def test_merging_and_deployment(self, net):
        x = torch.randn(2, 3, 8, 8, dtype=DTYPE)
        before, state = net(x), copy.deepcopy(net.state_dict())
        merged = {k: v for k, v in merged_state_dict(net).items() if not k.startswith('again.')}
        assert merge_adapters(net) == 4
        torch.testing.assert_close(net(x), before, rtol=0, atol=1e-10)
        for key, value in merged_state_dict(net).items():
            assert key.startswith('again.') or torch.equal(value, merged[key]), 'merging twice'
        assert unmerge_adapters(net) == 4
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
        assert to_plain(net) == 4 and to_plain(net) == 0
        torch.testing.assert_close(net(x), before, rtol=0, atol=1e-10)
        assert net.again is net.norm and type(net.stem) is nn.Conv2d
        assert {k for k in net.state_dict() if not k.startswith('again.')} == set(merged) and 'qkv.bias' in merged


BAD = {
    'init': (lambda: RLRRLinear(8, 12, init='zero'), ValueError, "'zero'.*identity"),
    'rank_zero': (lambda: RLRRLinear(8, 12, rank=0), ValueError, r'1\.\.8.*got 0'),
    'rank_float': (lambda: RLRRLinear(8, 12, rank=1.0), TypeError, '1.0'),
    'slice_rank': (lambda: RLRRLinear(8, 12, rank=5, slices='qkv'), ValueError, "slice 'q'"),
    'unknown_slice': (lambda: RLRRLinear(8, 12, slices='qo'), ValueError, "'o'"),
    'no_slice': (lambda: RLRRLinear(8, 12, rank={'q': 0}, slices='q'), ValueError, 'no slice'),
    'layout': (lambda: RLRRLinear(8, 13, slices='q'), ValueError, '13 outputs'),
    'ssf_init': (lambda: ScaleShiftLayerNorm(8, init='ones'), ValueError, "'ones'"),
    'two_axes': (lambda: ScaleShiftLayerNorm((4, 8)), ValueError, r'\(4, 8\)'),
    'no_affine': (
        lambda: ScaleShiftLayerNorm.from_layer(nn.LayerNorm(8, elementwise_affine=False)), ValueError, 'merged'
    ),
    'another_layer': (lambda: ScaleShiftLayerNorm.from_layer(nn.GroupNorm(1, 8)), TypeError, 'GroupNorm'),
    'twice': (lambda: ScaleShiftLayerNorm.from_layer(ScaleShiftLayerNorm(8)), TypeError, 'ScaleShiftLayerNorm'),
    'no_match': (lambda: inject_scale_shift(Net(), ['nrom']), ValueError, "'nrom'.*norm"),
    'conv_rank': (lambda: inject_rlrr_conv(Net(), ['stem'], rank=13), ValueError, r'stem.*1\.\.12.*got 13'),
    'conv_init': (lambda: RLRRConv2d(3, 4, 3, init='none'), ValueError, "'none'"),
    'conv_no_match': (lambda: inject_rlrr_conv(Net(), ['qkv']), ValueError, "'qkv' matches no convolution"),
    'one_layer': (lambda: to_plain(RLRRLinear(8, 12)), ValueError, 'itself'),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_bad_arguments(case):
    make, error, match = BAD[case]
    with pytest.raises(error, match=match):
        make()
