"""Houlsby's adapter: a bottleneck behind each of the two parts of a transformer layer.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751, section 2.1: a bottleneck
with a residual connection of its own, on the output of the projection that follows the attention and on that of the
feed-forward network, before the sum with the residual of the layer. The way down is drawn from N(0, 0.01), cut off at
two standard deviations, and the activation is GELU.

Deviations: the way up starts at zero and not near it, so that a fresh adapter changes nothing; and the layer
normalisations learn only with ``norms=True``, since the tables of vision papers (VPT, arXiv 2203.12119) keep them
frozen.
"""

from functools import partial

import torch.nn as nn
import torch.nn.functional as F

from .bottleneck import Bottleneck
from .freeze import adapter_parameter_names
from .sites import feed_forwards, projected_attentions
from .tuning import Tuning, check_dropout, check_flag, check_size, parameters_where

CHILD = 'houlsby_bottleneck'


class Houlsby(Tuning):
    """Put a bottleneck behind every attention and every feed-forward network of a transformer.

    Args:
        bottleneck: Features of the bottleneck, at least 1.
        dropout: Probability of dropping one of them in training, in [0, 1).
        norms: Whether the layer normalisations learn too, as in the paper.

    Raises:
        TypeError: ``bottleneck`` is not an integer, ``dropout`` no number, or ``norms`` neither True nor False.
        ValueError: An argument is out of range.
    """

    prefix = 'houlsby_'
    unmergeable = 'its bottlenecks are not linear, so no weight of the plain backbone holds them'

    def __init__(self, bottleneck: int = 64, dropout: float = 0.0, norms: bool = False) -> None:
        super().__init__()
        self.bottleneck = check_size('bottleneck', bottleneck)
        self.dropout = check_dropout(dropout)
        self.norms = check_flag('norms', norms)
        self._handles: list = []

    def learned(self, backbone: nn.Module) -> set[str]:
        """Return the names of the tensors of the bottlenecks, and of the layer normalisations with ``norms``."""
        names = adapter_parameter_names(backbone)
        return names | parameters_where(backbone, _is_norm) if self.norms else names

    def _add(self, backbone: nn.Module) -> None:
        attentions, networks = projected_attentions(backbone), feed_forwards(backbone)
        if not attentions or not networks:
            raise ValueError(
                f'Houlsby needs a transformer with attention and feed-forward networks, such as ViT or Swin; this '
                f'{type(backbone).__name__} has {len(attentions)} and {len(networks)} of them that it knows'
            )
        for module in attentions.values():
            self._put(module, module.proj, module.proj)
        for module in networks.values():
            self._put(module, module.layers, module.layers[-2])

    def _put(self, holder: nn.Module, site: nn.Module, last: nn.Linear) -> None:
        init = partial(nn.init.trunc_normal_, std=0.01, a=-0.02, b=0.02)
        own = Bottleneck(last.out_features, self.bottleneck, self.dropout, last.weight, F.gelu, init)
        setattr(holder, CHILD, own.train(holder.training))
        self._handles.append(site.register_forward_hook(own.add_to))

    def _remove(self, backbone: nn.Module) -> None:
        while self._handles:
            self._handles.pop().remove()
        for module in (*projected_attentions(backbone).values(), *feed_forwards(backbone).values()):
            delattr(module, CHILD)


def _is_norm(module: nn.Module, own: str) -> bool:
    return isinstance(module, nn.LayerNorm)
