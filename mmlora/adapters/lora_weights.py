"""A LoRA as a thing of its own: its factors and scalings by layer, apart from any model.

Banks, hubs and the arithmetic of adapters pass these around. A fused projection has one pair for each adapted slice,
under the slice's name, another layer one pair under ''.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from ..fused import layout_of
from .adapted import adapter_modules, replace_module
from .lora import LoRALinear
from .low_rank import LowRankLinear
from .sites import bypassed, computes
from .sliced import SlicedLoRALinear


class Pair(NamedTuple):
    """The change ``scaling * B A`` of a weight, or of a slice of one.

    Attributes:
        a: ``(r, in)``.
        b: ``(rows, r)``.
        scaling: Factor of the product.
    """

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.a.shape[0]

    def delta(self) -> Tensor:
        """Return the dense change, ``(rows, in)``, for tests and small weights."""
        return (self.b @ self.a) * self.scaling


LoRAWeights = dict[tuple[str, str], Pair]
"""``{(name of the layer, slice or ''): Pair}``, in the order of the model and of the rows of a fused projection."""


def by_site(weights: Mapping[tuple[str, str], Pair]) -> dict[str, dict[str, Pair]]:
    """Return ``{layer: {slice: pair}}``.

    Raises:
        ValueError: A layer is adapted as one weight and by slices, or has a slice that its name does not allow.
    """
    sites: dict[str, dict[str, Pair]] = {}
    for (site, part), pair in weights.items():
        sites.setdefault(site, {})[part] = pair
    for site, parts in sites.items():
        wrong = sorted(part for part in parts if part and part not in layout_of(site))
        if wrong or ('' in parts and len(parts) > 1):
            slices = layout_of(site) or 'a fused projection, which this is not'
            raise ValueError(f'{site} has changes of {sorted(parts)}: a layer is adapted as one weight, or by slices '
                             f'of {slices}')
    return sites


def read_lora(model: nn.Module) -> LoRAWeights:
    """Return copies of the factors of a model with LoRA.

    Raises:
        ValueError: The model has no adapter.
        TypeError: A layer is adapted in another way than by LoRA; it is named.
    """
    weights: LoRAWeights = {}
    for name, layer in adapter_modules(model).items():
        for part, pair in pairs_of(layer, name).items():
            weights[name, part] = pair
    if not weights:
        raise ValueError('the model has no adapted layer')
    return weights


def pairs_of(layer: nn.Module, name: str = 'this layer') -> dict[str, Pair]:
    """Return copies of the factors of a layer with LoRA by slice.

    Raises:
        TypeError: It is adapted in another way.
    """
    if type(layer) not in (LoRALinear, SlicedLoRALinear):
        raise TypeError(f'{name} is a {type(layer).__name__}: only the factors of LoRA stand for themselves')
    scalings = layer.scalings
    return {part: Pair(a.detach().clone(), b.detach().clone(), scalings[part])
            for part, (a, b) in layer.factors().items()}


def draw_lora(
    model: nn.Module,
    sites: Iterable[str],
    rank: int,
    slices: Iterable[str] | None = 'qv',
    scaling: float = 1.0,
    generator: torch.Generator | None = None,
) -> LoRAWeights:
    """Draw a fresh LoRA for layers of a model: A from Kaiming's uniform distribution with a = sqrt(5), B zero.

    Args:
        model: Has the layers; it is not changed.
        sites: Their names.
        rank: Rank of each pair.
        slices: Adapted slices of a fused projection; None adapts it as one weight.
        scaling: Factor of each product.
        generator: Draws on the CPU, so that a seed gives the same on any device; None takes torch's own.

    Raises:
        ValueError: The rank is out of range for a layer, or no slice of a fused projection is chosen.
    """
    weights: LoRAWeights = {}
    for site in sites:
        linear = model.get_submodule(site)
        layout = layout_of(site) if slices is not None else ()
        parts = [part for part in layout if part in set(slices or ())] if layout else ['']
        if not parts:
            raise ValueError(f'{site} holds {layout}, none of which is among the slices {slices!r}')
        rows = linear.out_features // max(len(layout), 1)
        if not 1 <= rank <= min(rows, linear.in_features):
            raise ValueError(f'{site}: the rank must lie in 1..{min(rows, linear.in_features)}, got {rank}')
        dtype, bound = linear.weight.dtype, 1 / math.sqrt(linear.in_features)
        for part in parts:
            a = torch.empty(rank, linear.in_features, dtype=torch.float64)
            a.uniform_(-bound, bound, generator=generator)
            like = dict(device=linear.weight.device, dtype=torch.promote_types(dtype, torch.float32))
            weights[site, part] = Pair(a.to(**like), torch.zeros(rows, rank, **like), float(scaling))
    return weights


def adapt_with(model: nn.Module, weights: Mapping[tuple[str, str], Pair]) -> dict[str, LowRankLinear]:
    """Put a LoRA into a plain model, in place, and return its adapted layers by name.

    Raises:
        AttributeError: The model has no layer of a name.
        ValueError: A pair does not fit its layer.
        TypeError: A layer is adapted already or is no plain linear layer.
    """
    sites = by_site(weights)
    layers = {}
    for site, parts in sites.items():
        layers[site] = ordinary_layer(check_site(model, site), parts, layout_of(site), site)
    for site, layer in layers.items():
        replace_module(model, model.get_submodule(site), layer)
    return layers


def check_site(model: nn.Module, site: str) -> nn.Linear:
    """Return the plain linear layer of a name, which its parent calls.

    Raises:
        AttributeError: There is no such layer.
        TypeError: It is no plain linear layer.
        ValueError: Its parent reads its weight and never calls it.
    """
    linear = model.get_submodule(site)
    if not computes(linear, nn.Linear):
        raise TypeError(f'{site} is a {type(linear).__name__}, where a plain linear layer is needed')
    if bypassed(model, site):
        raise ValueError(f'{site}: its parent reads the weight and never calls the layer, so a change would do nothing')
    return linear


def ordinary_layer(
    linear: nn.Linear, parts: Mapping[str, Pair], layout: Iterable[str], name: str = 'this layer'
) -> LoRALinear | SlicedLoRALinear:
    """Return a layer with LoRA over the Parameters of another one, uncopied. No random number is drawn.

    Args:
        linear: Gives ``weight`` and ``bias``.
        parts: ``{'': pair}`` for one weight, or a pair for each adapted slice.
        layout: Names of all slices of a fused projection.
        name: What messages call the layer.

    Raises:
        ValueError: Shapes do not fit, or no rule gives the scalings of the slices.
    """
    layout = tuple(layout)
    rows = linear.out_features // len(layout) if '' not in parts else linear.out_features
    for part, pair in parts.items():
        check_pair(pair, linear.in_features, rows, f'{name}{f", slice {part!r}" if part else ""}')
    alpha, scaling = common_scaling({part: (pair.scaling, pair.rank) for part, pair in parts.items()}, name)
    first = next(iter(parts.values()))
    kwargs = dict(alpha=alpha, scaling=scaling, bias=linear.bias is not None, device='meta',
                  dtype=linear.weight.dtype, lora_dtype=first.a.dtype)
    if '' in parts:
        layer = LoRALinear(linear.in_features, linear.out_features, first.rank, **kwargs)
    else:
        ranks = {part: pair.rank for part, pair in parts.items()}
        layer = SlicedLoRALinear(linear.in_features, linear.out_features, ranks, layout=layout, **kwargs)
    layer.weight, layer.bias = linear.weight, linear.bias
    layer._freeze_base()
    for part, pair in parts.items():
        end = f'_{part}' if part else ''
        setattr(layer, f'lora_A{end}', nn.Parameter(pair.a.detach().to(linear.weight.device, copy=True)))
        setattr(layer, f'lora_B{end}', nn.Parameter(pair.b.detach().to(linear.weight.device, copy=True)))
    return layer.train(linear.training)


def check_pair(pair: Pair, in_features: int, rows: int, where: str) -> None:
    """Check the shapes of a pair.

    Raises:
        ValueError: They do not fit each other or the weight.
    """
    a, b = tuple(pair.a.shape), tuple(pair.b.shape)
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise ValueError(f'{where}: A (r, in) and B (rows, r) must share the rank, got {a} and {b}')
    if (b[0], a[1]) != (rows, in_features):
        raise ValueError(f'{where}: the change is of a weight of {b[0]} x {a[1]}, but the model has {rows} x '
                         f'{in_features}')


def common_scaling(scalings: Mapping[str, tuple[float, int]], name: str = 'this layer') -> tuple[float, str | float]:
    """Return alpha and scaling of a layer from the scaling and rank of each of its slices.

    Raises:
        ValueError: No rule gives them.
    """
    values = list(scalings.values())
    rules = (('', lambda s, r: s), ('alpha/r', lambda s, r: s * r), ('alpha/sqrt(r)', lambda s, r: s * math.sqrt(r)))
    for rule, alpha_of in rules:
        alphas = [alpha_of(scaling, rank) for scaling, rank in values]
        if all(math.isclose(alpha, alphas[0], rel_tol=1e-12, abs_tol=0) for alpha in alphas):
            return (1.0, alphas[0]) if not rule else (alphas[0], rule)
    found = {part: scaling for part, (scaling, _) in scalings.items()}
    raise ValueError(f'{name}: no rule gives its slices the scalings {found}: multiply B by them and take 1')
