"""Any OpenMMLab backbone, adapted: its linear layers, or the whole of it by a way to tune it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from mmpretrain.registry import MODELS as PRETRAIN_MODELS

from ...adapters import Tuning, adapter_modules, look_up_kind
from ...adapters.shared_a import share_a
from ...adapters.targets import linear_names, select
from ...registry import MODELS, register
from .adapt import OWN_SLICES, adapt_backbone, check_keywords, check_slices, tune_backbone
from .biases import with_biases
from .ranks import pretrained_checkpoint, resolve_ranks
from .skeleton import build_skeleton

ELSEWHERE = {
    *('self', 'in_features', 'out_features', 'bias', 'device', 'dtype', 'layout'),
    *('rank', 'slices', 'alpha', 'scaling', 'dropout'),
}
"""Arguments of an adapted linear that follow from the layer in whose place it is, or are given as ``lora_*``."""


@register(MODELS)
def AdaptedBackbone(
    backbone: Mapping[str, Any],
    targets: str | Sequence[str] | None = None,
    lora_ranks: Any = None,
    rank_budget: Mapping[str, float] | None = None,
    lora_alpha: float = 1.0,
    lora_scaling: str | float = 'alpha/r',
    lora_dropout: float = 0.0,
    lora_slices: Sequence[str] | None = OWN_SLICES,
    kind: str = 'lora',
    frozen: bool = True,
    init_cfg: Mapping[str, Any] | None = None,
    rank_per: str = 'layer',
    scale_shift: Sequence[str] = (),
    rlrr_convs: Sequence[str] = (),
    adapter_cfg: Mapping[str, Any] | None = None,
    lora_shared_a: int | None = None,
    **unknown: Any,
) -> nn.Module:
    """Build a backbone and adapt it. What is returned is the backbone itself: no wrapper and so no key prefix.

    Args:
        backbone: Config of the backbone, with its ``init_cfg``. A bare ``type`` is looked up in mmpretrain.
        targets: Which linear layers to adapt: names, suffixes (``'attn.qkv'``) or regular expressions. Kinds of adapted
            linear need it; the others adapt the whole backbone and take none of the arguments about linears or ranks.
        lora_ranks: One number, a mapping from module to rank (on a fused projection a rank may be a mapping from slice
            to rank), a criterion such as ``'stable_rank'``, a ``ranks.json`` or a checkpoint. By default 8 for LoRA
            and 1 for RLRR.
        rank_budget: As in :func:`mmlora.ranks.check_budget`, for ranks from a criterion.
        lora_alpha: Numerator of the scaling.
        lora_scaling: ``'alpha/r'``, ``'alpha/sqrt(r)'``, ``'constant'`` or a number.
        lora_dropout: Of the input of A, in [0, 1). Scaling and dropout are LoRA's alone.
        lora_slices: Which of q, k and v are adapted in a layer named ``qkv``; None adapts such a layer as one weight.
            By default all three for RLRR, q and v for the others.
        kind: A name in :data:`mmlora.adapters.KINDS`, in any spelling: ``'LoRA'``, ``'RLRR'``, ``'BitFit'`` ...
        frozen: False lets what is not adapted learn too; the weights of adapted layers stay frozen.
        init_cfg: Takes the place of that of the inner backbone.
        rank_per: ``'layer'`` values a fused projection as one weight, ``'slice'`` q, k and v by their own rows. For
            ranks from a criterion.
        scale_shift: Which normalisation and convolution layers are scaled and shifted, by patterns as in ``targets``.
        rlrr_convs: Which convolutions get RLRR of rank 1, by patterns as in ``targets``, which may be empty then.
        adapter_cfg: Further arguments of the kind, such as ``dict(init='identity')`` for RLRR.
        lora_shared_a: A seed from which the A of a LoRA is drawn and then frozen, so that trainings of one seed share
            it and B alone learns; see :mod:`mmlora.adapters.shared_a`. None lets A learn.
        **unknown: Refused.

    Raises:
        ValueError: A target means no linear layer, an argument does not fit a layer or the kind, or the kind does not
            fit the backbone.
        TypeError: ``backbone`` is no config, or an argument is unknown.
    """
    check_keywords(unknown, AdaptedBackbone)
    cls = look_up_kind(kind)
    own = _own_arguments(kind, adapter_cfg)
    inner = _bare_config(dict(backbone=backbone, init_cfg=init_cfg))
    if issubclass(cls, Tuning):
        given = dict(targets=targets, lora_ranks=lora_ranks, rank_budget=rank_budget, lora_alpha=lora_alpha)
        given |= dict(lora_scaling=lora_scaling, lora_dropout=lora_dropout, lora_slices=lora_slices)
        given |= dict(rank_per=rank_per, scale_shift=scale_shift, rlrr_convs=rlrr_convs, lora_shared_a=lora_shared_a)
        _refuse_linear(cls, given)
        model = PRETRAIN_MODELS.build(inner)
        tune_backbone(model, cls(**own), frozen)
        return model
    if targets is None:
        raise ValueError(
            f"kind={kind!r} adapts linear layers: name them, as in targets=['attn.qkv', 'attn.proj'], or choose a kind "
            'that adapts the whole backbone'
        )
    slices = cls.default_slices if lora_slices == OWN_SLICES else lora_slices
    check_slices(slices)
    model = PRETRAIN_MODELS.build(inner)
    table = resolve_ranks(
        cls.default_rank if lora_ranks is None else lora_ranks,
        select(targets, linear_names(model)),
        pretrained_checkpoint(inner.get('init_cfg')),
        rank_budget,
        slices,
        rank_per,
        lambda: model,
    )
    adapt_backbone(
        model,
        table,
        lora_alpha,
        lora_scaling,
        lora_dropout,
        slices,
        kind,
        frozen,
        scale_shift,
        rlrr_convs,
        **own,
    )
    if lora_shared_a is not None:
        share_a(model, lora_shared_a)
    return model


def _refuse_linear(kind: type[Tuning], given: Mapping[str, Any]) -> None:
    """Refuse what only adapted linears have a use for.

    Raises:
        ValueError: An argument is not its default.
    """
    defaults = inspect.signature(AdaptedBackbone).parameters
    extra = {name: value for name, value in given.items() if value != defaults[name].default}
    if extra:
        raise ValueError(
            f'kind={kind.__name__!r} adapts the whole backbone and has no use for {extra}: leave that out; arguments '
            'of the kind go into adapter_cfg'
        )


def _own_arguments(kind: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the further arguments of a kind.

    Raises:
        TypeError: They are no mapping, or one is unknown or has a place of its own in the config of the backbone.
    """
    if not isinstance(given, Mapping | None):
        raise TypeError(f'adapter_cfg must be a mapping of arguments of the kind, got {given!r}')
    cls = look_up_kind(kind)
    parameters = [p for base in cls.__mro__ for p in inspect.signature(base.__init__).parameters.values()]
    known = dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    elsewhere = {'self'} if issubclass(cls, Tuning) else ELSEWHERE
    known = [name for name in known if name not in elsewhere]
    unknown = sorted(set(given or {}) - set(known))
    if unknown:
        raise TypeError(f'adapter_cfg of kind={kind!r} has no {unknown}: it takes {known or "no arguments"}')
    return dict(given or {})


def _bare_config(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the backbone without adapters, from that of the adapted one."""
    backbone = cfg['backbone']
    if not isinstance(backbone, Mapping) or 'type' not in backbone:
        raise TypeError(f'backbone must be a config with a type, got {backbone!r}')
    own = cfg.get('init_cfg')
    return dict(backbone) if own is None else dict(backbone, init_cfg=own)


def _adapter_sites(cfg: Mapping[str, Any]) -> list[str]:
    """Return the names of the adapted linears; the backbone is built without memory to learn them."""
    if not _has_ranks(cfg):
        return []
    return select(cfg['targets'], linear_names(build_skeleton(_bare_config(cfg))))


def _has_ranks(cfg: Mapping[str, Any]) -> bool:
    """Return whether a config adapts linear layers, which have ranks, and not the backbone as a whole."""
    return not issubclass(look_up_kind(cfg.get('kind', 'lora')), Tuning)


def _default_ranks(cfg: Mapping[str, Any]) -> int:
    """Return the rank that a config of a kind with ranks means where it gives none."""
    return look_up_kind(cfg.get('kind', 'lora')).default_rank


def _merged_config(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the backbone without adapters that takes the merged weights: shifts need biases."""
    layers = adapter_modules(build_skeleton({**cfg, 'type': AdaptedBackbone})).values()
    bare = _bare_config(cfg)
    return with_biases(bare) if any(layer.shifts and layer.bias is None for layer in layers) else bare


def _default_slices(cfg: Mapping[str, Any]) -> str:
    """Return the adapted slices that a config without any means."""
    return getattr(look_up_kind(cfg.get('kind', 'lora')), 'default_slices', 'qv')


AdaptedBackbone.adapter_sites = _adapter_sites
AdaptedBackbone.default_ranks = _default_ranks
AdaptedBackbone.default_slices = _default_slices
AdaptedBackbone.bare_config = _bare_config
AdaptedBackbone.has_ranks = _has_ranks
AdaptedBackbone.merged_config = _merged_config
