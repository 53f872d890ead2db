"""GLoRA of one linear layer: the weight is scaled and added to, the bias is scaled and added to, and a prompt goes in.

Chavan et al., "One-for-All: Generalized LoRA for Parameter-Efficient Fine-Tuning", 2023, arXiv 2306.07967, eq. 8, in
torch's layout, W ``(out, in)``, with products of entries as in the published code::

    y = x (W + W * A + B)^T + b + b * D + E + W C

Each of the five supports is chosen by itself:

    A, B (out, in)   'lora' (a product of rank r), 'vector' (a number for each output), 'scalar', 'none'
    C (in)           'lora', 'vector', 'none'
    D, E (out)       'vector', 'scalar', 'none'

The change of the weight is formed as in RLRR, for the product alone (see :mod:`.rlrr`). It merges exactly.

Deviations from the published code: the supports are fixed, as of a network that the paper's evolutionary search has
found. There is no supernet whose supports are drawn at random, in evaluation too. All supports start at zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .lora import lora_change
from .low_rank import Factors
from .parted import PartedLinear
from .rlrr import rescaled, rescaled_linear

FORMS: dict[str, tuple[str, ...]] = {
    'A': ('lora', 'vector', 'scalar', 'none'),
    'B': ('lora', 'vector', 'scalar', 'none'),
    'C': ('lora', 'vector', 'none'),
    'D': ('vector', 'scalar', 'none'),
    'E': ('vector', 'scalar', 'none'),
}
"""The forms that each support can have."""

SUPPORTS = {'A': 'lora', 'B': 'lora', 'C': 'vector', 'D': 'vector', 'E': 'vector'}
"""The forms where none are chosen."""


class GLoRALinear(PartedLinear):
    """A frozen linear layer with the supports A to E of GLoRA.

    A support X in the form ``'lora'`` is ``lora_X_down`` and ``lora_X_up``, else it is ``lora_X_vector`` or
    ``lora_X_scalar``. Fresh tensors leave the function of the layer unchanged, bit for bit. A layer without a bias has
    no D; it gets a bias by C and E.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        rank: Rank of the supports in the form ``'lora'``; one for every adapted slice, or ``{slice: rank}``, where
            rank 0 leaves a slice alone.
        supports: The form of each support, as in :data:`FORMS`; those that are not named are as in :data:`SUPPORTS`.
        slices: The slices of a fused projection that are adapted; None adapts the projection as one weight.
        layout: Names of all slices in the order of their rows.
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`mmlora.adapters.LowRankLinear`.

    Raises:
        ValueError: A rank is out of range, the slices do not fit, a support or its form is unknown, or none is left.
        TypeError: A rank is not an integer, or ``supports`` is no mapping.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | Mapping[str, int],
        supports: Mapping[str, str] | None = None,
        slices: Sequence[str] | None = None,
        layout: Sequence[str] = 'qkv',
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, rank, slices, layout, **kwargs)
        if not isinstance(supports, Mapping | None):
            raise TypeError(f"supports must be a mapping such as dict(A='lora'), got {supports!r}")
        for letter, form in (supports or {}).items():
            if letter not in FORMS:
                raise ValueError(f'unknown support {letter!r}: choose among {list(FORMS)}')
            if form not in FORMS[letter]:
                raise ValueError(f'support {letter} cannot be {form!r}: choose one of {list(FORMS[letter])}')
        self.supports = {**SUPPORTS, **(supports or {})}
        if self.bias is None:
            self.supports['D'] = 'none'
        if set(self.supports.values()) == {'none'}:
            raise ValueError(
                f'no support is left to learn on a layer with bias={self.bias is not None}: choose one of A to E, got '
                f'supports={dict(supports or {})}'
            )
        self._make()

    @property
    def shifts(self) -> bool:
        """Whether there is a support that gives a bias to a layer without one."""
        return self.supports['C'] != 'none' or self.supports['E'] != 'none'

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors of the supports that a part has."""
        sizes = dict.fromkeys('ABDE', self.part_rows) | {'C': self.in_features}
        inputs = {'A': self.in_features, 'B': self.in_features, 'C': 1}
        shapes: dict[str, tuple[int, ...]] = {}
        for letter, form in self.supports.items():
            if form == 'lora':
                shapes |= {f'{letter}_down': (rank, inputs[letter]), f'{letter}_up': (sizes[letter], rank)}
            elif form != 'none':
                shapes[f'{letter}_{form}'] = (sizes[letter] if form == 'vector' else 1,)
        return shapes

    def start(self, part: str) -> None:
        """Draw the ``down`` of each product from Kaiming's uniform distribution with a = sqrt(5); all else is zero."""
        for what in self.shapes(self._ranks[part]):
            if what.endswith('_down'):
                nn.init.kaiming_uniform_(self.tensor(what, part), a=5**0.5)
            else:
                nn.init.zeros_(self.tensor(what, part))

    def factors(self) -> Factors:
        """Refuse.

        Raises:
            TypeError: Always: five supports are no pair of factors.
        """
        raise TypeError('GLoRA has five supports and no pair of factors: take adapter_parameters()')

    def delta(self) -> Tensor:
        """Return ``W * A + B``, ``(out_features, in_features)``, with zero rows for the slices left alone."""
        return self.changed()[0] - self.frozen_weight

    def changed(self) -> tuple[Tensor, Tensor | None]:
        """Return ``W + W * A + B`` and ``b + b * D + E + W C``."""
        weight = self.frozen_weight
        scale, shift = self._product('A'), self._product('B')
        changed = weight if scale is None else rescaled(weight, scale[1], scale[0])
        if shift is not None:
            changed = changed + shift[1] @ shift[0]
        return changed, self._whole_bias()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the changed layer, ``(..., in_features) -> (..., out_features)``.

        Raises:
            RuntimeError: The layer is merged and in training with gradients, which the supports would never get.
        """
        if self.merged:
            self._refuse_if_trained()
            return F.linear(x, self.weight, self.bias)
        bias, scale, shift = self._whole_bias(), self._product('A'), self._product('B')
        if scale is None:
            y = F.linear(x, self.weight, None if bias is None else bias.to(self.weight.dtype))
        else:
            if bias is None:
                bias = self.weight.new_zeros(self.out_features)
            y = rescaled_linear(x, self.weight, bias, scale[1], scale[0])
        return y if shift is None else y + lora_change(x.to(shift[0].dtype), *shift, 1.0).to(y.dtype)

    def _product(self, letter: str) -> tuple[Tensor, Tensor] | None:
        """Return ``(k, in)`` and ``(out, k)``, whose product is A or B of the whole weight, or None."""
        form = self.supports[letter]
        if form == 'none':
            return None
        pairs = {}
        for part in self._ranks:
            if form == 'lora':
                pairs[part] = self.tensor(f'{letter}_down', part), self.tensor(f'{letter}_up', part)
            else:
                value = self.tensor(f'{letter}_{form}', part)
                pairs[part] = value.new_ones(1, self.in_features), value.expand(self.part_rows)[:, None]
        return self._as_one(pairs)

    def _whole_bias(self) -> Tensor | None:
        """Return ``b + b * D + E + W C``, ``(out,)``, or None where there is none."""
        bias, weight = self.frozen_bias, self.frozen_weight
        shifts = {part: [] for part in self._ranks}
        for part, terms in shifts.items():
            rows = self.rows(part)
            if self.supports['D'] != 'none':
                terms.append(bias[rows] * self.tensor(f'D_{self.supports["D"]}', part))
            if self.supports['E'] != 'none':
                terms.append(self.tensor(f'E_{self.supports["E"]}', part).expand(self.part_rows))
            if self.supports['C'] != 'none':
                prompt = self._prompt(part)
                terms.append(weight[rows].to(prompt.dtype) @ prompt)
        if not any(shifts.values()):
            return bias
        shift = self._stack({part: sum(terms) for part, terms in shifts.items()})
        return shift if bias is None else bias + shift

    def _prompt(self, part: str) -> Tensor:
        """Return C, ``(in,)``."""
        if self.supports['C'] == 'vector':
            return self.tensor('C_vector', part)
        return self.tensor('C_up', part) @ self.tensor('C_down', part)[:, 0]

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, supports={self.supports}'


GLoRALinear.fused = GLoRALinear
