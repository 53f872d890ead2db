"""Mixed precision that also works on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper

from ..registry import OPTIM_WRAPPERS, register


@register(OPTIM_WRAPPERS)
class BF16OptimWrapper(OptimWrapper):
    """Train with bfloat16 autocast on whatever device the model is on.

    bfloat16 has the range of float32, so there is no loss scaling. Parameters and optimizer state keep their type.

    Args:
        **kwargs: Arguments of ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast the forward pass, on top of what ``OptimWrapper`` does for gradient accumulation."""
        device = next((p.device.type for p in model.parameters()), 'cpu')
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
