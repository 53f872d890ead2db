"""All configs of the repository, loaded once, and what the tests of configs need to build from them."""

import copy
import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmlora.ranks import is_criterion

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TINY_VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=24)
TINY_SWIN = dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2])
TINY = {'VitSR_LoRA': TINY_VIT, 'SwinSR_LoRA': TINY_SWIN}
WIDTH = {'VitSR_LoRA': 24, 'SwinSR_LoRA': 64}
SHRINK = {'VitSR_LoRA': 6, 'SwinSR_LoRA': 1}
"""Divisor of the size of images. Windows of 12 need all of the 384 px."""


def python_files() -> list[Path]:
    """Return every Python file of the folder."""
    return sorted(CONFIGS.rglob('*.py'))


@functools.cache
def names() -> tuple[str, ...]:
    """Return the configs that describe a run, relative to the folder and without ending."""
    relative = (path.relative_to(CONFIGS) for path in python_files())
    return tuple(path.with_suffix('').as_posix() for path in relative if path.parts[0] not in ('_base_', 'sweeps'))


@functools.cache
def _loaded(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name: str) -> Config:
    """Return a config that may be changed."""
    return copy.deepcopy(_loaded(name))


def sr_lora() -> list[str]:
    """Return the configs of the published experiments and their variants."""
    return [name for name in names() if name.startswith('sr_lora/') and 'ablation' not in name]


def short(name: str) -> str:
    """Return a test id."""
    return name.replace('_in21k-pre_1xb4-coslr-20e', '')


def distinct(key: Callable[[Config], Any], among: Iterable[str] | None = None) -> list[str]:
    """Return one config for each value of ``key``, the first of those that share it."""
    first: dict[str, str] = {}
    for name in among or names():
        first.setdefault(json.dumps(key(load(name)), sort_keys=True, default=str), name)
    return list(first.values())


def model_key(cfg: Config) -> Any:
    """Return the model but for the number of classes."""
    model = copy.deepcopy(cfg.model.to_dict())
    model['head'].pop('num_classes', None)
    return model


def without_weights(cfg: Config) -> Config:
    """Leave out pre-trained weights, and give a number to ranks that would be computed from them."""
    backbone = cfg.model.backbone
    if backbone.type in TINY and is_criterion(str(backbone.get('lora_ranks', 'stable_rank'))):
        backbone.lora_ranks = 2
        backbone.pop('rank_budget', None)
    backbone.pop('init_cfg', None)
    return cfg


def shrunk(cfg: Config) -> Config:
    """Return the config with a tiny backbone and smaller images; other arguments stay."""
    cfg = without_weights(cfg)
    backbone, divisor = cfg.model.backbone, image_divisor(cfg)
    if is_large(cfg):
        size = backbone.img_size // divisor // 16 * 16
        backbone.update(arch=dict(TINY[backbone.type]), img_size=size, lora_ranks=2)
        cfg.model.head.in_channels = WIDTH[backbone.type]
    for part in ('train_dataloader', 'test_dataloader'):
        for step in cfg[part].dataset.pipeline if part in cfg else ():
            if step.type in ('RandomResizedCrop', 'Resize'):
                step.scale = 384 // divisor
            elif step.type == 'Cutout':
                step.shape = 76 // divisor
    return cfg


def is_large(cfg: Config) -> bool:
    """Return whether the backbone is one of the published sizes."""
    return cfg.model.backbone.get('arch') in ('base', 'large')


def image_divisor(cfg: Config) -> int:
    """Return by what :func:`shrunk` divides the size of images."""
    return SHRINK.get(cfg.model.backbone.type, 1)
