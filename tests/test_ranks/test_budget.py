"""Budgets on random sites: what must hold whatever the numbers are."""

import random

import pytest

from mmlora.ranks import Site, allocate


def draw(seed: int, costs=None) -> tuple[list[Site], dict, random.Random]:
    """Return random sites and bounds that they can take."""
    own = random.Random(seed)
    step = own.choice([1, 1, 2, 4, 8])
    r_max = own.choice([None, 16, 24, 40])
    r_min = own.choice([0, 1, 1, 3, 8])
    costs = costs or [32, 48, 64, 128, 256]
    sites = [
        Site(own.choice([0.0, 1.0, own.expovariate(0.05)]), own.choice(costs), own.choice([16, 32, 64]))
        for _ in range(own.randint(1, 12))
    ]
    bounds = dict(r_min=r_min, multiple_of=step, **({} if r_max is None else {'r_max': r_max}))
    return sites, bounds, own


def scored(sites: list[Site], own: random.Random) -> list[Site]:
    """Give each site descending scores that sum to 1."""
    result = []
    for site in sites:
        raw = sorted((own.expovariate(1) ** 3 for _ in range(site.limit)), reverse=True)
        result.append(Site(0.0, site.cost, site.limit, [x / sum(raw) for x in raw]))
    return result


def ends(site: Site, bounds: dict) -> tuple[int, int]:
    step = bounds['multiple_of']
    low = -(-bounds['r_min'] // step) * step
    return low, min(site.limit, bounds.get('r_max', 999)) // step * step


@pytest.mark.parametrize('form', ['values', 'scores'])
@pytest.mark.parametrize('kind', ['params', 'mean_rank', 'share'])
@pytest.mark.parametrize('seed', range(60))
def test_invariants(form, kind, seed):
    sites, bounds, own = draw(seed)
    if form == 'scores':
        sites = scored(sites, own)
    cost = [1 if kind == 'mean_rank' else s.cost for s in sites]
    limits = [ends(s, bounds) for s in sites]
    least = sum(c * low for c, (low, _) in zip(cost, limits, strict=True))
    most = sum(c * high for c, (_, high) in zip(cost, limits, strict=True))
    total = own.randint(max(least, 1), most)
    size = 10**6
    asked = {'params': total, 'mean_rank': total / len(sites), 'share': total / size}[kind]
    ranks = allocate(sites, {kind: asked, **bounds}, size)
    spent = sum(c * r for c, r in zip(cost, ranks, strict=True))
    step = bounds['multiple_of']
    assert spent <= total
    for rank, c, (low, high) in zip(ranks, cost, limits, strict=True):
        assert low <= rank <= high and rank % step == 0
        assert rank == high or spent + c * step > total, 'one more unit would fit'
    for i, a in enumerate(sites):
        for j, b in enumerate(sites):
            if form == 'values' and (a.cost, a.limit) == (b.cost, b.limit) and a.value > b.value:
                assert ranks[i] >= ranks[j], 'a larger value got less'


@pytest.mark.parametrize('seed', range(40))
def test_without_a_total_it_is_the_rounded_value_within_bounds(seed):
    sites, bounds, _ = draw(seed)
    step = bounds['multiple_of']
    for site, rank in zip(sites, allocate(sites, bounds), strict=True):
        low, high = ends(site, bounds)
        nearest = round(site.value / step) * step
        assert rank == (low if nearest < low else high if nearest > high else nearest)


@pytest.mark.parametrize('costs', [(4, 2), (4, 2, 5), (384, 192, 768, 384, 1536, 768, 3072, 1536)], ids=str)
@pytest.mark.parametrize('seed', range(30))
def test_equal_values_get_equal_ranks_under_a_budget_of_parameters(costs, seed):
    own = random.Random(seed)
    sites = [Site(1.0, c, 400) for c in costs for _ in range(6)]
    ranks = allocate(sites, {'params': own.randint(sum(s.cost for s in sites), 300 * sum(s.cost for s in sites))})
    assert max(ranks) - min(ranks) <= 1


def test_what_is_left_goes_last_to_sites_that_were_lifted_to_their_least_rank():
    # 5 are left over. The first site would need 20; the others stand at their least rank, above their share.
    sites = [Site(9.0, 20, 40), Site(0.0, 3, 40), Site(1.0, 3, 40)]
    assert allocate(sites, {'params': 223, 'r_min': 3}) == [10, 3, 4]


def test_component_scores_compete_over_all_sites():
    sites = [Site(0, 1, 4, [0.9, 0.05, 0.03, 0.02]), Site(0, 1, 4, [0.4, 0.3, 0.2, 0.1])]
    assert allocate(sites, {'mean_rank': 2}) == [1, 3]
    assert allocate(sites, {'mean_rank': 3}) == [2, 4]  # 0.9 0.4 0.3 0.2 0.1 | 0.05
    assert allocate(sites, {'mean_rank': 2, 'r_max': 2}) == [2, 2]
    assert allocate(sites, {'mean_rank': 0.5, 'r_min': 0}) == [1, 0]
    assert allocate(sites, {'mean_rank': 3, 'multiple_of': 2}) == [2, 4]


def test_component_scores_are_weighed_by_what_they_cost():
    sites = [Site(0, 10, 4, [0.5, 0.4, 0.1, 0.0]), Site(0, 100, 4, [0.5, 0.5, 0.0, 0.0])]
    assert allocate(sites, {'params': 230, 'r_min': 0}) == [3, 2]  # 0.05 0.04 0.01 each, then 0.005 twice
    assert allocate(sites, {'params': 129, 'r_min': 0}) == [4, 0]  # 100 more would not fit


@pytest.mark.parametrize(
    ('budget', 'match'),
    [
        ({'mean_rank': 2, 'params': 99}, r"\['mean_rank', 'params'\] are given"),
        ({'r_min': 9, 'r_max': 8}, 'r_min=9 is above r_max=8'),
        ({'r_max': 8, 'multiple_of': 16}, 'multiple_of=16 is above r_max=8'),
        ({'multiple_of': 65}, r'b takes ranks up to 64: no multiple of 65'),
        ({'r_min': 65}, r'b takes ranks up to 64.*r_min=65'),
        ({'r_min': 13, 'r_max': 15, 'multiple_of': 8}, 'no multiple of 8'),
        ({'r_min': -1}, 'r_min.*-1'),
        ({'r_max': 0}, 'r_max.*0'),
        ({'r_max': 2.5}, 'r_max.*2.5'),
        ({'multiple_of': 0}, 'multiple_of.*0'),
        ({'share': 1.5}, r'share must lie in \(0, 1\].*1.5'),
        ({'share': 0}, 'share.*0'),
        ({'share': 0.5}, 'number of parameters of the backbone.*params instead'),
        ({'params': True}, 'True'),
        ({'params': 500, 'r_min': 8, 'multiple_of': 16}, 'need at least 960.*asked for 500'),
        ({'params': 5000, 'r_max': 8}, 'at most 480.*asked for 5000'),
    ],
)
def test_bad_budgets(budget, match):
    with pytest.raises(ValueError, match=match):
        allocate([Site(3.0, 10, 64, name='b'), Site(5.0, 50, 64, name='c')], budget)


def test_mean_ranks_that_floats_miss():
    assert sum(allocate([Site(1.0, 1, 64)] * 10, {'mean_rank': 2.3})) == 23
    assert sum(allocate([Site(1.0, 1, 64)] * 10, {'mean_rank': 2.39})) == 23


@pytest.mark.parametrize('value', [-1.0, float('nan'), float('inf')])
def test_values_must_be_numbers(value):
    with pytest.raises(ValueError, match='c must be finite'):
        allocate([Site(1.0, 1, 8), Site(value, 1, 8, name='c')], {'mean_rank': 2})


def test_component_scores_need_a_total():
    with pytest.raises(ValueError, match='scores of components need a budget'):
        allocate([Site(0, 1, 1, [1.0])], {'r_max': 1})
