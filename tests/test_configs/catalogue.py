"""All configs of the repository, loaded once, and what the tests of configs need to build from them."""

import copy
import functools
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmlora.ranks import is_criterion

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TINY_VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=24)
TINY_SWIN = dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2])
TINY = {
    'VitSR_LoRA': TINY_VIT, 'SwinSR_LoRA': TINY_SWIN, 'RLRRViT': TINY_VIT, 'RLRRSwin': TINY_SWIN,
    'VisionTransformer': TINY_VIT,
}  # yapf: disable
WIDTH = {name: 64 if 'Swin' in name else 24 for name in TINY}
DRAWN = 32
"""Height and width of images that are drawn on the fly, in pixels."""
PATCHES = 4
"""Patches in a row of a shrunk ViT's image. Swins keep the size of images, which their windows need."""


def python_files() -> list[Path]:
    """Return every Python file of the folder."""
    return sorted(CONFIGS.rglob('*.py'))


@functools.cache
def names() -> tuple[str, ...]:
    """Return the configs that describe a run, relative to the folder and without ending."""
    relative = (path.relative_to(CONFIGS) for path in python_files())
    others = ('_base_', 'sweeps', 'lora_recycle', 'icm_lora')  # The last two are of many trainings, or of none.
    return tuple(path.with_suffix('').as_posix() for path in relative if path.parts[0] not in others)


@functools.cache
def _loaded(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name: str) -> Config:
    """Return a config that may be changed."""
    return copy.deepcopy(_loaded(name))


def sr_lora() -> list[str]:
    """Return the configs of the published SR-LoRA experiments and their variants."""
    return [name for name in names() if name.startswith('sr_lora/') and 'ablation' not in name]


def rlrr() -> list[str]:
    """Return the configs of the published RLRR experiments."""
    return [name for name in names() if name.startswith('rlrr/')]


def baselines() -> list[str]:
    """Return the configs of the methods that RLRR is compared with."""
    return [name for name in names() if name.startswith('baselines/')]


def clip() -> list[str]:
    """Return the configs of CLIP-LoRA and of what it is compared with."""
    return [name for name in names() if name.startswith('clip_lora/')]


@functools.cache
def with_backbone() -> tuple[str, ...]:
    """Return the configs of a backbone with a head, which the models of CLIP are not."""
    return tuple(name for name in names() if 'backbone' in load(name).model)


def short(name: str) -> str:
    """Return a test id."""
    return re.sub(r'_(augreg-)?(in21k-pre_)?1xb\d+-\w+-(\d+e|\d+i-per-shot|by-shot)|_training-free', '', name)


def distinct(key: Callable[[Config], Any], among: Iterable[str] | None = None) -> list[str]:
    """Return one config for each value of ``key``, the first of those that share it."""
    first: dict[str, str] = {}
    for name in among or names():
        first.setdefault(json.dumps(key(load(name)), sort_keys=True, default=str), name)
    return list(first.values())


CLIP_ARCH = dict(
    image_size=32, patch_size=16, vision_width=16, vision_layers=2, vision_heads=2, embed_dim=8, text_width=16,
    text_layers=2, text_heads=2, context_length=24,
)  # fmt: skip
CLIP_WORDS = [
    *'a an the photo of type pet flower food aircraft texture centered satellite person doing class thing b'.split(),
    '.', ',', '/', *map(str, range(1000)),
]  # fmt: skip


def shrunk_clip(cfg: Config) -> Config:
    """Return a config of CLIP with tiny towers that know the words of generated data, and small images."""
    cfg.model.arch = dict(CLIP_ARCH, vocab_size=len(CLIP_WORDS) + 3)
    cfg.model.tokenizer = dict(type='WordTokenizer', vocabulary=CLIP_WORDS)
    if isinstance(cfg.model.get('layers'), dict):
        cfg.model.layers = 'all'
    cfg.model.pop('init_cfg', None)
    for part in LOADERS:
        if cfg.get(part):
            cfg[part].update(num_workers=0, persistent_workers=False)
            for step in cfg[part].dataset.pipeline:
                step.update(dict.fromkeys({'scale', 'crop_size'} & set(step), 32))
    return cfg


def bare(cfg: Config) -> Any:
    """Return the config of the backbone itself, inside of what adapts it."""
    backbone = cfg.model.backbone
    return backbone.backbone if backbone.type == 'AdaptedBackbone' else backbone


def model_key(cfg: Config) -> Any:
    """Return the model but for the number of classes and the rate of stochastic depth."""
    cfg = copy.deepcopy(cfg)
    cfg.model.head.pop('num_classes', None)
    if is_large(cfg):
        bare(cfg).pop('drop_path_rate', None)
    return cfg.model.to_dict()


def without_weights(cfg: Config) -> Config:
    """Leave out pre-trained weights, and give a number to ranks that would be computed from them."""
    backbone = cfg.model.backbone
    if backbone.type in ('VitSR_LoRA', 'SwinSR_LoRA') and is_criterion(str(backbone.get('lora_ranks', 'stable_rank'))):
        backbone.lora_ranks = 2
        backbone.pop('rank_budget', None)
    bare(cfg).pop('init_cfg', None)
    return cfg


def shrunk(cfg: Config) -> Config:
    """Return the config with a tiny backbone and smaller images; other arguments stay."""
    cfg = without_weights(cfg)
    if not is_large(cfg):
        return cfg
    backbone, size = bare(cfg), image_size(cfg)
    patch = backbone.get('patch_size')
    ratio = PATCHES * patch / size if patch else 1
    backbone.update(arch=dict(TINY[backbone.type]))
    if patch:
        backbone.img_size = int(backbone.img_size * ratio) // patch * patch
    if 'lora_ranks' in cfg.model.backbone:
        cfg.model.backbone.lora_ranks = 2
    cfg.model.head.in_channels = WIDTH[backbone.type]
    for part in LOADERS:
        for step in cfg[part].dataset.pipeline if cfg.get(part) else ():
            for key in {'scale', 'crop_size', 'shape'} & set(step):
                step[key] = _times(step[key], ratio)
    return cfg


def _times(length: Any, ratio: float) -> Any:
    return round(length * ratio) if isinstance(length, int) else tuple(_times(part, ratio) for part in length)


def is_large(cfg: Config) -> bool:
    """Return whether the backbone is one of the published sizes."""
    return bare(cfg).get('arch') in ('base', 'large', 'huge')


def image_size(cfg: Config) -> int:
    """Return the height and width of the images that the model sees, in pixels."""
    steps = cfg.test_dataloader.dataset.pipeline if cfg.get('test_dataloader') else ()
    sizes = [step.get('crop_size', step.get('scale')) for step in steps]
    size = next((size for size in reversed(sizes) if size), None) or bare(cfg).get('img_size', DRAWN)
    return size if isinstance(size, int) else size[0]
