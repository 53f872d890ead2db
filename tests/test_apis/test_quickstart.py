from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmlora import apis
from mmlora.apis import quickstart
from mmlora.apis.quickstart import (
    GRIDS,
    LR,
    MAIN,
    METHODS,
    SHOTS,
    choose_methods,
    config_path,
    run_all,
    run_method,
    tune,
)
from mmlora.apis.quickstart_runs import Run, summary

pytest.importorskip('sklearn')
CONFIGS = Path(__file__).parents[2] / 'configs' / 'quickstart'
D, M, BLOCKS = 96, 288, 4
LEARNED = {
    'linear probe': 0,
    'BitFit': BLOCKS * (7 * D + M) + 2 * D,
    'LayerNorm tuning': BLOCKS * 4 * D + 2 * D,
    'SSF': BLOCKS * (14 * D + 2 * M) + 4 * D,
    'VPT-shallow': 8 * D,
    'VPT-deep': BLOCKS * 8 * D,
    'Houlsby adapter': BLOCKS * 2 * (2 * 8 * D + 8 + D),
    'AdaptFormer': BLOCKS * (2 * 16 * D + 16 + D),
    'LoRA r=8': BLOCKS * 3 * 8 * 2 * D,
    'DyLoRA r=8': BLOCKS * 3 * 8 * 2 * D,
    'MoSLoRA r=8': BLOCKS * 3 * (8 * 2 * D + 8 * 8),
    'MELoRA 2 x r=4': BLOCKS * 3 * 2 * 4 * D,
    'GLoRA r=8': BLOCKS * 3 * (2 * 8 * 2 * D + 3 * D),
    'PiSSA r=8': BLOCKS * 3 * 8 * 2 * D,
    'DoRA r=8': BLOCKS * 3 * (8 * 2 * D + D),
    'RLRR': BLOCKS * (3 * (D + 2 * D) + D + 2 * D + D + 2 * M + M + 2 * D + 4 * D) + 4 * D,
    'full fine-tuning': 398304,
}
"""Learned parameters besides those of the head; q, v and the projection of each block have a LoRA."""
PART = list(range(0, 597, 3))
"""Images of all classes, of the 597 for tests."""
SHORT = {'train_cfg.max_iters': 2, 'default_hooks.checkpoint.interval': 2, 'test_dataloader.dataset.indices': PART}


@pytest.mark.parametrize('n_shot', SHOTS)
@pytest.mark.parametrize('method', METHODS)
def test_configs_differ_only_in_the_method(method, n_shot):
    cfg, probe = (Config.fromfile(str(config_path(CONFIGS, m, n_shot))) for m in (method, 'linear probe'))
    assert cfg.train_dataloader.dataset.n_shot == n_shot
    assert cfg.test_dataloader.dataset.split == 'test' and cfg.val_dataloader.dataset.split == 'val'
    for key in ('train_dataloader', 'test_dataloader', 'train_cfg', 'param_scheduler', 'data_preprocessor'):
        assert cfg[key] == probe[key]
    backbone = cfg.model.backbone.get('backbone', cfg.model.backbone)
    assert backbone.init_cfg.checkpoint == 'mmlora://vit-micro_glyphs'


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_a_run_trains_what_it_says_and_its_checkpoint_tests_the_same(method, tmp_path):
    run = run_method(CONFIGS, tmp_path, method, 5, seed=0, overrides=SHORT)
    head = 10 * D + 10
    assert run.trainable == head + LEARNED.get(method, run.trainable - head)
    if method == 'SR-LoRA':
        assert LEARNED['LoRA r=8'] < run.trainable - head < LEARNED['full fine-tuning']
        assert (run.work_dir / 'ranks.json').is_file()
    cfg = Config.fromfile(str(config_path(CONFIGS, method, 5)))
    cfg.test_dataloader.dataset.indices = PART
    metrics = apis.test(cfg, str(run.checkpoint), work_dir=str(tmp_path / 'test'))
    assert metrics['accuracy/top1'] == pytest.approx(run.accuracy, abs=1e-4)


def test_tuning_uses_validation_images_and_every_setting(tmp_path, monkeypatch):
    calls = []

    def fake(config_dir, work_dir, method, n_shot, seed, split='test', overrides=None):
        calls.append((seed, split, tuple(overrides.values())))
        return Run(50.0 + seed, 1, 1.0, work_dir, method, n_shot, seed)

    monkeypatch.setattr(quickstart, '_run_jobs', lambda jobs, workers: (fake(*job) for job in jobs))
    results = list(tune(CONFIGS, tmp_path, ['linear probe'], [5], seeds=[1, 2]))
    (grid,) = GRIDS['linear'].values()
    assert [setting[LR] for _, _, setting, _ in results] == list(grid)
    assert {split for _, split, _ in calls} == {'val'} and len(calls) == 2 * len(grid)
    assert results[0][3] == 51.5


def test_runs_side_by_side_give_what_they_give_one_by_one(tmp_path):
    torch.set_num_threads(1)
    cells = [('linear probe', 5, seed) for seed in (0, 1)]
    base = str(config_path(CONFIGS, 'linear probe', 5))
    config_path(tmp_path, 'linear probe', 5).write_text(
        f"_base_ = [{base!r}]\ntrain_cfg = dict(max_iters=20)\n"
        'default_hooks = dict(checkpoint=dict(interval=20))\n'
        f'test_dataloader = dict(dataset=dict(indices={PART}))\n')
    alone = [run_method(tmp_path, tmp_path / 'alone', *cell) for cell in cells]
    together = list(run_all(tmp_path, tmp_path / 'together', ['linear probe'], [5], (0, 1), workers=2))
    assert [(r.method, r.n_shot, r.seed) for r in together] == cells
    assert [r.accuracy for r in together] == [r.accuracy for r in alone]


def test_methods_are_chosen_by_either_name():
    assert choose_methods(['rlrr', 'Linear Probe']) == ['linear probe', 'RLRR']
    assert choose_methods(['all']) == list(METHODS) and set(MAIN) < set(METHODS)
    with pytest.raises(ValueError, match=r"'r1rr'.*'rlrr'"):
        choose_methods(['r1rr'])


def test_summary_averages_over_seeds():
    runs = [
        Run(accuracy, 1234, 2.0, Path(), 'SR-LoRA', shot, seed)
        for shot, seed, accuracy in [(5, 0, 90.0), (5, 1, 92.0), (20, 0, 97.0)]
    ]
    table = summary(runs)
    assert '91.0 +- 1.4 %' in table and '97.0 +- 0.0 %' in table and '1,234' in table
