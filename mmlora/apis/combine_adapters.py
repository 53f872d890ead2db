"""Make one adapter of several that a model holds by name."""

from collections.abc import Sequence

import torch.nn as nn

from ..adapters import merge_lora, named_adapters, take_adapter
from ..engine.adapter_folder import find_backbone
from .adapters import AdapterInfo, keep_adapter, loaded_adapters
from .merge_adapters import merge_record, shared_head


def combine_adapters(
    model: nn.Module,
    names: Sequence[str],
    name: str,
    method: str = 'change',
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> None:
    """Give a model one more adapter, made of several that it has; which ones are in use stays as it is.

    The new one has the head that all of them share, and else uses that of the model. One of its name is replaced.

    Args:
        model: A model with adapters of :func:`load_adapter`, or of :func:`mmlora.adapters.add_adapter`.
        names: The adapters to make it of.
        name: The name of the new one.
        method: A name in :data:`mmlora.adapters.MERGES`, or one of its aliases, such as peft's.
        weights: One for each adapter; by default 1/n, and 1 for ``'sum'``.
        rank: Of the result, for the methods that cut it.
        density: Part of the entries that sparse methods keep.
        seed: Of the entries that DARE drops.

    Raises:
        ValueError: There is no such adapter, or they cannot be merged so; nothing is changed then.
        TypeError: The names are no list of names.
    """
    if isinstance(names, str) or not all(isinstance(one, str) for one in names):
        raise TypeError(f'give a list of the names of the adapters to combine, got {names!r}')
    if not isinstance(name, str) or not name:
        raise ValueError(f'an adapter has a name, got {name!r}')
    backbone, loaded = find_backbone(model), loaded_adapters(model)
    alone = next((one.info for one in loaded.values() if one.alone), None)
    if alone is not None:
        raise ValueError(f'{alone.name!r} is {alone.kind}: the changes of LoRAs alone add up')
    known = named_adapters(backbone).names
    unknown = [one for one in names if one not in known]
    if unknown:
        raise ValueError(f'the model has no adapter {unknown[0]!r}: it has {known}')
    adapters = [take_adapter(backbone, known.index(one)) for one in names]
    merged = merge_lora(adapters, method, weights, rank, density, seed)
    members = [loaded[one] for one in names]
    head = shared_head([one.head for one in members])
    record = merge_record(names, [one.info.record for one in members], method, weights, rank, density, seed, head)
    classes = tuple(record['classes']) if record['classes'] else None
    largest, digest = max(pair.rank for pair in merged.values()), (record['base'] or {}).get('sha256')
    keep_adapter(model, merged, AdapterInfo(name, 'lora', largest, classes, digest, None, False, record), head)
