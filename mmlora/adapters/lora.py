"""LoRA of one linear layer.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685, eq. 3:
``h = W x + s B A x`` with A drawn from Kaiming's uniform distribution and B zero.

Deviation from loralib: ``train()`` and ``eval()`` never merge, because a checkpoint that is saved in evaluation mode
would otherwise hold the change twice.
"""

import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .input_dropout import InputDropout
from .low_rank import Factors
from .low_rank_sum import Product
from .sub_rank import SubRankLinear


def lora_delta(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return ``scaling * B A`` for A ``(r, in)`` and B ``(out, r)``: a dense ``(out, in)`` tensor."""
    return (b @ a) * scaling


def lora_change(x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return ``scaling * x A^T B^T`` for x ``(..., in)``; the scaling is applied where the tensor is smallest."""
    return F.linear(F.linear(x, a) * scaling, b)  # (..., in) -> (..., r) -> (..., out)


def add_product(y: Tensor, low: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return ``y + scaling * low B^T`` in the type of y, ``(..., out)``; the product is added while it is formed.

    Args:
        y: ``(..., out)``, of axes that can be joined without a copy.
        low: ``(..., r)``; a wider type than that of y is kept up to the sum.
        b: B, ``(out, r)``.
        scaling: Factor of the product.
    """
    if low.dtype != y.dtype:
        return y + ((low * scaling) @ b.t()).to(y.dtype)
    rows = torch.addmm(y.reshape(-1, y.shape[-1]), low.reshape(-1, low.shape[-1]), b.t(), alpha=scaling)
    return rows.view(y.shape)


def check_rank(rank: int, in_features: int, out_features: int, where: str = '') -> int:
    """Return the rank as an int if a ``(out_features, in_features)`` weight can take it.

    Raises:
        TypeError: The rank is not an integer.
        ValueError: The rank is below 1 or above ``min(in_features, out_features)``.
    """
    if isinstance(rank, bool) or not hasattr(rank, '__index__'):
        raise TypeError(f'rank{where} must be an integer, got {rank!r}')
    rank, limit = int(rank), min(in_features, out_features)
    if not 1 <= rank <= limit:
        raise ValueError(
            f'rank{where} must lie in 1..{limit} for a weight of {out_features} x {in_features}, got {rank}'
        )
    return rank


def make_dropout(p: float) -> nn.Module:
    """Return a dropout of the input of A; an identity at 0.

    Raises:
        ValueError: ``p`` is outside 0..1 or is 1, which would switch the adapter off in training.
    """
    if not 0 <= p < 1:
        raise ValueError(f'dropout must lie in [0, 1), got {p}')
    return InputDropout(p) if p else nn.Identity()


class LoRALinear(SubRankLinear):
    """A frozen linear layer with ``lora_A`` ``(rank, in_features)`` and ``lora_B`` ``(out_features, rank)``.

    Fresh factors leave the function of the layer unchanged, bit for bit.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        rank: Rank of the change, 1 to ``min(in_features, out_features)``.
        alpha: Numerator of the scaling.
        scaling: ``'alpha/r'``, ``'alpha/sqrt(r)'``, ``'constant'`` (alpha itself) or a number.
        dropout: Probability of dropping an input of A in training, in [0, 1).
        **kwargs: ``bias``, ``device``, ``dtype`` and ``lora_dtype`` of :class:`LowRankLinear`.

    Raises:
        ValueError: The rank, scaling or dropout is out of range.
        TypeError: The rank is not an integer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float = 1.0,
        scaling: str | float = 'alpha/r',
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, **kwargs)
        self.rank = check_rank(rank, in_features, out_features)
        self.alpha = float(alpha)
        self.scaling_rule = scaling
        self.scaling = self.scaling_at(self.rank)
        self.lora_dropout = make_dropout(dropout)
        like = dict(device=self.weight.device, dtype=self.lora_dtype)
        self.lora_A = nn.Parameter(torch.empty(self.rank, in_features, **like))
        self.lora_B = nn.Parameter(torch.empty(out_features, self.rank, **like))
        self.reset_adapter()

    def reset_adapter(self) -> None:
        """Draw A from Kaiming's uniform distribution with a = sqrt(5) and set B to zero."""
        self._refuse_if_merged('reset_adapter')
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    @property
    def ranks(self) -> dict[str, int]:
        """``{'': rank}``."""
        return {'': self.rank}

    @property
    def scalings(self) -> dict[str, float]:
        """``{'': scaling}``."""
        return {'': self.scaling}

    def factors(self) -> Factors:
        """Return ``{'': (A, B)}``."""
        return {'': (self.lora_A, self.lora_B)}

    def delta(self) -> Tensor:
        """Return ``scaling * B A``, ``(out_features, in_features)``."""
        return lora_delta(self.lora_A, self.lora_B, self.scaling)

    def products(self) -> list[Product]:
        """Return the change as one product that is added to the whole output."""
        factors, scalings = self.active()
        a, b = factors['']
        return [Product(0, self.out_features, a, b, scalings[''])]

    def change(self, x: Tensor) -> Tensor:
        """Return what the change adds to the output, ``(..., in_features) -> (..., out_features)``."""
        x = self.lora_dropout(x).to(self.lora_A.dtype)
        factors, scalings = self.active()
        return lora_change(x, *factors[''], scalings[''])

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the output ``y`` of the frozen layer with the change added, ``(..., out_features)``."""
        (product,) = self.products()
        low = F.linear(self.lora_dropout(x).to(product.a.dtype), product.a)
        return add_product(y, low, product.b * product.scaling, 1.0)

    def extra_repr(self) -> str:
        """Return the arguments that a reader of ``print(model)`` looks for."""
        return f'{super().extra_repr()}, rank={self.rank}, scaling={self.scaling:g}'
