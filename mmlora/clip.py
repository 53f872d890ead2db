"""CLIP with an adapter in one line: ``mmlora.clip.load(folder).predict(images)``."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .apis.clip_adapter import export_adapter, import_clip_lora
from .apis.clip_predict import CLIPPredictor, Prediction, load_predictor

__all__ = ['CLIPPredictor', 'Prediction', 'export_adapter', 'import_clip_lora', 'load']


def load(
    folder: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    classes: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    arch: str | Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> CLIPPredictor:
    """Load an adapter folder of CLIP.

    Args:
        folder: The folder, written by training or ``tools/export_adapter.py``, or by peft for transformers'
            ``CLIPModel``.
        weights: The frozen weights, of any layout; by default from where the folder says. They must be those that the
            adapter was trained on, which is checked by their hash.
        device: Where the model runs; by default a GPU where there is one.
        classes: Take the place of the classes of the folder.
        templates: Take the place of the templates of the folder.
        arch: Name or sizes of the backbone, for a folder of peft, which does not say it.
        tokenizer: Config of another tokenizer, such as ``dict(type='CLIPTokenizer', vocabulary='path')``.

    Returns:
        An object with ``predict(images)``, ``encode_images(images)``, ``classes`` and ``model``.

    Raises:
        FileNotFoundError: The folder or the weights are not there.
        ValueError: The folder is damaged, or the weights are others; both hashes are quoted.
        ImportError: The vocabulary of CLIP is not installed.
    """
    return load_predictor(folder, weights, device, classes, templates, arch, tokenizer)
