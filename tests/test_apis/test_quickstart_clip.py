"""configs/clip_micro and the comparison that they are made for."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from tiny import quick  # noqa: F401

from mmlora import apis
from mmlora.apis import quickstart_clip, settle_variables
from mmlora.apis.quickstart_clip import (
    GRIDS,
    LR,
    MAIN,
    METHODS,
    TASKS,
    USUAL_GRID,
    WEIGHTS,
    choose_methods,
    config_path,
    run_method,
    tune,
    zero_shot,
)
from mmlora.apis.quickstart_runs import Run
from mmlora.apis.summarize import summarize
from mmlora.apis.tables import to_markdown

CONFIGS = Path(__file__).parents[2] / 'configs' / 'clip_micro'
COMBINATIONS, SCRIPTS = TASKS
D, TEXT, WIDTH = 96, 64, 96
BLOCKS, TEXT_BLOCKS = 4, 3
VISION_LORA, TEXT_LORA = BLOCKS * 3 * 2 * 2 * WIDTH, TEXT_BLOCKS * 3 * 2 * 2 * TEXT
NORMS = 2 * WIDTH * (2 * BLOCKS + 2) + 2 * TEXT * (2 * TEXT_BLOCKS + 1)
LEARNED = {
    'linear probe': 36 * (D + 1),
    'Tip-Adapter': 0,
    'Tip-Adapter-F': 36 * D,
    'CLIP-Adapter': 2 * D * D // 4,
    'CoOp': 3 * TEXT,
    'LayerNorm': NORMS,
    '2SFS': 36 * D,
    'CLIP-LoRA vision': VISION_LORA,
    'CLIP-LoRA text': TEXT_LORA,
    'CLIP-LoRA both': VISION_LORA + TEXT_LORA,
}
"""Learned parameters with one image of each of 36 letters; of 2SFS those of the second stage."""
SHORT = {'max_iters': 2, 'test_dataloader.dataset.n_test': 1}
FAST = ('Tip-Adapter', 'CLIP-LoRA both')


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMLORA_CACHE', str(tmp_path / 'cache'))
    init_default_scope('mmpretrain')


def config(method, task=COMBINATIONS, **options):
    cfg = Config.fromfile(str(config_path(CONFIGS, method, task)))
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('method', METHODS)
def test_configs_differ_only_in_the_method(method, task):
    cfg, probe = config(method, task), config('linear probe', task)
    for key in ('train_dataloader', 'test_dataloader', 'data_preprocessor', 'dataset_name', 'tune'):
        assert cfg[key] == probe[key]
    assert cfg.model.init_cfg.checkpoint == 'mmlora://clip-micro_glyphs' and cfg.val_dataloader is None
    if method != 'Tip-Adapter':
        assert cfg.max_iters == 300 and cfg.train_cfg == probe.train_cfg
    assert cfg.run_folder.startswith(f'{METHODS[method]}/clip-micro/')


@pytest.mark.parametrize('task, tuning, letters, scripts', [
    (COMBINATIONS, False, 'test', None), (COMBINATIONS, True, 'val', None),
    (SCRIPTS, False, 'test', ['ARMENIAN']), (SCRIPTS, True, 'val', ['HEBREW']),
])  # yapf: disable
def test_settings_are_chosen_on_other_letters_than_those_of_the_table(task, tuning, letters, scripts):
    cfg = config('linear probe', task, shot=4, tune=tuning)
    settle_variables(cfg)
    for part in ('train', 'test'):
        dataset = cfg[f'{part}_dataloader'].dataset
        assert (dataset.split, dataset.letters, dataset.get('scripts')) == (part, letters, scripts)
        assert dataset.held_out == ('scripts' if task == SCRIPTS else 'combinations')
    assert cfg.train_dataloader.dataset.n_shot == 4


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_every_model_can_be_built(path):
    cfg = Config.fromfile(str(path)).model
    model = MODELS.build({**cfg, 'init_cfg': None})
    assert sum(p.numel() for n, p in model.named_parameters() if not n.startswith('head')) < 1e6


@pytest.mark.parametrize(
    'method', [pytest.param(m, marks=[] if m in FAST else pytest.mark.slow) for m in METHODS]
)  # yapf: disable
def test_a_run_trains_what_it_says_and_its_checkpoint_tests_the_same(method, tmp_path):
    options = dict(SHORT, first_iters=1, second_iters=1) if method == '2SFS' else SHORT
    run = run_method(CONFIGS, tmp_path, COMBINATIONS, method, 1, seed=1, overrides=options)
    assert run.trainable == LEARNED[method]
    cfg = config(method, shot=1, **options)
    metrics = apis.test(cfg, str(run.checkpoint), work_dir=str(tmp_path / 'test'))
    assert metrics['accuracy/top1'] == pytest.approx(run.accuracy, abs=1e-4)


def test_from_base_to_new_letters(tmp_path):
    options = {'shot': 1, 'base_to_new': True, **SHORT, 'train_dataloader.dataset.scripts': ['LAO'],
               'test_dataloader.dataset.scripts': ['LAO'], 'log_level': 'ERROR'}  # yapf: disable
    run = tmp_path / 'run'
    apis.train(config('clip-lora-text', SCRIPTS, **options), work_dir=str(run))
    checkpoint = (run / 'last_checkpoint').read_text()
    for subset in ('base', 'new'):
        apis.test(config('clip-lora-text', SCRIPTS, **options, test_subset=subset), checkpoint, work_dir=str(run))
    text = to_markdown(summarize([tmp_path]))
    assert 'harmonic mean' in text and 'glyphs-unseen-scripts' in text
    (results,) = run.rglob('results.json')
    halves = {entry['dataset_name']: entry['test']['images'] for entry in json.loads(results.read_text())['results']}
    assert halves == {'glyphs-unseen-scripts-base': 18, 'glyphs-unseen-scripts-new': 17}


def test_from_one_script_to_the_others(tmp_path):
    def cross(**options):
        cfg = Config.fromfile(str(CONFIGS / 'clip-lora_clip-micro_cross-script.py'))
        cfg.merge_from_dict({'shot': 1, 'log_level': 'ERROR', 'tune': True, **SHORT, **options})
        return cfg

    apis.train(cross(), work_dir=str(tmp_path))
    checkpoint = (tmp_path / 'last_checkpoint').read_text()
    metrics = apis.test(cross(), checkpoint, work_dir=str(tmp_path), out=str(tmp_path / 'o.pkl'))
    assert 0 <= metrics['accuracy/top1'] <= 100
    settled = cross(tune=False)
    settle_variables(settled)
    scripts = [settled[f'{part}_dataloader'].dataset.scripts for part in ('train', 'test')]
    assert scripts == [['GEORGIAN'], ['ARMENIAN', 'LAO', 'TIFINAGH']]


def test_zero_shot_is_told_apart_by_how_many_names_there_are(tmp_path, monkeypatch):
    seen = []

    def fake(cfg, weights, **options):
        settle_variables(cfg)
        seen.append((weights, cfg.test_dataloader.dataset.held_out, cfg.test_dataloader.dataset.letters))
        return {'accuracy/top1': 50.0}

    monkeypatch.setattr(quickstart_clip, 'test', fake)
    found = list(zero_shot(CONFIGS, tmp_path))
    assert [row.names for row in found] == [36, 1138, 46, 222]
    assert found[0].chance == pytest.approx(100 / 36)
    assert seen == [(WEIGHTS, kind, 'test') for kind in ('combinations', 'combinations', 'scripts', 'scripts')]


def test_tuning_takes_the_letters_for_that_and_every_setting(tmp_path, monkeypatch):
    calls = []

    def fake(jobs, workers):
        for _, folder, _, method, n_shot, seed, tuning, setting in jobs:
            calls.append((tuning, tuple(setting.values())))
            yield Run(50.0 + seed, 1, 1.0, folder, method, n_shot, seed)

    monkeypatch.setattr(quickstart_clip, '_run_jobs', fake)
    results = list(tune(CONFIGS, tmp_path, SCRIPTS, ['LayerNorm', 'Tip-Adapter'], seeds=[1, 2]))
    cells = [len(USUAL_GRID[LR]), len(GRIDS['tip-adapter']['model.alpha']) * len(GRIDS['tip-adapter']['model.beta'])]
    assert len(results) == sum(cells) and len(calls) == 2 * sum(cells) and len(set(calls)) == sum(cells)
    assert {tuning for tuning, _ in calls} == {True} and results[0][2] == 51.5
    assert [setting[LR] for method, setting, _ in results if method == 'LayerNorm'] == list(USUAL_GRID[LR])


def test_methods_are_chosen_by_either_name():
    assert choose_methods(['clip-lora', 'TIP-adapter']) == ['Tip-Adapter', 'CLIP-LoRA both']
    assert choose_methods(['all']) == list(METHODS) and set(MAIN) < set(METHODS)
    with pytest.raises(ValueError, match=r"'clip-lore'.*'clip-lora'"):
        choose_methods(['clip-lore'])
