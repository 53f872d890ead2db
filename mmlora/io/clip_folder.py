"""The adapter folder of CLIP: a LoRA in peft's layout, and beside it all that a user needs to classify images.

::

    adapter_config.json          peft's: rank, alpha, the adapted layers
    adapter_model.safetensors    the factors under peft's names
    mmlora.json                  the model (arch, classes, templates, ...), its base weights by hash, the run
    README.md                    the model card

Real peft loads the folder onto transformers' ``CLIPModel``; a folder that peft wrote lacks ``mmlora.json``. Nothing in
a folder is ever run.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..adapters.scaling import resolve_scaling
from .atomic import write_bytes, write_text
from .clip_peft import Factors, Site, own_tensors, peft_config, peft_tensors, read_peft_config, read_peft_tensors
from .clip_vision import why_no_vision
from .json_object import read_object
from .lora_folder import weights_file
from .reader import read_checkpoint

CONFIG, WEIGHTS, RECORD, CARD = 'adapter_config.json', 'adapter_model.safetensors', 'mmlora.json', 'README.md'
FORMAT = 'mmlora CLIP adapter 1'
DAMAGED = 'the folder is damaged, export it again'
ADAPTER = 'mmlora_adapter'
"""Key under which the checkpoint of a folder says that the frozen weights are elsewhere, and where."""

SETTINGS = {
    'arch': dict, 'encoder': str, 'params': list, 'layers': dict, 'rank': int, 'alpha': (int, float),
    'scaling': (str, int, float), 'factor': (int, float), 'templates': list, 'classes': (list, type(None)),
    'logit_scale': (str, int, float),
}  # fmt: skip
"""What ``model`` of ``mmlora.json`` must hold, and of which type; ``vision``, a dict, is missing in older folders."""

LARGEST_SCALE = 1000
"""Of logarithms of a logit scale that a folder may say; a trained one is about 4.6."""

PARTS = {'base': ('sha256', 'location'), 'images': ('steps', 'mean', 'std', 'to_rgb'), 'tokenizer': ('type',)}
"""Other parts of ``mmlora.json``, and what each must hold."""


@dataclass(frozen=True)
class AdapterFolder:
    """What a folder holds.

    Attributes:
        path: The folder.
        factors: A and B by site.
        settings: Of the model, as :func:`mmlora.models.clip.settings.describe_clip` gives them. A folder of peft alone
            says nothing of arch, classes and templates.
        record: The content of ``mmlora.json``, empty in a folder of peft alone.
        config: The content of ``adapter_config.json``.
    """

    path: Path
    factors: Mapping[Site, tuple]
    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def base(self) -> Mapping[str, Any]:
        """``sha256`` and ``location`` of the frozen weights; either may be None."""
        return self.record.get('base') or dict(sha256=None, location=None)


def is_adapter_folder(path: str | os.PathLike) -> bool:
    """Return whether a path is a folder with an adapter."""
    return (Path(path).expanduser() / CONFIG).is_file()


def check_writable(path: str | os.PathLike) -> None:
    """Check that an adapter folder can be written: that nothing else lies there.

    Raises:
        ValueError: The folder holds other things than an adapter.
    """
    folder = Path(path)
    others = sorted(p.name for p in folder.iterdir() if not p.name.startswith('.')) if folder.is_dir() else []
    unfinished = WEIGHTS in others and set(others) <= {WEIGHTS, RECORD, CARD}  # A kill came before the last file.
    if others and not is_adapter_folder(folder) and not unfinished:
        raise ValueError(f'{str(folder)!r} is no adapter folder and holds {others[:5]}: choose another name')


def write_folder(
    path: str | os.PathLike, factors: Factors, record: Mapping[str, Any], card: str, base_name: str | None = None
) -> Path:
    """Write an adapter folder; each file is replaced in one step, the one that makes it a folder of peft last.

    Args:
        path: The folder; it may hold an adapter already, which is replaced.
        factors: A and B by site.
        record: The content of ``mmlora.json``.
        card: The text of the model card.
        base_name: Name of the base model on the Hugging Face hub, or None.

    Raises:
        ValueError: The folder holds other things than an adapter.
    """
    folder = Path(path)
    check_writable(folder)
    model = record['model']
    config = peft_config(
        factors, model['alpha'], model['scaling'], model['factor'], model.get('dropout'), base_name
    )
    weights = save(peft_tensors(factors), metadata={'format': 'pt'})
    record = dict(format=FORMAT, weights=hashlib.sha256(weights).hexdigest(), **record)
    write_bytes(folder / WEIGHTS, weights)
    write_text(folder / RECORD, json.dumps(record, indent=2, allow_nan=False) + '\n')
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + '\n')
    return folder


def read_folder(path: str | os.PathLike) -> AdapterFolder:
    """Read an adapter folder, written here or by peft.

    Raises:
        FileNotFoundError: The folder or a file in it is missing.
        ValueError: A file is damaged, or says something else than another.
    """
    folder = Path(path).expanduser()
    if not is_adapter_folder(folder):
        there = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else None
        what = 'does not exist' if there is None else f'holds {there}'
        raise FileNotFoundError(f'{str(path)!r} is no adapter folder: it has no {CONFIG} ({what})')
    config = read_object(folder / CONFIG, DAMAGED)
    weights = weights_file(folder)
    factors = read_peft_tensors(read_checkpoint(weights), str(weights))
    settings = read_peft_config(config, factors, str(folder / CONFIG))
    if not (folder / RECORD).is_file():
        return AdapterFolder(folder, factors, settings, {}, config)
    record = read_object(folder / RECORD, DAMAGED)
    _check_record(record, settings, folder)
    return AdapterFolder(folder, factors, record['model'], record, config)


def folder_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Return an adapter folder as a checkpoint that holds the factors alone.

    Under :data:`ADAPTER` it says where the frozen weights are; whoever knows the model adds them, see
    :func:`mmlora.models.clip.base_weights.complete_adapter`.

    Raises:
        FileNotFoundError: As :func:`read_folder`.
        ValueError: As :func:`read_folder`.
    """
    folder = read_folder(path)
    about = {'clip': dict(folder.settings)}
    if folder.record.get('protocol'):
        about['protocol'] = dict(folder.record['protocol'])
    state = own_tensors(folder.factors)
    if folder.record.get('logit_scale_value') is not None:
        state['logit_scale'] = torch.tensor(folder.record['logit_scale_value'])
    return {
        'state_dict': state,
        'meta': {'mmlora': about, 'dataset_meta': {'classes': tuple(folder.settings.get('classes') or ())}},
        ADAPTER: dict(folder.base, folder=str(folder.path)),
    }


def _check_record(record: Mapping[str, Any], of_peft: Mapping[str, Any], folder: Path) -> None:
    where = folder / RECORD
    if record.get('format') != FORMAT:
        raise ValueError(f'{where} has format={record.get("format")!r}, this version reads {FORMAT!r}')
    model = record.get('model')
    for name, kinds in SETTINGS.items():
        if not isinstance(model, dict) or name not in model or not isinstance(model[name], kinds):
            raise ValueError(f'{where}: {name} of model is missing or of a wrong type: export the folder again')
    for name in ('classes', 'templates', 'params'):
        if not all(isinstance(text, str) for text in model[name] or ()):
            raise ValueError(f'{where}: {name} of model must be texts, got {str(model[name])[:200]}: export the folder '
                             'again')
    learned = record.get('logit_scale_value')
    if learned is not None and (type(learned) not in (int, float) or not abs(learned) < LARGEST_SCALE):
        raise ValueError(f'{where}: logit_scale_value, a logarithm, must be a number below {LARGEST_SCALE}, got '
                         f'{str(learned)[:200]}: export the folder again')
    vision = model.get('vision', {})
    reason = why_no_vision(vision) if isinstance(vision, dict) else f'vision must be an object, got {vision!r}'
    if reason:
        raise ValueError(f'{where}: {reason}')
    for name, keys in PARTS.items():
        part = record.get(name)
        if not isinstance(part, dict) or not set(keys) <= set(part):
            raise ValueError(f'{where}: {name} must hold {", ".join(keys)}, got {part!r}: export the folder again')
    found = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    if record.get('weights') != found:
        raise ValueError(
            f'{where} is about factors with the sha256 {record.get("weights")}, and those of {WEIGHTS} have {found}: '
            f'they do not belong together. Export the folder again, or delete {RECORD} where another program wrote them'
        )
    try:
        factor = resolve_scaling(model['scaling'], model['alpha'], model['rank'])
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f'{where}: scaling, alpha and rank of model do not make a number ({error}): export the folder '
                         'again') from error
    if not math.isclose(factor, model['factor'], rel_tol=1e-6):
        raise ValueError(f'{where} has factor={model["factor"]!r}, and scaling={model["scaling"]!r} with alpha='
                         f'{model["alpha"]!r} gives {factor!r}: export the folder again')
    for name in ('encoder', 'params', 'layers', 'rank', 'factor'):
        one, other = model[name], of_peft[name]
        same = abs(one - other) <= 1e-6 * abs(other) if name == 'factor' else one == other
        if not same:
            raise ValueError(f'{where} has {name}={one!r}, and {CONFIG} with {WEIGHTS} {other!r}: the files of '
                             f'{str(folder)!r} do not belong together')
