"""Make one LoRA of several on disk, and take over hubs of the published code."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapters import MERGES, LoRAWeights, merge_lora
from ..io.hub import INDEX, SHARED, LoRAHub, member_name, member_records, write_index
from ..io.lora_folder import read_lora_folder, write_lora_folder
from ..io.published_hub import published_members, read_published_labels, read_published_lora
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


def import_published_hub(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str] | None = None,
    first: int = 0,
    base: Mapping[str, Any] | None = None,
    site: str = 'visual.layers.{}.attn.qkv',
) -> LoRAHub:
    """Take over the LoRAs that the published code of LoRA-Recycle wrote. Nothing in their files is ever run.

    Args:
        folder: Holds ``lora_<i>.safetensors`` and ``global_label_<i>.pth``.
        out: The hub to write; members that were taken over from the same files are written anew.
        mean: With which the images of the hub were prepared, in 0..255.
        std: The same.
        class_names: Names of the classes by their numbers in the files; ``class <number>`` where they are not given.
        first: Added to these numbers: of the first class of the data set among those of all.
        base: ``sha256`` and ``name`` of the frozen weights, where they are known.
        site: Name of the fused projection of a block, whose number takes the place of ``{}``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file holds something else, or members do not fit each other, or other members are there.
    """
    published, there = published_members(folder), member_records(out)
    sources = {member_name(number): str(lora) for number, (lora, _) in published.items()}
    others = [name for name, record in there.items() if (record.get('task') or {}).get('source') != sources.get(name)]
    if others:
        raise ValueError(f'{os.fspath(out)!r} holds the members {others[:5]}, which are not from '
                         f'{os.fspath(folder)!r}: choose another folder to write')
    for number, (lora, labels) in published.items():
        ids = read_published_labels(labels)
        wrong = [k for k in ids if k < 0 or (class_names is not None and k >= len(class_names))]
        if wrong:
            raise ValueError(f'{labels} names the classes {wrong[:5]}, of the {len(class_names or ())} that have names')
        weights, head = read_published_lora(lora, site)
        record = dict(
            version=__version__,
            classes=[f'class {k}' if class_names is None else class_names[k] for k in ids],
            class_ids=[first + k for k in ids],
            task=dict(number=number, seed=None, source=str(lora), n_way=len(ids)),
            normalization=dict(mean=list(mean), std=list(std), to_rgb=True),
            base=dict(sha256=None, name=None) | dict(base or {}),
            metrics={},
            note='the published code does not store the bias of the head: it is 0 here',
        )  # fmt: skip
        card = (f'# LoRA {number}\n\nTaken over from `{lora.name}` of the published code of LoRA-Recycle, which does '
                'not store the bias of the head: it is 0 here.\n')
        write_lora_folder(Path(out) / member_name(number), weights, record, head, card)
    return write_index(out, name=Path(out).name, sources=[str(folder)], published=True)


def _read(
    sources: Sequence[str | os.PathLike],
) -> tuple[list[str], list[LoRAWeights], list[Mapping[str, Any]]]:
    """Return the names, LoRAs and records of all sources, which must agree in what they share."""
    names: list[str] = []
    adapters: list[LoRAWeights] = []
    records: list[Mapping[str, Any]] = []
    for source in map(Path, sources):
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
