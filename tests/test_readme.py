"""The README is a program too: its Python runs, its configs load, its commands name files and options that exist."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from mmengine.config import Config

from mmlora import assets
from mmlora.apis.train import prepare_train_cfg
from mmlora.registry import HOOKS, MODELS  # first: mmpretrain.models needs its cures

from mmpretrain.models import VisionTransformer  # isort: skip

README = (Path(__file__).resolve().parent.parent / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w+)\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == 'python']
PROGRAMS = [text for text in PYTHON if not text.startswith('#')]
PARTS = [text for text in PYTHON if text.startswith('# part of a config')]
CONFIGS = [text for text in PYTHON if text.startswith('# configs/')]
AFTER_A_RUN = [text for text in PYTHON if text.startswith('# with the adapter folder')]
COMMANDS = [line.split('#')[0].split() for language, text in BLOCKS if language == 'bash' for line in text.splitlines()]
USERS = ('work_dirs/', 'data/', '--')
"""Begins what a user makes or brings."""


def named(text: str) -> str:
    """A short test id."""
    return text.strip().splitlines()[0][:40] + '...' + text.strip().splitlines()[-1][:40]


def test_the_blocks_were_found():
    assert len(PROGRAMS) >= 2 and len(PARTS) >= 2 and len(CONFIGS) >= 1 and len(COMMANDS) >= 6
    assert len(PROGRAMS) + len(PARTS) + len(CONFIGS) + len(AFTER_A_RUN) == len(PYTHON)


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_commands_name_what_exists(command, root):
    if command[0] == 'make':
        assert re.search(rf'^{command[1]}:', (root / 'Makefile').read_text(), re.MULTILINE)
    elif command[0] in ('python', 'bash'):
        script = root / command[1]
        assert script.is_file()
        made_here = {text.splitlines()[0].lstrip('# ') for text in CONFIGS}
        for argument in command[2:]:
            if argument.startswith('--') and script.suffix == '.py':
                assert f"'{argument}'" in script.read_text() or f'"{argument}"' in script.read_text()
            elif argument.startswith('mmlora://'):
                assert Path(assets.path(argument.removeprefix('mmlora://'))).is_file()
            elif '/' in argument and not argument.startswith(USERS) and argument not in made_here:
                assert any(root.glob(argument))


@pytest.mark.parametrize('text', PARTS, ids=named)
def test_parts_of_configs_name_registered_types(text):
    config = Config.fromstring(text, '.py')
    for hook in config.get('custom_hooks', ()):
        HOOKS.build(hook)
    if 'model' in config:
        assert config.model.backbone.type in MODELS


@pytest.mark.parametrize('text', [text for text in PROGRAMS if 'work_dirs' not in text], ids=named)
def test_programs_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(text, 'README.md', 'exec'), {})


@pytest.fixture(scope='module')
def checkout(root, tmp_path_factory):
    """A folder with the repository's configs and the README's, where ViT-B/16 is a tiny ViT, and eight images."""
    top = tmp_path_factory.mktemp('checkout')
    shutil.copytree(root / 'configs' / '_base_', top / 'configs' / '_base_')
    base = top / 'configs' / '_base_' / 'models' / 'sr-lora_vit-base-p16.py'
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=24)
    base.write_text(base.read_text().replace("'base'", repr(arch)).replace('in_channels=768', 'in_channels=24'))
    torch.manual_seed(0)
    backbone = VisionTransformer(arch=arch, img_size=384, patch_size=16)
    torch.save({f'backbone.{key}': value for key, value in backbone.state_dict().items()}, top / 'vit.pth')
    for text in CONFIGS:
        text = re.sub(r"weights = \(.*?\)", "weights = 'vit.pth'", text, flags=re.DOTALL)
        (top / text.splitlines()[0].lstrip('# ')).write_text(text)
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('rose', 'tulip'):
            folder = top / 'data' / 'flowers' / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(folder / f'{i}.jpg'), rng.integers(0, 255, (240, 240, 3), dtype=np.uint8))
    return top


def test_the_adapter_folder_of_clip_lies_where_the_readme_says(checkout):
    cfg = Config.fromfile(str(checkout / 'configs' / 'lilies.py'))
    cfg.shot = 4
    folder = f'{prepare_train_cfg(cfg).work_dir}/adapter'
    assert any(folder in command for command in COMMANDS) and all(f"load('{folder}')" in text for text in AFTER_A_RUN)
    assert any(hook['type'] == 'AdapterFolderHook' for hook in cfg.custom_hooks)


@pytest.mark.slow
def test_own_images_from_the_config_to_the_plain_model(checkout, monkeypatch, capfd):
    """Train for one epoch, test, and merge, with the README's own text."""
    monkeypatch.chdir(checkout)
    config = Path('configs') / 'flowers.py'
    tiny.call_tool('train', config, '--cfg-options', 'train_cfg.max_epochs=1')
    capfd.readouterr()
    tiny.call_tool('test', config, f'work_dirs/{config.stem}/epoch_1.pth')
    assert 'accuracy/top1' in ''.join(capfd.readouterr())
    (text,) = [text for text in PROGRAMS if 'work_dirs' in text]
    exec(compile(text.replace('epoch_20.pth', 'epoch_1.pth'), 'README.md', 'exec'), {})
    plain = torch.load('flowers-plain.pth', weights_only=True)
    wanted = torch.load(checkout / 'vit.pth', weights_only=True)
    assert set(plain) == {*wanted, 'head.fc.weight', 'head.fc.bias'}
