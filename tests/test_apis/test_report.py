"""The page about a folder: what is on it, what is said to be missing, hostile names, and how it looks in a browser."""

import base64
import io
import json
import logging
import os
import re
import shutil
import struct
import subprocess
import time
import zlib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from mmpretrain.datasets import CustomDataset
from PIL import Image
from recycle_pool import write_pool

from mmlora.apis import details, train, write_report
from mmlora.apis import test as run_test
from mmlora.apis.details import add_details, with_pictures, write_details
from mmlora.apis.records import read_records, write_record
from mmlora.apis.reporting.charts import bar_chart, heat_map, histogram, line_chart, ticks
from mmlora.apis.reporting.files import read_curves, read_settings
from mmlora.apis.reporting.many import markdown
from mmlora.apis.reporting.run import place_of
from mmlora.apis.reporting.tested import PAIRS
from mmlora.datasets import loading
from mmlora.engine.adapter_folder import result_row
from mmlora.evaluation import EpisodeScores, ErrorPicture, KeepPredictions, Predictions
from mmlora.evaluation import predictions as predictions_module
from mmlora.io.atomic import write_text
from mmlora.ranks import RankRow, RankTable

HOSTILE = '<script>alert(1)</script>"\'&{{7*7}}'
EPISODES = dict(n_way=3, n_shot=1, n_query=5, n_episodes=4, seed=0)
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


class Page(HTMLParser):
    """What a browser would find on a page: tags with their attributes, texts, and ids."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ''
        self.source = Path(path).read_text(encoding='utf-8')
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f' {data}'

    @property
    def sections(self):
        return [attrs['id'] for tag, attrs in self.tags if tag == 'section' and 'id' in attrs]

    def check_self_contained(self):
        """Nothing on the page runs or loads anything."""
        assert not {'script', 'iframe', 'object', 'embed', 'base', 'form'} & {tag for tag, _ in self.tags}
        for tag, attrs in self.tags:
            assert not [name for name in attrs if name.startswith('on')], (tag, attrs)
            for name in ('src', 'href', 'xlink:href', 'action', 'poster'):
                assert (attrs.get(name) or '#').startswith(('#', 'data:image/png;base64,', 'data:,')), (tag, attrs)
        assert 'url(' not in self.source and '@import' not in self.source
        assert any(attrs.get('http-equiv') == 'Content-Security-Policy' for _, attrs in self.tags)


@pytest.fixture(scope='module')
def run(tmp_path_factory, images):
    """The folder of a run that was trained and tested, with ranks, episodes and a pool beside."""
    folder = tmp_path_factory.mktemp('report') / 'run'
    with tiny.quick_runs():
        cfg = tiny.tiny_config(images, folder, default_hooks__logger__interval=1, test_evaluator=dict(type='Accuracy'),
                               optim_wrapper__optimizer__lr=1e-9)  # so that the classes stay confused
        train(cfg)
        # mmengine names the folder of a log by the second it began in, and a run as short as this one ends within it.
        time.sleep(1.0)
        run_test(cfg, str(folder / 'epoch_1.pth'))
    rows = tuple(RankRow(f'layers.{i}.attn.qkv', 2 + i, 'stable_rank', 2.3, params=64, slice=s)
                 for i in range(2) for s in 'qv')
    write_text(folder / 'ranks.json', RankTable(rows, 'weights').dumps())
    EpisodeScores(np.array([50.0, 60, 70, 80]), EPISODES, 'x').write(folder / 'details' / 'a_b_1.episode.episodes.json')
    write_pool(folder / 'pool')
    return folder


def errors_of(labels, predictions, classes, size=12):
    """Return predictions with a picture of each error."""
    content = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), 200, np.uint8)).save(content, 'PNG')
    png = base64.b64encode(content.getvalue()).decode()
    wrong = [i for i, (a, b) in enumerate(zip(labels, predictions, strict=True)) if a != b]
    return Predictions(labels, predictions, [0.9] * len(labels), classes, tuple(
        ErrorPicture(i, f'{HOSTILE}.png', png) for i in wrong))


def predictions(**changes):
    """Return the text of a file of predictions with other entries."""
    return json.dumps(dict(format='mmlora predictions 1', classes=['a', 'b'], labels=[0, 1], predictions=[1, 1],
                           scores=[0.5, 0.5], errors=[]) | changes)


def png_header(width, height):
    """Return a PNG without pixels that says it has so many."""
    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return base64.b64encode(b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', b'') + chunk(b'IEND', b'')).decode()


def test_a_run_is_shown_whole(run):
    page = Page(write_report(run))
    page.check_self_contained()
    assert page.sections == ['results', 'run', 'curves', 'ranks', 'confusion', 'errors', 'episodes', 'inverted',
                             'missing']
    kept = Predictions.read(next((run / 'details').glob('*.predictions.json')))
    record = json.loads((run / 'results.json').read_text())['results'][0]
    assert record['details'] == {'predictions': next((run / 'details').glob('*.predictions.json')).relative_to(
        run).as_posix()}
    hits = sum(count for a, b, count in zip(*kept.confusions(), strict=True) if a == b)
    assert 100 * hits / 36 == pytest.approx(record['metrics']['accuracy/top1']) and kept.confusions()[2].sum() == 36
    row = result_row('', 'accuracy/top1', 100 * hits / 36, 36)
    assert f'accuracy/top1, 95 % interval {row["low"]:.2f} to {row["high"]:.2f}' in page.text
    for text in (f'{hits} of 36 images are classified rightly', 'python tools/train.py', 'AdamW', 'Training loss',
                 'Mean 65.00 ± 12.65 % over 4 episodes', '22 of 24 images', 'LoRA 00001', 'rank 3, stable_rank 2.300',
                 '/vis_data/config.py --work-dir',
                 'class2', f'{record["metrics"]["accuracy/top1"]:.2f}'):
        assert text in page.text or text in page.source, text
    alts = [attrs['alt'] for tag, attrs in page.tags if tag == 'img']
    assert len(alts) >= 22 and all(alts)
    assert all(attrs.get('role') == 'img' and attrs['aria-label'] for tag, attrs in page.tags if tag == 'svg')
    assert len(page.source) < 2e6
    assert 'Weights loaded from' not in page.text  # by the test, whose config lies at the top of the folder
    assert write_report(run, run / 'other.html') == (run / 'other.html').resolve()


def test_hostile_names_are_text(tmp_path):
    tmp_path = tmp_path / '<img src=x onerror=alert(1)>'
    write_text(tmp_path / 'results.json', '{')
    kept = errors_of([0, 1, 1], [1, 1, 0], [HOSTILE, f'b{HOSTILE}'])
    kept.write(tmp_path / 'details' / f'{HOSTILE.replace("/", "-")}_1.predictions.json')
    write_text(tmp_path / 'ranks.json', RankTable((RankRow(f'layers.0.{HOSTILE}', 1),), HOSTILE).dumps())
    write_text(tmp_path / 'a.py', f'method = {HOSTILE!r}\nopen({str(tmp_path / "ran")!r}, "w")\nseed = exit()\n')
    write_text(tmp_path / 'summary.md', f'# {HOSTILE}\n\n| a | {HOSTILE} |\n| --- | --- |\n| 1 | {HOSTILE} |\n')
    write_text(tmp_path / 't' / 'vis_data' / 'scalars.json', json.dumps(
        {'iter': 1, 'step': 1, 'loss': 1.0, f'loss_{HOSTILE}': 2.0, f'x{HOSTILE}': 1.0}) + '\n')
    page = Page(write_report(tmp_path))
    page.check_self_contained()
    assert page.sections == ['run', 'curves', 'ranks', 'confusion', 'errors', 'tables', 'missing']
    assert '<script' not in page.source and '{{7*7}}' in page.source and page.text.count('onerror=') >= 3
    assert page.text.count('alert(1)') > 10 and not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('name, text, section', [
    ('results.json', '{', 'Results'), ('ranks.json', '{"rows": [{"module": 3}]}', 'Ranks'),
    ('details/a.predictions.json', '{"format": "mmlora predictions 1", "labels": [0]}', 'Confusion matrix'),
    ('details/a.predictions.json', json.dumps(dict(format='mmlora predictions 1', labels=[0], predictions=[1 << 30],
                                                   scores=[0.5], classes=[], errors=[])), 'Confusion matrix'),
    ('details/a.episodes.json', '[]', 'Episodes'), ('t/vis_data/scalars.json', '{\n{"loss": 1}\n', 'Curves'),
    ('epoch_1.pth', 'no checkpoint', 'Run'), ('index.json', '{"format": "mmlora-pool-1"}', 'Inverted images'),
    ('epoch_1.pth', [1], 'Run'), ('epoch_1.pth', dict(protocol=[1]), 'Run'),
    ('details/a.predictions.json', predictions(errors=[dict(index=0, path='a', png=png_header(60_000, 60_000))]),
     'Misclassified images'),
    ('details/a.predictions.json', predictions(errors=[dict(index=0, path='a', png=5)]), 'Misclassified images'),
    ('details/a.predictions.json', predictions(errors=['a']), 'Confusion matrix'),
    ('details/a.episodes.json', json.dumps(dict(
        format='mmlora episodes 1', episodes=dict(n_episodes=2), images='', accuracies=[1e308, -1e308])), 'Episodes'),
    ('run/results.json', '[' * 100_000, 'Tables'), ('run/results.json', '{"results": [{"metrics": [1]}]}', 'Tables'),
])
def test_damaged_files_are_named_and_the_rest_is_shown(run, tmp_path, name, text, section):
    folder = tmp_path / 'run'
    folder.mkdir()
    shutil.copy(run / 'ranks.json', folder)
    if isinstance(text, str):
        write_text(folder / name, text)
    else:
        torch.save(dict(state_dict={}, meta=dict(epoch=1, mmlora=text)), folder / name)
    page = Page(write_report(folder))
    alert = page.source.partition('role="alert"')[2].partition('</section>')[0]
    assert re.search(rf'<b>{section}</b>: [^<]*{Path(name).name}', alert), alert
    assert 'ranks' in page.sections or section == 'Ranks' or section == 'Run'


def test_what_cannot_be_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match='is no folder'):
        write_report(tmp_path / 'none')
    with pytest.raises(ValueError, match='holds nothing to show'):
        write_report(tmp_path)
    with pytest.raises(ValueError, match=r'ending in \.html'):
        write_report(tmp_path, tmp_path / 'page.pdf')
    errors_of([0, 1], [0, 1], ['a', 'b']).write(tmp_path / 'details' / 'a.predictions.json')
    text = Page(write_report(tmp_path)).text
    for wanted in ('there are none: all images are classified rightly', 'python tools/test.py CONFIG CHECKPOINT',
                   'tools/invert.py writes one', 'LocalVisBackend'):
        assert wanted in text


@pytest.mark.parametrize('name, texts', [
    ('hub_vit-micro_glyphs-5way', ['Members of the hub', '24', 'LoRAs', 'LATIN SMALL LETTER']),
    ('banks_vit-micro_glyphs', ['Banks of LoRAs', 'Checkpoints', 'accuracy/top1']),
])
def test_hubs_and_banks_are_listed(tmp_path, name, texts):
    page = Page(write_report(tiny.ROOT / 'mmlora' / 'assets' / name, tmp_path / 'page.html'))
    assert page.sections == ['members', 'missing'] and not any(text not in page.text for text in texts)
    assert page.source.count('<svg') == 1


def test_many_classes_are_shown_by_what_is_confused(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), 3)
    chosen = np.where(rng.random(180) < 0.5, labels, (labels + 7) % 60)
    errors_of(labels.tolist(), chosen.tolist(), [f'class {i}' for i in range(60)]).write(
        tmp_path / 'details' / 'a.predictions.json')
    source = Page(write_report(tmp_path)).source
    assert 'Of 60 classes the matrix shows the 40' in source and '<details open>' in source
    assert source.count('<tr>') == PAIRS + 1


@pytest.mark.parametrize('first, second', [
    (1e308, -1e308), (10**400, 1), (5e-324, 0), (1.0, 1.0000000000000002), (float('inf'), 2),
], ids=['without a span', 'no float', 'denormal', 'close', 'infinite'])
def test_curves_of_extreme_numbers_are_drawn(tmp_path, first, second):
    rows = [dict(loss=first, iter=1), dict(loss=second, iter=2), dict(loss=1, iter=10**9)]
    write_text(tmp_path / 't' / 'vis_data' / 'scalars.json', '\n'.join(map(json.dumps, rows)))
    page = Page(write_report(tmp_path))
    assert 'curves' in page.sections and 'role="alert"' not in page.source and 'nan' not in page.source

    write_text(tmp_path / 't' / 'vis_data' / 'scalars.json', json.dumps(dict(loss=float('nan'), iter=1)))
    with pytest.raises(ValueError, match='holds no number that is finite'):
        write_report(tmp_path)


def test_huge_numbers_of_classes_take_no_matrix(tmp_path):
    write_text(tmp_path / 'details' / 'a.predictions.json', predictions(classes=[], labels=[0, (1 << 20) - 1]))
    page = Page(write_report(tmp_path))
    assert 'Of 1048576 classes the matrix shows the 40' in page.source
    assert '0 taken for 1: 1 of 1' in page.source and 'role="alert"' not in page.source


class Tested:
    """What is left of a runner that has tested."""

    def __init__(self, results, classes=('a', 'b')):
        metric = KeepPredictions()
        metric.dataset_meta = dict(classes=classes)
        metric.compute_metrics(results)
        self.test_evaluator = SimpleNamespace(metrics=[metric])
        self.test_dataloader = SimpleNamespace(dataset=())
        self.model = SimpleNamespace(data_preprocessor=None)
        self.metric = metric


def fail_with(error):
    """Return a function that raises."""
    def fail(*_):
        raise error

    return fail


def test_a_head_may_have_more_outputs_than_classes(tmp_path, images, monkeypatch):
    kept = Tested([(0, 3, 0.5), (1, 1, 0.5)]).metric.kept
    assert kept.classes == ['a', 'b', 'output 2', 'output 3'] and kept.predictions == [3, 1]
    sizes = dict(data_preprocessor__num_classes=9, model__head__num_classes=9)
    with tiny.quick_runs():
        cfg = tiny.tiny_config(images, tmp_path, train_cfg__max_epochs=1, **sizes)
        train(cfg)
        checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
        checkpoint['state_dict']['head.layers.head.bias'][7] = 100
        torch.save(checkpoint, tmp_path / 'epoch_1.pth')
        monkeypatch.setattr(Predictions, 'write', fail_with(OSError(28, 'No space left on device')))
        metrics = run_test(cfg, str(tmp_path / 'epoch_1.pth'))
        [entry] = read_records(tmp_path / 'results.json')
        assert entry['metrics'] == metrics and 'details' not in entry
        monkeypatch.undo()
        run_test(cfg, str(tmp_path / 'epoch_1.pth'))
    [entry] = read_records(tmp_path / 'results.json')
    kept = Predictions.read(tmp_path / entry['details']['predictions'])
    assert set(kept.predictions) == {7} and kept.name_of(7) == 'output 7' and len(kept.classes) == 8


@pytest.mark.parametrize('sample, level, why', [
    (dict(pred_score=torch.tensor([float('nan'), 0])), 'WARNING', 'the scores of an image are NaN or infinite'),
    (dict(gt_label=torch.tensor([-1])), 'WARNING', 'labels must be numbers of classes from 0 to 1'),
    (dict(gt_label=torch.tensor([1 << 40])), 'WARNING', 'labels must be numbers of classes'),
    (dict(gt_label='x'), 'WARNING', 'labels or scores of an image are no numbers'),
    (dict(pred_label=torch.tensor([2])), 'WARNING', 'class 2 was chosen of an image with 2 scores'),
    (dict(gt_label=torch.tensor([0, 1])), 'INFO', 'images have several labels'),
    (dict(gt_label=None), 'INFO', 'the model gives no scores of classes'),
    (None, 'WARNING', 'labels, predictions and scores must be as many'),
])
def test_why_predictions_are_not_kept(tmp_path, monkeypatch, sample, level, why):
    said = []
    monkeypatch.setattr(predictions_module, 'print_log', lambda text, logger, level: said.append((text, level)))
    collect = KeepPredictions()
    collect.process(None, [dict(gt_label=torch.tensor([0]), pred_label=torch.tensor([1]),
                                pred_score=torch.tensor([0.5, 0.5])) | sample] if sample else [])
    runner = Tested(collect.results)
    [(text, said_level)] = said
    assert runner.metric.kept is None and why in text and logging.getLevelName(said_level) == level
    found = write_details(tmp_path, runner, ENTRY)
    assert why in found['not_kept'] and not (tmp_path / 'details').exists()
    write_record(tmp_path, dict(ENTRY, details=found))
    page = Page(write_report(tmp_path))
    assert f'the predictions were not kept: {why}' in page.text.replace('\n', ' ')


ENTRY = dict(
    method='m', dataset_name='d', backbone='b', shot=None, split=None, seed=0, metrics={'accuracy/top1': 50.0},
    checkpoint=dict(name='epoch_1.pth'), trained_on=None,
    test=dict(config=None, list=None, images=2, majority_rate=None, fingerprint=None),
    protocol=dict(selection='last epoch', at=None, on_test=None), date='2026-01-01')


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), ImportError('no client of s3'),
                                   MemoryError()], ids=repr)
def test_details_that_fail_cost_no_result(tmp_path, monkeypatch, error):
    said, runner = [], Tested([(0, 1, 0.5), (1, 1, 0.5)])
    monkeypatch.setattr(details, 'print_log', lambda text, logger, level: said.append(text))
    write_record(tmp_path, ENTRY)
    monkeypatch.setattr(Predictions, 'write', fail_with(error))
    add_details(tmp_path, runner, ENTRY)
    assert len(said) == 1 and type(error).__name__ in said[0] and str(tmp_path / 'details') in said[0]
    assert [one['metrics'] for one in read_records(tmp_path / 'results.json')] == [ENTRY['metrics']]
    monkeypatch.undo()
    add_details(tmp_path, runner, ENTRY)
    [entry] = read_records(tmp_path / 'results.json')
    assert (tmp_path / entry['details']['predictions']).is_file()


def test_pictures_are_read_as_the_data_set_reads_them(images, monkeypatch):
    options = tiny.tiny_config(images, images / 'x').test_dataloader.dataset
    options.pop('type')
    built, said = CustomDataset(**options), []
    monkeypatch.setattr(details, 'print_log', lambda text, logger, level: said.append(text))
    kept, arguments = Predictions([0] * 36, [0] * 35 + [1], [0.5] * 36), []
    loader = built.pipeline.transforms[0]
    loader.backend_args = dict(backend='local')
    real = loading.fileio.get
    monkeypatch.setattr(loading.fileio, 'get', lambda path, backend_args=None: (
        arguments.append(backend_args), real(path, backend_args))[1])
    assert with_pictures(kept, built).errors[0].png and arguments == [dict(backend='local')] and not said
    monkeypatch.setattr(loading.fileio, 'get', lambda path, backend_args=None: b'no image')
    found = with_pictures(kept, built).errors
    assert found[0].index == 35 and found[0].png is None
    assert said[0].startswith('1 of 1 misclassified images are kept without a picture; the first: image 35')


def test_validations_lie_at_their_iterations():
    rows = [dict(loss=1.0, iter=50, step=50), {'auc/mean': 7.0, 'step': 60}, {'auc/mean': 8.0, 'step': 2}]
    assert read_curves(['\n'.join(map(json.dumps, rows))]).val == {'auc/mean': [(60, 7), (50, 8)]}


def test_curves_of_a_run_that_was_resumed():
    first = '\n'.join(json.dumps(row) for row in (
        dict(loss=3.0, lr=0.1, base_lr=0.1, iter=1, epoch=1, step=1), {'accuracy/top1': 50.0, 'step': 1},
        dict(loss=2.0, lr=0.1, iter=2, epoch=2, step=2), {'accuracy/top1': 60.0, 'step': 2},
        dict(loss=9.0, lr=0.1, iter=3, epoch=3, step=3), {'accuracy/top1': 9.0, 'step': 3}))
    second = json.dumps(dict(loss=1.0, lr=float('nan'), iter=3, epoch=3, step=3)) + '\n{"accuracy/top1": 7'
    found = read_curves([first, second])
    assert found.train == dict(loss=[(1, 3), (2, 2), (3, 1)], lr=[(1, 0.1), (2, 0.1)])
    assert found.val == {'accuracy/top1': [(1, 50), (2, 60)]}


@pytest.mark.parametrize('text, expected', [
    ('a = dict(b=[1, -2.5, (True, None)], c={"d": "e"})', dict(a=dict(b=[1, -2.5, [True, None]], c=dict(d='e')))),
    ('a = 1\nb = open("x")\nc = dict(**z)\nd = [f()]\ne = 2', dict(a=1, c={}, e=2)), ('a = (', {}), ('', {}),
])
def test_settings_are_read_and_not_run(text, expected):
    assert read_settings(text) == expected


@pytest.mark.parametrize('module, own_slice, expected', [
    ('layers.3.attn.qkv', 'q', ('3', 'q')), ('layers.11.attn.proj', '', ('11', 'proj')),
    ('layers.0.ffn.layers.0.0', '', ('0', 'fc1')), ('layers.0.ffn.layers.1', '', ('0', 'fc2')),
    ('stages.1.blocks.4.attn.w_msa.qkv', '', ('1.4', 'qkv')), ('visual.layers.2.attn.qkv', 'v', ('visual 2', 'v')),
    ('head', '', ('head', 'head')),
])
def test_layers_have_places(module, own_slice, expected):
    assert place_of(module, own_slice) == expected


def test_charts_place_their_points():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1] and ticks(93, 97.1) == [93, 94, 95, 96, 97]
    line = line_chart('t', {'a': [(0, 0), (10, 1)], 'b': [(5, 1)]}, 'x', 'y')
    points = re.findall(r'points="([^"]*)"', line)
    (x0, y0), (x1, y1) = (map(float, point.split(',')) for point in points[0].split())
    assert x0 == 84 and x1 == 626 and y0 > y1 and float(points[1].split(',')[0]) == (x0 + x1) / 2
    bars = re.findall(r'height="([\d.]+)"><title>(\w+)', bar_chart('t', {'0': {'q': 2, 'v': 4}}, 'x', 'y', {
        '0 q': 'two', '0 v': 'four'}))
    assert [name for _, name in bars] == ['two', 'four'] and float(bars[1][0]) == pytest.approx(2 * float(bars[0][0]))
    assert sum(int(n) for n in re.findall(r'<title>(\d+) from', histogram('t', [1.0, 2, 2, 3], 2, 0.5, 'x', 'y'))) == 4
    cells = re.findall(r'<title>(\w) taken for (\w): (\d) of (\d)', heat_map('t', np.array([[3, 1], [0, 2]]), 'ab'))
    assert cells == [('a', 'a', '3', '4'), ('a', 'b', '1', '4'), ('b', 'b', '2', '2')]
    assert '<td>c</td>' in markdown('| a | b |\n|---|---|\n| c | d |') and '<li>x</li>' in markdown('- x')


def test_pictures_of_the_surest_errors(images):
    options = tiny.tiny_config(images, images / 'x').test_dataloader.dataset
    options.pop('type')
    built = CustomDataset(**options)
    kept = Predictions([0] * 36, [0] * 33 + [1, 2, 1], [0.5] * 33 + [0.6, 0.9, 0.7])
    found = with_pictures(kept, built, limit=2).errors
    assert [one.index for one in found] == [34, 35] and found[0].path == 'class2/8.png'
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0].png))))
    assert np.array_equal(shown, np.asarray(Image.open(images / 'class2' / '8.png').convert('RGB')))
    prepared = with_pictures(kept, Prepared(**options), to_rgb=True, limit=1).errors[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(prepared.png)))), shown)
    assert with_pictures(Predictions([0], [1], [1.0]), built).errors == ()


class Prepared(CustomDataset):
    """Images without files of their own, such as drawn ones."""

    def get_data_info(self, idx):
        return {name: value for name, value in super().get_data_info(idx).items() if name != 'img_path'}

    def __getitem__(self, idx):
        return self.pipeline(super().get_data_info(idx))


@pytest.mark.parametrize('size, dark', [((1200, 5000), False), ((400, 2600), True)], ids=['wide', 'narrow and dark'])
def test_the_page_in_a_browser(run, tmp_path, size, dark):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f'no browser is installed (looked for {", ".join(BROWSERS)})')
    page, picture = write_report(run, tmp_path / 'page.html'), tmp_path / 'page.png'
    command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--enable-logging=stderr',
               f'--user-data-dir={tmp_path / "profile"}', '--host-resolver-rules=MAP * ~NOTFOUND',
               '--virtual-time-budget=2000', f'--window-size={size[0]},{size[1]}', f'--screenshot={picture}',
               *(['--blink-settings=preferredColorScheme=0'] if dark else []), page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'HOME': str(tmp_path)})
    assert picture.exists(), done.stderr
    assert 'CONSOLE' not in done.stderr, done.stderr
    pixels = np.asarray(Image.open(picture).convert('RGB')).astype(np.int32)
    assert pixels.shape == (size[1], size[0], 3)
    ground = pixels[2, 2]
    assert bool(ground.mean() < 60) is dark
    colours = np.unique(pixels @ np.array([1 << 16, 1 << 8, 1], np.int32))
    assert len(colours) > 200  # text, curves and pictures, not one colour
    drawn = (np.abs(pixels - ground).sum(-1) > 60).mean(1)  # by rows of pixels
    assert (drawn[:1500].reshape(-1, 100).max(1) > 0.01).all(), 'a part of the page is blank'
    colour = np.abs(pixels - ((106, 168, 247) if dark else (31, 111, 209))).max(-1) < 4  # the first one of charts
    top = np.flatnonzero(colour.any(1))[0]
    blue = pixels[top : top + 150, :, 2] - pixels[top : top + 150, :, 0] > 50
    assert blue.any(0).sum() > 200, 'no curve is drawn'
    if not dark:  # Else they lie below the picture.
        assert (np.abs(pixels - (133, 128, 128)).max(-1) < 3).sum() > 1000, 'the synthetic images are not shown'


