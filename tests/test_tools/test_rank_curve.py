"""The rank curve of a tiny run: its last point is what the test tool says, its others are models of lower rank."""

import csv
import io
import json
import math

import pytest
import tiny
import torch
from mmengine.config import Config
from PIL import Image

from mmlora.apis import rank_curve, train, truncate_checkpoint
from mmlora.apis import test as run_test
from mmlora.apis.rank_curve import on_split
from mmlora.apis.rank_curve_files import CurvePoint, curve_to_figure, curve_to_text

RANKS = [[3, 4], [4, 2]]
LORA = dict(model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks=RANKS, model__backbone__lora_alpha=64)
HOOKS = dict(custom_hooks=[dict(type='SPUHook', targets='qkv'), dict(type='EMAHook', momentum=0.5)])
SIZE = 4 * 16  # Parameters of one component of q and v; the projection has half as many.
WHOLE = 7 * SIZE + 6 * SIZE // 2


@pytest.fixture(scope='module')
def trained(tmp_path_factory, images):
    """The folder of a run that has not learned everything, with a validation set of its own."""
    folder = tmp_path_factory.mktemp('run')
    other = tiny.make_images(tmp_path_factory.mktemp('data') / 'val', per_class=8)
    with tiny.quick_runs():
        cfg = tiny.tiny_config(images, folder, **LORA, **HOOKS, val_dataloader__dataset__data_root=str(other))
        cfg.model.train_cfg = None
        cfg.train_cfg.val_interval = 3
        train(cfg)
    return folder


def rows(folder) -> list[dict[str, str]]:
    with open(folder / 'rank_curve.csv', newline='') as file:
        return list(csv.DictReader(file))


def test_the_tool(tmp_path, trained):
    call = (trained / 'tiny_vit.py', trained / 'epoch_3.pth', '--work-dir', tmp_path)
    tiny.call_tool('rank_curve', *call, '--split', 'test', '--ranks', '1,2,9', '--fractions', '0.5')
    tiny.call_tool('test', *call, '--out', tmp_path / 'metrics.json', '--out-item', 'metrics')
    table = rows(tmp_path)
    assert [(row['kind'], row['value']) for row in table] == [
        ('rank', '1'), ('rank', '2'), ('rank', '9'), ('fraction', '0.5'), ('full', '')]  # yapf: disable
    active = [2 * SIZE + 2 * SIZE // 2, 4 * SIZE + 4 * SIZE // 2, 7 * SIZE + 6 * SIZE // 2,
              4 * SIZE + 3 * SIZE // 2, 7 * SIZE + 6 * SIZE // 2]  # yapf: disable
    assert [int(row['active_parameters']) for row in table] == active
    scores = [float(row['accuracy/top1']) for row in table]
    assert scores[-1] == scores[2] == json.loads((tmp_path / 'metrics.json').read_text())['accuracy/top1']
    assert len(set(scores)) > 1
    assert {row['data'] for row in table} == {'CustomDataset, test, 36 images'}
    with Image.open(tmp_path / 'rank_curve.png') as picture:
        assert min(picture.size) > 300


def test_the_console_ends_with_the_curve_and_the_log_file_has_everything(tmp_path, trained, capsys):
    call = (trained / 'tiny_vit.py', trained / 'epoch_3.pth', '--work-dir', tmp_path, '--ranks', '2', '--keep-scaling')
    assert tiny.call_tool('rank_curve', *call) == 0
    console = capsys.readouterr().out
    [log] = tmp_path.glob('*/*.log')
    log = log.read_text()
    assert 'Epoch(test)' not in console and log.count('Epoch(test) [') >= 2
    for text in (console, log):
        assert text.index('Evaluating full rank: ') < text.index(f'Evaluating rank 2: {4 * SIZE + 4 * SIZE // 2:,} ')
        *_, title, head, low, full, files = text.rstrip().splitlines()
        assert title.endswith('epoch_3.pth on CustomDataset, val, 24 images, scaling of the full rank kept:')
        assert head.split() == ['rank', 'parameters', 'accuracy/top1']
        scores = [f'{float(row["accuracy/top1"]):.2f}' for row in rows(tmp_path)]
        assert low.split() == ['2', f'{4 * SIZE + 4 * SIZE // 2:,}', scores[0]]
        assert full.split() == ['full', f'{7 * SIZE + 6 * SIZE // 2:,}', scores[1]]
        assert files == f'Written to {tmp_path / "rank_curve.csv"} and {tmp_path / "rank_curve.png"}'


def test_validation_data_and_powers_of_two_by_default(tmp_path, trained):
    cfg = Config.fromfile(trained / 'tiny_vit.py')
    points = rank_curve(cfg, str(trained / 'epoch_3.pth'), work_dir=str(tmp_path), out=str(tmp_path / 'out'))
    assert [(point.kind, point.value) for point in points] == [('rank', 1), ('rank', 2), ('full', None)]
    assert [row['data'] for row in rows(tmp_path / 'out')] == ['CustomDataset, val, 24 images'] * 3
    assert 'val_dataloader' in cfg and cfg.test_dataloader.dataset.data_root != cfg.val_dataloader.dataset.data_root


def test_the_scaling_follows_its_rule_or_stays(tmp_path, trained):
    cfg = Config.fromfile(trained / 'tiny_vit.py')
    seen = []
    for rescale in (True, False):
        folder = tmp_path / str(rescale)
        options = dict(split='test', ranks=[1, 2, 3], work_dir=str(folder), rescale=rescale)
        seen.append([p.metrics['accuracy/top1'] for p in rank_curve(cfg, str(trained / 'epoch_3.pth'), **options)])
        assert {row['scaling'] for row in rows(folder)} == {'by rule' if rescale else 'full rank'}
    assert seen[0][-1] == seen[1][-1] and seen[0] != seen[1]


@pytest.mark.parametrize(('point', 'rank'), [(dict(rank=2), 2), (dict(fraction=0.5), [[2, 2], [2, 1]])])
def test_a_point_is_what_a_model_of_that_rank_says(tmp_path, trained, point, rank):
    cfg, checkpoint = Config.fromfile(trained / 'tiny_vit.py'), trained / 'epoch_3.pth'
    [(kind, value)] = point.items()
    [low, full] = rank_curve(cfg, str(checkpoint), split='test', **{f'{kind}s': [value]}, work_dir=str(tmp_path))
    tiny.call_tool('truncate_rank', trained / 'tiny_vit.py', checkpoint, tmp_path / 'cut.pth', f'--{kind}', value)
    assert low.metrics != full.metrics
    # With the config of the full rank: the checkpoint says otherwise.
    assert run_test(cfg, str(tmp_path / 'cut.pth'), work_dir=str(tmp_path / 'cut')) == low.metrics
    cut, whole = tiny.load(tmp_path / 'cut.pth'), tiny.load(checkpoint)
    assert set(cut) == {'meta', 'state_dict'} and cut['meta']['mmlora']['truncated'][kind] == value
    for key, value in whole['state_dict'].items():
        other = cut['state_dict'][key]
        assert torch.equal(other, value[:other.shape[0], :other.shape[1]] if '.lora_' in key else value), key
    assert sum(v.numel() for k, v in cut['state_dict'].items() if '.lora_' in k) == low.active_parameters
    # And as the weights of a model that asks for that rank itself.
    cut['meta'].pop('mmlora')
    torch.save(cut, tmp_path / 'bare.pth')
    cfg.model.backbone.lora_ranks = rank
    cfg.pop('rank_table', None)
    assert run_test(cfg, str(tmp_path / 'bare.pth'), work_dir=str(tmp_path / 'bare')) == low.metrics


@pytest.mark.parametrize(('point', 'text'), [
    (('--rank', 3), f'4 modules, rank <= 3, {6 * SIZE + 5 * SIZE // 2:,} of {WHOLE:,} adapter parameters'),
    (('--fraction', 0.5), f'4 modules, fraction 0.5 of each rank, {4 * SIZE + 3 * SIZE // 2:,} of {WHOLE:,} adapter '
                          'parameters'),
    (('--rank', 4), f'4 modules, rank <= 4, {WHOLE:,} of {WHOLE:,} adapter parameters: nothing was cut, as the largest '
                    'rank is 4; the file is a copy of the weights'),
])
def test_the_tool_says_what_it_cut(tmp_path, trained, capsys, point, text):
    out = tmp_path / 'cut.pth'
    assert tiny.call_tool('truncate_rank', trained / 'tiny_vit.py', trained / 'epoch_3.pth', out, *point) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [text, str(out)]


def test_the_cut_file_says_how_its_ranks_were_chosen(tmp_path, trained):
    state = tiny.load(trained / 'epoch_3.pth')
    table = state['meta']['mmlora']['rank_table']
    whole = [3 * SIZE, 4 * SIZE // 2, 4 * SIZE, 2 * SIZE // 2]
    table.update(source='some weights', sha256='0a', budget={'mean_rank': 3})
    for row, params in zip(table['rows'], whole, strict=True):
        row.update(criterion='stable_rank', value=row['rank'] + 0.1, params=params)
    torch.save(state, tmp_path / 'chosen.pth')
    cfg = Config.fromfile(trained / 'tiny_vit.py')
    for rank, source in ((3, 'some weights, cut to rank <= 3'), (4, 'some weights')):
        truncate_checkpoint(cfg, str(tmp_path / 'chosen.pth'), str(tmp_path / 'cut.pth'), rank=rank)
        cut = tiny.load(tmp_path / 'cut.pth')['meta']['mmlora']['rank_table']
        assert (cut['source'], cut['sha256'], cut['budget']) == (source, '0a', {'mean_rank': 3})
        for row, old, params in zip(cut['rows'], table['rows'], whole, strict=True):
            low = min(rank, old['rank'])
            assert row == {**old, 'rank': low, 'params': params * low // old['rank']}


@pytest.mark.parametrize(('tool', 'words'), [('rank_curve', ()), ('truncate_rank', ('cut.pth', '--rank', 1))])
def test_errors_of_the_user_are_one_line(tmp_path, trained, capsys, tool, words):
    words = [tmp_path / word if word == 'cut.pth' else word for word in words]
    assert tiny.call_tool(tool, trained / 'tiny_vit.py', tmp_path / 'none.pth', *words) == 2
    assert capsys.readouterr().err.startswith(f'error: {tmp_path / "none.pth"} ')
    assert tiny.call_tool(tool, tmp_path / 'none.py', trained / 'epoch_3.pth', *words) == 2
    assert 'none.py' in capsys.readouterr().err
    if tool == 'truncate_rank':
        words[-1] = 0
        assert tiny.call_tool(tool, trained / 'tiny_vit.py', trained / 'epoch_3.pth', *words) == 2
        assert capsys.readouterr().err == 'error: the rank must be at least 1, got 0\n'


def test_what_cannot_be_cut(tmp_path, trained, whole_run, images):
    cfg, checkpoint = Config.fromfile(trained / 'tiny_vit.py'), str(trained / 'epoch_3.pth')
    out = str(tmp_path / 'cut.pth')
    for options, match in ((dict(), 'either a rank'), (dict(rank=0), 'at least 1, got 0')):
        with pytest.raises(ValueError, match=match):
            truncate_checkpoint(cfg, checkpoint, out, **options)
    with pytest.raises(ValueError, match="cut.onnx' must end in .pth"):
        truncate_checkpoint(cfg, checkpoint, str(tmp_path / 'cut.onnx'), rank=1)
    with pytest.raises(ValueError, match='no adapted layer'):
        truncate_checkpoint(tiny.tiny_config(images, tmp_path), str(whole_run / 'epoch_3.pth'), out, rank=1)
    state = tiny.load(checkpoint)
    state['meta'].pop('mmlora')
    torch.save(state, tmp_path / 'silent.pth')
    cfg.model.backbone.lora_ranks = 1
    with pytest.raises(ValueError, match=r'lora_A_q is \(3, 16\) and cut \(2, 16\).*ask for \(1, 16\).*lora_ranks'):
        truncate_checkpoint(cfg, str(tmp_path / 'silent.pth'), out, rank=2)
    with pytest.raises(ValueError, match='has no backbone.layers.0.attn.qkv.lora_A_q: its layers'):
        truncate_checkpoint(cfg, str(whole_run / 'epoch_3.pth'), out, rank=2)
    assert not (tmp_path / 'cut.pth').exists()


@pytest.mark.parametrize(('options', 'error', 'match'), [
    (dict(ranks=[2, 0]), ValueError, 'at least 1, got 0'),
    (dict(ranks=[1.5]), TypeError, '1.5'),
    (dict(fractions=[1.2]), ValueError, 'got 1.2'),
    (dict(split='train'), ValueError, "val, test, got 'train'"),
    (dict(checkpoint='none.pth'), FileNotFoundError, 'none.pth'),
])
def test_bad_options(tmp_path, trained, options, error, match):
    cfg = Config.fromfile(trained / 'tiny_vit.py')
    checkpoint = options.pop('checkpoint', str(trained / 'epoch_3.pth'))
    with pytest.raises(error, match=match):
        rank_curve(cfg, checkpoint, work_dir=str(tmp_path), **options)
    assert not list(tmp_path.glob('rank_curve*'))


def test_a_model_without_adapters_and_a_config_without_validation(tmp_path, images, whole_run):
    cfg = tiny.tiny_config(images, tmp_path)
    with pytest.raises(ValueError, match='no adapted layer'):
        rank_curve(cfg, str(whole_run / 'epoch_3.pth'), split='test')
    cfg.val_dataloader = None
    with pytest.raises(ValueError, match="no val_dataloader and val_evaluator.*split='test'"):
        on_split(cfg, 'val')


def test_the_command_line_refuses_what_is_no_number(capsys):
    for words in (['--ranks', '1,x'], ['--fractions', 'half'], ['--split', 'train']):
        with pytest.raises(SystemExit):
            tiny.call_tool('rank_curve', 'c.py', 'w.pth', *words)
    assert "'1,x' is not a list such as 1,2,4" in capsys.readouterr().err


def test_the_picture_has_a_panel_for_each_number():
    points = [CurvePoint('rank', 1, 10, dict(a=1.0, b=2.0, c=[1])), CurvePoint('full', None, 20, dict(a=2, b=1, c=[]))]
    figure = curve_to_figure(points, 'Title')
    assert [axes.get_ylabel() for axes in figure.axes] == ['a', 'b']
    assert figure.get_suptitle() == 'Title'
    with pytest.raises(ValueError, match=r"no number among the metrics \['c'\]"):
        curve_to_figure([CurvePoint('full', None, 1, dict(c=[]))], '')


def curve_of(scores: dict[tuple, float], name: str = 'accuracy/top1') -> list[CurvePoint]:
    return [CurvePoint(kind, value, n, {name: score}) for (kind, value, n), score in scores.items()]


CLOSE = [('rank', 4, 900), ('rank', 8, 1800), ('rank', 16, 3600), ('fraction', 0.1, 670), ('fraction', 0.25, 1700),
         ('fraction', 0.5, 3500), ('full', None, 5900)]


@pytest.mark.parametrize('scores', [
    [100.0] * 7,
    [50.0] * 7,
    [95.3, 97.5, 97.8, 95.1, 97.5, 98.0, 98.2],
    [91.6, 90.5, 92.3, 99.9, 90.4, 92.2, 100.0],
])
def test_labels_do_not_collide_and_percentages_end_at_100(scores):
    figure = curve_to_figure(curve_of(dict(zip(CLOSE, scores, strict=True))), 'Title')
    figure.savefig(io.BytesIO(), dpi=120)
    [axes] = figure.axes
    assert axes.get_ylabel() == 'accuracy/top1, %' and max(scores) <= axes.get_ylim()[1] <= 100
    figure.draw_without_rendering()
    notes = [text for text in axes.texts if text.get_text()]
    assert [note.get_text() for note in notes] == ['4', '8', '16', '0.1 r', '0.25 r', '0.5 r', 'full']
    notes += figure.texts
    boxes = [note.get_window_extent() for note in notes]
    hit = [(a.get_text(), b.get_text()) for i, a in enumerate(notes) for j, b in enumerate(notes)
           if i < j and boxes[i].overlaps(boxes[j])]
    assert not hit
    markers = axes.transData.transform([(n, score) for (_, _, n), score in zip(CLOSE, scores, strict=True)])
    assert not [note.get_text() for note, box in zip(notes, boxes, strict=True) if box.count_contains(markers)]


@pytest.mark.parametrize('name', ['loss', 'multi-label/support', 'auc/undefined_classes'])
def test_what_is_no_percentage_has_its_own_axis(name):
    figure = curve_to_figure(curve_of({('rank', 1, 10): 90, ('full', None, 20): 120}, name), 'Title')
    assert figure.axes[0].get_ylabel() == name and figure.axes[0].get_ylim()[1] > 120


@pytest.mark.parametrize(('low', 'full', 'named'), [(math.nan, 50.0, ['full']), (math.nan, math.nan, [])])
def test_what_is_undefined_is_left_out_of_the_picture(low, full, named):
    points = curve_of({('rank', 1, 10): low, ('full', None, 20): full})
    figure = curve_to_figure(points, 'Title')
    figure.savefig(io.BytesIO())
    assert [text.get_text() for text in figure.axes[0].texts] == named
    assert curve_to_text(points).split()[5] == 'nan'


def test_the_table_leaves_out_what_is_no_number():
    points = [CurvePoint('fraction', 0.25, 1234, {'a-metric-of-a-long-name': 1, 'b': [1]}),
              CurvePoint('full', None, 5678, {'a-metric-of-a-long-name': 2.346, 'b': [2]})]
    assert curve_to_text(points).splitlines() == [
        '    rank    parameters  a-metric-of-a-long-name',
        '  0.25 r         1,234                     1.00',
        '    full         5,678                     2.35',
    ]
