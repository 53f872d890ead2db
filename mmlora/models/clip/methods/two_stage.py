"""2SFS: few-shot adaptation of CLIP in two stages.

Farina, Mancini, Iacca, Ricci, "Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages", CVPR 2025,
arXiv 2503.11609. First the layer normalisations of both towers learn as in CLIP-LoRA, with features of the class names
computed anew in every step. Then the towers are frozen, and a linear classifier that starts from those features
learns. When images are compared with classes, those that were trained have their rows of the classifier, and all others
are embedded by the tuned text tower.

:class:`mmlora.engine.TwoStageHook` says when the second stage begins.

Deviations from the published code: normalisation, logits and loss are in float32; in the second stage the frozen towers
are in evaluation mode, which makes a difference for LoRA with dropout; rows and features of new names are normalised
before they are compared, wherever they come from; BitFit tunes the biases of q, k and v too.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ....adapters import BitFit, LayerNormTune, adapter_parameter_names, freeze
from ....registry import MODELS, register
from ..classifier import LoRACLIPClassifier
from ..logits import normalize
from .arguments import check_no_lora, refuse_merging
from .known_classes import KnownClasses, check_class_count
from .layer_norm import tower_parameters

TUNED: dict[str, Callable[[nn.Module], set[str]]] = {
    'layer_norm': LayerNormTune().learned,
    'bitfit': BitFit().learned,
    'lora': adapter_parameter_names,
}
"""What learns in the first stage -> the names of those parameters within a tower."""


def mix_rows(rows: Tensor, texts: Tensor, positions: Sequence[int]) -> Tensor:
    """Return one feature for each class: its row of the classifier or, where it has none, that of its text.

    Args:
        rows: Of the classes that were trained, ``(R, D)``.
        texts: Of the classes that are compared, ``(C, D)``.
        positions: The row of each of those, -1 for none, C in number.

    Returns:
        ``(C, D)``.
    """
    index = torch.tensor(positions, device=rows.device)
    return torch.where((index >= 0)[:, None], rows[index.clamp(min=0)], texts.to(rows.dtype))


class StagedRows(nn.Module):
    """The linear classifier of the second stage, whose it is, and which stage it is.

    Args:
        count: Number of classes.
        width: Width of the features.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, width))
        self.known = KnownClasses(count)
        self.register_buffer('stage', torch.tensor(1))


@register(MODELS, '2SFS')
class TwoStageCLIP(LoRACLIPClassifier):
    """CLIP that is tuned in a first stage and gets a linear classifier in a second one.

    The classifier is ``head.rows``: below ``head.``, as what belongs to a task and not to the pre-trained weights. With
    normalisations as many numbers as in :class:`LayerNormCLIP` learn in the first stage, and ``classes * embed_dim`` in
    the second one.

    Args:
        tune: What learns in the first stage, a key of :data:`TUNED`.
        encoder: Of which tower: ``'vision'``, ``'text'`` or ``'both'``.
        num_classes: Number of classes that are trained. :func:`mmlora.apis.train` takes it from the data. None has no
            classifier, so that the model can be tested in its first stage, but not trained.
        **kwargs: Of :class:`LoRACLIPClassifier`; those of LoRA with ``tune='lora'`` alone.

    Raises:
        ValueError: An argument is out of range or unknown.
        TypeError: An argument is unknown, or is about LoRA, and that is not tuned.
    """

    plain_config = refuse_merging(
        'the classifier of TwoStageCLIP is no part of a plain CLIP, so nothing can be merged'
    )

    def __init__(
        self, tune: str = 'layer_norm', encoder: str = 'both', num_classes: int | None = None,
        classes: Sequence[str] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        if tune not in TUNED:
            raise ValueError(f'unknown tune={tune!r}: choose one of {list(TUNED)}')
        if tune != 'lora':
            check_no_lora(f'TwoStageCLIP(tune={tune!r})', kwargs, "leave it out, or set tune='lora'")
        count = check_class_count(num_classes) or len(classes or ())
        super().__init__(encoder=encoder if tune == 'lora' else 'none', classes=classes, **kwargs)
        learned = {'logit_scale'} if self.scale.learned else set()
        self._first = tower_parameters(self, encoder, TUNED[tune]) | learned
        self.head.add_module('rows', StagedRows(count, self.arch.embed_dim))
        freeze(self, self._first | {'head.rows.weight'})

    @staticmethod
    def rows_per_class(cfg: dict[str, Any]) -> str | None:
        """Return the name of the tensor with a row for each class that the model of a config has."""
        return 'head.rows.weight'

    @property
    def stage(self) -> int:
        """1 or 2."""
        return int(self.head.rows.stage)

    def begin_first_stage(self) -> None:
        """Train from the beginning, whatever was trained before.

        Raises:
            ValueError: There is not a row for each class.
        """
        self._need_classes()
        self.head.rows.known.check_count(self._classes)  # Before a whole stage has been trained.
        self.head.rows.known.forget()
        self.head.rows.stage.fill_(1)

    @torch.no_grad()
    def begin_second_stage(self) -> None:
        """Start the classifier from the features of the class names, and freeze what has learned until now.

        Raises:
            ValueError: There is not a row for each class, or the second stage has begun already.
        """
        if self.stage == 2:
            raise ValueError('the second stage has begun already: its classifier would be lost')
        training, rows = self.training, self.head.rows
        self._need_classes()
        rows.known.learn(self._classes)
        self.eval()
        rows.weight.copy_(super().class_features())
        rows.stage.fill_(2)
        self.freeze_first_stage()
        self.train(training)

    def freeze_first_stage(self) -> None:
        """Let the classifier learn alone."""
        for name in self._first:
            parameter = self.get_parameter(name)
            parameter.requires_grad_(False)
            parameter.grad = None  # An optimizer would still take a step along a gradient that has been gathered.

    def train(self, mode: bool = True) -> 'TwoStageCLIP':
        """Set the mode and return self; in the second stage the towers stay in evaluation mode."""
        super().train(mode)
        if self.stage == 2:
            self.visual.eval()
            self.text.eval()
        return self

    def class_features(self) -> Tensor:
        """Return the features of the classes, normalised, ``(C, embed_dim)``.

        They are those of the text tower and, in the second stage, rows of the classifier for the classes that were
        trained.
        """
        self._need_classes()
        if self.stage == 1:
            return super().class_features()
        positions = self.head.rows.known.rows_of(self._classes)
        rows = normalize(self.head.rows.weight)
        if positions == list(range(len(rows))):
            return rows
        return mix_rows(rows, super().class_features(), positions)
