"""The relatives of LoRA: MoSLoRA, MELoRA, GLoRA, PiSSA and DoRA x invariants, against dense forms and against peft."""

import copy
import pickle

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from mmlora.adapters import (
    DoRALinear,
    GLoRALinear,
    MELoRALinear,
    MoSLoRALinear,
    PiSSALinear,
    inject,
    sub_rank_layers,
)
from mmlora.adapters.pissa import principal_factors

NONE = dict.fromkeys('ABCDE', 'none')
CASES = {
    'moslora': (MoSLoRALinear, dict(rank=3, alpha=6)),
    'moslora_kaiming': (MoSLoRALinear, dict(rank=3, init='kaiming', scaling='alpha/sqrt(r)')),
    'moslora_qv': (MoSLoRALinear, dict(rank={'q': 1, 'k': 0, 'v': 4}, slices='qv', alpha=2, init='identity')),
    'melora': (MELoRALinear, dict(rank=4, alpha=8)),
    'melora_4': (MELoRALinear, dict(rank=8, num_groups=4, scaling=0.3)),
    'melora_qv': (MELoRALinear, dict(rank={'q': 4, 'v': 2}, slices='qv')),
    'glora': (GLoRALinear, dict(rank=3)),
    'glora_vectors': (GLoRALinear, dict(rank=1, supports=dict(A='vector', B='vector', C='lora', D='scalar'))),
    'glora_scalars': (GLoRALinear, dict(rank=1, supports=dict(A='scalar', B='scalar', C='none', E='scalar'))),
    'glora_shift': (GLoRALinear, dict(rank=1, supports=NONE | dict(E='vector'))),
    'glora_lora': (GLoRALinear, dict(rank=2, supports=NONE | dict(B='lora'))),
    'glora_qv': (GLoRALinear, dict(rank={'q': 1, 'v': 3}, slices='qv')),
    'pissa': (PiSSALinear, dict(rank=3, alpha=3)),
    'pissa_scaled': (PiSSALinear, dict(rank=3, alpha=12, scaling='alpha/sqrt(r)')),
    'pissa_qv': (PiSSALinear, dict(rank={'q': 1, 'v': 4}, slices='qv')),
    'dora': (DoRALinear, dict(rank=3, alpha=6)),
    'dora_qv': (DoRALinear, dict(rank={'q': 1, 'v': 4}, slices='qv', alpha=2)),
    'dora_qkv': (DoRALinear, dict(rank=2, slices='qkv')),
}
SLICED = [case for case in CASES if case.endswith('_qv')]
DTYPE = torch.float64


def build(case: str, bias: bool = True, **kwargs) -> tuple[nn.Linear, nn.Linear]:
    """Return a plain layer and its freshly adapted twin."""
    cls, own = CASES[case]
    torch.manual_seed(0)
    plain = nn.Linear(8, 12, bias=bias, dtype=DTYPE)
    return plain, cls.from_linear(copy.deepcopy(plain), **{**own, **kwargs})


def fill(layer: nn.Module) -> nn.Module:
    """Move the learned tensors to where they might be after training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in layer.adapter_parameters().values():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return layer


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, 8, dtype=DTYPE, generator=torch.Generator().manual_seed(2))


def close(ours: torch.Tensor, theirs: torch.Tensor, what: str = '') -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=lambda m: f'{what}: {m}')


# Naive forms: each gives the dense weight and bias from a layer's own tensors, a part at a time.


def parts_of(layer) -> dict[str, tuple[slice, dict[str, torch.Tensor], float]]:
    names = list(layer.ranks)
    size = 12 if names == [''] else 4
    found = {}
    for part in names:
        first = 0 if part == '' else 'qkv'.index(part) * size
        end = f'_{part}' if part else ''
        tensors = {n[5 : len(n) - len(end)]: p for n, p in layer.named_parameters() if n.startswith('lora_')
                   and (not part or n.endswith(end))}  # fmt: skip
        found[part] = slice(first, first + size), tensors, layer.scalings[part]
    return found


def dense_moslora(w, b, t, s, layer):
    return w + s * t['B'] @ t['mixer'] @ t['A'], b


def dense_melora(w, b, t, s, layer):
    n, w = layer.num_groups, w.clone()
    o, i = w.shape[0] // n, w.shape[1] // n
    for g in range(n):
        w[g * o : (g + 1) * o, g * i : (g + 1) * i] += s * t['B'][g] @ t['A'][g]
    return w, b


def dense_glora(w, b, t, s, layer):
    def support(letter):
        if f'{letter}_up' in t:
            return t[f'{letter}_up'] @ t[f'{letter}_down']
        for form in ('vector', 'scalar'):
            if f'{letter}_{form}' in t:
                return t[f'{letter}_{form}']
        return torch.zeros(1, dtype=DTYPE)

    def column(v):
        return v if v.dim() == 2 else v[:, None]

    shift = support('E') + (w @ column(support('C')).expand(8, 1))[:, 0]
    whole = shift if b is None else b + b * support('D') + shift
    return w + w * column(support('A')) + column(support('B')), whole.expand(w.shape[0])


def dense_pissa(w, b, t, s, layer):
    u, sv, vh = torch.linalg.svd(w, full_matrices=False)
    r = t['A'].shape[0]
    return w - (u[:, :r] * sv[:r]) @ vh[:r] + s * t['B'] @ t['A'], b


def dense_dora(w, b, t, s, layer):
    v = w + s * t['B'] @ t['A']
    m = w.norm(dim=1) + t['magnitude']
    return m[:, None] * v / v.norm(dim=1, keepdim=True).detach(), b


DENSE = {
    MoSLoRALinear: dense_moslora,
    MELoRALinear: dense_melora,
    GLoRALinear: dense_glora,
    PiSSALinear: dense_pissa,
    DoRALinear: dense_dora,
}


def naive(layer, plain) -> tuple[torch.Tensor, torch.Tensor | None]:
    weight, bias = plain.weight.detach().clone(), None if plain.bias is None else plain.bias.detach().clone()
    weights, biases = list(weight.split(4)), [None] * 3 if bias is None else list(bias.split(4))
    for part, (rows, tensors, s) in parts_of(layer).items():
        w, b = DENSE[type(layer)](weight[rows], None if bias is None else bias[rows], tensors, s, layer)
        if part == '':
            return w, b
        place = 'qkv'.index(part)
        weights[place], biases[place] = w, b
    if all(b is None for b in biases):
        return torch.cat(weights), None
    return torch.cat(weights), torch.cat([torch.zeros(4, dtype=DTYPE) if b is None else b for b in biases])


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('case', CASES)
class TestInvariants:
    def test_fresh_is_a_bit_exact_no_op(self, case, bias, x):
        plain, layer = build(case, bias)
        for mode in (True, False):
            assert torch.equal(layer.train(mode)(x), plain(x))
        assert torch.equal(layer.merge().weight, plain.weight)
        assert torch.equal(layer(x), plain(x)) and torch.equal(layer.to_plain()(x), plain(x))

    def test_values_and_gradients_are_those_of_the_dense_form(self, case, bias, x):
        plain, layer = build(case, bias)
        fill(layer)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        weight, whole = naive(layer, plain)
        y, expected = layer(inputs[0]), F.linear(inputs[1], weight, whole)
        assert not torch.allclose(plain(x), y), 'the adapter must change the output'
        close(y, expected)
        upstream = torch.randn_like(y)
        names, values = zip(*layer.adapter_parameters().items(), strict=True)
        ours = torch.autograd.grad((y * upstream).sum(), [inputs[0], *values])
        theirs = torch.autograd.grad((expected * upstream).sum(), [inputs[1], *values])
        for name, one, other in zip(('x', *names), ours, theirs, strict=True):
            assert one.abs().sum() > 0, f'no gradient for {name}'
            close(one, other, name)

    def test_merge_unmerge_and_plain(self, case, bias, x):
        plain, layer = build(case, bias)
        fill(layer).eval()
        before, state = layer(x), copy.deepcopy(layer.state_dict())
        weight, whole = naive(layer, plain)
        exported = layer.to_plain()
        assert type(exported) is nn.Linear
        close(exported(x), before)
        layer.merge()
        layer.merge()
        close(layer.weight.detach(), weight.detach())
        close(layer(x), before)
        assert set(layer.state_dict()) == set(state)
        for key, value in layer.state_dict().items():
            assert torch.equal(value, state[key]), f'{key} of a merged layer'
        with pytest.raises(RuntimeError, match='unmerge'):
            layer.train()(x)
        with pytest.raises(ValueError, match='unmerge'):
            layer.load_state_dict(state)
        layer.eval().unmerge()
        layer.unmerge()
        assert torch.equal(layer.weight, plain.weight) and torch.equal(layer(x), before)
        assert (layer.bias is None) == (plain.bias is None)

    def test_frozen_tensors_stay_bit_equal_and_all_others_move(self, case, bias, x):
        plain, layer = build(case, bias)
        before = copy.deepcopy(layer.state_dict())
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (layer(x) - 1).square().mean().backward()
            optimizer.step()
        learned = set(layer.adapter_parameters())
        assert learned and learned <= set(before)
        for key, value in layer.state_dict().items():
            assert torch.equal(value, before[key]) != (key in learned), key
        assert torch.equal(layer.weight, plain.weight)

    def test_state_restores_exactly_in_a_twin_of_another_seed(self, case, bias, x):
        _, layer = build(case, bias)
        fill(layer)
        cls, own = CASES[case]
        torch.manual_seed(7)
        twin = cls.from_linear(nn.Linear(8, 12, bias=bias, dtype=DTYPE), **own)
        assert not torch.allclose(twin(x), layer(x))
        twin.load_state_dict(layer.state_dict())
        assert torch.equal(twin(x), layer(x))
        assert all(torch.equal(v, layer.state_dict()[k]) for k, v in twin.state_dict().items())

    def test_plain_weights_load_and_the_layer_is_a_no_op_of_them(self, case, bias, x):
        _, layer = build(case, bias)
        layer(x)
        other = nn.Linear(8, 12, bias=bias, dtype=DTYPE)
        missing, unexpected = layer.load_state_dict(other.state_dict(), strict=False)
        assert not unexpected and set(missing) == set(layer.adapter_tensors())
        assert torch.equal(layer(x), other(x))
        assert torch.equal(layer.merge().weight, other.weight)

    def test_copies_and_modes(self, case, bias, x):
        _, layer = build(case, bias)
        fill(layer)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(twin(x), layer(x))
        assert layer.train() is layer and layer.eval() is layer and layer.to('cpu') is layer and not layer.merged

    def test_new_layers_without_from_linear(self, case, bias, x):
        cls, own = CASES[case]
        torch.manual_seed(0)
        layer = cls(8, 12, bias=bias, dtype=DTYPE, **own)
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        assert all(torch.isfinite(p).all() for p in layer.adapter_parameters().values())
        text = repr(layer)
        assert cls.__name__ in text and str(layer.ranks) in text


@pytest.mark.parametrize('case', CASES)
class TestTypes:
    def test_half_base_keeps_factors_in_float32(self, case):
        cls, own = CASES[case]
        torch.manual_seed(0)
        base = nn.Linear(8, 12, dtype=torch.bfloat16)
        x = torch.randn(3, 8, dtype=torch.bfloat16)
        expected = base(x)
        layer = cls.from_linear(copy.deepcopy(base), **own)
        assert {p.dtype for p in layer.adapter_parameters().values()} == {torch.float32}
        assert torch.equal(layer(x), expected)
        y = fill(layer)(x)
        assert y.dtype == torch.bfloat16
        double = copy.deepcopy(layer).double()
        torch.testing.assert_close(y.double(), double(x.double()), rtol=0.05, atol=0.2)
        y.float().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.adapter_parameters().values())
        assert torch.equal(layer.eval().merge().unmerge().weight, base.weight)
        asked = cls.from_linear(copy.deepcopy(base), **own, lora_dtype=torch.bfloat16)
        assert {p.dtype for p in asked.adapter_parameters().values()} == {torch.bfloat16}
        assert torch.equal(asked(x), expected) and fill(asked)(x).isfinite().all()

    def test_autocast(self, case):
        cls, own = CASES[case]
        torch.manual_seed(0)
        base = nn.Linear(8, 12)
        layer, x = cls.from_linear(copy.deepcopy(base), **own), torch.randn(3, 8)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert torch.equal(layer(x), base(x))
        fill(layer)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.2)
        y.float().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.adapter_parameters().values())

    def test_compiles_into_one_graph(self, case, x):
        _, layer = build(case)
        fill(layer)
        compiled = torch.compile(layer, backend='eager', fullgraph=True)
        torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize('case', ['moslora', 'melora_qv', 'pissa', 'pissa_qv', 'dora', 'dora_qv'])
def test_dropout_acts_on_the_change_in_training_alone(case, x):
    plain, layer = build(case, dropout=0.5)
    assert torch.equal(layer.train()(x), plain(x)), 'a fresh layer is a no-op with dropout too'
    fill(layer).eval()
    close(layer(x), F.linear(x, *naive(layer, plain)))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


@pytest.mark.parametrize('case', SLICED)
def test_slices_left_alone_are_the_frozen_ones(case, x):
    plain, layer = build(case)
    fill(layer)
    assert list(layer.ranks) == ['q', 'v']
    rows = slice(4, 8)
    close(layer(x)[..., rows], plain(x)[..., rows])
    assert torch.equal(layer.merge().weight[rows], plain.weight[rows])
    assert not torch.allclose(layer.weight[:4], plain.weight[:4])
    assert not torch.allclose(layer.weight[8:], plain.weight[8:])


@pytest.mark.parametrize('case', SLICED)
def test_a_fused_projection_is_the_separate_ones(case, x):
    """What q and v learn in one weight they learn as two layers as well, with the same tensors."""
    plain, layer = build(case)
    fill(layer)
    cls, own = CASES[case]
    own = {k: v for k, v in own.items() if k not in ('rank', 'slices')}
    for part, place in (('q', 0), ('v', 2)):
        rows = slice(4 * place, 4 * place + 4)
        single = nn.Linear(8, 4, dtype=DTYPE)
        with torch.no_grad():
            single.weight.copy_(plain.weight[rows])
            single.bias.copy_(plain.bias[rows])
        single = cls.from_linear(single, rank=layer.ranks[part], **own)
        with torch.no_grad():
            for name, parameter in single.adapter_parameters().items():
                parameter.copy_(getattr(layer, f'{name}_{part}'))
        close(single(x), layer(x)[..., rows])


class TestPiSSA:
    def test_the_start_is_the_principal_part(self):
        plain, layer = build('pissa_scaled')
        u, s, vh = torch.linalg.svd(plain.weight.detach())
        a, b = layer.factors()['']
        close((layer.scalings[''] * b @ a).detach(), (u[:, :3] * s[:3]) @ vh[:3])
        close((b.t() @ b).detach(), torch.diag(s[:3]) / layer.scalings[''])
        assert torch.equal(layer.frozen_weight, plain.weight)

    def test_signs_do_not_depend_on_the_routine(self):
        weight = torch.randn(6, 5, dtype=DTYPE)
        a, b = principal_factors(weight, 3, 2.0)
        assert (b.gather(0, b.abs().argmax(0, keepdim=True)) > 0).all()
        flipped, _ = principal_factors(-weight, 3, 2.0)
        close(flipped, -a)

    @pytest.mark.parametrize('case', ['pissa', 'pissa_qv'])
    def test_a_weight_drawn_anew_is_followed_until_something_was_learned(self, case, x):
        _, layer = build(case)
        nn.init.normal_(layer.weight)
        state = layer.state_dict()
        expected = build(case)[1]
        expected.load_state_dict({'weight': layer.weight, 'bias': layer.bias}, strict=False)
        for name, tensor in expected.state_dict().items():
            assert torch.equal(state[name], tensor), name
        nn.init.normal_(layer.weight)
        layer(x)
        for part, (a, b) in layer.factors().items():
            product = layer.scalings[part] * (b @ a).detach()
            own = layer.weight[layer.rows(part)]
            u, s, vh = torch.linalg.svd(own)
            r = layer.ranks[part]
            close(product, (u[:, :r] * s[:r]) @ vh[:r])

    def test_what_was_learned_survives_another_weight(self, x):
        _, layer = build('pissa')
        fill(layer)
        before = copy.deepcopy(layer.factors()), layer.delta()
        layer.load_state_dict(nn.Linear(8, 12, dtype=DTYPE).state_dict(), strict=False)
        layer(x)
        assert all(torch.equal(*pair) for pair in zip(layer.factors()[''], before[0][''], strict=True))
        assert torch.equal(layer.delta(), before[1])

    def test_it_converts_to_a_lora_of_twice_the_rank(self, x):
        plain, layer = build('pissa')
        fill(layer)
        a, b = layer.product_factors()['']
        assert a.shape == (6, 8) and b.shape == (12, 6)
        close(layer(x), plain(x) + layer.scalings[''] * x @ a.t() @ b.t())

    def test_a_weight_that_is_not_finite_is_refused(self):
        plain = nn.Linear(8, 12)
        nn.init.constant_(plain.weight, float('nan'))
        with pytest.raises(ValueError, match='not finite'):
            PiSSALinear.from_linear(plain, rank=2)


def test_dora_of_a_row_of_zeros_is_finite_and_learns(x):
    plain = nn.Linear(8, 12, dtype=DTYPE)
    with torch.no_grad():
        plain.weight[3] = 0
    layer = DoRALinear.from_linear(copy.deepcopy(plain), rank=2)
    assert torch.equal(layer(x), plain(x))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in layer.parameters())
    assert not torch.equal(layer(x)[..., 3], plain(x)[..., 3]) or layer.lora_magnitude[3] == 0


def test_dora_keeps_the_learned_lengths(x):
    _, layer = build('dora_qv')
    fill(layer)
    merged = layer.changed()[0]
    for part, magnitude in layer.magnitudes().items():
        close(merged[layer.rows(part)].norm(dim=1).detach(), magnitude.abs())


# name in peft, arguments there
PEFT = {'pissa': dict(init_lora_weights='pissa'), 'pissa_scaled': dict(init_lora_weights='pissa', use_rslora=True),
        'dora': dict(use_dora=True)}  # fmt: skip


@pytest.mark.parametrize('case', PEFT)
def test_the_same_as_peft(case, x):
    peft = pytest.importorskip('peft')
    plain, layer = build(case)
    own = CASES[case][1]
    model = nn.Sequential(copy.deepcopy(plain))
    if case != 'dora':
        model.float()  # peft refuses to start PiSSA in float64.
    config = peft.LoraConfig(
        r=own['rank'], lora_alpha=own['alpha'], target_modules=['0'], lora_dropout=0.0, **PEFT[case]
    )
    theirs = peft.get_peft_model(model, config).base_model.model[0]
    theirs.double()
    tolerance = 1e-10 if case == 'dora' else 1e-5
    assert theirs.scaling['default'] == pytest.approx(layer.scalings[''])
    torch.testing.assert_close(theirs(x), layer(x), rtol=0, atol=tolerance)
    a, b = theirs.lora_A['default'].weight, theirs.lora_B['default'].weight
    if case != 'dora':
        assert (b @ a).detach().allclose((layer.lora_B @ layer.lora_A).detach(), atol=1e-5)
        sign = torch.sign((a * layer.lora_A).sum(1)).detach()
        torch.testing.assert_close(a.detach(), sign[:, None] * layer.lora_A.detach(), rtol=0, atol=1e-5)
    fill(layer)
    with torch.no_grad():
        a.copy_(layer.lora_A)
        b.copy_(layer.lora_B)
        if case == 'dora':
            magnitude = theirs.lora_magnitude_vector['default'].weight
            magnitude.copy_(layer.magnitudes()[''])
    y, other = layer(x), theirs(x)
    torch.testing.assert_close(other, y, rtol=0, atol=tolerance)
    upstream = torch.randn_like(y)
    (y * upstream).sum().backward()
    (other * upstream).sum().backward()
    close(layer.lora_A.grad, a.grad, 'A')
    close(layer.lora_B.grad, b.grad, 'B')
    if case == 'dora':
        close(layer.lora_magnitude.grad, magnitude.grad, 'magnitude')


BAD = {
    'moslora_init': (MoSLoRALinear, dict(rank=2, init='zeros'), ValueError, "'zeros'.*orthogonal"),
    'moslora_rank': (MoSLoRALinear, dict(rank=9), ValueError, r'1\.\.8.*got 9'),
    'moslora_slice_rank': (MoSLoRALinear, dict(rank=5, slices='qv'), ValueError, r"slice 'q'.*1\.\.4"),
    'moslora_slice': (MoSLoRALinear, dict(rank={'o': 1}, slices='qv'), ValueError, "'o'"),
    'moslora_no_slice': (MoSLoRALinear, dict(rank={'q': 0}, slices='q'), ValueError, 'no slice'),
    'moslora_layout': (MoSLoRALinear, dict(rank=1, slices='a', layout='abcde'), ValueError, '12 outputs'),
    'melora_rank': (MELoRALinear, dict(rank=3), ValueError, '3 components.*num_groups=2'),
    'melora_inputs': (MELoRALinear, dict(rank=3, num_groups=3), ValueError, '8 inputs.*num_groups=3'),
    'melora_slice': (MELoRALinear, dict(rank={'q': 3}, slices='q'), ValueError, "3 components of slice 'q'"),
    'melora_outputs': (MELoRALinear, dict(rank=8, slices='qv', num_groups=8), ValueError, r'1\.\.4.*got 8'),
    'melora_groups': (MELoRALinear, dict(rank=2, num_groups=0), ValueError, 'got 0'),
    'melora_float': (MELoRALinear, dict(rank=2, num_groups=2.0), TypeError, '2.0'),
    'glora_support': (GLoRALinear, dict(rank=2, supports=dict(F='lora')), ValueError, "'F'.*'A'"),
    'glora_form': (GLoRALinear, dict(rank=2, supports=dict(D='lora')), ValueError, "D cannot be 'lora'"),
    'glora_nothing': (GLoRALinear, dict(rank=2, supports=NONE), ValueError, 'no support'),
    'glora_no_bias': (
        GLoRALinear,
        dict(rank=2, bias=False, supports=NONE | dict(D='vector')),
        ValueError,
        'no support',
    ),
    'glora_text': (GLoRALinear, dict(rank=2, supports='A'), TypeError, "mapping.*got 'A'"),
    'glora_rank': (GLoRALinear, dict(rank={'q': 2}), TypeError, "'q'"),
    'pissa_scaling': (PiSSALinear, dict(rank=2, alpha=-1), ValueError, r'above 0, got -0\.5'),
    'pissa_rank': (PiSSALinear, dict(rank=2.5), TypeError, '2.5'),
    'dora_dropout': (DoRALinear, dict(rank=2, dropout=1.0), ValueError, r'\[0, 1\), got 1'),
    'dora_scaling': (DoRALinear, dict(rank=2, scaling='alpha/r2'), ValueError, 'alpha/r2'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_arguments(case):
    cls, kwargs, error, match = BAD[case]
    with pytest.raises(error, match=match):
        cls(8, 12, **kwargs)


@pytest.mark.parametrize(('kind', 'cls'), [('moslora', MoSLoRALinear), ('melora', MELoRALinear), ('glora', GLoRALinear),
                                           ('pissa', PiSSALinear), ('dora', DoRALinear)])  # fmt: skip
class TestInModels:
    def test_the_injector_adapts_slices_and_plain_layers(self, kind, cls, x):
        model = nn.ModuleDict({'qkv': nn.Linear(8, 12), 'proj': nn.Linear(8, 8)})
        layers = inject(model, ['qkv', 'proj'], rank=2, kind=kind)
        assert [type(layer) for layer in layers.values()] == [cls, cls]
        assert layers['qkv'].ranks == {'q': 2, 'v': 2} and layers['proj'].ranks == {'': 2}
        model = nn.ModuleDict({'qkv': nn.Linear(8, 12)})
        assert inject(model, ['qkv'], rank=2, kind=kind, slices=None)['qkv'].ranks == {'': 2}

    def test_sub_ranks_are_refused(self, kind, cls, x):
        model = nn.ModuleDict({'proj': nn.Linear(8, 8)})
        inject(model, ['proj'], rank=2, kind=kind)
        assert not cls.additive
        with pytest.raises(TypeError, match=f'proj is a {cls.__name__}, a kind of adapter that has no sub-ranks'):
            sub_rank_layers(model)


def test_glora_has_no_pair_of_factors():
    _, layer = build('glora')
    with pytest.raises(TypeError, match='no pair of factors'):
        layer.factors()
