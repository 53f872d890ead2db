"""Adapt a built backbone: inject, freeze, guard. All adapted backbones are this one function."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from mmengine.logging import print_log
from mmpretrain.models import VisionTransformer

from ...adapters import adapter_parameter_names, freeze, inject
from ...ranks import RankTable
from .load_guard import LoadGuard


def adapt_backbone(
    backbone: nn.Module,
    table: RankTable,
    alpha: float = 1.0,
    scaling: str | float = 'alpha/r',
    dropout: float = 0.0,
    slices: Sequence[str] | None = 'qv',
    kind: str = 'lora',
    frozen: bool = True,
    **kwargs: Any,
) -> None:
    """Adapt the modules that a rank table names, in place, and let nothing else learn.

    Args:
        backbone: A built backbone, before any weights are loaded.
        table: Ranks of its modules; rank 0 leaves a module as it is.
        alpha: Numerator of the scaling.
        scaling: As in :class:`mmlora.adapters.LoRALinear`.
        dropout: Of the input of A.
        slices: Adapted slices of a fused projection.
        kind: Kind of adapter.
        frozen: False lets the whole backbone learn beside the adapters.
        **kwargs: Further arguments of the kind.

    Raises:
        ValueError: An argument does not fit a module, or a ViT has a list of initialisers, the last of which would
            draw the loaded position embedding anew.
    """
    init_cfg = getattr(backbone, 'init_cfg', None)
    if isinstance(backbone, VisionTransformer) and isinstance(init_cfg, (list, tuple)):
        raise ValueError(
            f'init_cfg must be one dict, got a list of {len(init_cfg)}: with a list VisionTransformer draws the '
            'position embedding anew after loading it'
        )
    targets = list(table.ranks)
    inject(
        backbone,
        targets,
        ranks=table.ranks,
        kind=kind,
        slices=slices,
        alpha=alpha,
        scaling=scaling,
        dropout=dropout,
        **kwargs,
    )
    if frozen:
        freeze(backbone, adapter_parameter_names(backbone))
    backbone.register_load_state_dict_pre_hook(LoadGuard(slices or 'qkv'))
    backbone.rank_table = table
    if all(rank == 0 for rank in table.ranks.values()):
        print_log('all ranks are 0: the backbone is frozen and has no adapter', logger='current')


def count_slices(slices: Sequence[str] | None) -> int:
    """Return how many slices of a fused projection are adapted; a projection adapted as one counts as all."""
    return 3 if slices is None else len(slices)


def check_slices(slices: Mapping | Sequence[str] | None) -> None:
    """Check that slices name q, k and v.

    Raises:
        ValueError: They do not.
    """
    if slices is not None and (not slices or set(slices) - set('qkv') or len(set(slices)) != len(slices)):
        raise ValueError(f"lora_slices must name some of 'q', 'k' and 'v', each once, got {slices!r}")
