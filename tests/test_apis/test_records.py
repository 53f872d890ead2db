"""Results of real tests, and the protocol that they are recorded with."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from mmengine.config import Config

from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.apis.records import FORMAT, RESULTS, majority_rate, make_record, read_records, results_folder, write_record
from mmlora.engine.protocol import describe_run, describe_selection, fingerprint, plain_data_config, same_data
from mmlora.io.atomic import write_text

BEST = dict(default_hooks__checkpoint__save_best='accuracy/top1')
WARNING = 'Model selection on test data'


@pytest.fixture(scope='module')
def other_images(tmp_path_factory):
    """Four images a class that are not those of the test."""
    return tiny.make_images(tmp_path_factory.mktemp('other') / 'other', per_class=4)


@pytest.fixture(scope='module')
def runs(tmp_path_factory, images, other_images):
    """Folder and config of a run validated on images of its own, and of one validated on the test images."""
    folder = tmp_path_factory.mktemp('runs')
    found = {}
    own = dict(val_dataloader__dataset__data_root=str(other_images), method='LoRA-r2', dataset_name='toy', shot=12)
    link = folder / 'link'
    link.symlink_to(images)
    # The same images by another path, which their configs do not tell.
    hidden = dict(val_dataloader__dataset__data_root=str(link))
    with tiny.quick_runs():
        for name, options in (('own', own), ('test', {}), ('hidden', hidden)):
            cfg = tiny.tiny_config(images, folder / name, **BEST, **options)
            train(cfg)
            found[name] = (folder / name, cfg)
    return found


@pytest.fixture
def run(runs, tmp_path):
    """Return a function that copies a run, so that a test may write to it."""

    def copy(name):
        folder, cfg = runs[name]
        place, cfg = shutil.copytree(folder, tmp_path / name), deepcopy(cfg)
        cfg.work_dir = str(place)
        [best] = place.glob('best_*.pth')
        return place, cfg, best

    return copy


def test_last_intermediate_and_best_are_told_apart(run, tmp_path):
    folder, cfg, best = run('own')
    for checkpoint in (folder / 'epoch_1.pth', folder / 'epoch_3.pth', best):
        metrics = run_test(cfg, str(checkpoint), work_dir=str(tmp_path / 'elsewhere'))
    records = {record['checkpoint']['name']: record for record in read_records(folder / RESULTS)}
    selections = [records[name]['protocol'] for name in ('epoch_1.pth', 'epoch_3.pth', best.name)]
    assert [p['selection'] for p in selections] == [
        'epoch 1 of 3', 'last epoch', 'best accuracy/top1 on validation data']
    assert [p['on_test'] for p in selections] == [False, False, False]
    assert selections[2]['validation']['images'] == 12 and selections[1]['validation'] is None
    record = records[best.name]
    assert record['metrics'] == pytest.approx(metrics)
    assert record['test']['images'] == 36 and record['test']['majority_rate'] == pytest.approx(100 / 3)
    labels = dict(method='LoRA-r2', dataset_name='toy', shot=12, split=None, seed=0, config='tiny_vit.py',
                  backbone='VisionTransformer 2x16')
    assert {name: record[name] for name in labels} == labels
    assert record['trainable_parameters'] == sum(
        t.numel() for t in tiny.load(best)['state_dict'].values())
    assert len(record['checkpoint']['sha256']) == 64
    assert not (tmp_path / 'elsewhere' / RESULTS).exists()


@pytest.mark.parametrize('name', ['test', 'hidden'])
def test_a_checkpoint_chosen_on_the_test_data_says_so(run, name):
    folder, cfg, best = run(name)
    run_test(cfg, str(best))
    [record] = read_records(best.parent / RESULTS)
    assert record['protocol']['selection'] == 'best accuracy/top1 on TEST DATA'
    assert record['protocol']['on_test'] is True


def test_the_same_checkpoint_on_other_data_is_chosen_on_validation_data(run, other_images):
    _, cfg, best = run('test')
    cfg = tiny.tiny_config(other_images, best.parent)
    run_test(cfg, str(best))
    [record] = read_records(best.parent / RESULTS)
    assert record['protocol']['selection'] == 'best accuracy/top1 on validation data'


@pytest.mark.parametrize('name, warned', [('own', False), ('test', True)])
def test_training_warns_of_selection_on_test_data(runs, name, warned):
    [log] = runs[name][0].glob('*/*.log')
    assert (WARNING in log.read_text()) is warned


def test_a_run_without_selection_is_not_warned_of(whole_run):
    [log] = whole_run.glob('*/*.log')  # Validated on the test data, but nothing follows from it.
    assert WARNING not in log.read_text()


def test_repeating_replaces_and_another_way_of_testing_adds(run):
    folder, cfg, best = run('own')
    for options in ({}, {}, dict(tta=True), dict(amp=True)):
        run_test(cfg, str(best), **options)
    ways = [(r['protocol']['tta'], r['protocol']['amp']) for r in read_records(folder / RESULTS)]
    assert ways == [(False, False), (True, False), (False, True)]
    # A run of another seed in the same folder is another run.
    entry = read_records(folder / RESULTS)[0]
    write_record(folder, dict(entry, seed=7))
    assert [r['seed'] for r in read_records(folder / RESULTS)] == [0, 0, 0, 7]
    (folder / RESULTS).unlink()
    tiny.call_tool('test', folder / 'tiny_vit.py', best, '--no-record')
    assert not (folder / RESULTS).exists()


def test_early_stopping_on_test_data_is_said(tmp_path, images, other_images):
    stop = dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=1, min_delta=200)
    cfg = tiny.tiny_config(images, tmp_path, custom_hooks=[stop], default_hooks__checkpoint__interval=1)
    train(cfg)
    assert not (tmp_path / 'epoch_3.pth').exists()
    protocol = tiny.load(tmp_path / 'epoch_2.pth')['meta']['mmlora']['protocol']
    expected = 'early stopping by accuracy/top1 on '
    found = describe_selection(protocol, protocol['validation'])
    assert (found['selection'], found['on_test']) == (expected + 'TEST DATA', True)
    found = describe_selection(protocol, dict(config={}, fingerprint='other'))
    assert (found['selection'], found['on_test']) == (expected + 'validation data', False)
    found = describe_selection(dict(protocol, step=3), protocol['validation'])  # It was not stopped.
    assert (found['selection'], found['on_test']) == ('last epoch', False)


def test_a_run_that_starts_from_a_checkpoint_says_how_that_was_chosen(run, tmp_path):
    folder, cfg, best = run('test')
    cfg.work_dir, cfg.load_from = str(tmp_path / 'second'), str(best)
    cfg.default_hooks.checkpoint.pop('save_best')
    train(cfg, validate=False)
    cfg.train_cfg.max_epochs, cfg.load_from = 4, None
    train(cfg, validate=False, resume='auto')
    run_test(cfg, str(tmp_path / 'second' / 'epoch_4.pth'))
    [record] = read_records(tmp_path / 'second' / RESULTS)
    assert record['protocol']['selection'] == 'last epoch, after tiny_vit.py: best accuracy/top1 on TEST DATA'
    assert record['protocol']['on_test'] is True


def test_iterations_within_an_epoch(tmp_path, images):
    cfg = tiny.tiny_config(images, tmp_path / 'run', train_cfg__max_epochs=1, default_hooks__checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=2, save_last=True))
    train(cfg, validate=False)
    protocols = {n: tiny.load(tmp_path / 'run' / f'iter_{n}.pth')['meta']['mmlora']['protocol'] for n in (2, 5)}
    test_data = dict(config={}, fingerprint=None)
    assert describe_selection(protocols[2], test_data)['selection'] == 'iteration 2 of 5'
    assert describe_selection(protocols[5], test_data)['selection'] == 'last iteration'
    assert protocols[2]['validation'] is None


@pytest.mark.parametrize('meta, selection', [({}, 'not trained here'), (dict(epoch=3, iter=15), 'unknown')])
def test_foreign_weights_are_recorded_as_such_in_the_work_directory(run, tmp_path, meta, selection):
    folder, cfg, _ = run('own')
    weights = tmp_path / 'downloads' / 'weights.pth'
    weights.parent.mkdir()
    torch.save(dict(state_dict=tiny.load(folder / 'epoch_3.pth')['state_dict'], meta=meta), weights)
    run_test(cfg, str(weights), work_dir=str(tmp_path / 'work'))
    [record] = read_records(tmp_path / 'work' / RESULTS)
    assert record['protocol']['selection'] == selection and record['protocol']['on_test'] is None
    assert record['seed'] is None and not (weights.parent / RESULTS).exists()


def test_labels_of_training_win_over_those_of_the_test(run):
    folder, cfg, best = run('own')
    cfg.method, cfg.shot, cfg.dataset_name = 'other', 99, 'elsewhere'
    run_test(cfg, str(best))
    [record] = read_records(folder / RESULTS)
    assert (record['method'], record['shot']) == ('LoRA-r2', 12)
    assert (record['dataset_name'], record['trained_on']) == ('elsewhere', 'toy')
    logs = '\n'.join(path.read_text() for path in folder.glob('*/*.log'))
    assert 'recorded as what was trained' in logs


@pytest.mark.parametrize('content, message', [
    ('{"a": 1}', 'was not written by tools/test.py'),
    ('{"format":', 'is no JSON'),
    (json.dumps(dict(format=FORMAT, results=[dict(method='a')])), 'dataset_name of entry 0 is missing'),
])
def test_a_foreign_results_file_is_an_error_before_the_test(run, content, message):
    folder, cfg, best = run('own')
    (folder / RESULTS).write_text(content)
    cfg.test_dataloader.dataset.data_root = 'nowhere'
    with pytest.raises(ValueError, match=message):
        run_test(cfg, str(best))
    assert (folder / RESULTS).read_text() == content



class Listed:
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def get_data_info(self, index):
        return dict(self.items[index], sample_idx=index)


def test_fingerprint_is_of_images_and_labels():
    rows = [dict(img_path=f'/x/{i}.png', gt_label=i % 2) for i in range(4)]
    whole = fingerprint(Listed(*rows))
    assert whole == fingerprint(Listed(*rows[::-1])) == fingerprint(Listed(*rows))
    assert whole != fingerprint(Listed(*rows[:3])) != fingerprint(Listed(*rows[:2]))
    assert whole != fingerprint(Listed(*rows[:3], dict(rows[3], gt_label=0)))
    arrays = [dict(img=np.full((2, 2), i), gt_label=[0, i]) for i in range(2)]
    assert fingerprint(Listed(*arrays)) == fingerprint(Listed(*arrays[::-1])) != fingerprint(Listed(arrays[0]))
    assert fingerprint(Listed(dict(gt_label=1))) is None and fingerprint([1, 2]) is None


def test_data_are_the_same_by_config_or_by_fingerprint():
    first = dict(config=dict(type='A', split='test'), fingerprint='a')
    assert same_data(first, dict(first, fingerprint='b'))
    assert same_data(first, dict(config={}, fingerprint='a'))
    assert not same_data(first, dict(config={}, fingerprint='b'))
    assert not same_data(dict(config=1, fingerprint=None), dict(config=2, fingerprint=None))
    assert not same_data(None, first)
    elsewhere, folder = (dict(config=dict(data_root=root), fingerprint=None) for root in ('/home/me/cats', 'cats'))
    assert same_data(folder, elsewhere) and same_data(elsewhere, elsewhere)
    assert not same_data(dict(config=dict(data_root='/home/you/cats'), fingerprint=None), elsewhere)
    assert not same_data(dict(folder, fingerprint='a'), dict(elsewhere, fingerprint='b'))
    config = dict(type='mmlora.VTAB1k', split='test', pipeline=[dict(type='A')], dataset=dict(type=Listed, pipeline=[]))
    assert plain_data_config(config) == dict(type='VTAB1k', split='test', dataset=dict(type='Listed'))


def test_majority_rate():
    assert majority_rate(Listed(*[dict(gt_label=i) for i in (0, 1, 1, 1)])) == 75
    assert majority_rate(Listed(dict(gt_label=[0, 1]))) is None
    assert majority_rate(Listed(dict(img_path='a'))) is None and majority_rate([1]) is None


@pytest.mark.parametrize('variables, data, labels', [
    (dict(shot=None, split=2), dict(n_shot=None), dict(shot='full', split=None, dataset_name='VTAB1k-eurosat')),
    (dict(method='A', dataset_name='b'), {}, dict(method='A', dataset_name='b', shot=5, split=3)),
    # What the data set does counts, not a variable to which it does not refer.
    (dict(shot=1, split=1), {}, dict(shot=5, split=3)),
    (dict(shot=1, split=1), dict(split='train800'), dict(shot='train800', split=None)),
    (dict(shot=1, split=1), dict(ann_file='lists/mine.txt'), dict(shot='mine', split=None)),
])
def test_labels_of_a_run(variables, data, labels):
    data = dict(type='VTAB1k', data_root='data/eurosat', split='train', n_shot=5, exp=3) | data
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='SeededDataset', dataset=data)), **variables))
    assert describe_run(cfg) | labels == describe_run(cfg)


def test_values_that_are_not_finite_become_nothing(tmp_path, runs):
    folder, cfg = runs['own']
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=Listed(dict(img_path='a', gt_label=0))),
                             model=torch.nn.Linear(2, 2))
    metrics = {'auc/per_class': [1.0, float('nan')], 'auc/mean': float('nan'), 'n': np.int64(3)}
    cut = dict(rank=None, fraction=0.5)
    record = make_record(cfg, runner, 'nowhere.pth', dict(mmlora=dict(truncated=cut)), metrics)
    assert record['protocol']['truncated'] == cut
    assert record['metrics'] == {'auc/per_class': [1.0, None], 'auc/mean': None, 'n': 3}
    assert record['checkpoint'] == dict(name='nowhere.pth', sha256=None)
    assert read_records(write_record(tmp_path, record)) == [record]


def test_tests_that_end_together_both_count(tmp_path, monkeypatch):
    def slow_write(path, text):
        time.sleep(0.02)  # Time for the others to read what this one is about to replace.
        return write_text(path, text)

    monkeypatch.setattr('mmlora.apis.records.write_text', slow_write)
    record = dict(method='a', dataset_name='b', backbone='c', shot=1, split=1, seed=0, metrics={},
                  protocol=dict(selection='unknown', at=None, on_test=None),
                  test=dict(config={}, list=None, images=1, majority_rate=None))
    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(write_record, tmp_path, dict(record, checkpoint=dict(name=str(number))))
    assert sorted(r['checkpoint']['name'] for r in read_records(tmp_path / RESULTS)) == ['0', '1', '2', '3']


def test_adapters_of_one_name_that_were_trained_on_other_data_both_count(tmp_path):
    record = dict(method='a', dataset_name='b', backbone='c', shot=1, split=1, seed=0, metrics={},
                  protocol=dict(selection='unknown', at=None, on_test=None), checkpoint=dict(name='adapter'),
                  test=dict(config={}, list=None, images=1, majority_rate=None))
    for trained_on in ('imagenet', 'b', 'imagenet'):
        write_record(tmp_path, dict(record, trained_on=trained_on))
    assert [r['trained_on'] for r in read_records(tmp_path / RESULTS)] == ['b', 'imagenet']


@pytest.mark.parametrize('started_from', [None, dict(method='CLIP-LoRA', shot=4, seed=2)])
def test_weights_that_were_not_trained_here_were_chosen_nobody_knows_how(started_from):
    protocol = dict(unit='epoch', step=2, total=2, started_from=started_from)
    after = ', after weights from elsewhere: unknown' if started_from else ''
    assert describe_selection(protocol, {})['selection'] == f'last epoch{after}'
    assert describe_selection(dict(method='CLIP-LoRA', shot=4), {})['selection'] == 'unknown'


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / 'a.pth').write_bytes(b'')
    meta = dict(mmlora=dict(protocol=dict(method='a')))
    assert results_folder(str(tmp_path / 'a.pth'), meta, 'work') == tmp_path
    assert results_folder('https://x/a.pth', meta, 'work').name == 'work'
    monkeypatch.setattr('os.access', lambda path, mode: False)
    assert results_folder(str(tmp_path / 'a.pth'), meta, 'work').name == 'work'
