"""From base to new classes: harmonic means worked out by hand, rows of tables, and a run from training to table."""

import pytest
import tiny
from coop_layouts import make_listed
from test_summarize import entry, table, write_each
from tiny import quick  # noqa: F401

from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.apis.base_to_new import harmonic_mean, trained_elsewhere
from mmlora.apis.records import read_records
from mmlora.apis.summarize import summarize
from mmlora.apis.tables import to_markdown
from mmlora.datasets import COOP_SETS

HEADER = ['method', 'backbone', 'shot', 'protocol', 'data', 'base', 'new', 'harmonic mean']


def new(value, name='dtd', trained_on=None, **more):
    test = entry(value)['test'] | dict(config=dict(type='CoOpDataset', subset='new'))
    return entry(value, f'{name}-new', trained_on=trained_on or f'{name}-base', test=test, **more)


@pytest.mark.parametrize('first, second, mean', [
    (80, 60, 480 / 7), (50, 50, 50), (0, 90, 0), (0, 0, 0), (82.69, 63.22, 2 * 82.69 * 63.22 / 145.91),
])
def test_harmonic_mean(first, second, mean):
    assert harmonic_mean(first, second) == pytest.approx(mean, abs=1e-10)


def test_a_row_for_each_set_with_both_halves(tmp_path):
    write_each(tmp_path, entry(79.0, 'dtd-base'), entry(81.0, 'dtd-base', seed=1), new(60.0),
               entry(70.0, 'eurosat-base'), entry(50.0, 'ucf101'), entry(10.0, 'dtd-base', shot=4))
    text = to_markdown(summarize([tmp_path]))
    # Means over runs first: 80 and 60.
    assert table(text[text.index('From base to new'):]) == [
        HEADER, ['SR-LoRA', 'ViT base', '1', 'last epoch', 'dtd', '80.00', '60.00', '68.57']]


@pytest.mark.parametrize('entries', [
    [entry(80.0, 'dtd-base')], [new(60.0)],
    [entry(80.0, 'dtd-base'), new(60.0, 'eurosat')],
    [entry(80.0, 'dtd-base'), new(60.0, trained_on='dtd-new')],  # Trained on the new classes themselves.
    [entry(80.0, 'dtd-base'), new(60.0, trained_on='dtd')],
    [entry(80.0, 'dtd-base'), new(60.0), entry(81.0, 'dtd-base', method='SR-LoRA')],  # One run, two values.
    [entry(80.0, 'dtd-base'), entry(70.0, 'dtd-base', images=7), new(60.0)],  # Tested on two lists.
])
def test_no_mean_of_what_does_not_belong_together(tmp_path, entries):
    write_each(tmp_path, *entries)
    assert 'From base to new' not in to_markdown(summarize([tmp_path]))


def test_names_that_only_end_so_are_left_alone():
    assert trained_elsewhere(entry(1.0, 'birds-new', trained_on='birds-new')) is None
    assert trained_elsewhere(new(1.0)) is None and trained_elsewhere(new(1.0, trained_on='dtd-new')) == 'dtd-new'
    assert trained_elsewhere(entry(1.0, 'dtd', trained_on='imagenet')) == 'imagenet'


@pytest.mark.parametrize('names, whole', [(list(COOP_SETS), True), (list(COOP_SETS)[1:], False)])
def test_the_mean_needs_all_eleven_sets(tmp_path, names, whole):
    write_each(tmp_path, *(entry(80.0 + i, f'{name}-base') for i, name in enumerate(names)),
               *(new(60.0 - i, name) for i, name in enumerate(names)))
    rows = table(to_markdown(summarize([tmp_path])).split('From base to new')[1])
    assert len(rows) == 1 + len(names) + whole
    if whole:  # Of the means 85 and 55, not of the harmonic means.
        assert rows[-1][-4:] == ['mean of 11 sets', '85.00', '55.00', f'{2 * 85 * 55 / 140:.2f}']


def test_from_training_to_table(tmp_path):
    make_listed(tmp_path / 'data' / 'eurosat', 'eurosat', counts=dict(train=2, val=2, test=2), real=True)
    data = dict(type='CoOpDataset', name='eurosat', data_root=str(tmp_path / 'data'), serialize_data=False)
    cfg = tiny.tiny_config(tmp_path, tmp_path / 'run', dataset_name='eurosat', method='tiny', shot=1, base_to_new=True,
                           test_subset=dict(base_to_new='new', otherwise='all'), train_cfg__max_epochs=1)
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 5
    pipelines = {part: dict(pipeline=cfg[f'{part}_dataloader'].dataset.pipeline) for part in ('train', 'test')}
    cfg.train_dataloader.dataset = dict(data, n_shot='{shot}', seed='{seed}', subset='base', **pipelines['train'])
    cfg.test_dataloader.dataset = dict(data, split='test', subset='{test_subset}', **pipelines['test'])
    runner = train(cfg, validate=False)
    assert runner.cfg.settled_variables == dict(shot=1, seed=0, test_subset='new', base_to_new=True)
    for subset in ('new', 'base'):
        cfg.test_subset = subset
        run_test(cfg, str(tmp_path / 'run' / 'epoch_1.pth'))
    records = read_records(tmp_path / 'run' / 'results.json')
    assert [(r['dataset_name'], r['trained_on'], r['shot'], r['test']['images']) for r in records] == [
        ('eurosat-new', 'eurosat-base', 1, 10), ('eurosat-base', 'eurosat-base', 1, 10)]
    base, other = (next(r['metrics']['accuracy/top1'] for r in records if r['dataset_name'] == f'eurosat-{half}')
                   for half in ('base', 'new'))
    [_, row] = table(to_markdown(summarize([tmp_path])).split('From base to new')[1])
    assert row == ['tiny', 'VisionTransformer 2x16', '1', 'last epoch', 'eurosat', f'{base:.2f}', f'{other:.2f}',
                   f'{harmonic_mean(base, other):.2f}']
