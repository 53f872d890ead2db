"""The rank curve of a tiny run: its last point is what the test tool says, its others are models of lower rank."""

import csv
import json

import pytest
import tiny
import torch
from mmengine.config import Config
from PIL import Image

from mmlora.apis import rank_curve, train, truncate_checkpoint
from mmlora.apis import test as run_test
from mmlora.apis.rank_curve import CurvePoint, curve_to_figure, on_split

RANKS = [[3, 4], [4, 2]]
LORA = dict(model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks=RANKS, model__backbone__lora_alpha=64)
HOOKS = dict(custom_hooks=[dict(type='SPUHook', targets='qkv'), dict(type='EMAHook', momentum=0.5)])
SIZE = 4 * 16  # Parameters of one component of q and v; the projection has half as many.


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
