"""The folder of one LoRA of a backbone with a head: peft's layout, and beside it what a hub needs to know.

::

    adapter_config.json          peft's: ranks, alphas, the adapted layers
    adapter_model.safetensors    the factors under peft's names
    head.safetensors             weight (n, D) and bias (n) of the head; missing where there is none, or where peft
                                 has it among modules_to_save: then it is in adapter_model.safetensors
    mmlora.json                  classes, task, base weights by hash, results ..., and the sha256 of the files above
    README.md                    the model card

peft loads the folder onto the plain backbone; see :mod:`.lora_peft`. For a ``library`` of :mod:`.lora_names` the names
are those of its models, onto which peft then loads it. ``mmlora.json`` is written last, so that a folder
with it is whole. Nothing in a folder is ever run.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from ..adapters.lora_weights import LoRAWeights, Pair, by_site
from .adapter_card import complete_card, rank_rows
from .atomic import write_bytes, write_text
from .json_object import read_object
from .lora_names import head_name, library_names
from .lora_peft import own_weights, peft_config, peft_tensors
from .peft_plain import PREFIX, check_finite
from .reader import read_checkpoint

CONFIG, WEIGHTS, HEAD, RECORD, CARD = (
    'adapter_config.json', 'adapter_model.safetensors', 'head.safetensors', 'mmlora.json', 'README.md')  # fmt: skip
OLD_WEIGHTS = 'adapter_model.bin'
FORMAT = 'mmlora LoRA 1'
DAMAGED = 'copy the folder again'


class Head(NamedTuple):
    """A linear head.

    Attributes:
        weight: ``(n, D)``.
        bias: ``(n)``.
    """

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class LoRAFolder:
    """What a folder holds.

    Attributes:
        path: The folder.
        weights: The LoRA.
        head: Its head, or None.
        record: What ``mmlora.json`` says; empty in a folder of peft alone.
    """

    path: Path
    weights: LoRAWeights
    head: Head | None
    record: Mapping[str, Any]


def write_lora_folder(
    path: str | os.PathLike,
    weights: Mapping[tuple[str, str], Pair],
    record: Mapping[str, Any],
    head: Head | None = None,
    card: str = '',
    library: str | None = None,
) -> Path:
    """Write a folder; each file is replaced in one step, ``mmlora.json`` last.

    Args:
        path: The folder. One that is there is replaced if it holds a LoRA, or what a killed process left of one.
        weights: The LoRA.
        record: Further content of ``mmlora.json``, as plain data.
        head: Its head, or None.
        card: Text of the model card; what it lacks of base weights, ranks and commands is added.
        library: Whose names the layers get, one of :data:`.lora_names.LIBRARIES`; None keeps those of the LoRA.

    Raises:
        ValueError: The folder holds other things, the LoRA is empty or not finite, the head has the wrong shape, or the
            library has no names for the layers.
    """
    folder, known = Path(path), {CONFIG, WEIGHTS, HEAD, RECORD, CARD}
    others = sorted(p.name for p in folder.iterdir()
                    if p.name not in known and not p.name.startswith('.')) if folder.is_dir() else []
    if others:
        raise ValueError(f'{str(folder)!r} is no folder of a LoRA and holds {others[:5]}: choose another name')
    inside = head_name(weights, library) if head is not None and library is not None else None
    if library is not None:
        weights = library_names(weights, library, inside is not None)
    sites = by_site(weights)
    tensors, scalings = peft_tensors(sites)
    _check_finite({**tensors, **(head._asdict() if head else {})}, folder)
    if head is not None and (head.weight.ndim != 2 or tuple(head.bias.shape) != head.weight.shape[:1]):
        raise ValueError(f'a head is a weight (n, D) and a bias (n), got {tuple(head.weight.shape)} and '
                         f'{tuple(head.bias.shape)}')
    for name in (RECORD, CONFIG):  # From here to the end the folder is not whole, nor are old and new files mixed.
        (folder / name).unlink(missing_ok=True)
    config = peft_config(sites, scalings)
    if inside is not None:
        config['modules_to_save'] = [inside]
        tensors |= {f'{PREFIX}{inside}.{name}': value.detach().contiguous().cpu()
                    for name, value in head._asdict().items()}
    files = {WEIGHTS: save(tensors, metadata={'format': 'pt'}),
             CONFIG: (json.dumps(config, indent=2) + '\n').encode()}
    if head is not None and inside is None:
        files[HEAD] = save({name: value.detach().contiguous().cpu() for name, value in head._asdict().items()})
    else:
        (folder / HEAD).unlink(missing_ok=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    write_text(folder / CARD, complete_card(card, record, rank_rows(weights)))
    content = dict(
        record, format=FORMAT,
        rank=max(pair.rank for pair in weights.values()),
        slices={site: {part: pair.rank for part, pair in parts.items()} for site, parts in sites.items()},
        head=None if head is None else list(head.weight.shape),
        **({} if library is None else {'library': library, 'head_module': inside}),
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    )  # fmt: skip
    write_text(folder / RECORD, json.dumps(content, indent=1, allow_nan=False) + '\n')
    return folder


def read_lora_folder(path: str | os.PathLike) -> LoRAFolder:
    """Read a folder, written here or by peft.

    Raises:
        FileNotFoundError: The folder or a file in it is missing.
        ValueError: A file is damaged or was changed since, or it is no plain LoRA.
    """
    folder = Path(path).expanduser()
    if not (folder / CONFIG).is_file():
        there = f'holds {sorted(p.name for p in folder.iterdir())[:8]}' if folder.is_dir() else 'does not exist'
        raise FileNotFoundError(f'{str(path)!r} is no folder of a LoRA: it has no {CONFIG} ({there})')
    record = read_record(folder) if (folder / RECORD).is_file() else {}
    if not record and (folder / HEAD).is_file():
        raise ValueError(f'{folder} has a {HEAD} and no {RECORD}, as a process leaves it that is killed while it '
                         f'writes: write the folder anew, or delete {HEAD} to read the LoRA alone')
    for name, digest in record.get('files', {}).items():
        _check_digest(folder / name, digest)
    config = dict(read_object(folder / CONFIG, DAMAGED))
    tensors, head = _take_head(read_checkpoint(weights_file(folder)), config.pop('modules_to_save', None), str(folder))
    weights = own_weights(tensors, config, record.get('slices', {}), str(folder))
    if record.get('head') and head is None:
        found = read_checkpoint(folder / HEAD)
        if set(found) != set(Head._fields):
            raise ValueError(f'{folder / HEAD} holds {sorted(found)}, where weight and bias belong')
        head = Head(**found)
    if head is not None:
        check_finite(head._asdict(), f'the head of {folder}')
    return LoRAFolder(folder, weights, head, record)


def weights_file(folder: Path) -> Path:
    """Return the file with the factors; old versions of peft wrote a pickle, which is read as plain data."""
    old = folder / OLD_WEIGHTS
    return old if old.is_file() and not (folder / WEIGHTS).is_file() else folder / WEIGHTS


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``mmlora.json`` of a folder says.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of something else.
    """
    record = read_object(folder / RECORD, DAMAGED, FORMAT)
    for name, kind in (('files', dict), ('slices', dict), ('rank', int)):
        if not isinstance(record.get(name), kind):
            raise ValueError(f'{folder / RECORD} has no {name} of the type {kind.__name__}: write the folder anew')
    sizes = record.get('head') or [1, 1]
    ranks = [parts.values() if isinstance(parts, dict) else [None] for parts in record['slices'].values()]
    if not isinstance(sizes, list) or len(sizes) != 2 or not _counts([*sizes, *(r for own in ranks for r in own)]):
        raise ValueError(f'{folder / RECORD} has the head {record.get("head")!r} and the slices '
                         f'{str(record["slices"])[:200]}, where sizes belong: write the folder anew')
    needed = {CONFIG, WEIGHTS, HEAD} if record.get('head') and not record.get('head_module') else {CONFIG, WEIGHTS}
    if set(record['files']) != needed:  # Paths are data: none may lead out of the folder, and none may go unchecked.
        raise ValueError(f'{folder / RECORD} has the hashes of {sorted(record["files"])}, where those of '
                         f'{sorted(needed)} belong: write the folder anew')
    return record


def _take_head(
    tensors: Mapping[str, Tensor], modules: Any, where: str
) -> tuple[dict[str, Tensor], Head | None]:
    """Return the tensors without those of the head, and the head, from what peft calls modules_to_save.

    Raises:
        ValueError: It saved several modules, or one that is no linear layer.
    """
    if not modules:
        return dict(tensors), None
    if not isinstance(modules, list) or len(modules) != 1 or not isinstance(modules[0], str):
        raise ValueError(f'{where} has modules_to_save={str(modules)[:200]}: a head is one linear layer, so that one '
                         'name belongs in a list')
    ends = {name: f'{modules[0]}.{name}' for name in Head._fields}
    found = {name: [key for key in tensors if f'.{key}'.endswith(f'.{end}')] for name, end in ends.items()}
    taken = [key for keys in found.values() for key in keys]
    if [len(keys) for keys in found.values()] != [1, 1] or tensors[found['weight'][0]].ndim != 2:
        raise ValueError(f'{where} has modules_to_save={modules!r}, of which it holds {taken}: a head is one linear '
                         'layer with weight (n, D) and bias (n)')
    rest = {key: value for key, value in tensors.items() if key not in taken}
    return rest, Head(*(tensors[found[name][0]] for name in Head._fields))


def _counts(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)


def _check_finite(tensors: Mapping[str, Tensor], folder: Path) -> None:
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f'{name} for {folder} holds values that are not finite: the training has diverged')


def _check_digest(path: Path, digest: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing, which {RECORD} beside it names: copy the folder again')
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise ValueError(f'{path} is not the file that {RECORD} beside it was written for: its sha256 is {found}, '
                         f'there stands {digest}')
