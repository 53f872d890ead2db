"""A LoRA from a folder, with its head, in a model whose backbone is adapted, over the weights that its config names."""

import math
from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from torch import Tensor

from ..adapters import adapter_modules, adapter_parameter_names
from ..io.lora_checkpoint import LORA
from ..models.pretrained import HEADS
from .base_weights import base_sha256


def complete_lora(model: nn.Module, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state dict of a model: its frozen weights, with the factors and the head of a checkpoint of a folder.

    The backbone takes its frozen weights by ``init_cfg`` first, which a test does not do by itself. Where the model has
    another head than a linear one, or the folder has none, the head is missing in what is returned, which a test
    refuses; a ``PrototypeHead`` has no weights and misses none.

    Args:
        model: Its ``backbone`` is adapted.
        checkpoint: Of :func:`mmlora.io.lora_checkpoint.lora_checkpoint`.

    Raises:
        ValueError: The model is adapted in other places, at other ranks or scalings, or stands on other weights.
    """
    about, factors = checkpoint[LORA], checkpoint['state_dict']
    where, backbone = about['folder'], getattr(model, 'backbone', None)
    own = adapter_parameter_names(backbone) if isinstance(backbone, nn.Module) else set()
    if not own:
        raise ValueError(f'{where} is a LoRA, and the backbone of the config has no place for one: give the model an '
                         'AdaptedBackbone with the targets, slices and ranks of the LoRA')
    backbone.init_weights()
    state = backbone.state_dict()
    differ = sorted(own ^ set(factors)) or [name for name in own if state[name].shape != factors[name].shape]
    if differ:
        raise ValueError(f'{where} does not fit the adapted backbone of the config: {len(differ)} factors are missing, '
                         f'too many or of another shape, the first: {differ[0]}. Set targets, lora_slices and '
                         'lora_ranks to those of the LoRA')
    for name, layer in adapter_modules(backbone).items():
        for part, scaling in layer.scalings.items():
            given = about['scalings'][f'{name}.{part}' if part else name]
            if not math.isclose(scaling, given, rel_tol=1e-6):
                raise ValueError(f'{where} has the scaling {given} in {name}, the config gives {scaling}: set '
                                 f'lora_scaling={given}')
    digest = base_sha256(backbone)
    if about['sha256'] not in (None, digest):
        raise ValueError(f'{where} stands on weights with the sha256 {about["sha256"]}, those of the config have '
                         f"{digest}: give the backbone init_cfg=dict(type='Pretrained', checkpoint=...) with the "
                         'weights of the LoRA')
    # What lies outside of the backbone and learns is the folder's or nobody's: the model's own was drawn at random.
    others = {name for name, _ in model.named_parameters() if not name.startswith('backbone.')}
    head = {f'{place}.{name}': value for name, value in (about['head'] or {}).items() for place in HEADS}
    return {**{name: value for name, value in model.state_dict().items() if name not in others},
            **{f'backbone.{name}': value for name, value in factors.items()},
            **{name: value for name, value in head.items() if name in others}}
