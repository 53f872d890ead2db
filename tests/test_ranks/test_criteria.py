"""Each criterion: its value, what it reads, its parameter."""

import json
import sys

import numpy as np
import pytest
import torch

from mmlora.io.attention import find_linear_weights
from mmlora.io.spectrum_cache import SpectrumCache
from mmlora.ranks import CRITERIA, Criterion, build_rank_table, is_criterion, resolve_criterion, spectrum

SPECTRUM = sys.modules['mmlora.ranks.spectrum']  # the package gives that name to the function


def value(name: str, weight: torch.Tensor, module: str = 'a') -> float:
    criterion = resolve_criterion(name)
    return criterion.value(spectrum(weight, module, reads=criterion.reads))


def with_values(values: list[float], rows: int = 9, columns: int = 7) -> torch.Tensor:
    torch.manual_seed(0)
    u = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64)).Q[:, : len(values)]
    v = torch.linalg.qr(torch.randn(columns, columns, dtype=torch.float64)).Q[:, : len(values)]
    return u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v.T


class TestValues:
    @pytest.mark.parametrize('values', [[3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], [5.0], [1e-3, 1e-4, 1e-5, 1e-6]])
    def test_closed_forms(self, values):
        w, s = with_values(values), np.array(values)
        for power in (1, 2, 0.5):
            p = s**power / (s**power).sum()
            tail = {} if power >= 1 else {'abs': 1e-5}  # zeros of the decomposition are 1e-17, whose roots count
            expected = np.exp(-(p * np.log(p)).sum())
            name = 'effective_rank' if power == 1 else f'effective_rank@{power}'
            assert value(name, w) == pytest.approx(expected, **(tail or {'rel': 1e-10})), name
        assert value('stable_rank', w) == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-12)

    @pytest.mark.parametrize(
        ('share', 'rank'),
        [('0.01', 1), ('0.642', 1), ('0.643', 2), ('0.928', 2), ('0.929', 3), ('0.9999', 3), ('1', 3), ('1.0', 3)],
    )
    def test_energy_of_9_4_1(self, share, rank):
        assert value(f'energy@{share}', with_values([3.0, 2.0, 1.0])) == rank

    def test_energy_of_equal_values_is_the_share(self):
        assert [value(f'energy@{p}', torch.eye(10)) for p in (0.1, 0.3, 0.5, 0.7, 0.9, 1)] == [1, 3, 5, 7, 9, 10]

    def test_scale_does_not_matter(self):
        torch.manual_seed(1)
        w = torch.randn(12, 8, dtype=torch.float64)
        for name in ('stable_rank', 'effective_rank', 'effective_rank@2', 'energy@0.8'):
            assert value(name, w * 1e-7) == pytest.approx(value(name, w), rel=1e-10), name
            assert 1 <= value(name, w) <= 8

    def test_random_is_of_seed_and_name_alone(self):
        draws = [value('random@5', torch.randn(4, 4), f'layers.{i}') for i in range(400)]
        assert draws == [value('random@5', torch.ones(3, 9), f'layers.{i}') for i in range(400)]
        assert draws != [value('random', torch.ones(3, 9), f'layers.{i}') for i in range(400)]
        assert value('random', torch.eye(2)) == value('random@0', torch.eye(2))
        assert min(draws) >= 1 and max(draws) < 16
        logs = np.log(draws) / np.log(16)  # uniform on [0, 1)
        assert abs(logs.mean() - 0.5) < 0.05 and abs(logs.std() - 12**-0.5) < 0.03

    def test_uniform(self):
        assert value('uniform', torch.randn(3, 4)) == 1


class TestWhatIsRead:
    def test_nothing_dearer_than_needed(self, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError('computed without need')

        monkeypatch.setattr(SPECTRUM, 'singular_values', refuse)
        value('stable_rank', torch.eye(3))
        monkeypatch.setattr(SPECTRUM, 'largest_singular_value', refuse)
        value('uniform', torch.eye(3))
        value('random', torch.empty(3, 3, device='meta'))
        with pytest.raises(AssertionError, match='without need'):
            value('energy@0.5', torch.eye(3))

    def test_uniform_of_shapes_alone(self):
        table = build_rank_table({'a.qkv': torch.empty(12, 4, device='meta')}, 'uniform', {'mean_rank': 2})
        assert table.ranks == {'a.qkv': 2} and table.sha256 is None and table.rows[0].sigma1 is None

    def test_the_cache_serves_both_kinds(self, tmp_path, monkeypatch):
        w, path = torch.randn(6, 4), tmp_path / 'spectra.json'
        cache = SpectrumCache(path)
        two, every = spectrum(w, cache=cache), spectrum(w, cache=cache, reads='values')
        cache.save()
        assert len(cache) == 2 and two.sigma1 == pytest.approx(every.sigma1, rel=1e-12)
        assert two.fro == pytest.approx(every.fro, rel=1e-12) and len(every.values) == 4
        monkeypatch.setattr(SPECTRUM, 'singular_values', None)
        monkeypatch.setattr(SPECTRUM, 'largest_singular_value', None)
        again = SpectrumCache(path)
        assert spectrum(w, cache=again, reads='values') == every and spectrum(w, cache=again) == two

    def test_old_and_damaged_cache_files(self, tmp_path):
        path = tmp_path / 'spectra.json'
        good = {'a': [2.0, 3.0], 'b/values': [2.0, 1.0, 0.0]}
        bad = {'c': [1.0], 'd/values': [], 'e/values': [1.0, 2.0], 'f/values': [1.0, -1.0], 'g': [0.0, 1.0], 'h': 'x'}
        path.write_text(json.dumps({**good, **bad}))
        assert dict(SpectrumCache(path)) == good


class TestNames:
    @pytest.mark.parametrize(
        ('name', 'match'),
        [
            ('stable', "'stable'.*stable_rank"),
            ('enrgy@0.5', "'enrgy@0.5'.*energy"),
            ('energy', "'energy' needs a parameter.*energy@0.9"),
            ('energy@2', "'2' of energy.*share in"),
            ('energy@0', "'0' of energy"),
            ('energy@x', "'x' of energy"),
            ('energy@', "'' of energy"),
            ('energy@nan', "'nan' of energy"),
            ('random@-1', "'-1' of random.*whole number"),
            ('random@1.5', "'1.5' of random"),
            ('effective_rank@0', "'0' of effective_rank.*positive"),
            ('effective_rank@inf', "'inf' of effective_rank"),
            ('stable_rank@2', 'stable_rank takes no parameter'),
            ('uniform@', 'uniform takes no parameter'),
        ],
    )
    def test_bad_names(self, name, match):
        with pytest.raises(ValueError, match=match):
            resolve_criterion(name)

    def test_is_criterion(self):
        assert is_criterion('energy@7') and is_criterion('eva') and not is_criterion('in21k-vit-b')

    @pytest.mark.parametrize('name', ['uniform', 'random@3'])
    @pytest.mark.parametrize('budget', [None, {'r_max': 4}])
    def test_controls_need_a_total(self, name, budget):
        with pytest.raises(ValueError, match=f"'{name}'.*needs a budget.*mean_rank.*params.*share"):
            build_rank_table({'a': torch.eye(8)}, name, budget)

    @pytest.mark.parametrize('name', ['eva', 'gradient'])
    def test_weights_are_no_data(self, name):
        with pytest.raises(ValueError, match=f"'{name}' reads batches.*settle_ranks.*--config"):
            build_rank_table({'a': torch.eye(8)}, name, {'mean_rank': 2})

    def test_a_new_criterion_is_one_entry(self, monkeypatch):
        monkeypatch.setitem(CRITERIA, 'spectral', Criterion(lambda s: s.sigma1))
        assert build_rank_table({'a': 3 * torch.eye(4)}, 'spectral').ranks == {'a': 3}


class TestSlices:
    @pytest.fixture(scope='class')
    def golden_slices(self, golden):
        weights = np.load(golden / 'sr_lora' / 'stable_rank_weights.npz')
        state = {k: torch.from_numpy(v) for k, v in weights.items()}
        numbers = json.loads((golden / 'sr_lora' / 'stable_rank.json').read_text())['per_matrix']
        return find_linear_weights(state)[0], numbers

    @pytest.mark.parametrize('slices', ['qv', 'qkv', 'k'])
    def test_golden_values(self, golden_slices, slices):
        weights, numbers = golden_slices
        table = build_rank_table(weights, slices=slices, rank_per='slice')
        assert len(table.rows) == 3 + 3 * len(slices)
        for row in table.rows:
            expected = numbers[f'backbone.{row.module}.weight']
            assert row.value == pytest.approx(expected[row.slice or 'stable_rank'], rel=1e-12)
            assert row.rank == round(row.value)
            d = weights[row.module].shape[1]
            assert row.params == row.rank * 2 * d
        assert list(table.ranks['layers.0.attn.qkv']) == list(slices)

    def test_merged_and_separate_differ(self, golden_slices):
        weights, _ = golden_slices
        merged, separate = build_rank_table(weights), build_rank_table(weights, rank_per='slice')
        assert merged.ranks['layers.1.attn.qkv'] == 12 and separate.ranks['layers.1.attn.qkv'] == {'q': 7, 'v': 6}
        assert merged.ranks['layers.1.attn.proj'] == separate.ranks['layers.1.attn.proj']

    def test_random_differs_between_slices(self):
        table = build_rank_table({'a.qkv': torch.ones(96, 32)}, 'random', {'params': 2000}, rank_per='slice')
        assert len(set(table.ranks['a.qkv'].values())) == 2

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            (dict(rank_per='head'), "'head'"),
            (dict(rank_per='slice', slices=None), 'needs slices'),
            (dict(rank_per='slice', slices='qx'), 'x'),
        ],
    )
    def test_bad_granularity(self, kwargs, match):
        with pytest.raises(ValueError, match=match):
            build_rank_table({'a.qkv': torch.eye(9)}, **kwargs)

    def test_rows_that_do_not_divide(self):
        with pytest.raises(ValueError, match='a.qkv has 10 rows'):
            build_rank_table({'a.qkv': torch.randn(10, 4)})
