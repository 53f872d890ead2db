"""AdaptFormer: a bottleneck beside each feed-forward network.

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022, arXiv
2205.13535, eqs. 1 and 2: ``x = MLP(LN(x')) + s ReLU(LN(x') W_down) W_up + x'``, with biases, dropout after the
activation, W_down drawn from Kaiming's uniform distribution with a = sqrt(5), and W_up zero. What the bottleneck adds
is subject to neither layer scale nor stochastic depth in ViT and Swin. A layer that does more to the output of its
feed-forward network does it to the sum: BEiT both of these, Swin V2 a normalisation.
"""

import math
from functools import partial

import torch.nn as nn
import torch.nn.functional as F

from .bottleneck import Bottleneck
from .sites import feed_forwards
from .tuning import Tuning, check_dropout, check_size

CHILD = 'adaptformer_bottleneck'


class AdaptFormer(Tuning):
    """Put a bottleneck beside every feed-forward network of a transformer.

    Args:
        bottleneck: Features of the bottleneck, at least 1.
        scale: s, of what it adds; any finite number but 0.
        dropout: Probability of dropping a feature of the bottleneck in training, in [0, 1).

    Raises:
        TypeError: ``bottleneck`` is not an integer, or ``scale`` or ``dropout`` no number.
        ValueError: An argument is out of range.
    """

    prefix = 'adaptformer_'
    unmergeable = 'its bottlenecks are not linear, so no weight of the plain backbone holds them'

    def __init__(self, bottleneck: int = 64, scale: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__()
        self.bottleneck = check_size('bottleneck', bottleneck)
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f'scale must be a number, got {scale!r}')
        if not math.isfinite(scale) or scale == 0:
            raise ValueError(f'scale must be finite and not 0, which would switch the adapter off, got {scale}')
        self.scale = float(scale)
        self.dropout = check_dropout(dropout)
        self._handles: list = []

    def _add(self, backbone: nn.Module) -> None:
        networks = feed_forwards(backbone)
        if not networks:
            raise ValueError(
                f'AdaptFormer needs a transformer with feed-forward networks, such as ViT or Swin; this '
                f'{type(backbone).__name__} has none that it knows'
            )
        init = partial(nn.init.kaiming_uniform_, a=math.sqrt(5))
        for module in networks.values():
            last = module.layers[-2]
            options = dict(act=F.relu, init=init, scaling=self.scale, parallel=True)
            own = Bottleneck(last.out_features, self.bottleneck, self.dropout, last.weight, **options)
            setattr(module, CHILD, own.train(module.training))
            self._handles.append(module.register_forward_hook(own.add_to))

    def _remove(self, backbone: nn.Module) -> None:
        while self._handles:
            self._handles.pop().remove()
        for module in feed_forwards(backbone).values():
            delattr(module, CHILD)
