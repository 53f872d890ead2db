from pathlib import Path

import pytest
from mmengine.config import Config

from mmlora import apis
from mmlora.apis import quickstart
from mmlora.apis.quickstart import (
    GRIDS,
    LR,
    METHODS,
    SHOTS,
    Run,
    config_path,
    run_method,
    summary,
    tune,
)

pytest.importorskip('sklearn')
CONFIGS = Path(__file__).parents[2] / 'configs' / 'quickstart'
SHORT = {'train_cfg.max_iters': 2, 'default_hooks.checkpoint.interval': 2}


@pytest.mark.parametrize('n_shot', SHOTS)
@pytest.mark.parametrize('method', METHODS)
def test_configs_differ_only_in_the_method(method, n_shot):
    cfg, probe = (Config.fromfile(str(config_path(CONFIGS, m, n_shot))) for m in (method, 'linear probe'))
    assert cfg.train_dataloader.dataset.n_shot == n_shot
    assert cfg.test_dataloader.dataset.split == 'test' and cfg.val_dataloader.dataset.split == 'val'
    for key in ('train_dataloader', 'test_dataloader', 'train_cfg', 'param_scheduler', 'data_preprocessor'):
        assert cfg[key] == probe[key]
    assert cfg.model.backbone.init_cfg.checkpoint == 'mmlora://vit-micro_glyphs'


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_a_run_trains_what_it_says_and_its_checkpoint_tests_the_same(method, tmp_path):
    run = run_method(CONFIGS, tmp_path, method, 5, seed=0, overrides=SHORT)
    head, whole = 96 * 10 + 10, 398304 + 970
    expected = {'linear probe': head, 'LoRA r=8': head + 4 * 8 * (2 * (96 + 96) + 2 * 96), 'full fine-tuning': whole}
    if method in expected:
        assert run.trainable == expected[method]
    else:
        assert expected['LoRA r=8'] < run.trainable < whole
        assert (run.work_dir / 'ranks.json').is_file()
    cfg = Config.fromfile(str(config_path(CONFIGS, method, 5)))
    metrics = apis.test(cfg, str(run.checkpoint), work_dir=str(tmp_path / 'test'))
    assert metrics['accuracy/top1'] == pytest.approx(run.accuracy, abs=1e-4)


def test_tuning_uses_validation_images_and_every_setting(tmp_path, monkeypatch):
    calls = []

    def fake(config_dir, work_dir, method, n_shot, seed, split='test', overrides=None):
        calls.append((seed, split, tuple(overrides.values())))
        return Run(50.0 + seed, 1, 1.0, work_dir, method, n_shot, seed)

    monkeypatch.setattr(quickstart, 'run_method', fake)
    results = list(tune(CONFIGS, tmp_path, ['linear probe'], [5], seeds=[1, 2]))
    (grid,) = GRIDS['linear'].values()
    assert [setting[LR] for _, _, setting, _ in results] == list(grid)
    assert {split for _, split, _ in calls} == {'val'} and len(calls) == 2 * len(grid)
    assert results[0][3] == 51.5


def test_summary_averages_over_seeds():
    runs = [
        Run(accuracy, 1234, 2.0, Path(), 'SR-LoRA', shot, seed)
        for shot, seed, accuracy in [(5, 0, 90.0), (5, 1, 92.0), (20, 0, 97.0)]
    ]
    table = summary(runs)
    assert '91.0 +- 1.4 %' in table and '97.0 +- 0.0 %' in table and '1,234' in table
