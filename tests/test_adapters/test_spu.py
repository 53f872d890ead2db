"""Sub-ranks: published numbers, gradients, draws, and that nothing but the forward pass in training follows them."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mmlora.adapters import (
    DISTRIBUTIONS,
    LoRALinear,
    LowRankLinear,
    SlicedLoRALinear,
    adapted_layers,
    at_rank,
    draw_sub_ranks,
    inject,
    merge_adapters,
)
from mmlora.adapters.kinds import KINDS
from mmlora.adapters.spu import LayerDraws
from mmlora.models import VitSR_LoRA
from mmlora.randomness import derive_seed

EXACT = dict(rtol=0, atol=1e-12)
CASES = {
    'lora': (LoRALinear, dict(rank=4)),
    'lora_rs': (LoRALinear, dict(rank=3, alpha=6, scaling='alpha/sqrt(r)')),
    'lora_constant': (LoRALinear, dict(rank=2, alpha=0.7, scaling='constant')),
    'lora_number': (LoRALinear, dict(rank=2, scaling=0.25)),
    'qv': (SlicedLoRALinear, dict(rank=3)),
    'qkv_rs': (SlicedLoRALinear, dict(rank=2, slices='qkv', scaling='alpha/sqrt(r)')),
    'ranks_differ': (SlicedLoRALinear, dict(rank={'q': 1, 'k': 0, 'v': 4}, alpha=3)),
}


def build(case: str) -> LowRankLinear:
    cls, kwargs = CASES[case]
    torch.manual_seed(0)
    layer = cls(8, 12, dtype=torch.float64, **kwargs)
    for parameter in layer.adapter_parameters().values():
        nn.init.normal_(parameter)
    return layer


def every_sub_rank(layer: LowRankLinear) -> list[dict[str, int]]:
    return [{name: min(m, r) for name, r in layer.ranks.items()} for m in range(1, max(layer.ranks.values()) + 1)]


def of_that_rank(case: str, layer: LowRankLinear, ranks: dict[str, int]) -> LowRankLinear:
    """An ordinary layer that was built with the lower rank and holds the first components."""
    cls, kwargs = CASES[case]
    twin = cls(8, 12, dtype=torch.float64, **{**kwargs, 'rank': ranks[''] if '' in ranks else ranks})
    twin.load_state_dict(layer.state_dict() | twin.state_dict(), strict=False)
    with torch.no_grad():
        twin.weight.copy_(layer.weight), twin.bias.copy_(layer.bias)
    twin.set_factors({n: (a[: ranks[n]], b[:, : ranks[n]]) for n, (a, b) in layer.factors().items()})
    return twin


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def z(golden):
    def load(name: str) -> dict[str, torch.Tensor]:
        return {k: torch.from_numpy(v) for k, v in np.load(golden / 'sr_lora' / name).items() if v.dtype.kind in 'fib'}

    return load


class TestPublishedNumbers:
    @pytest.mark.parametrize('k', range(4))
    @pytest.mark.parametrize('frozen', [0, 1])
    @pytest.mark.parametrize('rows', ['per_group', 'reference'])
    def test_linear(self, z, k, frozen, rows):
        z = z('spu_linear.npz')
        layer = LoRALinear(6, 5, rank=4, dtype=torch.float64)
        layer.load_state_dict({name: z[name] for name in ('weight', 'bias', 'lora_A', 'lora_B')})
        layer.use_sub_rank(k + 1, rows=rows, detach_prefix=bool(frozen))
        y = layer(z['x'])
        (y * z['G']).sum().backward()
        for name, got in dict(y=y, gA=layer.lora_A.grad, gB=layer.lora_B.grad).items():
            torch.testing.assert_close(got, z[f'train_frozen{frozen}_k{k}_{name}'], **EXACT, msg=name)

    @pytest.mark.parametrize('k', range(3))
    def test_fused_projection(self, z, k):
        z = z('spu_merged_linear.npz')
        out = {}
        for rows in ('reference', 'per_group'):
            layer = SlicedLoRALinear(6, 12, rank=3, dtype=torch.float64)
            with torch.no_grad():
                layer.weight.copy_(z['weight']), layer.bias.copy_(z['bias'])
            a, b = z['lora_A'].chunk(2), z['lora_B'].chunk(2)
            layer.set_factors({name: (a[i], b[i]) for i, name in enumerate('qv')})
            layer.use_sub_rank(k + 1, rows=rows)
            y = layer(z['x'])
            (y * z['G']).sum().backward()
            ga, gb = (torch.cat([getattr(layer, f'lora_{f}_{s}').grad for s in 'qv']) for f in 'AB')
            out[rows] = dict(y=y, gA=ga, gB=gb)
        for name, got in out['reference'].items():
            torch.testing.assert_close(got, z[f'train_k{k}_{name}'], **EXACT, msg=name)
        last = k == 2  # Only there both give the same rows to v.
        for name, got in out['per_group'].items():
            assert torch.allclose(got, z[f'train_k{k}_{name}'], **EXACT) == last, name
        torch.testing.assert_close(out['per_group']['y'][..., :8], z[f'train_k{k}_y'][..., :8], **EXACT)

    def test_vision_transformer(self, z):
        z = z('vit_srlora_tiny.npz')
        arch = dict(embed_dims=16, num_layers=2, num_heads=4, feedforward_channels=32)
        model = VitSR_LoRA(lora_ranks=[[2, 3], [4, 1]], arch=arch, img_size=32, patch_size=16).double().train()
        model.load_state_dict({k[3:]: v for k, v in z.items() if k.startswith('sd/')}, strict=True)
        for i, (qkv, proj) in enumerate([(0, 1), (2, 0)]):
            model.layers[i].attn.qkv.use_sub_rank(qkv + 1, rows='reference')
            model.layers[i].attn.proj.use_sub_rank(proj + 1, detach_prefix=True)
        out = model(z['x'])[0]
        torch.testing.assert_close(out, z['partial_train_out_qkv0_2_proj1_0_frozen'], **EXACT)
        (out * z['G']).sum().backward()
        keys = [k for k in z if k.startswith('partial_grad/')]
        assert len(keys) == 8
        for key in keys:
            name = key.removeprefix('partial_grad/')
            parts = [f'{name}_{s}' for s in 'qv'] if 'qkv' in name else [name]
            grad = torch.cat([model.get_parameter(part).grad for part in parts])
            torch.testing.assert_close(grad, z[key], **EXACT, msg=key)
        model.eval()
        torch.testing.assert_close(model(z['x'])[0], z['full_rank_train_out'], **EXACT)


@pytest.mark.parametrize('case', CASES)
class TestInvariants:
    def test_it_is_the_layer_of_that_rank(self, case, x):
        layer = build(case)
        full = layer(x)
        for ranks in every_sub_rank(layer):
            twin = of_that_rank(case, layer, ranks)
            layer.use_sub_rank(ranks)
            y = layer(x)
            torch.testing.assert_close(y, twin(x), rtol=0, atol=1e-10)
            torch.testing.assert_close(y, F.linear(x, layer.weight + twin.delta(), layer.bias), rtol=0, atol=1e-10)
            assert torch.equal(y, full) == (ranks == layer.ranks)
            assert layer.parameters_at(ranks) == sum(p.numel() for p in twin.adapter_parameters().values())

    @pytest.mark.parametrize('detach_prefix', [False, True])
    def test_gradients_are_exact_zeros_elsewhere(self, case, detach_prefix, x):
        layer = build(case)
        for ranks in every_sub_rank(layer):
            layer.zero_grad()
            layer.use_sub_rank(ranks, detach_prefix=detach_prefix)
            layer(x).square().sum().backward()
            for name, (a, b) in layer.factors().items():
                m = ranks[name]
                learning = slice(m - 1 if detach_prefix else 0, m)
                for grad in (a.grad, b.grad.T):
                    active = torch.zeros(len(grad), dtype=torch.bool)
                    active[learning] = True
                    assert (grad[active] != 0).any(dim=1).all() and (grad[~active] == 0).all()

    def test_detaching_changes_no_value_and_no_gradient_of_the_input(self, case, x):
        layer = build(case)
        for ranks in every_sub_rank(layer):
            results = []
            for detach_prefix in (False, True):
                layer.use_sub_rank(ranks, detach_prefix=detach_prefix)
                leaf = x.clone().requires_grad_()
                y = layer(leaf)
                y.square().sum().backward()
                results.append((y, leaf.grad))
            torch.testing.assert_close(*results, rtol=0, atol=1e-12)

    def test_evaluation_and_state_are_of_the_full_rank(self, case, x):
        layer = build(case).eval()
        expected, delta, state = layer(x), layer.delta(), copy.deepcopy(layer.state_dict())
        for ranks in every_sub_rank(layer)[:-1]:
            layer.train().use_sub_rank(ranks)
            partial = layer(x)
            for twin in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
                assert torch.equal(twin.train()(x), partial) and not torch.equal(partial, expected)
                assert torch.equal(twin.eval()(x), expected) and torch.equal(twin.delta(), delta)
                assert all(torch.equal(v, state[k]) for k, v in twin.state_dict().items())
                torch.testing.assert_close(twin.merge()(x), expected, rtol=0, atol=1e-10)
                assert torch.equal(twin.unmerge()(x), expected)
            layer.use_full_rank()
            assert torch.equal(layer.train()(x), expected)


def test_a_fresh_layer_has_no_sub_rank(x):
    assert build('lora').sub_rank is None and 'sub_rank' not in vars(build('qv'))


BAD = {
    'zero': ('lora', dict(rank=0), ValueError, r'1\.\.4, got 0'),
    'above': ('lora', dict(rank=5), ValueError, r'1\.\.4, got 5'),
    'above in a slice': ('ranks_differ', dict(rank=2), ValueError, r"slice 'q' must lie in 1\.\.1, got 2"),
    'float': ('lora', dict(rank=2.0), TypeError, '2.0'),
    'bool': ('lora', dict(rank=True), TypeError, 'True'),
    'other slices': ('qv', dict(rank={'q': 1}), ValueError, r"\['q', 'v'\].*\['q'\]"),
    'rows': ('qv', dict(rank=1, rows='own'), ValueError, "'own'.*per_group"),
    'reference, ranks differ': ('ranks_differ', dict(rank={'q': 1, 'v': 1}, rows='reference'), ValueError, "'v': 4"),
    'reference, sub-ranks differ': ('qv', dict(rank={'q': 1, 'v': 2}, rows='reference'), ValueError, "'v': 2"),
}


@pytest.mark.parametrize('bad', BAD)
def test_bad_arguments(bad):
    case, kwargs, error, match = BAD[bad]
    layer = build(case)
    with pytest.raises(error, match=match):
        layer.use_sub_rank(**kwargs)
    assert layer.sub_rank is None


def net(rank: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential()
    for i in range(2):
        model.add_module(f'qkv{i}', nn.Linear(8, 24))
        model.add_module(f'proj{i}', nn.Linear(24, 8))
    inject(model, ['qkv0', 'proj0', 'qkv1', 'proj1'], rank=rank, ranks={'proj1': 2})
    for layer in adapted_layers(model).values():
        for parameter in layer.adapter_parameters().values():
            nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


class TestAtRank:
    def test_holds_in_evaluation_and_ends(self, x):
        model = net()
        full = model(x)
        outputs = []
        for m in (1, 2, 4):
            with at_rank(model, m) as active:
                outputs.append(model(x))
                assert active == 2 * min(m, 4) * (8 + 24) + min(m, 4) * 32 + min(m, 2) * 32
                assert torch.equal(model.train()(x), outputs[-1])
                model.eval()
        assert not torch.allclose(outputs[0], outputs[1]) and torch.equal(outputs[2], full)
        assert torch.equal(model(x), full)

    def test_fractions_are_rounded_up(self, x):
        model = net()
        for fraction, m in ((0.01, 1), (0.25, 1), (0.26, 2), (0.5, 2), (1, 4)):
            with at_rank(model, fraction=fraction):
                assert model.qkv0.sub_rank.ranks == {'': m}
                assert model.proj1.sub_rank.ranks == {'': -(-m // 2)}

    def test_without_rescaling_the_rest_is_left_out(self, x):
        layer = build('lora').eval()
        model = nn.Sequential(layer)
        with at_rank(model, 3, rescale=False):
            y = model(x)
        a, b = layer.factors()['']
        expected = F.linear(x, layer.weight + layer.scaling * b[:, :3] @ a[:3], layer.bias)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
        with at_rank(model, 3):
            assert not torch.allclose(model(x), y)

    def test_nests_and_survives_errors(self, x):
        model = net().train()
        model.qkv0.use_sub_rank(3)
        before = model(x)
        with pytest.raises(KeyError), at_rank(model, 2):
            with at_rank(model, 1):
                pass
            assert model.qkv1.sub_rank.ranks == {'': 2}
            raise KeyError
        assert torch.equal(model(x), before) and model.qkv1.sub_rank is None

    @pytest.mark.parametrize(('args', 'error', 'match'), [
        (dict(), ValueError, 'either a rank or a fraction'),
        (dict(rank=1, fraction=1), ValueError, 'either a rank or a fraction'),
        (dict(rank=0), ValueError, 'at least 1, got 0'),
        (dict(rank=0.5), TypeError, '0.5'),
        (dict(fraction=0), ValueError, r'\(0, 1\], got 0'),
        (dict(fraction=1.5), ValueError, 'got 1.5'),
    ])
    def test_bad_arguments(self, args, error, match):
        with pytest.raises(error, match=match), at_rank(net(), **args):
            pass

    def test_models_that_cannot(self, x, monkeypatch):
        with pytest.raises(ValueError, match='no adapted layer'), at_rank(nn.Sequential(nn.Linear(2, 2)), 1):
            pass
        model = net()
        merge_adapters(model)
        with pytest.raises(ValueError, match='unmerge'), at_rank(model, 1):
            pass
        assert model.qkv0.sub_rank is None
        model = net()
        with at_rank(model, 1), pytest.raises(ValueError, match='leave at_rank'):
            merge_adapters(model)

        class Other(LowRankLinear):
            def __init__(self, *args, rank, **kwargs):
                super().__init__(*args, **kwargs)

            def reset_adapter(self):
                pass

        monkeypatch.setitem(KINDS, 'other', Other)
        model = nn.Sequential(nn.Linear(2, 2))
        inject(model, '0', rank=1, kind='other')
        with pytest.raises(TypeError, match='0 is a Other, a kind of adapter that has no sub-ranks'), at_rank(model, 1):
            pass


class TestDraws:
    @pytest.mark.parametrize('name', DISTRIBUTIONS)
    def test_every_number_gives_a_rank_and_every_rank_is_given(self, name):
        draw = DISTRIBUTIONS[name]
        for rank in (1, 2, 3, 8, 13):
            assert draw(0, rank) == 1 and draw(2**63 - 1, rank) == rank
            draws = [draw(derive_seed('t', i), rank) for i in range(500)]
            assert min(draws) == 1 and max(draws) == rank

    def test_uniform_is_uniform(self):
        counts = np.bincount([draw_sub_ranks(derive_seed('t', i), {'': 5})[''] for i in range(5000)], minlength=6)[1:]
        assert abs(counts - 1000).max() < 120  # Four standard deviations.

    def test_powers_of_two(self):
        assert {DISTRIBUTIONS['powers_of_two'](derive_seed('t', i), 12) for i in range(200)} == {1, 2, 4, 8, 12}
        assert {DISTRIBUTIONS['powers_of_two'](derive_seed('t', i), 8) for i in range(200)} == {1, 2, 4, 8}

    def test_slices_of_one_rank_share_the_draw(self):
        for i in range(50):
            ranks = draw_sub_ranks(derive_seed('t', i), {'q': 6, 'v': 6, 'k': 3})
            assert ranks['q'] == ranks['v'] and ranks['k'] == -(-ranks['q'] // 2)

    def ranks_of(self, draws: LayerDraws, x: torch.Tensor, iteration: int, passes: int = 3) -> list[int]:
        draws.begin(iteration, each_forward=True)
        out = []
        for _ in range(passes):
            draws.layer(x)
            out.append(draws.layer.sub_rank.ranks[''])
        draws.end()
        return out

    def test_a_draw_depends_on_seed_iteration_layer_and_pass(self, x):
        def series(seed=0, name='a', first=0):
            layer = LoRALinear(8, 12, rank=8, dtype=torch.float64)
            draws = LayerDraws(layer, name, seed)
            return [self.ranks_of(draws, x, first + i) for i in range(6)]

        base = series()
        assert base == series() and base[2:] == series(first=2)[:-2]
        assert base != series(seed=1) and base != series(name='b')
        assert any(len(set(ranks)) > 1 for ranks in base) and len({ranks[0] for ranks in base}) > 1

    def test_an_iteration_has_one_draw(self, x):
        layer = LoRALinear(8, 12, rank=8, dtype=torch.float64)
        draws = LayerDraws(layer, 'a', 0)
        assert draws.active_parameters == 0
        draws.begin(5)
        first = layer.sub_rank
        layer(x), layer(x)
        assert layer.sub_rank is first and draws.active_parameters == first.ranks[''] * 20
        draws.end()
        assert layer.sub_rank is None and not layer._forward_pre_hooks

    def test_evaluation_and_an_explicit_rank_draw_nothing(self, x):
        model = nn.Sequential(LoRALinear(8, 12, rank=8, dtype=torch.float64))
        draws = LayerDraws(model[0], '0', 0)
        draws.begin(0, each_forward=True)
        model.eval()(x)
        assert model[0].sub_rank is None
        model.train()
        with at_rank(model, 3):
            model(x)
            assert model[0].sub_rank.ranks == {'': 3}
        assert draws.active_parameters == 0
        model(x)
        assert draws.active_parameters > 0

    @pytest.mark.parametrize('reentrant', [True, False])
    def test_activation_checkpointing_repeats_the_draw(self, x, reentrant):
        grads = {}
        for use in (False, True):
            layer = build('lora')
            draws = LayerDraws(layer, 'a', 3)
            draws.begin(0, each_forward=True)
            for _ in range(4):  # As with several forward and backward passes in an iteration.
                leaf = x.clone().requires_grad_()
                y = checkpoint(layer, leaf, use_reentrant=reentrant) if use else layer(leaf)
                y.square().sum().backward()
            assert draws._count == 4
            grads[use] = (layer.lora_A.grad, layer.lora_B.grad)
        torch.testing.assert_close(*grads.values(), rtol=0, atol=0)

    @pytest.mark.parametrize('reentrant', [True, False])
    def test_an_ambiguous_repetition_is_refused(self, x, reentrant):
        layer = build('lora')
        LayerDraws(layer, 'proj', 3).begin(0, each_forward=True)
        leaf = x.clone().requires_grad_()
        y = sum(checkpoint(layer, leaf, use_reentrant=reentrant) for _ in range(2))
        with pytest.raises(RuntimeError, match="proj again after 2 forward passes.*per='iteration'"):
            y.sum().backward()
