"""How a model is wrapped for several processes."""

from typing import Any

import torch.nn as nn
from mmengine.model import MMDistributedDataParallel

from ..registry import MODEL_WRAPPERS, register


@register(MODEL_WRAPPERS)
class LearningDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper for a model of which something learns; a model of which nothing learns is returned as it is.

    torch refuses to wrap the latter, since there are no gradients to share. Zero-shot and training-free models are
    tested by several processes all the same, each with a part of the images.

    Args:
        module: The model.
        **kwargs: Of ``MMDistributedDataParallel``.
    """

    def __new__(cls, module: nn.Module | None = None, **kwargs: Any) -> nn.Module:
        """Choose; without a model, as copying and unpickling call it, make a wrapper."""
        if module is None or any(parameter.requires_grad for parameter in module.parameters()):
            return super().__new__(cls)
        return module
