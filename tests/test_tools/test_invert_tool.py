"""``tools/invert.py``: from the folder of a hub and its config to a pool and a picture of it."""

import importlib

import pytest
import torch
from mmengine.config import Config
from tiny import call_tool

from mmlora.adapters import draw_lora
from mmlora.apis.hub_members import build_frozen
from mmlora.io.hub import write_index
from mmlora.io.lora_folder import Head, write_lora_folder
from mmlora.io.pool import Pool
from mmlora.models import AdaptedBackbone  # noqa: F401  (before mmpretrain's models)

from mmpretrain.models import VisionTransformer  # isort: skip

VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)
CONFIG = """
default_scope = 'mmpretrain'
model = dict(backbone=dict(**{vit!r}, init_cfg=dict(type='Pretrained', checkpoint={weights!r})))
data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72])
"""
FAST = ['--iterations', 2, '--per-class', 2, '--batch-size', 3, '--mask-ratios', 0.5, 0.25]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A config and a hub of two LoRAs."""
    folder = tmp_path_factory.mktemp('made')
    torch.manual_seed(0)
    model = VisionTransformer(**{key: value for key, value in VIT.items() if key != 'type'})
    torch.save(model.state_dict(), folder / 'weights.pth')
    config = folder / 'hub.py'
    config.write_text(CONFIG.format(vit=VIT, weights=str(folder / 'weights.pth')))
    _, digest = build_frozen(Config.fromfile(config), 'cpu')
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        weights = draw_lora(model, ['layers.0.attn.qkv', 'layers.1.attn.qkv'], 2, 'qv', 1.0, generator)
        head = Head(torch.randn(2, 24, generator=generator), torch.zeros(2))
        record = dict(
            classes=['a', f'b{number}'], class_ids=[0, 1 + number], task={}, metrics={}, base=dict(sha256=digest),
            normalization=dict(mean=[54] * 3, std=[72] * 3, to_rgb=False),
        )  # fmt: skip
        write_lora_folder(folder / 'hub' / f'{number:05}', weights, record, head)
    write_index(folder / 'hub')
    return folder / 'hub', config


def test_a_pool_from_the_command_line(made, tmp_path, capsys):
    hub, config = made
    out = tmp_path / 'pool'
    options = ['--prune-layers', 1, '--prune-ratios', 0.25, '--betas', 0.6, 0.9, '--tv-weight', 0.1]
    assert call_tool('invert', hub, '--config', config, '--out', out, *FAST, *options, '--report-every', 1) == 0
    pool, said = Pool.open(out), capsys.readouterr().out
    assert len(pool.images) == 8 and pool.classes == ['a', 'b0', 'b1']
    assert set(pool.images[0].masks) == {'0', '0.25', '0.5'}
    assert (out / 'sheet.png').is_file() and 'iteration 2/2' in said and ' left' in said
    settings = pool.about['settings']
    assert settings['betas'] == [0.6, 0.9] and settings['tv_weight'] == 0.1 and settings['lr'] == 0.25
    assert pool.about['prior']['network'] == 'ResNet_CIFAR' and pool.about['mask_ratios'] == [0.25, 0.5]


@pytest.mark.parametrize('options, message', [
    (['--members', '00009'], "has no member '00009'"),
    (['--prior', 'vgg'], "unknown prior 'vgg'"),
    (['--prior', 'resnet50'], 'comes without weights'),
    (['--prune-layers', 5, '--prune-ratios', 0.5], 'there is no layer 5'),
    (['--mask-ratios', 1], 'must lie in [0, 1)'),
    (['--image-size', 64], 'not (64, 64)'),
    (['--iterations', 0], 'iterations must be at least 1'),
])
def test_errors_are_said_and_nothing_is_written(made, tmp_path, capsys, options, message):
    hub, config = made
    assert call_tool('invert', hub, '--config', config, '--out', tmp_path / 'pool', *FAST, *options) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'pool' / 'images').exists()


def test_a_stop_says_how_to_go_on(made, tmp_path, capsys, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    hub, config = made
    monkeypatch.setattr(importlib.import_module('mmlora.apis.invert_hub'), 'invert_hub', stop)
    assert call_tool('invert', hub, '--config', config, '--out', tmp_path / 'pool', *FAST) == 130
    # Loggers of earlier runs in this process may have printed before.
    assert capsys.readouterr().err.splitlines()[-1] == 'Stopped. The same command goes on.'


def test_a_hub_on_other_weights(made, tmp_path, capsys):
    hub, config = made
    other = tmp_path / 'weights.pth'
    state = torch.load(config.parent / 'weights.pth', weights_only=True)
    torch.save({key: value + 1 for key, value in state.items()}, other)
    (tmp_path / 'hub.py').write_text(config.read_text().replace(str(config.parent / 'weights.pth'), str(other)))
    assert call_tool('invert', hub, '--config', tmp_path / 'hub.py', '--out', tmp_path / 'pool', *FAST) == 2
    assert 'stand on weights with the sha256' in capsys.readouterr().err
    (tmp_path / 'hub.py').write_text("model = dict(backbone=dict(type='VisionTransformer'))")
    assert call_tool('invert', hub, '--config', tmp_path / 'hub.py', '--out', tmp_path / 'pool', *FAST) == 2
    assert 'the weights that the LoRAs' in capsys.readouterr().err
