"""Tables of synthetic results, with means that were worked out by hand."""

import csv
import io
import json
import math

import pytest
import tiny

from mmlora.apis.collected import METRIC
from mmlora.apis.records import FORMAT, RESULTS
from mmlora.apis.summarize import summarize
from mmlora.apis.tables import FORMATS, to_csv, to_markdown
from mmlora.apis.vtab_means import vtab_means
from mmlora.datasets import VTAB_SETS

ON_TEST = 'best accuracy/top1 on TEST DATA'


def entry(value, dataset='toy', split=1, seed=0, metric=METRIC, images=100, rate=None, tta=False, at='epoch 20 of 20',
          selection='last epoch', truncated=None, **more):
    on_test = {ON_TEST: True, 'unknown': None, 'not trained here': None}.get(selection, False)
    protocol = dict(selection=selection, at=at, on_test=on_test, validation=None, truncated=truncated, tta=tta,
                    amp=False)
    return dict(
        method='SR-LoRA', dataset_name=dataset, backbone='ViT base', shot=1, split=split, seed=seed, config='c.py',
        metrics={metric: value}, checkpoint=dict(name='epoch_20.pth', sha256='ab'), protocol=protocol,
        test=dict(config={}, list='data/test.txt', images=images, fingerprint='f', majority_rate=rate),
        trained_on=dataset, trainable_parameters=5, version='0.1.0', date='2026-01-01T00:00:00+00:00',
    ) | more


def write(folder, *entries):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_text(json.dumps(dict(format=FORMAT, results=entries)))


def write_each(folder, *entries):
    for number, one in enumerate(entries):
        write(folder / str(number), one)


def table(text, first='| method'):
    """Return the cells of the table whose header begins so."""
    lines = text[text.index(first):].split('\n\n')[0].splitlines()
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in (lines[0], *lines[2:])]


def test_mean_and_deviation_over_splits_by_method_shot_and_data(tmp_path):
    write_each(tmp_path, *(entry(v, split=s) for s, v in enumerate((40.0, 42.0, 47.0), 1)), entry(12.5, 'other'),
               entry(60.0, shot=10), entry(61.0, shot=5), entry(62.0, shot='full'),
               entry(90.0, method='Linear', seed=3))
    text = to_markdown(summarize([tmp_path]))
    # 40, 42, 47: mean 43; squares of the differences 9 + 1 + 16 = 26, over n - 1 = 2 gives 13, whose root is 3.606.
    assert table(text) == [
        ['method', 'backbone', 'shot', 'protocol', 'other', 'toy'],
        ['Linear', 'ViT base', '1', 'last epoch', '–', '90.00 (1)'],
        ['SR-LoRA', 'ViT base', '1', 'last epoch', '12.50 (1)', '43.00 ± 3.61 (3)'],
        ['SR-LoRA', 'ViT base', '5', 'last epoch', '–', '61.00 (1)'],
        ['SR-LoRA', 'ViT base', '10', 'last epoch', '–', '60.00 (1)'],
        ['SR-LoRA', 'ViT base', 'full', 'last epoch', '–', '62.00 (1)'],
    ]
    assert 'VTAB' not in text and '\n- ' not in text


def test_seeds_of_one_split_are_runs_too(tmp_path):
    write_each(tmp_path, entry(1.0), entry(3.0, seed=1), entry(5.0, split=2))
    [row] = summarize([tmp_path]).rows.values()
    assert row['toy'].mean == 3 and row['toy'].deviation == 2 and len(row['toy'].runs) == 3


@pytest.mark.parametrize('more, label', [
    (dict(selection=ON_TEST), f'**{ON_TEST}**'),
    (dict(selection='best accuracy/top1 on validation data'), 'best accuracy/top1 on validation data'),
    (dict(selection='epoch 12 of 20'), 'epoch 12 of 20'),
    (dict(selection='unknown', at=None), 'unknown'),
    (dict(selection='not trained here', at=None), 'not trained here'),
    (dict(tta=True), 'last epoch, TTA'),
    (dict(truncated=dict(rank=None, fraction=0.5)), 'last epoch, ranks cut to fraction 0.5'),
    (dict(trained_on='elsewhere'), 'last epoch, trained on elsewhere'),
])
def test_protocols_are_never_mixed(tmp_path, more, label):
    write(tmp_path / 'one', entry(40.0), entry(50.0, **more))
    for by in (('method', 'backbone', 'shot', 'protocol'), ('method', )):
        text = to_markdown(summarize([tmp_path], by=by))
        rows = {row[len(by) - (by[-1] == 'protocol')]: row[-1] for row in table(text)[1:]}
        assert rows == {'last epoch': '40.00 (1)', label: '50.00 (1)'}
    assert ('is an upper bound' in text) is (label == f'**{ON_TEST}**')
    assert ('does not say how it was selected' in text) is (label == 'unknown')
    assert ('without a record of any training run' in text) is (label == 'not trained here')


def test_two_values_of_one_run_are_a_conflict(tmp_path):
    write_each(tmp_path, entry(40.0), entry(41.0), entry(50.0, split=2))
    summary = summarize([tmp_path])
    assert table(to_markdown(summary))[1][-1] == 'conflict'
    [note] = summary.notes
    for text in ('40.0000', '41.0000', str(tmp_path / '0' / RESULTS), str(tmp_path / '1' / RESULTS)):
        assert text in note
    assert table(to_markdown(summarize([tmp_path], by=['config', 'split'])), '| config')[2][-1] == '50.00 (1)'


def test_one_value_found_twice_counts_once(tmp_path):
    write_each(tmp_path, entry(40.0), entry(40.0), entry(50.0, split=2))
    summary = summarize([tmp_path, tmp_path / '2'])  # The last folder is found twice, too.
    assert table(to_markdown(summary))[1][-1] == '45.00 ± 7.07 (2)'
    [note] = summary.notes
    assert 'it counts once' in note


def test_tests_on_other_images_get_a_column_of_their_own(tmp_path):
    write(tmp_path / 'a', entry(40.0), entry(60.0, images=7))
    header = table(to_markdown(summarize([tmp_path])))[0]
    assert header[-2:] == ['toy (test.txt, 7 images)', 'toy (test.txt, 100 images)']


def test_averaging_over_labels_is_said(tmp_path):
    write_each(tmp_path, entry(40.0), entry(60.0, shot=5))
    summary = summarize([tmp_path], by=['method'])
    assert table(to_markdown(summary))[1] == ['SR-LoRA', 'last epoch', '50.00 ± 14.14 (2)']
    assert 'averages over shot: 1, 5' in summary.notes[0]
    write_each(tmp_path, entry(40.0), entry(60.0, split=2, config='d.py', trainable_parameters=9))
    assert [note.partition('runs of ')[2] for note in summarize([tmp_path]).notes] == [
        'different config: c.py, d.py.', 'different trainable_parameters: 5, 9.']


def test_runs_of_unequal_length_are_noted(tmp_path):
    write_each(tmp_path, entry(40.0), entry(60.0, split=2, at='epoch 100 of 100'))
    assert 'unequal length: epoch 100 of 100, epoch 20 of 20' in summarize([tmp_path]).notes[0]


@pytest.mark.parametrize('value, rate, marked', [(73.595, 73.6, True), (73.51, 73.6, True), (73.4, 73.6, False),
                                                 (73.6, None, False)])
def test_naming_the_largest_class_is_marked(tmp_path, value, rate, marked):
    write(tmp_path / 'a', entry(value, rate=rate))
    text = to_markdown(summarize([tmp_path]))
    assert ('†' in table(text)[1][-1]) is marked and ('largest class' in text) is marked
    write(tmp_path / 'a', entry(value, rate=rate, metric='auc/mean'))
    assert '†' not in to_markdown(summarize([tmp_path], 'auc/mean'))


def vtab_entries(skip=()):
    """Return entries of value 0, 1 ... 18 for the sets in the order of their groups: 7, 4 and 8."""
    return [entry(float(i), f'vtab1k-{s.name}', images=s.test_images) for i, s in enumerate(VTAB_SETS.values())
            if s.name not in skip]


def test_both_means_of_vtab(tmp_path):
    write_each(tmp_path, *vtab_entries())
    text = to_markdown(summarize([tmp_path]))
    # Natural 0..6: 3; Specialized 7..10: 8.5; Structured 11..18: 14.5. Their mean is 26 / 3; that of 0..18 is 9.
    assert table(text[text.index('VTAB-1k:'):]) == [
        ['method', 'backbone', 'shot', 'protocol', 'sets', 'runs of a set', 'Natural', 'Specialized', 'Structured',
         'mean of groups', 'mean of 19 sets'],
        ['SR-LoRA', 'ViT base', '1', 'last epoch', '19 of 19', '1', '3.00', '8.50', '14.50', '8.67', '9.00'],
    ]
    assert table(text)[0][4:6] == ['vtab1k-cifar', 'vtab1k-caltech101']


@pytest.mark.parametrize('change, sets, structured', [
    (lambda entries: entries[:-1], '18 of 19', '7 of 8 sets'),
    (lambda entries: [*entries, entry(5.0, 'vtab1k-smallnorb_ele', images=12150)], '18 of 19', '7 of 8 sets'),
    (lambda entries: [*entries[:-1], entry(5.0, 'vtab1k-smallnorb-ele', images=200)], '18 of 19', '7 of 8 sets'),
    (lambda entries: [*entries[:-1], entry(18.0, 'vtab1k-smallnorb-ele', images=12150)], '19 of 19', '14.50'),
    (lambda entries: [*entries, entry(5.0, 'vtab1k-kitti', images=50)], '19 of 19', '14.50'),
], ids=['missing', 'conflict', 'other images', 'other spelling', 'tested on more'])
def test_some_sets_have_no_mean_of_vtab(tmp_path, change, sets, structured):
    write_each(tmp_path, *change(vtab_entries()))
    row = table((text := to_markdown(summarize([tmp_path])))[text.index('VTAB-1k:'):])[1]
    assert row[4] == sets and row[-3] == structured
    assert row[-2:] == (['8.67', '9.00'] if sets == '19 of 19' else ['–', '–'])


def test_means_of_vtab_are_per_row_and_average_runs_first(tmp_path):
    twice = [dict(one, split=2, metrics={METRIC: one['metrics'][METRIC] + 2}) for one in vtab_entries()]
    linear = [dict(one, method='Linear') for one in vtab_entries(skip=['kitti'])]
    write_each(tmp_path, *vtab_entries(), *twice, *linear, dict(entry(1.0), method='No VTAB'))
    means = {labels[0]: vtab_means(row) for labels, row in summarize([tmp_path]).rows.items()}
    assert means['SR-LoRA'].over_sets == 10 and means['SR-LoRA'].over_groups == pytest.approx(26 / 3 + 1)
    assert math.isnan(means['Linear'].over_sets) and math.isnan(means['Linear'].over_groups)
    assert means['Linear'].groups['Natural'].mean == 3 and means['No VTAB'] is None


def test_csv_holds_every_result(tmp_path):
    write_each(tmp_path, entry(40.0), entry(41.0), entry(50.0, split=2, rate=50.0, selection=ON_TEST))
    rows = list(csv.DictReader(io.StringIO(to_csv(summarize([tmp_path])))))
    assert sorted(row['value'] for row in rows) == ['40.0', '41.0', '50.0']
    row = next(row for row in rows if row['split'] == '2')
    assert (row['protocol'], row['on_test'], row['at'], row['at_majority_rate'], row['test_images'], row['sha256'],
            row['checkpoint'], row['dataset_name']) == (ON_TEST, 'True', 'epoch 20 of 20', 'True', '100', 'ab',
                                                        'epoch_20.pth', 'toy')
    assert row['file'] == str(tmp_path / '2' / RESULTS)


def test_what_is_missing_is_said(tmp_path):
    write_each(tmp_path, entry(40.0), entry(50.0, 'medfmc', metric='auc/mean'), entry(None, 'empty'),
               entry(math.inf, 'endless'))
    (tmp_path / 'trained').mkdir()
    (tmp_path / 'trained' / 'last_checkpoint').write_text('x')
    text = to_markdown(summarize([tmp_path]))
    assert f'Results without {METRIC}: 1, of medfmc.' in text and text.count('is not defined in') == 2
    assert f'Runs with checkpoints but no results: {tmp_path / "trained"}' in text
    assert table(text)[0][-1] == 'toy'


def test_classes_without_a_value_are_counted(tmp_path):
    values = {'auc/mean': 60.0, 'auc/undefined_classes': 1, METRIC: 50.0, 'accuracy/undefined_classes': 2}
    write_each(tmp_path, *(entry(0.0, split=split, metrics=values) for split in (1, 2)))
    [note] = summarize([tmp_path], 'auc/mean').notes
    assert note.startswith('auc/mean of toy: 1 classes have no value')
    assert summarize([tmp_path]).notes == []  # Accuracy leaves out no class.


def broken(tmp_path, text):
    (tmp_path / RESULTS).write_text(text)
    return tmp_path


@pytest.mark.parametrize('make, options, error, message', [
    (lambda p: p / 'nowhere', {}, FileNotFoundError, 'no folder .*nowhere'),
    (lambda p: p, {}, FileNotFoundError, 'no results.json below .*tools/test.py CONFIG CHECKPOINT'),
    (lambda p: broken(p, '{'), {}, ValueError, 'results.json is no JSON'),
    (lambda p: broken(p, '[]'), {}, ValueError, 'results.json was not written by tools/test.py'),
    (lambda p: write(p, entry(1.0, metrics=5)) or p, {}, ValueError, 'metrics of entry 0'),
    (lambda p: write(p, entry(1.0, protocol={})) or p, {}, ValueError, 'protocol.selection of entry 0'),
    (lambda p: write(p, entry(1.0, test=dict(list=5))) or p, {}, ValueError, 'test.list of entry 0'),
    (lambda p: write(p, entry(1.0, images='many')) or p, {}, ValueError, 'test.images of entry 0'),
    (lambda p: write(p, entry(1.0, rate='high')) or p, {}, ValueError, 'test.majority_rate of entry 0'),
    (lambda p: write(p, entry(1.0)) or p, dict(metric='f1'), ValueError, "metric 'f1'; there are accuracy/top1"),
    (lambda p: write(p, entry([1.0])) or p, {}, ValueError, 'is not a number'),
    (lambda p: write(p, entry(1.0)) or p, dict(by=['colour']), ValueError, 'grouped by colour; choose from method'),
    (lambda p: write(p, entry(1.0, 'vtab1k-moon')) or p, {}, ValueError, "'vtab1k-moon', but .*no set 'moon'"),
])
def test_what_cannot_be_summarized(tmp_path, make, options, error, message):
    with pytest.raises(error, match=message):
        to_markdown(summarize([make(tmp_path)], **options))


def test_the_tool(tmp_path, capsys):
    write(tmp_path / 'a', entry(40.0, metric='auc/mean'))
    words = ['tools/summarize.py', tmp_path, '--metric', 'auc/mean', '--by', 'method, shot']
    assert table(tiny.run_tool(*words).stdout)[1] == ['SR-LoRA', '1', 'last epoch', '40.00 (1)']
    words[0] = 'summarize'
    assert tiny.call_tool(*words, '--format', 'csv', '--out', tmp_path / 'out.csv') == 0
    assert (tmp_path / 'out.csv').read_text() == FORMATS['csv'](summarize([tmp_path], 'auc/mean'))
    assert tiny.call_tool('summarize', tmp_path) == 2
    assert capsys.readouterr().err.startswith('error: no result has the metric')
