"""The quickstart of generated LoRAs: ways of writing, its bank, its tasks and rows at tiny size."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmlora import assets
from mmlora.apis import quickstart_generate as generate
from mmlora.apis.extract_task_vectors import draw_support
from mmlora.apis.generate_table import draw_comparison, table
from mmlora.apis.generator_support import build_viewer
from mmlora.datasets import EpisodicDataset, Glyphs
from mmlora.datasets.episodes import EpisodeSampler
from mmlora.datasets.glyph_ways import FIRST, way_of_writing, way_parts
from mmlora.io.lora_banks import LoRABanks
from mmlora.models.generators.codec import LoRACodec
from mmlora.models.generators.support import support_loss

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'icm_lora'
PACK = [dict(type='mmpretrain.PackInputs')]


@pytest.fixture(scope='module')
def stages(tmp_path_factory):
    init_default_scope('mmpretrain')
    return generate.Stages(CONFIGS, tmp_path_factory.mktemp('generate'))


@pytest.fixture(scope='module')
def viewer(stages):
    return build_viewer(stages.config('pca-ridge'), 'cpu')


@pytest.fixture(scope='module')
def shown(viewer):
    return list(generate.draw_tasks('test', 2, viewer))


def test_a_way_is_a_function_of_its_number():
    assert way_of_writing('way-7') == way_of_writing('way-7') != way_of_writing('way-8')
    parts = np.array([list(way_parts(number).values()) for number in range(200)])
    np.testing.assert_allclose(parts.sum(1), 1)
    assert (parts.argmax(1)[:, None] == np.arange(4)).mean(0).min() > 0.15  # Each kind prevails now and then.
    assert np.sort(parts, 1)[:, -1].mean() > 0.6
    one = Glyphs('val', scripts=['OGHAM'], samples_per_class=1, distortion='way-7')
    same = Glyphs('val', scripts=['OGHAM'], samples_per_class=1, distortion=way_of_writing('way-7'))
    assert (one[0]['img'] == same[0]['img']).all()
    assert (one[0]['img'] != Glyphs('val', scripts=['OGHAM'], samples_per_class=1)[0]['img']).any()
    with pytest.raises(ValueError, match="'way-x' must be one of 'rough', a way of writing such as 'way-17'"):
        Glyphs(distortion='way-x')


def test_episodes_stay_in_one_way():
    sets = [dict(type='mmpretrain.Glyphs', split='val', scripts=['OGHAM'], samples_per_class=3,
                 distortion=f'way-{way}', pipeline=PACK) for way in (0, 1, 2)]  # yapf: disable
    size = 22
    for apart in (True, False):
        data = EpisodicDataset(sets, apart=apart)
        sampler = EpisodeSampler(dataset=data, seed=0, n_way=5, n_query=2, num_episodes=12, p_interpolate=1.0 - apart)
        seen = [{int(index) // (3 * size) for index in batch} for batch in sampler]
        assert all(len(own) == 1 for own in seen) == apart
        assert set().union(*seen) == {0, 1, 2}


def test_all_configs_have_the_images_of_the_bank():
    names = ('bank', 'pca-ridge', 'layer-hyper-net-both', 'layer-hyper-net-episodic')
    bank, closed, both, episodic = (Config.fromfile(CONFIGS / f'{name}{generate.SUFFIX}.py') for name in names)
    letters = [source.dataset for source in bank.hub_sources]
    assert bank.hub_sources == closed.task_images.sources and len(letters) == 96
    assert letters == both.train_dataloader.dataset.dataset == episodic.train_dataloader.dataset.dataset
    assert episodic.train_dataloader.dataset.apart and not episodic.train_dataloader.batch_sampler.p_interpolate


def test_support_sets_show_some_classes_of_a_task():
    classes = [[(0, label, place) for place in range(4)] for label in range(6)]
    refs, labels = draw_support(classes, 2, 5, 'task', n_way=3)
    assert labels == [0, 0, 1, 1, 2, 2] and len({ref[1] for ref in refs}) == 3
    assert draw_support(classes, 2, 6, 'task', n_way=3)[0] != refs


def test_the_bank_of_the_package_is_whole(stages, viewer):
    banks = LoRABanks.open(stages.bank_folder)
    assert len(banks) >= 40 and banks.factors == 'B' and banks.full_spec.base_sha256 == viewer.base_sha256
    assert all(banks.vectors(task).isfinite().all() for task in banks.tasks)
    assert sum(file.stat().st_size for file in banks.folder.rglob('*')) < 3e6
    assert 'tools/build_lora_bank.py' in (banks.folder / 'README.md').read_text(encoding='utf-8')
    with pytest.raises(FileNotFoundError, match='no folder .nothing.; choose from banks_vit-micro_glyphs'):
        assets.folder('nothing')


def test_tasks_are_held_out_and_fixed(viewer, shown):
    again, other = next(iter(generate.draw_tasks('test', 1, viewer))), next(iter(generate.draw_tasks('val', 1, viewer)))
    assert torch.equal(shown[0].support, again.support) and not torch.equal(again.support, other.support)
    assert shown[0].support.shape == (25, 3, 32, 32) and shown[0].labels.bincount().tolist() == [5] * 5
    assert shown[0].query.shape == (50, 3, 32, 32) and shown[0].answers.bincount().tolist() == [10] * 5
    assert len(set(FIRST.values())) == 3 and min(FIRST[name] for name in ('val', 'test')) > 1000


def test_tuning_learns_each_task_by_itself(stages, viewer, shown):
    banks = LoRABanks.open(stages.bank_folder)
    codec = LoRACodec(banks.full_spec, factors='B').fit(banks.vectors(banks.tasks[0]), banks.shared)
    start = torch.zeros(2, codec.spec.length)
    tuned = generate.tune_loras(viewer.features, codec, shown, start, 3, 1e-2)
    alone = generate.tune_loras(viewer.features, codec, shown[1:], start[1:], 3, 1e-2)
    torch.testing.assert_close(tuned[1:], alone, rtol=0, atol=2e-3)  # Adam's first steps look at signs alone.
    losses = [float(support_loss(viewer.features(shown[1].support, codec.full_spec, codec.tensors(own)),
                                 shown[1].labels, temperature=96**0.5)) for own in (start[1:], tuned[1:])]
    assert losses[1] < losses[0]


def test_rows_are_tested_and_kept(stages, tmp_path):
    shutil.copytree(stages.bank_folder, tmp_path / 'banks')
    index = json.loads((tmp_path / 'banks' / 'index.json').read_text())
    (tmp_path / 'banks' / 'index.json').write_text(json.dumps(index | dict(tasks=index['tasks'][:5])))
    stages = replace(stages, work_dir=tmp_path, banks=str(tmp_path / 'banks'))
    cfg, quiet = stages.config('pca-ridge'), lambda text: None
    generate.extract_task_vectors(cfg, num_draws=1, device='cpu')
    made = {name: str(generate.train_generator(stages, name, quiet)) for name in ('pca-ridge', 'retrieval-mean')}
    before = Path(made['pca-ridge']).stat().st_mtime_ns
    assert str(generate.train_generator(stages, 'pca-ridge', quiet)) == made['pca-ridge']
    assert Path(made['pca-ridge']).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match='pca-ridge holds a run of other settings'):
        generate.train_generator(replace(stages, banks=None), 'pca-ridge', quiet)
    found = {}
    for support in ('own', 'shuffled', 'other'):
        row = generate.Row(support, 'pca-ridge', support=support)
        found[support] = generate.test_row(stages, row, 'test', 2, made['pca-ridge'])
    assert len({tuple(one.novelty) for one in found.values()}) == 3
    mean = generate.test_row(stages, generate.ROWS[generate.MEAN_ROW], 'test', 2, made['retrieval-mean'])
    assert mean.novelty[0] == pytest.approx(mean.novelty[1], rel=1e-6)  # One LoRA for all tasks.
    plain, tuned = (generate.test_row(stages, generate.Row(f'{steps}', None, steps), 'test', 2, None)
                    for steps in (0, 1))  # yapf: disable
    assert not plain.novelty and len(tuned.novelty) == 2 and len(plain.accuracies) == 2
    file = tmp_path / 'tests' / 'own_test.json'
    before = file.stat().st_mtime_ns
    row = generate.Row('own', 'pca-ridge')
    assert generate.test_row(stages, row, 'test', 2, made['pca-ridge']) == found['own']
    assert file.stat().st_mtime_ns == before
    again = generate.test_row(stages, row, 'test', 3, made['pca-ridge'])
    assert again.accuracies[:2] == found['own'].accuracies and file.stat().st_mtime_ns != before


@pytest.mark.parametrize('row', generate.ROWS)
def test_every_row_has_a_config(stages, row):
    config = generate.ROWS[row].config
    assert config is None or stages.config(config).bank_folder == stages.bank_folder


def test_the_table_shows_paired_differences(tmp_path):
    found = {'letters': {generate.FIRST_ROW: generate.Found([60.0, 70], []),
                         generate.MEAN_ROW: generate.Found([70.0, 84], [0.5, 0.7]),
                         'generated': generate.Found([80.0, 86], [0.2, 0.4])}}
    lines = table(found).splitlines()
    assert lines[0].startswith('letters: 2 tasks')
    assert lines[2].split() == ['prototypes,', 'no', 'LoRA', '65.0', '+-', '9.8', '-12.0', '+-', '3.9']
    assert lines[4].split() == ['generated', '83.0', '+-', '5.9', '+18.0', '+-', '3.9', '+6.0', '+-', '7.8', '0.30']
    assert draw_comparison(found, tmp_path / 'picture.png').read_bytes().startswith(b'\x89PNG')
