"""The kinds of adapter, by the name that a config uses.

A kind is a class of adapted linear, which brings its own form for fused projections, or a way to tune a whole backbone.
"""

import difflib

from .adaptformer import AdaptFormer
from .bitfit import BitFit
from .dora import DoRALinear
from .full_fine_tune import FullFineTune
from .glora import GLoRALinear
from .houlsby import Houlsby
from .layer_norm_tune import LayerNormTune
from .linear_probe import LinearProbe
from .lora import LoRALinear
from .low_rank import LowRankLinear
from .melora import MELoRALinear
from .moslora import MoSLoRALinear
from .pissa import PiSSALinear
from .rlrr import RLRRLinear
from .ssf import SSF
from .tuning import Tuning
from .vpt import VPT

KINDS: dict[str, type[LowRankLinear] | type[Tuning]] = {
    'lora': LoRALinear,
    'rlrr': RLRRLinear,
    'moslora': MoSLoRALinear,
    'melora': MELoRALinear,
    'glora': GLoRALinear,
    'pissa': PiSSALinear,
    'dora': DoRALinear,
    'adaptformer': AdaptFormer,
    'bitfit': BitFit,
    'fullfinetune': FullFineTune,
    'houlsby': Houlsby,
    'layernormtune': LayerNormTune,
    'linearprobe': LinearProbe,
    'ssf': SSF,
    'vpt': VPT,
}
"""Keys are lower-case letters alone; :func:`look_up_kind` takes every spelling of them."""


def look_up_kind(name: str) -> type[LowRankLinear] | type[Tuning]:
    """Return the class of a kind of adapter; case, ``-`` and ``_`` of the name do not matter.

    Raises:
        TypeError: The name is no text.
        ValueError: There is no such kind; the nearest are named.
    """
    if not isinstance(name, str):
        raise TypeError(f'kind must be the name of a kind of adapter, got {name!r}: choose one of {sorted(KINDS)}')
    key = name.lower().replace('-', '').replace('_', '')
    if key not in KINDS:
        close = difflib.get_close_matches(key, KINDS)
        near = f'did you mean one of {close}? ' if close else ''
        raise ValueError(f'unknown kind of adapter {name!r}: {near}choose one of {sorted(KINDS)}')
    return KINDS[key]


def look_up_linear_kind(name: str) -> type[LowRankLinear]:
    """Return the class of a kind of adapted linear, as :func:`look_up_kind` does.

    Raises:
        TypeError: The name is no text.
        ValueError: There is no such kind, or it is a way to tune a whole backbone.
    """
    kind = look_up_kind(name)
    if not issubclass(kind, LowRankLinear):
        linear = sorted(key for key, value in KINDS.items() if issubclass(value, LowRankLinear))
        raise ValueError(
            f'{name!r} adapts a whole backbone and no linear layer: call {kind.__name__}(...).attach(backbone), or '
            f'choose one of {linear}'
        )
    return kind
