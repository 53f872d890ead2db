"""The folder of an adapter that is no LoRA (RLRR, DoRA, SSF, VPT ...), in peft's layout, with a type of its own.

::

    adapter_config.json          peft_type 'MMLORA_RLRR', which peft refuses rather than compute something else
    adapter_model.safetensors    all that learned in the backbone, under base_model.model.<name>
    head.safetensors             weight (n, D) and bias (n) of the head; missing where there is none
    mmlora.json                  the kind and its options, ranks, classes, base weights by hash ..., written last
    README.md                    the model card
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from .atomic import write_bytes, write_text
from .json_object import read_object
from .lora_folder import CARD, CONFIG, DAMAGED, HEAD, RECORD, WEIGHTS, Head
from .peft_plain import PREFIX, check_finite, check_simple
from .reader import read_checkpoint

FORMAT = 'mmlora adapter 1'
TYPE = 'MMLORA_'
"""Begins ``peft_type``, so that it is none of peft's, which has a GLoRA of its own."""

KIND = 'mmlora_kind'
"""Key under which a checkpoint says where it is from, how to adapt, the hash of the frozen weights, and the head."""

REPEATS = 4
"""Repeats in a pattern of an option; it is compared with names of layers, which are short."""

NEEDED = {'adaptation': dict, 'rank_table': (dict, type(None)), 'base': dict, 'files': dict}


@dataclass(frozen=True)
class KindFolder:
    """What a folder holds.

    Attributes:
        path: The folder.
        tensors: What learned, by its name in the backbone.
        head: Its head, or None.
        record: What ``mmlora.json`` says; ``adaptation`` and ``rank_table`` are how to adapt a plain backbone.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    head: Head | None
    record: Mapping[str, Any]


def is_kind_folder(path: str | os.PathLike) -> bool:
    """Return whether a path is a folder that :func:`write_kind_folder` wrote."""
    record = Path(path).expanduser() / RECORD
    return record.is_file() and read_object(record, DAMAGED).get('format') == FORMAT


def write_kind_folder(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], record: Mapping[str, Any], head: Head | None, card: str
) -> Path:
    """Write a folder; each file is replaced in one step, ``mmlora.json`` last.

    Args:
        path: The folder. One that is there is replaced if it holds an adapter.
        tensors: What learned, by its name in the backbone.
        record: Content of ``mmlora.json``, with ``adaptation``, ``rank_table`` and ``base``.
        head: The head, or None.
        card: Text of the model card.

    Raises:
        ValueError: The folder holds other things, a tensor is not finite, or a pattern of the options is none that
            may be read again.
        TypeError: The options of the kind are no plain data.
    """
    folder, known = Path(path), {CONFIG, WEIGHTS, HEAD, RECORD, CARD}
    others = sorted(p.name for p in folder.iterdir()
                    if p.name not in known and not p.name.startswith('.')) if folder.is_dir() else []
    if others:
        raise ValueError(f'{str(folder)!r} is no folder of an adapter and holds {others[:5]}: choose another name')
    _check_adaptation(record['adaptation'], folder / RECORD)
    for name, value in {**tensors, **(head._asdict() if head else {})}.items():
        if not torch.isfinite(value).all():
            raise ValueError(f'{name} for {folder} holds values that are not finite: the training has diverged')
    kind = record['adaptation']['kind']
    config = dict(
        peft_type=TYPE + kind.upper().replace('-', '').replace('_', ''), base_model_name_or_path=None,
        inference_mode=True, task_type=None, target_modules=sorted({name.rpartition('.')[0] for name in tensors}),
        **record['adaptation']['options'])
    files = {WEIGHTS: save({PREFIX + name: value.detach().contiguous().cpu() for name, value in tensors.items()},
                           metadata={'format': 'pt'}),
             CONFIG: (json.dumps(config, indent=2) + '\n').encode()}
    if head is not None:
        files[HEAD] = save({name: value.detach().contiguous().cpu() for name, value in head._asdict().items()})
    content = dict(record, format=FORMAT, head=None if head is None else list(head.weight.shape),
                   files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())})
    text = json.dumps(content, indent=1, allow_nan=False) + '\n'
    for name in {RECORD, CONFIG, HEAD} - (set(files) - {CONFIG}):  # The folder is not whole until the record is there.
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    write_text(folder / CARD, card)
    write_text(folder / RECORD, text)
    return folder


def read_kind_folder(path: str | os.PathLike) -> KindFolder:
    """Read a folder.

    Raises:
        FileNotFoundError: The folder or a file in it is missing.
        ValueError: A file is damaged or was changed since.
    """
    folder = Path(path).expanduser()
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f'{str(path)!r} is no folder of an adapter: it has no {RECORD}')
    record = read_object(folder / RECORD, DAMAGED)
    for name, kinds in NEEDED.items():
        if name not in record or not isinstance(record[name], kinds):
            raise ValueError(f'{folder / RECORD}: {name} is missing or of a wrong type: write the folder anew')
    needed = {CONFIG, WEIGHTS, HEAD} if record.get('head') else {CONFIG, WEIGHTS}
    if record.get('format') != FORMAT or set(record['files']) != needed:
        raise ValueError(f'{folder / RECORD} has format={record.get("format")!r} and the hashes of '
                         f'{sorted(record["files"])}, where {FORMAT!r} and those of {sorted(needed)} belong')
    for name, digest in record['files'].items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f'{folder / name} is missing, which {RECORD} beside it names: {DAMAGED}')
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != digest:
            raise ValueError(f'{folder / name} is not the file that {RECORD} beside it was written for: its sha256 is '
                             f'{found}, there stands {digest}')
    _check_adaptation(record['adaptation'], folder / RECORD)
    classes = record.get('classes') or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f'{folder / RECORD} has classes={str(classes)[:200]}, where a list of names belongs')
    tensors = {name.removeprefix(PREFIX): value for name, value in read_checkpoint(folder / WEIGHTS).items()}
    check_finite(tensors, str(folder))
    return KindFolder(folder, tensors, _read_head(folder) if record.get('head') else None, record)


def kind_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Return a folder as a checkpoint of what learned alone; whoever knows the model adds the frozen weights.

    Raises:
        FileNotFoundError: As :func:`read_kind_folder`.
        ValueError: As :func:`read_kind_folder`.
    """
    found = read_kind_folder(path)
    adaptation, table = found.record['adaptation'], found.record['rank_table']
    about = dict(folder=str(found.path), adaptation=adaptation, rank_table=table,
                 sha256=found.record['base'].get('sha256'), head=found.head and found.head._asdict())
    meta = {'mmlora': {'rank_table': table}} if table else {}
    return dict(state_dict=dict(found.tensors), meta=meta, **{KIND: about})


def _read_head(folder: Path) -> Head:
    found = read_checkpoint(folder / HEAD)
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    rows = shapes.get('weight', ())[:1]
    if set(found) != set(Head._fields) or len(shapes['weight']) != 2 or shapes['bias'] != rows:
        raise ValueError(f'{folder / HEAD} holds {str(shapes)[:200]}, where weight (n, D) and bias (n) belong')
    check_finite(found, f'the head of {folder}')
    return Head(**found)


def _check_adaptation(adaptation: Mapping[str, Any], where: Path) -> None:
    """Refuse what is no plain option of a kind, and patterns that can take longer than any program lasts."""
    if not isinstance(adaptation.get('kind'), str) or not isinstance(adaptation.get('options'), dict) \
            or not isinstance(adaptation.get('frozen'), bool):
        raise ValueError(f'{where}: adaptation needs the name of a kind, frozen, and its options, got '
                         f'{str(adaptation)[:200]}')
    for name, value in adaptation['options'].items():
        for text in _texts(value):
            try:
                check_simple(text, REPEATS)
            except ValueError as error:
                raise ValueError(f'{where} has {name}={text[:120]!r}, which cannot be used ({error}): name the '
                                 'layers one by one') from error


def _texts(value: Any) -> Iterator[str]:
    """Return all texts in an option, keys too: whoever takes a list of patterns takes the keys of an object as one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (str(key), *_texts(inner))
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _texts(inner)
