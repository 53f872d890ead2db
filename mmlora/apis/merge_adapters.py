"""Make one LoRA of several on disk."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapters import MERGES, LoRAWeights, merge_lora
from ..io.hub import INDEX, SHARED, LoRAHub, hub_folder
from ..io.lora_folder import read_lora_folder, write_lora_folder
from ..version import __version__


def merge_adapter_folders(
    sources: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    method: str = 'factors',
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> Path:
    """Merge the LoRAs of folders, or all members of hubs, into one folder.

    The result has no head: those of the sources tell other classes apart.

    Args:
        sources: Folders of LoRAs, or hubs, whose members count one by one.
        out: The folder to write.
        method: A name in :data:`mmlora.adapters.MERGES`.
        weights: One for each LoRA; by default 1/n, and 1 for ``'sum'``.
        rank: Of the result, for the methods that cut it.
        density: Part of the entries that ``'ties'`` and ``'dare'`` keep.
        seed: Of the entries that ``'dare'`` drops.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: A source does not exist.
        ValueError: Sources stand on other weights or prepare images otherwise, or cannot be merged so, or the folder
            to write is one of them.
    """
    names, adapters, records = _read(sources)
    if Path(out).resolve() in [Path(name).resolve() for name in names]:
        raise ValueError(f'{os.fspath(out)!r} is to be merged and would be overwritten: choose another folder to write')
    merged = merge_lora(adapters, method, weights, rank, density, seed)
    chosen = list(weights) if weights is not None else [MERGES[method].weight(len(adapters))] * len(adapters)
    record = dict(
        version=__version__, base=records[0].get('base'), normalization=records[0].get('normalization'),
        merged=dict(method=method, sources=names, weights=chosen, rank=rank, density=density,
                    seed=seed if method == 'dare' else None),
    )  # fmt: skip
    card = (f'# A LoRA merged of {len(names)}\n\nBy the method `{method}`, from {", ".join(names[:10])}'
            f'{" ..." if len(names) > 10 else ""}. It has no head.\n')
    return write_lora_folder(out, merged, record, None, card)


def _read(
    sources: Sequence[str | os.PathLike],
) -> tuple[list[str], list[LoRAWeights], list[Mapping[str, Any]]]:
    """Return the names, LoRAs and records of all sources, which must agree in what they share."""
    names: list[str] = []
    adapters: list[LoRAWeights] = []
    records: list[Mapping[str, Any]] = []
    for source in map(hub_folder, sources):
        folders = [source]
        if (source / INDEX).is_file():
            hub = LoRAHub.open(source)
            folders = [hub.folder / name for name in hub]
        for folder in folders:
            found = read_lora_folder(folder)
            for field in ('base', 'normalization'):
                own, other = (_shared(record, field) for record in (found.record, (records or [found.record])[0]))
                if own != other:
                    raise ValueError(f'{folder} differs in {SHARED[field]}: it has {own!r}, {names[0]} has {other!r}')
            names.append(str(folder))
            adapters.append(found.weights)
            records.append(found.record)
    if not adapters:
        raise ValueError('there is no LoRA to merge: name folders or a hub')
    return names, adapters, records


def _shared(record: Mapping[str, Any], field: str) -> Any:
    value = record.get(field)
    return (value or {}).get('sha256') if field == 'base' else value
