"""Spectra, criteria, budgets, tables, nested forms, presets and exports."""

import csv
import io
import json

import numpy as np
import pytest
import torch

from mmlora.io.attention import find_linear_weights
from mmlora.ranks import (
    PRESETS,
    RankRow,
    RankTable,
    Site,
    allocate,
    build_rank_table,
    nest_ranks,
    product_spectrum,
    ranks_by_module,
    spectrum,
    stable_rank,
    table_to_csv,
    table_to_figure,
    table_to_snippet,
)


@pytest.fixture(scope='module')
def checkpoint(golden):
    return {k: torch.from_numpy(v) for k, v in np.load(golden / 'sr_lora' / 'stable_rank_weights.npz').items()}


@pytest.fixture(scope='module')
def expected(golden):
    return json.loads((golden / 'sr_lora' / 'stable_rank.json').read_text())


class TestSpectrum:
    def test_golden_values_and_rounding(self, checkpoint, expected):
        for key, numbers in expected['per_matrix'].items():
            s = spectrum(checkpoint[key])
            value = stable_rank(s)
            assert abs(value - numbers['stable_rank']) <= 1e-12 * numbers['stable_rank'], key
            assert round(value) == numbers['rounded'], key
            assert s.fro**2 == pytest.approx(numbers['fro2'], rel=1e-12)
            assert s.sigma1**2 == pytest.approx(numbers['spec2'], rel=1e-12)
            for i, part in enumerate('qkv'):
                if part in numbers:
                    value = stable_rank(spectrum(checkpoint[key].chunk(3)[i]))
                    assert value == pytest.approx(numbers[part], rel=1e-12), (key, part)

    @pytest.mark.parametrize('shape', [(24, 8), (8, 24), (16, 16), (1, 9), (9, 1)])
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    def test_equals_the_full_decomposition(self, shape, dtype):
        torch.manual_seed(0)
        for decay in (0.0, 0.5, 3.0):
            w = (torch.randn(shape, dtype=torch.float64) * torch.arange(1, shape[1] + 1) ** -decay).to(dtype)
            values = torch.linalg.svdvals(w.double())
            s = spectrum(w)
            assert s.sigma1 == pytest.approx(float(values[0]), rel=1e-12)
            assert stable_rank(s) == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=1e-12)

    def test_scale_free_and_bounded(self):
        torch.manual_seed(0)
        w = torch.randn(20, 30, dtype=torch.float64)
        assert stable_rank(spectrum(w * 1e-8)) == pytest.approx(stable_rank(spectrum(w)), rel=1e-10)
        assert 1 <= stable_rank(spectrum(w)) <= 20
        assert stable_rank(spectrum(torch.eye(7))) == pytest.approx(7)
        assert stable_rank(spectrum(torch.ones(5, 3))) == pytest.approx(1)

    def test_cache_is_by_the_weight(self):
        cache = {}
        w = torch.randn(6, 4)
        first = spectrum(w, cache=cache)
        assert len(cache) == 1
        key = next(iter(cache))
        cache[key] = [2.0, 4.0]
        assert stable_rank(spectrum(w.clone(), cache=cache)) == 4.0
        assert spectrum(w + 1, cache=cache).sigma1 != first.sigma1 and len(cache) == 2

    def test_product(self):
        torch.manual_seed(0)
        b, a = torch.randn(12, 3, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
        ours, dense = product_spectrum(b, a), spectrum(b @ a)
        assert ours.sigma1 == pytest.approx(dense.sigma1, rel=1e-12)
        assert ours.fro == pytest.approx(dense.fro, rel=1e-12)
        assert product_spectrum(torch.zeros(12, 3), a) is None

    @pytest.mark.parametrize(
        ('weight', 'match'),
        [
            (torch.zeros(3, 3), 'all zero'),
            (torch.full((2, 2), float('nan')), 'not finite'),
            (torch.ones(3), r'\(3,\)'),
            (torch.ones(0, 3), r'\(0, 3\)'),
        ],
    )
    def test_bad_weights(self, weight, match):
        with pytest.raises(ValueError, match=f'layers.0.*{match}'):
            spectrum(weight, 'layers.0')


class TestBudget:
    SITES = tuple(Site(v, c, 64) for v, c in [(2.4, 10), (8.0, 10), (30.5, 40), (31.5, 40), (0.4, 10)])

    def test_without_a_budget_it_is_the_published_rounding(self):
        assert allocate(self.SITES) == [2, 8, 30, 32, 1]  # half to even, at least 1
        assert allocate([Site(80.0, 1, 64)]) == [64]

    @pytest.mark.parametrize('mean', [1, 2, 7.5, 16, 64])
    def test_mean_rank_is_met_exactly(self, mean):
        ranks = allocate(self.SITES, {'mean_rank': mean})
        assert sum(ranks) == int(mean * 5)
        assert all(1 <= r <= 64 for r in ranks)
        assert ranks[3] >= ranks[2] >= ranks[1] >= ranks[0] >= ranks[4]

    @pytest.mark.parametrize('total', [110, 200, 1000, 3333, 7040])
    def test_params_are_met_from_below(self, total):
        ranks = allocate(self.SITES, {'params': total})
        spent = sum(r * s.cost for r, s in zip(ranks, self.SITES, strict=True))
        assert spent <= total
        full = [r >= s.limit for r, s in zip(ranks, self.SITES, strict=True)]
        assert all(full) or total - spent < 40

    def test_ranks_are_in_proportion(self):
        sites = [Site(10.0, 1, 1000), Site(20.0, 1, 1000), Site(70.0, 1, 1000)]
        assert allocate(sites, {'params': 100}) == [10, 20, 70]
        assert allocate(sites, {'params': 103}) == [10, 21, 72]

    def test_what_is_left_is_spent(self):
        assert allocate([Site(1.0, 1, 64), Site(1.0, 10, 64)], {'params': 24}) == [4, 2]

    @pytest.mark.parametrize(
        ('budget', 'match'),
        [
            ({'mean_rank': 0.5}, 'at least 5'),
            ({'mean_rank': 65}, 'at most 320'),
            ({'params': 50}, 'at least 110'),
            ({'params': -1}, '-1'),
            ({'mean_rank': float('inf')}, 'finite'),
            ({'params': 'many'}, 'many'),
            ({'ranks': 3}, 'ranks'),
            ({}, 'mean_rank'),
            (8, '8'),
        ],
    )
    def test_bad_budgets(self, budget, match):
        with pytest.raises(ValueError, match=match):
            allocate(self.SITES, budget)


class TestTable:
    def test_build(self, checkpoint, expected):
        weights, layouts = find_linear_weights(checkpoint)
        table = build_rank_table(weights, source='here')
        assert layouts == {'mmpretrain ViT'}
        assert str([[table.rows[i].rank, table.rows[i + 1].rank] for i in range(0, 6, 2)]) == (
            expected['reference_stdout_flat']
        )
        assert [row.module for row in table.rows[:2]] == ['layers.0.attn.qkv', 'layers.0.attn.proj']
        d = weights['layers.0.attn.proj'].shape[0]
        assert sum(row.params for row in table.rows) == sum(
            row.rank * (4 if row.module.endswith('qkv') else 2) * d for row in table.rows
        )
        assert table.sha256 == build_rank_table(dict(reversed(weights.items()))).sha256
        assert 'layers.2.attn.proj' in str(table) and '6 modules' in str(table)

    def test_round_trip(self, tmp_path, checkpoint):
        table = build_rank_table(find_linear_weights(checkpoint)[0], budget={'mean_rank': 4})
        (tmp_path / 'ranks.json').write_text(table.dumps())
        assert RankTable.load(tmp_path / 'ranks.json') == table
        assert set(json.loads(table.dumps())['rows'][0]) == {
            'module', 'rank', 'criterion', 'value', 'sigma1', 'fro', 'params',
        }  # fmt: skip

    @pytest.mark.parametrize(
        ('text', 'match'),
        [
            ('', 'not JSON'),
            ('[]', 'rows'),
            ('{"rows": []}', 'rows'),
            ('{"rows": [{"module": "a"}]}', 'row 0'),
            ('{"rows": [{"module": "a", "rank": 2.5}]}', '2.5'),
            ('{"rows": [{"module": "a", "rank": -2}]}', '-2'),
            ('{"rows": [{"module": "", "rank": 2}]}', 'module names'),
            ('{"rows": [{"module": "a", "rank": 2}, {"module": "a", "rank": 2}]}', 'more than once'),
            (
                '{"rows": [{"module": "a.qkv", "rank": 2}, {"module": "a.qkv", "rank": 2, "slice": "q"}]}',
                'more than once.*a.qkv q',
            ),
            ('{"rows": [{"module": "a.qkv", "rank": 2, "slice": "x"}]}', "'x'"),
            ('{"rows": [{"module": "a", "rank": 2, "slice": "q"}]}', "'q'"),
        ],
    )
    def test_damaged_files(self, tmp_path, text, match):
        path = tmp_path / 'ranks.json'
        path.write_text(text)
        with pytest.raises(ValueError, match=match):
            RankTable.load(path)

    def test_slices_round_trip(self, tmp_path, checkpoint):
        table = build_rank_table(find_linear_weights(checkpoint)[0], rank_per='slice')
        (tmp_path / 'ranks.json').write_text(table.dumps())
        again = RankTable.load(tmp_path / 'ranks.json')
        assert again == table and list(again.ranks['layers.2.attn.qkv']) == ['q', 'v']
        assert 'layers.2.attn.qkv v' in str(table) and '9 slices and modules' in str(table)

    def test_tables_of_earlier_versions(self):
        row = {'module': 'layers.0.attn.qkv', 'rank': 3, 'criterion': 'stable_rank', 'value': 3.2, 'sigma1': 1.0,
               'fro': 1.8, 'params': 96}  # fmt: skip
        table = RankTable.from_dict({'format': 'mmlora.ranks/1', 'rows': [row]})
        assert table.ranks == {'layers.0.attn.qkv': 3} and table.to_dict()['rows'] == [row]

    def test_missing_file_and_unknown_criterion(self, tmp_path, checkpoint):
        with pytest.raises(FileNotFoundError, match='ranks.json'):
            RankTable.load(tmp_path / 'ranks.json')
        with pytest.raises(ValueError, match="'stable'.*stable_rank"):
            build_rank_table({'a': torch.eye(3)}, 'stable')
        with pytest.raises(ValueError, match='no weights'):
            build_rank_table({})

    @pytest.mark.parametrize(('slices', 'cost'), [('qv', 18), ('q', 9), ('qkv', 27), (None, 19)])
    def test_parameters_of_a_fused_projection(self, slices, cost):
        row = build_rank_table({'a.qkv': torch.randn(15, 4)}, slices=slices).rows[0]
        assert row.params == row.rank * cost


SITES = [['a.qkv', 'a.proj'], ['b.qkv', 'b.proj']]


class TestNested:
    @pytest.mark.parametrize(
        'ranks',
        [[[1, 2], [3, 4]], ((1, 2), (3, 4)), {'b.qkv': 3, 'a.qkv': 1, 'a.proj': 2, 'b.proj': 4}],
    )
    def test_forms(self, ranks):
        flat = ranks_by_module(ranks, SITES)
        assert list(flat.items()) == [('a.qkv', 1), ('a.proj', 2), ('b.qkv', 3), ('b.proj', 4)]
        assert nest_ranks(flat, SITES) == [[1, 2], [3, 4]]

    @pytest.mark.parametrize(
        'ranks',
        [
            [[{'v': 7, 'q': 9}, 2], [3, 4]],
            {'a.qkv': {'q': 9, 'v': 7}, 'a.proj': 2, 'b.qkv': 3, 'b.proj': 4},
        ],
    )
    def test_slices(self, ranks):
        flat = ranks_by_module(ranks, SITES)
        assert flat['a.qkv'] == {'q': 9, 'v': 7} and list(flat['a.qkv']) == ['q', 'v'], 'in the order of the rows'
        assert nest_ranks(flat, SITES) == [[{'q': 9, 'v': 7}, 2], [3, 4]]

    def test_one_number(self):
        assert set(ranks_by_module(5, SITES).values()) == {5}

    @pytest.mark.parametrize(
        ('ranks', 'match'),
        [
            ([[1, 2]], 'lora_ranks has 1 entries, the backbone has 2'),
            ([[1, 2], [3, 4], [5, 6]], 'has 3 entries, the backbone has 2'),
            ([[1, 2], [3]], r'lora_ranks\[1\] has 1 entries, the backbone has 2 there: b.qkv, b.proj'),
            ([[1, 2], 3], r'lora_ranks\[1\] must be a list of 2'),
            ([[1, 2], [3, 4.5]], r'lora_ranks\[1\]\[1\].*4.5'),
            ([[1, 2], [3, -4]], '-4'),
            ({'a.qkv': 1}, '3 are missing'),
            ({'a.qkv': 1, 'a.proj': 2, 'b.qkv': 3, 'b.proj': 4, 'c': 5}, "1 are unknown.*'c'"),
            (True, 'True'),
            ([[{'q': 1, 'x': 2}, 2], [3, 4]], r"lora_ranks\[0\]\[0\]: a.qkv takes.*'x'"),
            ([[{'q': -1}, 2], [3, 4]], r"lora_ranks\[0\]\[0\]\['q'\] must.*-1"),
            ([[{}, 2], [3, 4]], r'lora_ranks\[0\]\[0\]'),
            ([[1, {'q': 2}], [3, 4]], 'a.proj takes one rank'),
        ],
    )
    def test_ranks_that_do_not_fit(self, ranks, match):
        with pytest.raises(ValueError, match=match):
            ranks_by_module(ranks, SITES)


def flat(nested) -> list[tuple[int, int]]:
    return [tuple(p) for s in nested for p in (s if isinstance(s[0], list) else [s])]


@pytest.mark.parametrize(
    ('name', 'dims', 'params'),
    [
        ('in21k-vit-b', 768, 3_889_152),
        ('dino-vit-b', 768, 3_823_104),
        ('mae-vit-b', 768, 3_586_560),
        ('in21k-vit-l', 1024, 12_955_648),
        ('mae-vit-l', 1024, 12_470_272),
        ('dino-vit-l', 1024, 12_599_296),
        ('swin-b', 128, 3_686_400),
        ('swin-s', 96, 2_115_456),
        ('swin-t', 96, 1_064_064),
    ],
)
def test_presets_cost_what_is_published(name, dims, params):
    preset = PRESETS[name]
    stages = preset if isinstance(preset[0][0], list) else [preset]
    total = sum((4 * q + 2 * p) * dims * 2**i for i, blocks in enumerate(stages) for q, p in blocks)
    assert total == params and len(flat(preset)) in (12, 24)


class TestExports:
    VIT = RankTable(tuple(RankRow(f'layers.{i}.attn.{e}', i + 1) for i in range(12) for e in ('qkv', 'proj')))
    SWIN = RankTable(
        tuple(RankRow(f'stages.{s}.blocks.{b}.attn.w_msa.{e}', s + 1) for s, b in [(0, 0), (1, 0), (1, 1)]
              for e in ('qkv', 'proj'))
    )  # fmt: skip

    SLICES = RankTable(
        (
            RankRow('layers.0.attn.qkv', 2, slice='q'),
            RankRow('layers.0.attn.qkv', 5, slice='v'),
            RankRow('layers.0.attn.proj', 3),
        )
    )

    def test_snippets_are_what_a_config_takes(self):
        for table, nested in (
            (self.VIT, [[i + 1, i + 1] for i in range(12)]),
            (self.SWIN, [[[1, 1]], [[2, 2], [2, 2]]]),
            (RankTable((RankRow('fc', 3),)), {'fc': 3}),
            (self.SLICES, [[{'q': 2, 'v': 5}, 3]]),
            (RankTable(self.SLICES.rows[:2]), {'layers.0.attn.qkv': {'q': 2, 'v': 5}}),
            (RankTable((RankRow('a.qkv', 3), RankRow('b.proj', 4))), {'a.qkv': 3, 'b.proj': 4}),
        ):
            scope = {}
            exec(table_to_snippet(table), scope)
            assert scope['lora_ranks'] == nested

    def test_csv(self):
        rows = list(csv.DictReader(io.StringIO(table_to_csv(self.VIT))))
        assert len(rows) == 24 and rows[3]['module'] == 'layers.1.attn.proj' and rows[3]['rank'] == '2'

    def test_slices_have_lines_and_bars_of_their_own(self):
        rows = list(csv.DictReader(io.StringIO(table_to_csv(self.SLICES))))
        assert [(r['slice'], r['rank']) for r in rows] == [('q', '2'), ('v', '5'), ('', '3')]
        axes = table_to_figure(self.SLICES).axes[0]
        assert [t.get_text() for t in axes.get_yticklabels()][1] == 'layers.0.attn.qkv v'
        assert [container.get_label() for container in axes.containers] == ['qkv q', 'qkv v', 'proj']

    @pytest.mark.parametrize(('budget', 'title'), [
        (None, 'Ranks of w.pth: energy@0.9, manual'),
        (dict(mean_rank=16, r_max=64), 'Ranks of w.pth: energy@0.9, manual, budget mean_rank=16, r_max=64'),
    ])
    def test_figure_says_how_the_ranks_were_chosen(self, budget, title):
        table = RankTable((RankRow('a', 1, 'energy@0.9'), RankRow('b', 2), RankRow('c', 2)), budget=budget)
        assert table_to_figure(table, 'Ranks of w.pth').axes[0].get_title() == title

    def test_figure_has_a_bar_for_each_module(self):
        axes = table_to_figure(self.VIT).axes[0]
        assert len(axes.patches) == 24
        assert [t.get_text() for t in axes.get_yticklabels()][0] == 'layers.0.attn.qkv'
        assert sorted(p.get_width() for p in axes.patches) == sorted(r.rank for r in self.VIT.rows)
