"""``LoRACLIP``: one name for the classifier and for its vision tower."""

import inspect
from typing import Any

import torch.nn as nn
from mmpretrain.models import VisionTransformer

from ...registry import MODELS, register
from ..backbones.adapt import check_keywords
from .classifier import LoRACLIPClassifier, adapted_towers
from .vision import LoRACLIPVision


@register(MODELS, 'LoRA-CLIP')
def LoRACLIP(encoder: str | None = None, **kwargs: Any) -> nn.Module:
    """Build CLIP with LoRA: the classifier, or the vision tower alone as the backbone of another classifier.

    The arguments say which. With any that only the classifier has (``tokenizer``, ``classes``, ``templates``,
    ``data_preprocessor``, which a runner adds from the top of the config, and so on, or ``encoder='text'`` or
    ``'both'``), it is :class:`LoRACLIPClassifier`; else it is :class:`LoRACLIPVision`. Both have registered names of
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
    only = _arguments(LoRACLIPClassifier) - _arguments(LoRACLIPVision) - {'encoder'}
    if encoder in ('text', 'both') or only & set(kwargs):
        return LoRACLIPClassifier(encoder=encoder or 'both', **kwargs)
    check_keywords(kwargs, LoRACLIPVision.__init__, VisionTransformer.__init__, LoRACLIPClassifier.__init__)
    return LoRACLIPVision(**kwargs)


def _arguments(kind: type) -> set[str]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
