"""A LoRA for a new task from a few labelled images. What ``tools/generate_lora.py`` calls."""

import copy
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor

from ..adapters.lora_spec import LoRASpec
from ..io.adapter_card import shown_paths
from ..io.checkpoint import load_checkpoint
from ..io.lora_folder import Head, write_lora_folder
from ..io.weights import unwrap
from ..models.backbones.ranks import pretrained_checkpoint
from ..models.generators import LoRAGenerator
from ..models.generators.functional import FrozenFeatures
from ..models.generators.storage import storage_line
from ..models.generators.support import support_loss
from ..models.heads.prototype_head import PrototypeHead
from ..version import __version__
from .generator_support import Support, build_viewer, read_support
from .settle_generator import generator_prefix, settle_generator

SELECT = ('first', 'support_loss')


@dataclass(frozen=True)
class Generated:
    """What was generated.

    Attributes:
        folder: The adapter folder.
        losses: Support loss of each sample.
        base_loss: That of the backbone without a LoRA.
        chosen: The sample that was written.
        tied: The samples whose loss is no larger than that of the chosen one, itself among them.
        storage: What the generator takes to store, as a sentence.
    """

    folder: Path
    losses: list[float]
    base_loss: float
    chosen: int
    tied: list[int]
    storage: str


def load_generator(cfg: Config, checkpoint: str | os.PathLike) -> LoRAGenerator:
    """Build the generator of a config as a checkpoint has it; nothing else is needed.

    Args:
        cfg: Of the training; its model is the generator or has one as ``generator``.
        checkpoint: A checkpoint of the training.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It holds no generator with statistics, or another one than the config describes.
    """
    state = unwrap(load_checkpoint(os.fspath(checkpoint)), os.fspath(checkpoint))
    prefix = generator_prefix(state)
    cfg = Config(cfg.to_dict())
    try:
        settle_generator(cfg, state)
    except ValueError as error:
        raise ValueError(f'{checkpoint} cannot be used: {error}') from error
    make = dict(cfg.model.get('generator') or cfg.model)
    try:
        with torch.device('meta'):  # What the checkpoint says of its sizes may be more than anybody can hold.
            known = MODELS.build(copy.deepcopy(make)).state_dict()
    except (ValueError, RuntimeError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f'{checkpoint} describes a generator that cannot be built: {error}') from error
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    wrong = [name for name in known if name not in own]
    wrong += [name for name, value in own.items() if name not in known or (
        value.shape != known[name].shape and not name.startswith('codec.'))]
    if wrong:
        raise ValueError(f'{checkpoint} is of another generator than the config describes: {len(wrong)} tensors are '
                         f'missing, too many or of another shape, the first: {wrong[0]}. Give the config of its run')
    generator = MODELS.build(make)
    generator.load_state_dict(own)
    if not generator.codec.fitted or not generator.scaler.count:
        raise ValueError(f'{checkpoint} was saved without the statistics of the bank, and cannot generate: list '
                         'FitGeneratorHook in custom_hooks and train again')
    return generator.eval()


@torch.no_grad()
def sample_losses(
    frozen: FrozenFeatures, support: Support, spec: LoRASpec, tensors: Mapping[str, Tensor], count: int,
    head: PrototypeHead,
) -> list[float]:
    """Return the support loss of each of several LoRAs.

    Args:
        frozen: Gives features.
        support: The images.
        spec: Of both factors.
        tensors: By key, ``(count, ...)``, or without the leading axis where all share them.
        count: Number of LoRAs.
        head: Says how features are compared.
    """
    found = []
    for number in range(count):
        own = {key: value[number][None] if value.ndim == 3 else value[None] for key, value in tensors.items()}
        features = frozen(support.images, spec, own)
        found.append(float(support_loss(features, support.labels, head.distance, head.temperature)))
    return found


def head_of(cfg: Config) -> PrototypeHead:
    """Return the head with which a generator has learned: that of its config, else nearness to class means."""
    return MODELS.build(dict(cfg.model.get('head') or dict(type='PrototypeHead')))


def generate_lora(
    cfg: Config,
    checkpoint: str | os.PathLike,
    support: str | os.PathLike,
    out: str | os.PathLike,
    num_samples: int = 1,
    select: str = 'support_loss',
    seed: int = 0,
    device: str | None = None,
) -> Generated:
    """Generate a LoRA for the task that some labelled images show, and write it as an adapter folder.

    The folder holds the best of the samples, and as its head the class means of the support images: a linear layer
    that puts classes in the order of the head with which the generator has learned, by squared distances where it has
    learned from a bank alone. Samples are compared by the same head; among equals the first is taken.

    Args:
        cfg: Config of the training of the generator; it is not changed.
        checkpoint: Its checkpoint.
        support: A folder with a folder of images for each class, or a list; see
            :func:`mmlora.apis.generator_support.list_support`.
        out: The adapter folder to write.
        num_samples: The first is without noise, the others are drawn.
        select: ``'support_loss'``: the sample with the smallest one; ``'first'``: that without noise.
        seed: Of the draws.
        device: None takes a GPU where there is one.

    Raises:
        ValueError: The support is empty or of one class, the generator has no statistics or stands on other weights, or
            an argument is out of range. Or what is generated is not finite.
        FileNotFoundError: A file is missing.
    """
    if select not in SELECT:
        raise ValueError(f'select={select!r} must be one of {", ".join(SELECT)}')
    generator, viewer = load_generator(cfg, checkpoint), build_viewer(cfg, device)
    codec, spec = generator.codec, generator.codec.full_spec
    if spec.base_sha256 not in (None, viewer.base_sha256):
        raise ValueError(f'the generator makes LoRAs for weights with the sha256 {spec.base_sha256}, those of the '
                         f'config have {viewer.base_sha256}: give the backbone the weights of the bank')
    shown = read_support(support, viewer, cfg.get('support_pipeline'))
    generator.to(shown.images.device)
    frozen, head = viewer.features, head_of(cfg)
    described = generator.task_encoder.describe(frozen, codec, shown.images, shown.labels)
    with torch.no_grad():
        draws = torch.Generator().manual_seed(seed)
        tensors = codec.tensors(generator.generate(described[None], num_samples, draws)[0])
        losses = sample_losses(frozen, shown, spec, tensors, num_samples, head)
        if not all(map(math.isfinite, losses)):
            raise ValueError(f'samples of {checkpoint} have the support losses {losses}: the generator has diverged')
        base_loss = float(support_loss(frozen(shown.images), shown.labels, head.distance, head.temperature))
        chosen = min(range(num_samples), key=losses.__getitem__) if select == 'support_loss' else 0
        own = {key: value[chosen] if value.ndim == 3 else value for key, value in tensors.items()}
        features = frozen(shown.images, spec, {key: value[None] for key, value in own.items()})
        linear = Head(*(value.cpu() for value in head.linear(features, shown.labels)))
    preparation = viewer.cfg.data_preprocessor
    record = dict(
        version=__version__,
        classes=list(shown.classes),
        base=dict(sha256=viewer.base_sha256, name=shown_paths(pretrained_checkpoint(
            viewer.cfg.model.backbone.init_cfg))),
        normalization=dict(mean=list(preparation.get('mean') or [0, 0, 0]), std=list(preparation.get('std') or [1] * 3),
                           to_rgb=bool(preparation.get('to_rgb', False))),
        generated=dict(generator=generator.about, checkpoint_sha256=file_digest(checkpoint), seed=seed, select=select,
                       num_samples=num_samples, chosen=chosen, support_images=len(shown.labels),
                       distance=head.distance, temperature=head.temperature),
        metrics=dict(support_loss=losses[chosen], support_loss_base=base_loss),
    )  # fmt: skip
    weights = spec.weights({key: value.cpu() for key, value in own.items()})
    folder = write_lora_folder(out, weights, record, linear, _card(record))
    tied = [number for number, loss in enumerate(losses) if loss <= losses[chosen]]
    return Generated(folder, losses, base_loss, chosen, tied, storage_line(generator, 0))


def file_digest(path: str | os.PathLike) -> str | None:
    """Return the sha256 of a checkpoint, or None of one that is no file here."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else None


def _card(record: Mapping[str, Any]) -> str:
    made, metrics = record['generated'], record['metrics']
    classes = ''.join(f'{number}. {name}\n' for number, name in enumerate(record['classes']))
    return ('# Generated LoRA\n\n'
            f'Made by {made["generator"]} from {made["support_images"]} images of {len(record["classes"])} classes, '
            'without training. Its head compares features with the class means of these images:\n\n'
            f'{classes}\n'
            f'* Sample {made["chosen"]} of {made["num_samples"]}, seed {made["seed"]}, selected by {made["select"]}; '
            'sample 0 is without noise.\n'
            f'* Support loss {metrics["support_loss"]:.4g}; without a LoRA {metrics["support_loss_base"]:.4g}. It is '
            'measured on the images that the LoRA was made from, and says nothing of others.\n'
            f'* Generator: sha256 `{made["checkpoint_sha256"]}`.\n'
            f'* Stands on the weights `{record["base"]["name"]}`, sha256 `{record["base"]["sha256"]}`.\n')
