"""The comparison of rank criteria at equal size: who is tuned on what, and what the table says."""

import statistics
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from mmlora.apis import rank_ablation
from mmlora.apis.rank_ablation import BUDGET, LR, RANKS, Cell, ablation_table, paired_difference, run_ablation
from mmlora.apis.trial import Trial

CONFIGS = [
    Path(__file__).parents[2] / 'configs' / 'sr_lora' / f'ablation_vit-micro_{name}_digits-20shot.py'
    for name in ('stable-rank', 'uniform', 'random')
]


@pytest.fixture
def trials(monkeypatch):
    """Record the trials and let the middle learning rate be the best on validation images, the largest on test ones."""
    calls = []

    def fake(config, work_dir, seed, split='test', overrides=None):
        calls.append((seed, split, overrides))
        rate = overrides[LR]
        return Trial(90 - abs(rate - 3e-3) if split == 'val' else 80 + rate + seed, 5000, 1.0, work_dir)

    monkeypatch.setattr(rank_ablation, 'run_trial', fake)
    return calls


def test_rates_are_chosen_on_validation_images_of_other_seeds(trials, tmp_path):
    cells = list(run_ablation(CONFIGS, tmp_path, budgets=[4608]))
    assert [(cell.criterion, cell.rate) for cell in cells] == [
        ('stable_rank', 3e-3), ('uniform', 3e-3), ('random', 3e-3)
    ]
    assert cells[0].accuracies == tuple(80 + 3e-3 + seed for seed in range(5))
    assert {seed for seed, split, _ in trials if split == 'val'} == {100, 101, 102}
    tested = [(seed, options[LR]) for seed, split, options in trials if split == 'test']
    assert sorted(tested) == sorted((seed, 3e-3) for seed in range(5) for _ in cells)
    assert all(options[BUDGET] == dict(params=4608) for _, _, options in trials)


def test_random_ranks_are_drawn_anew_for_each_seed(trials, tmp_path):
    list(run_ablation(CONFIGS[2:], tmp_path, budgets=[4608], seeds=[0, 1], rates=[1e-3]))
    assert {options[RANKS] for _, _, options in trials} == {f'random@{s}' for s in (0, 1, 100, 101, 102)}


def test_an_interrupted_call_goes_on_where_it_stopped(trials, tmp_path):
    first = list(run_ablation(CONFIGS[:1], tmp_path, budgets=[4608], seeds=[0]))
    count = len(trials)
    assert list(run_ablation(CONFIGS[:1], tmp_path, budgets=[4608], seeds=[0])) == first and len(trials) == count
    for file in tmp_path.rglob('trial.json'):
        file.write_text(file.read_text().replace('"stable_rank"', '"other"'))
    list(run_ablation(CONFIGS[:1], tmp_path, budgets=[4608], seeds=[0]))
    assert len(trials) == 2 * count


def test_tuning_on_seeds_of_the_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'seeds \[1\] are used for tuning'):
        list(run_ablation(CONFIGS, tmp_path, seeds=[0, 1], tune_seeds=[1, 2]))


def test_a_config_without_a_criterion_is_refused(tmp_path):
    config = tmp_path / 'a.py'
    config.write_text(f"_base_ = {str(CONFIGS[0])!r}\nmodel = dict(backbone=dict(lora_ranks=8))\n")
    with pytest.raises(ValueError, match='lora_ranks=8; an ablation needs the name'):
        list(run_ablation([config], tmp_path))


def test_two_configs_of_one_criterion_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got 2 configs for \['uniform'\]"):
        list(run_ablation([CONFIGS[1], CONFIGS[1]], tmp_path))


def test_the_interval_is_that_of_a_paired_t_test():
    first, second = [97.1, 98.2, 96.4, 97.9, 98.0], [96.0, 98.4, 95.1, 97.7, 96.9]
    interval = ttest_rel(first, second).confidence_interval()
    mean = statistics.mean(first) - statistics.mean(second)
    assert paired_difference(first, second) == f'{mean:+.2f} +- {(interval.high - interval.low) / 2:.2f}'


def test_the_table_compares_with_the_first_criterion_of_the_same_budget():
    table = ablation_table([
        Cell('stable_rank', 10, 1e-3, (90.0, 92.0), (5, 5)),
        Cell('uniform', 10, 3e-3, (91.0, 91.0), (5, 7)),
        Cell('stable_rank', 20, 1e-3, (95.0, 95.0), (9, 9)),
        Cell('uniform', 20, 1e-3, (97.0, 97.0), (9, 9)),
    ]).splitlines()
    assert table[2] == '| 10 | stable_rank | 5 | 0.001 | 91.00 +- 1.41 |  |'
    assert table[3] == '| 10 | uniform | 5 to 7 | 0.003 | 91.00 +- 0.00 | +0.00 +- 12.71 |'
    assert table[5].endswith('| +2.00 +- 0.00 |')
