"""A linear classifier on the frozen image features of CLIP.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020,
section 3.2. With the features f of an image at length 1, ``logits = s W f + b``, where s is the logit scale.

Deviations from the published probe, a logistic regression by L-BFGS on features as they are: features have length 1, so
that ``init='text'``, with the text features of the classes as W and b = 0, begins as zero-shot CLIP; and the optimizer
is that of the run.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ....adapters import freeze
from ....registry import MODELS, register
from ..classifier import LoRACLIPClassifier
from ..logits import normalize, wide
from .arguments import check_no_lora, refuse_merging
from .known_classes import KnownClasses, check_class_count
from .trained_rows import rows_of_trained

INITS = ('zero', 'text')


def probe_logits(images: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | float) -> Tensor:
    """Return ``scale * f W^T + b`` of images, f at length 1.

    Args:
        images: Features ``(B, D)``.
        weight: W, ``(C, D)``.
        bias: b, ``(C,)``.
        scale: Factor of the product.

    Returns:
        ``(B, C)``, at least in float32.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = normalize(images)
        return scale * F.linear(images, weight.to(images.dtype)) + bias.to(images.dtype)


class ProbeRows(nn.Module):
    """The classifier and whose it is.

    Args:
        count: Number of classes.
        width: Width of the features.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, width))
        self.bias = nn.Parameter(torch.zeros(count))
        self.known = KnownClasses(count)


@register(MODELS, 'CLIP-LinearProbe')
class CLIPLinearProbe(LoRACLIPClassifier):
    """CLIP with frozen towers and a learned linear classifier on its image features.

    The classifier is ``head.probe``; ``classes * (embed_dim + 1)`` numbers learn. It is for the classes that it was
    trained on: any of them in any order, and no others. The text tower serves ``init='text'`` alone.

    Args:
        init: What the classifier begins as: ``'zero'``, or ``'text'``, the text features of the classes.
        num_classes: Number of classes. :func:`mmlora.apis.train` takes it from the data.
        **kwargs: Of :class:`LoRACLIPClassifier`, but for those of LoRA.

    Raises:
        ValueError: An argument is out of range or unknown.
        TypeError: An argument is unknown, or is about LoRA.
    """

    plain_config = refuse_merging(
        'the classifier of CLIPLinearProbe is no part of a plain CLIP, so nothing can be merged'
    )

    def __init__(
        self, init: str = 'zero', num_classes: int | None = None, classes: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        if init not in INITS:
            raise ValueError(f'unknown init={init!r}: choose one of {INITS}')
        check_no_lora('CLIPLinearProbe', kwargs)
        count = check_class_count(num_classes) or len(classes or ())
        super().__init__(encoder='none', classes=classes, **kwargs)
        self.init = init
        self.head.add_module('probe', ProbeRows(count, self.arch.embed_dim))
        learned = {'head.probe.weight', 'head.probe.bias'} | ({'logit_scale'} if self.scale.learned else set())
        freeze(self, learned)

    @staticmethod
    def rows_per_class(cfg: dict[str, Any]) -> str:
        """Return the name of the tensor with a row for each class that the model of a config has."""
        return 'head.probe.weight'

    @torch.no_grad()
    def start_training(self, read_view: Callable[[int], Iterable[Any]]) -> None:
        """Give the classifier its first values and the names of its classes; a run calls this before its first step.

        Args:
            read_view: Gives the training images, which are not needed here.

        Raises:
            ValueError: There is not a row for each class.
        """
        self._need_classes()
        self.head.probe.known.learn(self._classes)
        self.head.probe.bias.zero_()
        if self.init == 'text':
            self.head.probe.weight.copy_(self.class_features())
        else:
            self.head.probe.weight.zero_()

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of images ``(B, 3, H, W)`` or of their features, ``(B, C)``, at least in float32.

        Raises:
            ValueError: A class was not trained, or there is no row at all.
        """
        probe = self.head.probe
        weight, bias = probe.weight, probe.bias
        rows = rows_of_trained(probe.known, self._classes, 'the linear probe')
        if rows is not None:
            index = torch.tensor(rows, device=weight.device)
            weight, bias = weight[index], bias[index]
        return probe_logits(self.image_features(inputs), wide(weight), wide(bias), self.scale.value(self.logit_scale))
