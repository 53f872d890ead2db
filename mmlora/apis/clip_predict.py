"""Classifying images with an adapter folder of CLIP."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from torch import Tensor

from ..engine.clip_images import STEPS, is_known, published_steps
from ..io.clip_folder import AdapterFolder, folder_checkpoint, read_folder
from ..models.backbones.skeleton import Skeleton
from ..models.clip import LoRACLIPClassifier
from ..models.clip.base_weights import complete_adapter
from ..models.clip.tokenizers import Tokenizer
from ..registry import TOKENIZERS

BATCH = 64
ARCHS = {
    'openai/clip-vit-base-patch16': 'ViT-B/16',
    'openai/clip-vit-base-patch32': 'ViT-B/32',
    'openai/clip-vit-large-patch14': 'ViT-L/14',
}
"""Sizes of base models of the Hugging Face hub by name, for folders of peft alone."""

Image = str | os.PathLike | np.ndarray | Any
"""A path, an image of Pillow, or an array of RGB from 0 to 255, ``(H, W, 3)``."""


@dataclass(frozen=True)
class Prediction:
    """What an image shows.

    Attributes:
        name: The most probable class.
        score: Its probability.
        label: Its number.
        names: All classes.
        scores: Their probabilities, in the same order.
    """

    name: str
    score: float
    label: int
    names: tuple[str, ...]
    scores: tuple[float, ...]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities."""
        order = sorted(range(len(self.scores)), key=lambda i: -self.scores[i])[:count]
        return [(self.names[i], self.scores[i]) for i in order]

    def __str__(self) -> str:
        return f'{self.name} ({self.score:.3f})'


class CLIPPredictor:
    """A CLIP with its adapter, ready for images; :func:`load_predictor` makes one.

    Attributes:
        model: The classifier, in evaluation.
    """

    def __init__(self, model: LoRACLIPClassifier, images: Mapping[str, Any], where: str) -> None:
        self.model, self._images, self._where = model, images, where
        steps = images.get('steps')
        self._pipeline = None if steps is None else _pipeline(steps, where)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the labels, or None."""
        return self.model.classes

    @torch.inference_mode()
    def encode_images(self, images: Image | Sequence[Image]) -> Tensor:
        """Return the features of images, not normalised, ``(B, embed_dim)``, on the CPU.

        Args:
            images: One image or several; see :data:`Image`.

        Raises:
            ValueError: An array is no image, or the folder does not say how images are prepared.
            TypeError: One is no image at all.
            FileNotFoundError: A path does not exist.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        parts = [self.model.encode_image(self._prepare(images[i : i + BATCH])).cpu()
                 for i in range(0, len(images), BATCH)]
        return torch.cat(parts) if parts else torch.empty(0, self.model.arch.embed_dim)

    @torch.inference_mode()
    def predict(self, images: Image | Sequence[Image]) -> Prediction | list[Prediction]:
        """Return what an image shows, or for a list of images a list.

        Args:
            images: One image or several; see :data:`Image`.

        Raises:
            RuntimeError: There are no class names.
            ValueError: As :meth:`encode_images`.
            TypeError: As :meth:`encode_images`.
            FileNotFoundError: As :meth:`encode_images`.
        """
        if self.classes is None:
            raise RuntimeError(f'{self._where} names no classes: give them when it is loaded, classes=[...], or call '
                               'model.set_classes')
        features = self.encode_images(images)
        texts = self.model.class_features()
        scores = self.model.compare(features.to(texts.device), texts).softmax(dim=-1).cpu()
        found = []
        for row in scores:
            label = int(row.argmax())
            found.append(Prediction(self.classes[label], float(row[label]), label, self.classes, tuple(row.tolist())))
        return found if isinstance(images, (list, tuple)) else found[0]

    def _prepare(self, images: Sequence[Image]) -> Tensor:
        if self._pipeline is None:
            raise ValueError(f'{self._where} does not say how images are prepared, since the run did it by '
                             f'{self._images.get("why")}; known are {sorted(STEPS)}. Prepare them yourself and call '
                             'model.encode_image')
        load, rest = self._pipeline
        arrays = [rest(dict(img=array, img_shape=array.shape[:2], ori_shape=array.shape[:2]))['img']
                  for array in (_read(image, load) for image in images)]
        size = tuple(self.model.visual.img_size)
        for number, array in enumerate(arrays):
            if array.shape[:2] != size:  # Smaller ones would be padded to the largest of the batch.
                what = 'the run took images as its data set gave them: resize' if not rest.transforms else 'prepare'
                raise ValueError(f'image {number} is {"x".join(map(str, array.shape[:2]))} (height x width) after the '
                                 f'steps of {self._where}, and the model is for {size[0]}x{size[1]}; {what} it before')
        inputs = [torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))) for array in arrays]
        return self.model.data_preprocessor({'inputs': inputs})['inputs']


def load_predictor(
    folder: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    classes: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    arch: str | Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> CLIPPredictor:
    """Load an adapter folder, written here or by peft; see :func:`mmlora.clip.load`."""
    read = read_folder(folder)
    settings = dict(read.settings)
    sizes = _sizes(read, arch)
    own = read.record.get('tokenizer') or dict(type='CLIPTokenizer')
    images = read.record.get('images') or None
    with Skeleton():  # Random weights would be drawn for seconds, and then thrown away.
        model = LoRACLIPClassifier(
            sizes,
            settings['encoder'],
            settings['params'],
            settings['layers'],
            settings['rank'],
            settings['alpha'],
            settings['scaling'],
            lora_dropout=settings.get('dropout') or 0.0,
            templates=templates if templates is not None else settings.get('templates'),
            tokenizer=_closed_tokenizer(tokenizer or own, str(folder)),
            logit_scale=settings.get('logit_scale', 100.0),
            vision=settings.get('vision'),
            data_preprocessor={key: images[key] for key in ('mean', 'std', 'to_rgb')} if images else None,
        )
    state = complete_adapter(model, folder_checkpoint(folder), None if weights is None else os.fspath(weights))
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    names = classes if classes is not None else settings.get('classes')
    if names is not None:
        model.set_classes(names)
    model.eval().requires_grad_(False)
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model.to(torch.device(device))
    return CLIPPredictor(model, images or dict(steps=published_steps(model.arch.image_size)), str(folder))


def _sizes(read: AdapterFolder, arch: str | Mapping[str, Any] | None) -> str | Mapping[str, Any]:
    own = read.settings.get('arch')
    if own is not None:
        if arch is not None:
            raise ValueError(f'{read.path} names its arch itself ({read.settings.get("backbone") or own}): leave out '
                             f'arch={arch!r}')
        return own
    name = read.config.get('base_model_name_or_path')
    if arch is None and name not in ARCHS:
        raise ValueError(f"{read.path} does not say which CLIP it is for (base_model_name_or_path={name!r}): give arch="
                         "'ViT-B/16', 'ViT-B/32', 'ViT-L/14' or a dict of sizes")
    return arch if arch is not None else ARCHS[name]


def _closed_tokenizer(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the config of a tokenizer if it is one of ours: a folder must not be able to build anything else."""
    kind = TOKENIZERS.module_dict.get(str(config.get('type')))
    if not (isinstance(kind, type) and issubclass(kind, Tokenizer)):
        known = sorted(name for name, each in TOKENIZERS.module_dict.items() if issubclass(each, Tokenizer))
        raise ValueError(f'{where} asks for the tokenizer {config.get("type")!r}; known are {known}. One of your own '
                         'must be registered in mmlora.registry.TOKENIZERS before')
    return dict(config)


def _pipeline(steps: Sequence[Mapping[str, Any]], where: str) -> tuple[Compose, Compose]:
    strange = [step for step in steps if not is_known(step)]
    if strange or not steps or steps[0]['type'] != 'LoadImageFromFile':
        raise ValueError(f'{where} prepares images by {strange or list(steps)}, where known steps are {sorted(STEPS)}, '
                         'the first LoadImageFromFile')
    steps = [{key: tuple(value) if isinstance(value, list) else value for key, value in step.items()} for step in steps]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return Compose(steps[:1]), Compose(steps[1:])


def _read(image: Image, load: Compose) -> np.ndarray:
    """Return an image as the transforms take it: BGR, ``(H, W, 3)``, uint8."""
    if isinstance(image, (str, os.PathLike)):
        if not Path(image).is_file():
            raise FileNotFoundError(f'there is no image {os.fspath(image)!r}')
        return load(dict(img_path=os.fspath(image)))['img']
    if hasattr(image, 'convert'):
        image = np.asarray(image.convert('RGB'))
    if not isinstance(image, np.ndarray):
        raise TypeError(f'an image is a path, an image of Pillow or an array, got a {type(image).__name__}')
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f'an array must be RGB from 0 to 255, (H, W, 3) of uint8, got {image.shape} of {image.dtype}')
    return np.ascontiguousarray(image[..., ::-1])
