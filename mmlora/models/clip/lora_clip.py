"""``LoRACLIP``: one name for the classifier and for its vision tower."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from mmpretrain.models import VisionTransformer

from ...registry import MODELS, register
from ..backbones.adapt import check_keywords
from .arch import find_arch
from .classifier import LoRACLIPClassifier, adapted_towers
from .vision import LoRACLIPVision


@register(MODELS, 'LoRA-CLIP')
def LoRACLIP(encoder: str | None = None, **kwargs: Any) -> nn.Module:
    """Build CLIP with LoRA: the classifier, or the vision tower alone as the backbone of another classifier.

    The arguments say which. With any that only the classifier has (``tokenizer``, ``classes``, ``templates``,
    ``data_preprocessor``, which a runner adds from the top of the config, and so on, or an ``encoder`` other than
    ``'vision'``), it is :class:`LoRACLIPClassifier`; else it is :class:`LoRACLIPVision`. Both have registered names of
    their own too.

    Args:
        encoder: Which tower is adapted; by default both of the classifier.
        **kwargs: Of the two classes.

    Raises:
        ValueError: An argument is out of range or unknown.
        TypeError: An argument is unknown, or some are of the classifier and some of the tower alone.
    """
    if encoder is not None:
        adapted_towers(encoder)
    if _is_classifier(encoder, kwargs):
        return LoRACLIPClassifier(encoder=encoder or 'both', **kwargs)
    check_keywords(kwargs, LoRACLIPVision.__init__, VisionTransformer.__init__, LoRACLIPClassifier.__init__)
    return LoRACLIPVision(**kwargs)


def _is_classifier(encoder: str | None, kwargs: Mapping[str, Any]) -> bool:
    only = _arguments(LoRACLIPClassifier) - _arguments(LoRACLIPVision) - {'encoder', 'init_cfg'}
    return encoder not in (None, 'vision') or not only.isdisjoint(kwargs)


def _plain_config(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the model without adapters, from that of the adapted one."""
    kind = cfg['type'] if isinstance(cfg['type'], str) else cfg['type'].__name__
    kind = kind.rpartition('.')[2]
    classifier = kind != LoRACLIPVision.__name__ and (
        kind == LoRACLIPClassifier.__name__ or _is_classifier(cfg.get('encoder'), cfg)
    )
    dropped = ('type', 'encoder', 'params', 'layers', 'init_cfg')
    kept = {key: value for key, value in cfg.items() if key not in dropped and not key.startswith('lora_')}
    if classifier:
        return dict(kept, type=LoRACLIPClassifier.__name__, encoder='none')
    return dict(kept, type=LoRACLIPVision.__name__, params=None)


def _image_size(cfg: Mapping[str, Any]) -> int:
    """Return the side of the images that a config means."""
    return find_arch(cfg.get('arch', 'ViT-B/16'), cfg.get('image_size')).image_size


for _kind in (LoRACLIP, LoRACLIPClassifier, LoRACLIPVision):
    _kind.plain_config, _kind.image_size = staticmethod(_plain_config), staticmethod(_image_size)


def _arguments(kind: type) -> set[str]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
