"""One LoRA from many: each method against its definition on dense changes, in float64."""

import pytest
import torch

from mmlora.adapters.arithmetic import MERGES, merge_lora
from mmlora.adapters.arithmetic_math import cut_change, drop, elect
from mmlora.adapters.lora_weights import Pair

SIZES = {('layers.0.attn.qkv', 'q'): (6, 7), ('layers.0.attn.qkv', 'v'): (6, 7), ('layers.0.proj', ''): (9, 6)}
DENSITY = {name: 1.0 for name, merge in MERGES.items() if merge.sparse}


def adapter(seed, rank=2, scaling=0.5, keys=tuple(SIZES)):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {key: Pair(draw(rank, SIZES[key][1]), draw(SIZES[key][0], rank), scaling) for key in keys}


@pytest.fixture
def mixed():
    """Adapters of different ranks, scalings and layers."""
    return [adapter(0, 2, 0.5), adapter(1, 3, 2.0), adapter(2, 1, 1.0, tuple(SIZES)[:2])]


def dense(adapters, key):
    return [a[key].delta() if key in a else torch.zeros(SIZES[key], dtype=torch.float64) for a in adapters]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize('method', MERGES)
def test_one_adapter_with_weight_1_is_itself(method):
    one = adapter(3, 2, 0.25)
    merged = merge_lora([one], method, [1.0], density=DENSITY.get(method))
    assert list(merged) == list(one)
    for key, pair in merged.items():
        assert (pair.rank, pair.scaling) == (2, 0.25)
        close(pair.delta(), one[key].delta())


@pytest.mark.parametrize('weights', [None, [0.2, -1.5, 3.0]])
def test_factors(mixed, weights):
    merged = merge_lora(mixed, 'factors', weights)
    weights = weights or [1 / 3] * 3
    for key, pair in merged.items():
        a = sum(w * torch.cat([m[key].a, m[key].a.new_zeros(3 - m[key].rank, SIZES[key][1])])
                for w, m in zip(weights, mixed, strict=True) if key in m)
        b = sum(w * m[key].scaling * torch.cat([m[key].b, m[key].b.new_zeros(SIZES[key][0], 3 - m[key].rank)], 1)
                for w, m in zip(weights, mixed, strict=True) if key in m)
        close(pair.delta(), b @ a)


def test_factors_of_equal_shape_are_the_plain_averages():
    first, second = adapter(0), adapter(1)
    for key, pair in merge_lora([first, second], 'factors').items():
        close(pair.a, (first[key].a + second[key].a) / 2)
        close(pair.b, (first[key].b + second[key].b) / 2)
        assert pair.scaling == 0.5


@pytest.mark.parametrize('method, weight', [('concatenate', 1 / 3), ('change', 1 / 3), ('sum', 1.0)])
def test_sums_of_the_change(mixed, method, weight):
    cut = MERGES[method].cuts
    merged = merge_lora(mixed, method, rank=6 if cut else None)
    again = merge_lora(mixed, method, [2.0, -1.0, 0.0], rank=6 if cut else None)
    for key in SIZES:
        close(merged[key].delta(), sum(dense(mixed, key)) * weight)
        close(again[key].delta(), 2 * dense(mixed, key)[0] - dense(mixed, key)[1])
    assert merged['layers.0.proj', ''].rank == (6 if cut else 5)


def test_the_cut_is_the_best_of_its_rank(mixed):
    for key, pair in merge_lora(mixed, 'change').items():
        mean = sum(dense(mixed, key)) / 3
        u, s, v = torch.linalg.svd(mean)
        assert pair.rank == 3
        close(pair.delta(), (u[:, :3] * s[:3]) @ v[:3])
    assert all(pair.rank == 1 for pair in merge_lora(mixed, 'sum', rank=1).values())


def test_ties_on_an_example_by_hand():
    changes = torch.tensor([[[2.0, -1.0, 0.0, 3.0]], [[4.0, 3.0, 0.0, -3.0]], [[-1.0, 0.0, 0.0, 1.0]]])
    close(elect(changes, torch.ones(3)), torch.tensor([[3.0, 3.0, 0.0, 2.0]]))
    close(elect(changes, torch.tensor([1.0, 3.0, 1.0])), torch.tensor([[3.5, 3.0, 0.0, -3.0]]))


def test_ties_trims_over_all_layers_and_cuts(mixed):
    merged = merge_lora(mixed, 'ties', density=0.3, rank=6)
    kept = []
    for number, one in enumerate(mixed):
        sizes = torch.cat([pair.delta().abs().flatten() for pair in one.values()])
        floor = sizes.sort(descending=True).values[round(0.3 * len(sizes)) - 1]
        kept.append({key: change * (change.abs() >= floor)
                     for key in SIZES for change in [dense(mixed, key)[number]]})
    for key, pair in merged.items():
        close(pair.delta(), elect(torch.stack([one[key] for one in kept]), torch.full((3,), 1 / 3).double()))
    assert all(sum(int((c != 0).sum()) for c in one.values()) < 50 for one in kept)


def test_dare_drops_and_keeps_the_mean():
    one = torch.ones(200, 300, dtype=torch.float64)
    dropped = drop(one, 0.25, seed=1)
    assert set(dropped.unique().tolist()) == {0.0, 4.0} and abs(dropped.mean() - 1) < 0.02
    assert torch.equal(dropped, drop(one, 0.25, seed=1)) and not torch.equal(dropped, drop(one, 0.25, seed=2))


def test_dare_is_drawn_from_the_seed_and_the_adapter(mixed):
    first, again, other = (merge_lora(mixed[:2], 'dare', rank=6, density=0.5, seed=seed) for seed in (0, 0, 1))
    key = 'layers.0.proj', ''
    close(first[key].delta(), again[key].delta())
    assert (first[key].delta() - other[key].delta()).abs().max() > 0.01
    close(merge_lora(mixed[:2], 'dare', density=1.0, rank=6)[key].delta(), sum(dense(mixed[:2], key)) / 2)
    assert (first[key].delta().abs() < 1e-9).sum() >= 4  # dropped in both


def test_the_cut_of_a_dense_change_pads_a_small_one():
    a, b = cut_change(torch.zeros(2, 5, dtype=torch.float64), 3)
    assert a.shape == (3, 5) and b.shape == (2, 3)


@pytest.mark.parametrize('kwargs, message', [
    (dict(method='mean'), "unknown method 'mean': choose one of factors"),
    (dict(method='tie'), r"unknown method 'tie': did you mean one of \['ties'"),
    (dict(method=None), 'unknown method None: choose one of factors'),
    (dict(weights=[1, float('inf'), 1]), '3 adapters need 3 finite weights'),
    (dict(weights=[1, 1, float('nan')]), '3 adapters need 3 finite weights'),
    (dict(weights=[1.0]), '3 adapters need 3 finite weights'),
    (dict(method='ties'), "'ties' needs a density"),
    (dict(method='change', density=0.5), "'change' has no use for a density"),
    (dict(method='dare', density=1.5), r'density must lie in \(0, 1\], got 1.5'),
    (dict(method='magnitude_prune', density=0), r'density must lie in \(0, 1\], got 0'),
    (dict(method='ties', density=float('nan')), r'density must lie in \(0, 1\], got nan'),
    (dict(method='ties', density=True), r'density must lie in \(0, 1\], got True'),
    (dict(method='dare_ties', density=0.5, weights=[0, 0, 0]), 'weights of at least 0, not all 0'),
    (dict(method='linear', rank=2), "follows from the adapters for method='linear'"),
    (dict(method='ties', density=0.5, weights=[1, -1, 1]), 'weights of at least 0'),
    (dict(method='factors', rank=2), "follows from the adapters for method='factors'"),
    (dict(method='sum', rank=0), 'must be a whole number of at least 1, got 0'),
    (dict(method='sum', rank=2.5), 'must be a whole number of at least 1, got 2.5'),
])
def test_wrong_arguments_are_refused(mixed, kwargs, message):
    with pytest.raises(ValueError, match=message):
        merge_lora(mixed, **kwargs)


def test_adapters_of_other_models_are_refused(mixed):
    key = 'layers.0.proj', ''
    other = {key: Pair(torch.ones(2, 5), torch.ones(9, 2), 1.0)}
    with pytest.raises(ValueError, match='layers.0.proj: adapter 1 changes a weight of 9 x 5, adapter 0 one of 9 x 6'):
        merge_lora([mixed[0], other])
    with pytest.raises(ValueError, match='attn.qkv: adapter 1 changes a weight of 15 x 7, adapter 0 one of 18'):
        merge_lora([mixed[0], {('layers.0.attn.qkv', ''): Pair(torch.ones(1, 7), torch.ones(15, 1), 1.0)}])
    with pytest.raises(ValueError, match='no adapter'):
        merge_lora([])
    with pytest.raises(ValueError, match='the adapters change no layer'):
        merge_lora([{}, {}])
    with pytest.raises(TypeError, match='is one LoRA: give a list of them'):
        merge_lora(mixed[0])
    for number, bad in enumerate((dict(a=torch.full((2, 6), torch.nan)), dict(b=torch.full((9, 2), torch.inf)),
                                  dict(scaling=float('nan')))):
        with pytest.raises(ValueError, match='layers.0.proj: adapter 1 holds values that are not finite'):
            merge_lora([mixed[0], {key: mixed[0][key]._replace(**bad)}], list(MERGES)[number])
    small = {key: Pair(torch.ones(1, 6, dtype=torch.float16), torch.full((9, 1), 60000., dtype=torch.float16), 1.0)}
    with pytest.raises(ValueError, match=r'too large for torch.float16: give smaller weights'):
        merge_lora([small], 'sum', [100.0])


def test_ranks_add_up_to_that_of_the_weight_and_no_further():
    many = [adapter(seed, 3) for seed in range(3)]
    for key, pair in merge_lora(many, 'concatenate').items():
        assert pair.rank == 6
        close(pair.delta(), sum(dense(many, key)) / 3)
