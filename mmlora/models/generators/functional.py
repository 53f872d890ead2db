"""Features of a frozen backbone with LoRAs that are no parameters: gradients flow into whatever made them.

Each of G tasks has factors of its own, ``(G, r, in)`` and ``(G, rows, r)``, and an equal share of the batch, task by
task. Their change is added by hooks, for one forward pass; the backbone stays as it is, and its copies know nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ...adapters.bank_change import bank_change
from ...adapters.banked import WINDOWED
from ...adapters.lora_spec import LoRASpec, key_of
from ...adapters.lora_weights import check_site
from ...adapters.parted import WHOLE
from ...adapters.route import Route
from ...adapters.sites import is_among
from ...fused import layout_of

Factors = dict[str, tuple[Tensor, Tensor, Tensor]]
"""By slice: A ``(G, r, in)``, B ``(G, rows, r)`` and the scaling ``(G,)``."""


class FrozenFeatures:
    """The last feature of a frozen backbone, plain or with LoRAs.

    Args:
        backbone: Plain layers; gives a tuple whose last entry is ``(B, D)``, or what the neck takes.
        neck: Takes and gives a tuple; None where there is none.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module | None = None) -> None:
        self.backbone, self.neck = backbone, neck

    def __call__(
        self, images: Tensor, spec: LoRASpec | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return features ``(B, D)``.

        Args:
            images: Prepared, ``(B, C, H, W)``; with LoRAs those of G tasks, task by task, equally many of each.
            spec: Of the LoRAs, both factors.
            tensors: All tensors by key, ``(G, ...)``; those that all tasks share may lack the leading axis.

        Raises:
            ValueError: The features have another shape, or the LoRAs do not fit.
            AttributeError: The backbone has no layer of a name.
            TypeError: A layer is adapted already.
        """
        images = images.to(next(self.backbone.parameters()).dtype)
        if tensors is None:
            out = self.backbone(images)
        else:
            with changed_by(self.backbone, spec, tensors, len(images)):
                out = self.backbone(images)
        feature = (self.neck(out) if self.neck is not None else out)[-1]
        if feature.ndim != 2:
            raise ValueError(f'the features of {type(self.backbone).__name__} are {tuple(feature.shape)}, where (B, D) '
                             "is needed: give the model neck=dict(type='GlobalAveragePooling')")
        return feature.float() if feature.dtype in (torch.float16, torch.bfloat16) else feature


@contextmanager
def changed_by(backbone: nn.Module, spec: LoRASpec, tensors: Mapping[str, Tensor], batch: int) -> Iterator[None]:
    """Change the layers of a backbone within a ``with`` block, sample by sample.

    Args:
        backbone: Plain layers; samples are the first axis of what they see, or windows of samples in Swin.
        spec: Of the LoRAs, both factors.
        tensors: As for :class:`FrozenFeatures`.
        batch: Number of samples.

    Raises:
        ValueError: The batch does not divide among the tasks.
    """
    sites, groups = _by_site(spec, tensors)
    if batch % groups:
        raise ValueError(f'{batch} images do not divide among {groups} tasks, of which each needs equally many')
    route = Route([group for group in range(groups) for _ in range(batch // groups)], groups)
    handles = []
    try:
        for site, factors in sites.items():
            layer = check_site(backbone, site)
            windows = is_among(backbone, site, WINDOWED)
            layout = WHOLE if '' in factors else layout_of(site)
            handles.append(layer.register_forward_hook(_Change(site, factors, layout, route, windows)))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Change:
    """A forward hook that adds the change of the LoRAs to the output of a layer."""

    def __init__(self, site: str, factors: Factors, layout: Any, route: Route, windows: bool) -> None:
        self.site, self.factors, self.layout, self.route, self.windows = site, factors, layout, route, windows

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        self.route.repeats(x.shape[0], self.windows, self.site)  # Raises where samples are not the first axis.
        some = next(iter(self.factors.values()))[0]
        return output + bank_change(x.to(some.dtype), self.factors, self.layout).to(output.dtype)


def _by_site(spec: LoRASpec, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Factors], int]:
    groups = max(len(tensors[entry.key]) for entry in spec.entries if tensors[entry.key].ndim == 3)
    sites: dict[str, Factors] = {}
    for entry in spec.entries:
        if entry.factor != 'B':
            continue
        pair = []
        for factor in 'AB':
            tensor = tensors[key_of(entry.module, entry.part, factor)]
            pair.append(tensor if tensor.ndim == 3 else tensor.expand(groups, *tensor.shape))
        sites.setdefault(entry.module, {})[entry.part] = (*pair, pair[1].new_full((groups,), spec.scaling))
    return sites, groups
