"""Support images from files, and the frozen backbone that looks at them: what extracting and generating share."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmpretrain.registry import TRANSFORMS
from torch import Tensor

from ..datasets.class_folder_files import class_folders, images_in
from ..datasets.list_files import check_name, quote, read_text
from ..models.generators.functional import FrozenFeatures
from .hub_members import build_frozen
from .hub_training import Frozen


@dataclass(frozen=True)
class Viewer:
    """A frozen backbone with its weights.

    Attributes:
        frozen: Backbone, neck and preprocessor.
        base_sha256: Hash of the weights.
        cfg: Of the backbone: ``model`` and ``data_preprocessor``.
    """

    frozen: Frozen
    base_sha256: str
    cfg: Config

    @property
    def features(self) -> FrozenFeatures:
        """Of prepared images."""
        return FrozenFeatures(self.frozen.backbone, self.frozen.neck)

    def prepare(self, items: Sequence[Any]) -> Tensor:
        """Return items of a pipeline as prepared images, ``(B, C, H, W)``."""
        return self.frozen.preprocessor(pseudo_collate(list(items)))['inputs']


def build_viewer(cfg: Config, device: str | None = None) -> Viewer:
    """Build the frozen backbone of the config of a generator.

    Args:
        cfg: Its ``model`` has a ``backbone``, or it has ``frozen_model = dict(backbone=..., data_preprocessor=...)``.
        device: None takes a GPU where there is one.

    Raises:
        ValueError: The config has no backbone, or none with weights.
    """
    model = cfg.model if cfg.model.get('backbone') else cfg.get('frozen_model') or {}
    backbone = model.get('backbone')
    if not backbone or (backbone.get('init_cfg') or {}).get('type') != 'Pretrained':
        raise ValueError('the config of a generator needs the frozen backbone that looks at the images, with weights: '
                         "frozen_model=dict(backbone=dict(..., init_cfg=dict(type='Pretrained', checkpoint=...)), "
                         'data_preprocessor=...)')
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    own = Config(dict(model=dict(backbone=backbone, neck=model.get('neck')), data_preprocessor=preprocessor,
                      default_scope=cfg.get('default_scope', 'mmpretrain')))
    return Viewer(*build_frozen(own, device), own)


@dataclass(frozen=True)
class Support:
    """Labelled images.

    Attributes:
        images: Prepared, ``(S, C, H, W)``.
        labels: int64 ``(S,)``.
        classes: Names of the classes.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def list_support(path: str | os.PathLike) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Return the files of a support set, their labels, and the names of the classes.

    Args:
        path: A folder with one folder of images for each class, or a text file with lines ``<image> <class>``, images
            relative to the file.

    Raises:
        FileNotFoundError: There is no such place, or an image is missing.
        ValueError: It holds no image, or images of one class only, or a line is of another form.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        names = class_folders(place)
        if not names:
            raise ValueError(f'{str(place)!r} is empty: give a folder of images for each of at least two classes')
        found = [(place / one.name, names[one.label]) for one in
                 images_in(place, {name: label for label, name in enumerate(names)})]
    elif place.is_file():
        found = []
        for number, line in enumerate(read_text(place).splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2:
                raise ValueError(f'{place}, line {number}: {quote(line)} must be <image> <class>')
            check_name(words[0], f'{place}, line {number}: {quote(line)}')
            found.append((place.parent / words[0], words[1]))
    else:
        raise FileNotFoundError(f'{str(place)!r} does not exist: --support is a folder with a folder of images for '
                                'each class, or a text file with lines <image> <class>')
    missing = [file for file, _ in found if not file.is_file()]
    if missing:
        raise FileNotFoundError(f'{len(missing)} support images are missing, such as {str(missing[0])!r}')
    classes = tuple(sorted({name for _, name in found}))
    if len(classes) < 2:
        raise ValueError(f'{str(place)!r} has images of {len(classes)} class{"es" if not classes else ""} '
                         f'{list(classes)}: a support set needs at least one image of each of at least two classes')
    return [file for file, _ in found], [classes.index(name) for _, name in found], classes


def read_support(path: str | os.PathLike, viewer: Viewer, pipeline: Sequence[Mapping[str, Any]] | None) -> Support:
    """Read and prepare the images of a support set; see :func:`list_support`.

    Args:
        path: Where it is.
        viewer: Its preprocessor is used.
        pipeline: Of the config, ``support_pipeline``: from ``img_path`` to packed inputs.

    Raises:
        ValueError: The config has no pipeline, or as :func:`list_support`.
        FileNotFoundError: As :func:`list_support`.
    """
    files, labels, classes = list_support(path)
    if not pipeline:
        raise ValueError("the config needs support_pipeline=[dict(type='LoadImageFromFile'), ..., "
                         "dict(type='PackInputs')], which prepares support images")
    run = Compose([TRANSFORMS.build(dict(step)) for step in pipeline])
    items = [run(dict(img_path=str(file), gt_label=label)) for file, label in zip(files, labels, strict=True)]
    images = viewer.prepare(items)
    return Support(images, torch.tensor(labels, device=images.device), classes)
