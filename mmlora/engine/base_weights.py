"""The hash of the frozen weights of a backbone, by which LoRAs, banks and generators say what they stand on."""

import torch
import torch.nn as nn

from ..adapters import adapter_tensor_names
from ..ranks import weights_sha256


def base_sha256(backbone: nn.Module) -> str:
    """Return the hash of the weights of a backbone as float32, without its adapters; a hub has the same."""
    own = adapter_tensor_names(backbone)
    return weights_sha256({name: torch.atleast_1d(value.float()) for name, value in backbone.state_dict().items()
                           if name not in own})
