"""Adapt a built backbone: inject, freeze, guard. All adapted backbones are this one function."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn as nn
from mmengine.logging import print_log
from mmpretrain.models import RevVisionTransformer, VisionTransformer

from ...adapters import (
    RLRRLinear,
    Tuning,
    adapter_modules,
    adapter_parameter_names,
    freeze,
    inject_exact,
    inject_rlrr_conv,
    inject_scale_shift,
    look_up_kind,
    to_plain,
)
from ...ranks import RankTable
from ...ranks.nested import Rank
from .load_guard import LoadGuard

OWN_SLICES = 'own'
"""In the place of slices: those that a kind of adapter has by default."""


def adapt_backbone(
    backbone: nn.Module,
    table: RankTable,
    alpha: float = 1.0,
    scaling: str | float = 'alpha/r',
    dropout: float = 0.0,
    slices: Sequence[str] | None = 'qv',
    kind: str = 'lora',
    frozen: bool = True,
    scale_shift: Sequence[str] = (),
    convs: Sequence[str] = (),
    announce: bool = True,
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
        kind: Kind of adapter. One without scaling and dropout takes no others than the defaults.
        frozen: False lets what is not adapted learn too.
        scale_shift: Patterns of the normalisation and convolution layers whose output is scaled and shifted; they
            start as the kind does.
        convs: Patterns of the convolutions with RLRR of rank 1, which start as the kind does.
        announce: Whether to log that all ranks are 0; False where no adapter was asked for.
        **kwargs: Further arguments of the kind.

    Raises:
        ValueError: An argument does not fit a module; or a ViT has a list of initialisers, the last of which would
            draw the loaded position embedding anew; or the backbone itself would freeze the adapters.
    """
    _check_init(backbone)
    _plain_rates(backbone)
    ranks = {name: rank if _adapts(rank) else 0 for name, rank in table.ranks.items()}
    options = _options(kind, dict(alpha=alpha, scaling=scaling, dropout=dropout)) | kwargs
    inject_exact(backbone, ranks, kind, slices, **options)
    # The starts of other kinds have names of their own.
    shared = ('init', 'lora_dtype') if look_up_kind(kind) is RLRRLinear else ('lora_dtype',)
    start = {name: kwargs[name] for name in shared if name in kwargs}
    if convs:
        inject_rlrr_conv(backbone, convs, **start)
    if scale_shift:
        inject_scale_shift(backbone, scale_shift, **start)
    if frozen:
        freeze(backbone, adapter_parameter_names(backbone))
    backbone.register_load_state_dict_pre_hook(LoadGuard())
    backbone.rank_table = table
    given = dict(alpha=alpha, scaling=scaling, dropout=dropout, slices=slices, scale_shift=scale_shift, convs=convs)
    backbone.adaptation = dict(kind=kind, frozen=frozen, options=given | kwargs)
    _check_learning(backbone, adapter_parameter_names(backbone))
    if announce and not adapter_modules(backbone):
        print_log('all ranks are 0: the backbone is frozen and has no adapter', logger='current')


def tune_backbone(backbone: nn.Module, tuning: Tuning, frozen: bool = True) -> None:
    """Adapt a whole backbone, in place, and let nothing else learn.

    Args:
        backbone: A built backbone, before any weights are loaded.
        tuning: How; it is left in ``backbone.tuning``.
        frozen: False lets what is not adapted learn too.

    Raises:
        ValueError: The method does not fit the backbone, or as :func:`adapt_backbone` says.
    """
    _check_init(backbone)
    options = {name: value for name, value in vars(tuning).items() if not name.startswith('_')}
    tuning.attach(backbone, frozen)
    backbone.register_load_state_dict_pre_hook(LoadGuard())
    backbone.rank_table = RankTable((), f'{tuning.name} has no ranks')
    backbone.adaptation = dict(kind=tuning.name, frozen=frozen, options=options)
    _check_learning(backbone, tuning.learned(backbone))


def adapt_as(backbone: nn.Module, adaptation: Mapping[str, Any], table: RankTable | None) -> None:
    """Adapt a plain backbone as another one was.

    Args:
        backbone: Changed in place.
        adaptation: ``adaptation`` of the other one: ``kind``, ``frozen`` and ``options``.
        table: Its ranks, for a kind that has some.

    Raises:
        ValueError: The kind is unknown or does not fit the backbone.
        TypeError: The kind has no such option.
    """
    kind, options = look_up_kind(adaptation['kind']), dict(adaptation['options'])
    if issubclass(kind, Tuning):
        tune_backbone(backbone, kind(**options), adaptation['frozen'])
    else:
        table = RankTable(()) if table is None else table
        adapt_backbone(backbone, table, kind=adaptation['kind'], frozen=adaptation['frozen'], **options)


def _plain_rates(backbone: nn.Module) -> None:
    """Make plain numbers of NumPy's rates of dropped paths, each of which ends a graph of ``torch.compile``."""
    for module in backbone.modules():
        if isinstance(getattr(module, 'drop_prob', None), np.floating):
            module.drop_prob = float(module.drop_prob)


def _check_init(backbone: nn.Module) -> None:
    init_cfg = getattr(backbone, 'init_cfg', None)
    if isinstance(backbone, VisionTransformer) and isinstance(init_cfg, (list, tuple)):
        raise ValueError(
            f'init_cfg must be one dict, got a list of {len(init_cfg)}: with a list VisionTransformer draws the '
            'position embedding anew after loading it'
        )


def _options(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the arguments that a kind of adapter takes; the others must say nothing."""
    known = inspect.signature(look_up_kind(kind)).parameters
    for name, value in given.items():
        if name not in known and value != inspect.signature(adapt_backbone).parameters[name].default:
            raise ValueError(f'adapters of the kind {kind!r} have no {name}, got {value!r}: leave lora_{name} out')
    return {name: value for name, value in given.items() if name in known}


def slices_of(cfg: Mapping[str, Any], kind: Any) -> Any:
    """Return the adapted slices of fused projections from the config of a backbone and what builds it."""
    if cfg.get('lora_slices', OWN_SLICES) != OWN_SLICES:
        return cfg['lora_slices']
    own = getattr(kind, 'default_slices', 'qv')
    return own(cfg) if callable(own) else own


def look_up_arch(zoo: Mapping[str, Any], arch: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of an architecture, given by name or as they are.

    Raises:
        ValueError: There is none of that name.
    """
    if not isinstance(arch, str):
        return arch
    if arch.lower() not in zoo:
        raise ValueError(f'unknown arch {arch!r}: choose one of {sorted(zoo)} or give a dict')
    return zoo[arch.lower()]


def _adapts(rank: Rank) -> bool:
    return any(rank.values()) if isinstance(rank, Mapping) else rank > 0


def _check_learning(backbone: nn.Module, names: Iterable[str]) -> None:
    """Check that gradients will reach what is to learn.

    Raises:
        ValueError: The backbone switches it off, or has a gradient of its own that does not reach it.
    """
    # Some backbones freeze stages anew whenever they are set to training, adapters included.
    backbone.train()
    parameters = dict(backbone.named_parameters())
    switched_off = sorted(n for n in names if not parameters[n].requires_grad)
    if switched_off:
        raise ValueError(
            f'{type(backbone).__name__} with frozen_stages={getattr(backbone, "frozen_stages", None)} switches '
            f'{len(switched_off)} tensors off that are to learn, the first: {switched_off[0]}. Leave frozen_stages '
            'out: what does not learn is frozen already'
        )
    if not isinstance(backbone, RevVisionTransformer) or backbone.no_custom_backward:
        return
    # Autograd enters its reversible layers by their input alone.
    learning = [n for n, p in parameters.items() if p.requires_grad]
    inside = [n for n in learning if n.startswith('layers.')]
    if inside and not any(n.startswith(('patch_embed.', 'pos_embed')) for n in learning):
        raise ValueError(
            f'{type(backbone).__name__} gives its {len(inside)} learning tensors in layers no gradient where its patch '
            'and position embedding are frozen: set no_custom_backward=True'
        )


def deploy(backbone: nn.Module) -> None:
    """Put plain layers in the place of the adapted ones; the function stays the same, and nothing is left to load.

    Args:
        backbone: An adapted backbone; changed in place.
    """
    to_plain(backbone)
    backbone.__dict__.pop('rank_table', None)
    backbone.__dict__.pop('adaptation', None)


def find_adapted(model: nn.Module) -> dict[str, nn.Module]:
    """Return the adapted backbones inside a model by name."""
    return {name: m for name, m in model.named_modules() if isinstance(getattr(m, 'rank_table', None), RankTable)}


def check_slices(slices: Sequence[str] | None) -> None:
    """Check that slices name q, k and v.

    Raises:
        ValueError: They do not.
    """
    if slices is not None and (not slices or set(slices) - set('qkv') or len(set(slices)) != len(slices)):
        raise ValueError(f"lora_slices must name some of 'q', 'k' and 'v', each once, got {slices!r}")


def check_keywords(given: Iterable[str], *functions: Callable) -> None:
    """Check that each keyword is one of some function, so that a typing error names what was meant.

    Raises:
        TypeError: One is not; the nearest are named.
    """
    parameters = [p for function in functions for p in inspect.signature(function).parameters.values()]
    known = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != 'self']
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known) or sorted(known)
            raise TypeError(f'unknown argument {name!r}: did you mean one of {close}?')
