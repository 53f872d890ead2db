"""Make one LoRA of several on disk."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from ..adapters import LoRAWeights, merge_lora
from ..adapters.arithmetic import look_up_merge
from ..io.hub import INDEX, SHARED, LoRAHub, hub_folder
from ..io.kind_folder import is_kind_folder, read_kind_folder
from ..io.lora_folder import Head, LoRAFolder, read_lora_folder, write_lora_folder
from ..io.lora_names import own_names
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

    The result has the head that all sources share, and else none: heads of other classes cannot be merged.

    Args:
        sources: Folders of LoRAs, or hubs, whose members count one by one. Where the layers have the names of several
            libraries, the result has those of this package.
        out: The folder to write.
        method: A name in :data:`mmlora.adapters.MERGES`, or one of its aliases.
        weights: One for each LoRA; by default 1/n, and 1 for ``'sum'``.
        rank: Of the result, for the methods that cut it.
        density: Part of the entries that sparse methods keep.
        seed: Of the entries that DARE drops.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: A source does not exist.
        ValueError: Sources stand on other weights or prepare images otherwise, or cannot be merged so, or the folder
            to write is one of them.
    """
    found = _read(sources)
    names = [str(one.path) for one in found]
    if Path(out).resolve() in [Path(name).resolve() for name in names]:
        raise ValueError(f'{os.fspath(out)!r} is to be merged and would be overwritten: choose another folder to write')
    merged = merge_lora(_under_one_naming(found), method, weights, rank, density, seed)
    libraries = {one.record.get('library') for one in found}
    library = libraries.pop() if len(libraries) == 1 else None
    head = shared_head([one.head for one in found])
    record = merge_record(names, [one.record for one in found], method, weights, rank, density, seed, head)
    card = (f'# A LoRA merged of {len(names)}\n\nBy the method `{record["merged"]["method"]}`, from '
            f'{", ".join(names[:10])}{" ..." if len(names) > 10 else ""}.{"" if head else " It has no head."}\n')
    if library is not None:
        merged = own_names(merged)
    return write_lora_folder(out, merged, record, head, card, library)


def merge_record(
    sources: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    method: str,
    weights: Sequence[float] | None,
    rank: int | None,
    density: float | None,
    seed: int,
    head: Head | None,
) -> dict[str, Any]:
    """Return what a record says of a merged LoRA, with arguments as of :func:`merge_adapter_folders`."""
    name, merge = look_up_merge(method)
    chosen = [merge.weight(len(sources))] * len(sources) if weights is None else list(map(float, weights))
    base, normalization = (next((record[field] for record in records if _said(record, field)), None)
                           for field in ('base', 'normalization'))
    return dict(
        version=__version__, base=base, normalization=normalization,
        classes=records[0].get('classes') if head else None,
        merged=dict(method=name, sources=list(sources), weights=chosen, rank=rank, density=density,
                    seed=seed if merge.random else None),
    )  # fmt: skip


def shared_head(heads: Sequence[Head | None]) -> Head | None:
    """Return the head that all adapters have, or None where they have none or differ."""
    first = heads[0]
    same = first is not None and all(head is not None and all(map(torch.equal, head, first)) for head in heads)
    return first if same else None


def _under_one_naming(found: Sequence[LoRAFolder]) -> list[LoRAWeights]:
    """Return the LoRAs under the names that they have, or, where these are of several libraries, under ours."""
    union = {(site, ''): pair for one in found for (site, _), pair in one.weights.items()}
    if _own(union) is not None:
        return [one.weights for one in found]
    return [_own(one.weights) or one.weights for one in found]


def _own(weights: LoRAWeights) -> LoRAWeights | None:
    try:
        return own_names(weights)
    except ValueError:
        return None


def _read(sources: Sequence[str | os.PathLike]) -> list[LoRAFolder]:
    """Return all sources, which must agree in what they share."""
    folders: list[Path] = []
    for source in map(hub_folder, [sources] if isinstance(sources, str | os.PathLike) else sources):
        if (source / INDEX).is_file():
            hub = LoRAHub.open(source)
            folders += [hub.folder / name for name in hub]
        else:
            folders.append(source)
    if not folders:
        raise ValueError('there is no LoRA to merge: name folders or a hub')
    found: list[LoRAFolder] = []
    for folder in folders:
        if is_kind_folder(folder):
            kind = read_kind_folder(folder).record['adaptation']['kind']
            raise ValueError(f'{folder} is {kind}: the changes of LoRAs alone add up. Merge it into its backbone')
        one = read_lora_folder(folder)
        for field in ('base', 'normalization'):
            own = _said(one.record, field)
            known = next((other for other in found if _said(other.record, field)), None)
            if own and known and own != _said(known.record, field):
                raise ValueError(f'{one.path} differs in {SHARED[field]}: it has {own!r}, {known.path} has '
                                 f'{_said(known.record, field)!r}')
        found.append(one)
    silent = [str(one.path) for one in found if not _said(one.record, 'base')]
    if silent:
        print_log(f'{silent[0]} and {len(silent) - 1} more do not say on which weights they stand, so they could not '
                  'be compared', 'current', logging.WARNING)
    return found


def _said(record: Mapping[str, Any], field: str) -> Any:
    value = record.get(field)
    return (value or {}).get('sha256') if field == 'base' else value
