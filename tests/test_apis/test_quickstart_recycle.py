"""The quickstart of LoRA-Recycle: its stages at tiny size, and what it says about them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlora import assets
from mmlora.apis import quickstart_recycle as recycle
from mmlora.apis.recycle_table import draw_comparison, table
from mmlora.evaluation import EpisodeScores
from mmlora.io.hub import LoRAHub
from mmlora.io.pool import Pool

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DIGITS = 'handwritten digits'


@pytest.fixture(scope='module')
def stages(tmp_path_factory):
    """A pool of two LoRAs after two iterations, and the average of the hub."""
    stages = recycle.Stages(CONFIGS / 'lora_recycle', tmp_path_factory.mktemp('recycle'))
    recycle.make_pool(stages, lambda text: None, iterations=2, members=2)
    recycle.make_average(stages)
    return stages


def test_the_hub_of_the_package_is_whole():
    hub = LoRAHub.open(recycle.HUB)
    assert len(hub) >= 20 and all(len(hub.classes(name)) == 5 for name in hub)
    assert len(hub.adapters()) == len(hub)  # Every file is read, and compared with its sha256.
    assert sum(file.stat().st_size for file in hub.folder.rglob('*')) < 3e6
    with pytest.raises(FileNotFoundError, match="no hub 'nothing'; choose from hub_vit-micro_glyphs-5way"):
        LoRAHub.open('mmlora://nothing')
    assert 'hub_vit-micro_glyphs-5way' not in assets.names()


@pytest.mark.parametrize('name', recycle.METHODS)
def test_every_method_has_a_config(name):
    method = recycle.METHODS[name]
    assert recycle.Stages(CONFIGS / 'lora_recycle', '').config(method).is_file()
    assert method.run is None or method.run in recycle.RUNS


def test_runs_start_where_they_say_and_are_tested_on_the_same_episodes(stages):
    settings = {'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1, 'optim_wrapper.optimizer.lr': 0.0,
                'val_dataloader.dataset': dict(scripts=['OGHAM'], samples_per_class=20)}  # yapf: disable
    rows = {recycle.FIRST: recycle.BASE, 'LoRAs averaged + prototypes': recycle.BASE}
    for run, method in recycle.RUNS.items():
        if run != 'pmf':
            path, accuracy = recycle.meta_train(stages, run, settings)
            assert 50 < accuracy < 100
            rows[next(name for name, one in recycle.METHODS.items() if one is method)] = path
    found = [recycle.test_cell(stages, name, DIGITS, weights, 20) for name, weights in rows.items()]
    plain, merged, fresh, average = found
    for shot in recycle.SHOTS:
        assert 60 < plain[shot].accuracies.mean() < 100
        for own, start in ((fresh, plain), (average, merged)):  # A step at the rate 0 changes nothing.
            np.testing.assert_allclose(own[shot].accuracies, start[shot].accuracies, atol=2)
    assert (merged[1].accuracies != plain[1].accuracies).any()


def test_a_run_of_other_settings_is_not_taken_for_this_one(stages):
    settings = {'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1,
                'val_dataloader.dataset': dict(scripts=['OGHAM'], samples_per_class=20)}  # yapf: disable
    path, accuracy = recycle.meta_train(stages, 'fresh', settings, 'own')
    assert recycle.meta_train(stages, 'fresh', settings, 'own') == (path, accuracy)
    with pytest.raises(ValueError, match='own holds a run of other settings'):
        recycle.meta_train(stages, 'fresh', {**settings, 'optim_wrapper.optimizer.lr': 1.0}, 'own')


def test_a_pool_is_kept(stages):
    before = {file: file.stat().st_mtime_ns for file in stages.pool.rglob('*.png') if file.name != 'sheet.png'}
    pool = recycle.make_pool(stages, lambda text: None, iterations=2, members=2)
    assert before == {file: file.stat().st_mtime_ns for file in before} and len(before) == len(pool.images) == 60
    assert Pool.open(stages.pool).about['loras'] == ['00000', '00001']


def found():
    episodes = dict(n_way=5, n_shot=1, n_query=15, n_episodes=4, seed=0)
    first = EpisodeScores(np.array([60.0, 70, 80, 90]), episodes, 'images')
    other = EpisodeScores(np.array([65.0, 76, 83, 96]), episodes, 'images')
    return {'letters': {'plain': {1: first}, 'better': {1: other}}}


def test_the_table_shows_paired_differences(tmp_path):
    lines = table(found()).splitlines()
    assert lines[0].startswith('letters: 4 episodes of 5 classes')
    assert lines[3].split() == ['plain', '75.0', '+-', '12.7']
    assert lines[4].split() == ['better', '80.0', '+-', '12.7', '(+5.0', '+-', '1.4)']
    picture = draw_comparison(found(), tmp_path / 'comparison.png')
    assert np.ptp(np.asarray(Image.open(picture).convert('L'))) > 200
