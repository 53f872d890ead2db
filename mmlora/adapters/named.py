"""LoRAs of a model by name: a bank, the order of its adapters, and which of them are in use.

::

    add_adapter(backbone, 'cats', cats)           # the first is in use at once, as a route for all samples
    add_adapter(backbone, 'dogs', dogs)           # the bank grows by one
    use_adapters(backbone, ['cats', 'dogs', None])
    add_adapter(backbone, 'cats', kittens)        # in place where it fits: no tensor is made anew
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch.nn as nn

from .arithmetic_pairs import aligned
from .banked import (
    append_adapter,
    attach_bank,
    check_unmerged,
    detach_bank,
    find_banks,
    put_adapter,
    take_adapter,
)
from .lora_weights import LoRAWeights, Pair
from .route import NONE, Route

Use = str | Sequence[str | None] | None
"""The adapter of all samples, one for each sample of a batch, or None for none."""


@dataclass
class NamedAdapters:
    """What a model knows of its adapters.

    Attributes:
        names: In the order of the bank.
        use: Which are in use.
        room: Rank that each slice has room for at least.
    """

    names: list[str] = field(default_factory=list)
    use: Use = None
    room: int | None = None


def named_adapters(model: nn.Module) -> NamedAdapters:
    """Return what a model knows of its adapters; empty where it has none."""
    return vars(model).get('named_adapters') or NamedAdapters()


def add_adapter(
    model: nn.Module, name: str, weights: Mapping[tuple[str, str], Pair], room: int | None = None
) -> None:
    """Give a model one more adapter, or put it in the place of that of the same name.

    An adapter of the same name is replaced in the tensors that are there, if its layers and ranks have room in them,
    so that a compiled model goes on as it is. One of another name makes them longer. Else the bank is made anew, and
    nothing changes where that fails. Where some adapters change a fused projection as one weight and others by slices,
    the slices are joined, which is exact: the factors of these are of the whole weight from then on.

    Args:
        model: Plain, or with adapters that this function gave it.
        name: Its name.
        weights: The LoRA.
        room: A rank that each slice of its layers has room for at least, from now on.

    Raises:
        ValueError: The name is empty, the LoRA does not fit, or the adapters are merged.
        TypeError: The model is adapted already in another way.
        AttributeError: The model has no layer of a name.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f'an adapter has a name, got {name!r}')
    check_unmerged(model)
    known = named_adapters(model)
    if known.names and room in (None, known.room):
        try:
            _put(model, known, name, weights)
        except ValueError:
            pass  # There is no room for it in this bank: a larger one is made below, or the error comes from there.
        else:
            return
    adapters = {**{own: take_adapter(model, k) for k, own in enumerate(known.names)}, name: weights}
    use = known.use if known.names else name
    _rebuild(model, dict(zip(adapters, aligned(list(adapters.values())), strict=True)), use, room or known.room)


def remove_adapter(model: nn.Module, name: str) -> None:
    """Take an adapter away; after the last one the layers are plain again.

    Raises:
        ValueError: There is none of this name, or the adapters are merged.
    """
    check_unmerged(model)
    known = named_adapters(model)
    _check_names(known, [name])
    adapters = {own: take_adapter(model, k) for k, own in enumerate(known.names) if own != name}
    used = [known.use] if isinstance(known.use, str) else known.use or ()
    _rebuild(model, adapters, None if name in used else known.use, known.room)


def use_adapters(model: nn.Module, use: Use) -> list[int] | int:
    """Say which adapter is used: one name for all samples, one for each sample of a batch, or None for none.

    It holds until it is called again.

    Returns:
        The numbers in the bank, -1 for none.

    Raises:
        ValueError: A name is unknown, there is no adapter, or another one is merged.
        TypeError: It is no name and no list of names.
    """
    known = named_adapters(model)
    if not (use is None or isinstance(use, (str, list, tuple))):
        raise TypeError(f'give a name, a list with the name for each sample, or None, got {use!r}')
    one = use is None or isinstance(use, str)
    wanted = [use] if one else list(use)
    if not known.names and wanted == [None]:
        return NONE
    _check_names(known, wanted)
    if (use if one else wanted) != known.use:
        check_unmerged(model)
    numbers = [NONE if name is None else known.names.index(name) for name in wanted]
    indices = numbers[0] if one else numbers
    route = Route(indices, len(known.names))
    for bank in find_banks(model).values():
        bank.route = route
    known.use = use if one else wanted
    return indices


def _put(model: nn.Module, known: NamedAdapters, name: str, weights: Mapping[tuple[str, str], Pair]) -> None:
    if name in known.names:
        put_adapter(model, known.names.index(name), weights)
        return
    append_adapter(model, weights)
    known.names.append(name)
    use_adapters(model, known.use)


def _rebuild(model: nn.Module, adapters: Mapping[str, LoRAWeights], use: Use, room: int | None) -> None:
    before = named_adapters(model)
    kept = [take_adapter(model, k) for k in range(len(before.names))]
    detach_bank(model)
    try:
        if adapters:
            attach_bank(model, list(adapters.values()), room)
    except (ValueError, TypeError, AttributeError):
        if kept:
            attach_bank(model, kept, before.room)
            use_adapters(model, before.use)
        raise
    model.named_adapters = NamedAdapters(list(adapters), None, room)
    if not adapters:
        del model.named_adapters
        return
    use_adapters(model, use)


def _check_names(known: NamedAdapters, names: Sequence[str | None]) -> None:
    unknown = [name for name in names if name is not None and name not in known.names]
    if unknown:
        raise ValueError(f'the model has no adapter {unknown[0]!r}: it has {known.names}')
