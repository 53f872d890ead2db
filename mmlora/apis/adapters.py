"""Adapters as things of their own: load them into a model by name, switch between them, and write them to folders.

::

    model = mmlora.load_adapter('config.py', 'adapters/cats', 'cats')    # built with its frozen weights
    mmlora.load_adapter(model, 'adapters/dogs', 'dogs')
    mmlora.set_adapter(model, 'dogs')                                    # all samples
    mmlora.set_adapter(model, ['cats', 'dogs', None])                    # each sample of a batch its own, or none
    with mmlora.disable_adapter(model):
        ...

LoRAs share one bank, whatever their ranks, and bring their heads along. Of any other kind a model has one at a time.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import print_log

from ..adapters import (
    HeadBank,
    LoRAWeights,
    adapter_modules,
    add_adapter,
    named_adapters,
    remove_adapter,
    take_adapter,
    tunings,
    use_adapters,
)
from ..adapters.named import Use
from ..engine.adapter_folder import (
    find_backbone,
    find_classifier,
    read_head,
    write_adapter,
)
from ..engine.base_weights import base_sha256
from ..engine.kind_loading import load_kind
from ..engine.structure import Structure
from ..io.clip_folder import FORMAT as CLIP_FORMAT
from ..io.json_object import read_object
from ..io.kind_folder import KindFolder, is_kind_folder, read_kind_folder
from ..io.lora_folder import CONFIG, DAMAGED, RECORD, Head, LoRAFolder, read_lora_folder
from ..io.lora_names import own_names
from .plain_model import build_plain

OF_FILES = {'format', 'files', 'slices', 'rank', 'head', 'library', 'head_module', 'parameters', 'rank_table', 'base'}
"""Entries of a record that are those of one writing of a folder."""


@dataclass(frozen=True)
class AdapterInfo:
    """What is known of an adapter.

    Attributes:
        name: In the model, or of the folder.
        kind: ``'lora'``, ``'rlrr'`` ...
        rank: The largest, or None for a kind without ranks.
        classes: Names of the classes of its head, or None.
        base_sha256: Hash of the frozen weights, or None where the folder does not say it.
        folder: Where it is from, or None where it was made of others.
        active: Whether the model uses it at present.
        record: All that its folder says.
    """

    name: str
    kind: str
    rank: int | None
    classes: tuple[str, ...] | None
    base_sha256: str | None
    folder: Path | None
    active: bool = False
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass
class LoadedAdapter:
    """An adapter of a model.

    Attributes:
        info: What is known of it.
        head: Its head, or None.
        alone: Whether it is of another kind than the LoRAs of a bank.
        before: Of such a kind, the backbone and the classifier without it, unless the model was built with it.
    """

    info: AdapterInfo
    head: Head | None
    alone: bool = False
    before: tuple[Structure, nn.Module | None] | None = None


def load_adapter(
    model: nn.Module | Config | Mapping[str, Any] | str | os.PathLike,
    folder: str | os.PathLike,
    name: str = 'default',
    room: int | None = None,
) -> nn.Module:
    """Give a model the adapter of a folder.

    The first one is in use at once, others by :func:`set_adapter`. One of the same name is replaced; where ranks and
    classes have room in the tensors that are there, they are filled anew, and a compiled model goes on as it is.

    Args:
        model: A plain backbone or classifier, or one that has adapters by this function; or a config (or its path) of
            one, adapted or not, which is built with the weights that its ``init_cfg`` names.
        folder: Written by this package, or by peft for timm's or transformers' ViT, their CLIP, or this very model.
        name: Its name in the model.
        room: A rank that each adapted slice has room for at least, for adapters that replace it later.

    Returns:
        The model.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The folder is damaged, stands on other frozen weights, or does not fit the model.
        TypeError: The model is adapted in another way.
    """
    found = _read(folder)
    if not isinstance(model, nn.Module):
        model = build_plain(model)
    backbone, said = find_backbone(model), (found.record.get('base') or {}).get('sha256')
    if isinstance(found, KindFolder):
        _load_kind(model, backbone, found, name, said)
        return model
    if (adapter_modules(backbone) or tunings(backbone)) and not named_adapters(backbone).names:
        raise ValueError(f'the {type(backbone).__name__} is adapted already: give its config, or a backbone without '
                         'adapters, and save what it has learned with save_adapter')
    _check_base(said, base_sha256(backbone), found.path)
    weights = _fit_names(found.weights, backbone)
    _check_head(model, found.head, found.path)
    keep_adapter(model, weights, _describe(found, name), found.head, room)
    return model


def keep_adapter(
    model: nn.Module, weights: LoRAWeights, info: AdapterInfo, head: Head | None, room: int | None = None
) -> None:
    """Give a model one more LoRA under the name of its ``info``, or put it in the place of that of the same name.

    Args:
        model: As for :func:`load_adapter`.
        weights: The LoRA, under the names of the backbone.
        info: What is known of it.
        head: Its head, or None.
        room: As for :func:`load_adapter`.
    """
    add_adapter(find_backbone(model), info.name, weights, room)
    model.loaded_adapters = {**_records(model), info.name: LoadedAdapter(info, head)}
    _settle_heads(model)


def save_adapter(
    model: nn.Module,
    folder: str | os.PathLike,
    name: str | None = None,
    library: str | None = None,
    base: str | None = None,
    classes: Sequence[str] | None = None,
) -> Path:
    """Write an adapter of a model as a folder in peft's layout.

    Args:
        model: An adapted backbone or classifier, such as ``VitSR_LoRA`` or ``AdaptedBackbone`` after training, or one
            with adapters of :func:`load_adapter`.
        folder: The folder to write.
        name: Which of several adapters; may be left out where there is one.
        library: Whose module names peft shall find: one of :data:`mmlora.io.lora_names.LIBRARIES`, such as ``'timm'``
            or ``'hf'``. None writes those of the model itself. For LoRA alone.
        base: Where the frozen weights are, for the record; by default as ``init_cfg`` says.
        classes: Names of the classes; by default those that are known.

    Returns:
        The folder.

    Raises:
        ValueError: There is no such adapter, the folder holds other things, or the library has no names for it.
    """
    backbone, names = find_backbone(model), named_adapters(find_backbone(model)).names
    loaded = loaded_adapters(model)
    given = dict({} if base is None else dict(base=dict(name=base)),
                 **({} if classes is None else dict(classes=list(classes))))
    if not names:
        if name is not None and name not in loaded:
            raise ValueError(f'the model has no adapter {name!r} of its own name: leave name out')
        known = _kept(next(iter(loaded.values())).info.record) if loaded else {}
        return write_adapter(folder, model, {**known, **given}, read_head(model), None, library)
    if name is None and len(names) > 1:
        raise ValueError(f'the model has the adapters {names}: name one of them')
    name = names[0] if name is None else name
    if name not in names:
        raise ValueError(f'the model has no adapter {name!r}: it has {names}')
    known = _kept(loaded[name].info.record) if name in loaded else {}
    weights = take_adapter(backbone, names.index(name))
    head = loaded[name].head if name in loaded else None
    return write_adapter(folder, model, {**known, **given}, head, weights, library)


def list_adapters(model_or_folder: nn.Module | str | os.PathLike) -> list[AdapterInfo]:
    """Return the adapters of a model, of a folder, or of the folders in a folder, such as those of a hub.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: A folder is damaged.
    """
    if isinstance(model_or_folder, nn.Module):
        use = named_adapters(find_backbone(model_or_folder)).use
        active = {use} if isinstance(use, str) else set(use or ())
        return [AdapterInfo(**{**vars(one.info), 'active': key in active or one.alone})
                for key, one in loaded_adapters(model_or_folder).items()]
    folder = Path(model_or_folder).expanduser()
    if (folder / CONFIG).is_file():
        return [_describe(_read(folder), folder.name)]
    if not folder.is_dir():
        raise FileNotFoundError(f'{str(folder)!r} does not exist')
    inside = sorted(path for path in folder.iterdir() if (path / CONFIG).is_file())
    return [_describe(_read(path), path.name) for path in inside]


def set_adapter(model: nn.Module, name: Use) -> None:
    """Use an adapter, until another one is chosen.

    Args:
        model: A model with adapters of :func:`load_adapter`.
        name: The adapter of all samples; or a list with one for each sample of the batches to come, None for the plain
            model; or None for the plain model.

    Raises:
        ValueError: A name is unknown, or the model has an adapter that cannot be switched off.
        TypeError: It is no name and no list of names.
    """
    backbone = find_backbone(model)
    other = next((one for one in loaded_adapters(model).values() if one.alone), None)
    if other is not None:
        if name == other.info.name:
            return
        raise ValueError(f'{other.info.kind} cannot be switched: the model has {other.info.name!r} alone. Take it '
                         'away with delete_adapter, and load another one')
    numbers = use_adapters(backbone, name)
    found = find_classifier(model)
    if found is not None and isinstance(found[1], HeadBank):
        found[1].use = numbers


@contextmanager
def disable_adapter(model: nn.Module) -> Iterator[None]:
    """Use the plain model within a ``with`` block, and then what was in use before, if it was not deleted meanwhile.

    Raises:
        ValueError: The model has an adapter that cannot be switched off.
    """
    use = named_adapters(find_backbone(model)).use
    set_adapter(model, None)
    try:
        yield
    finally:
        known = {None, *named_adapters(find_backbone(model)).names}
        used = {use} if use is None or isinstance(use, str) else set(use)
        set_adapter(model, use if used <= known else None)


def delete_adapter(model: nn.Module, name: str) -> None:
    """Take an adapter away; without any the model is the plain one again, bit for bit.

    Raises:
        ValueError: There is none of this name, or the model was built with it.
    """
    loaded = loaded_adapters(model)
    if name in loaded and loaded[name].alone:
        if loaded[name].before is None:
            raise ValueError(f'the model was built with {loaded[name].info.kind}, which cannot be taken away: build it '
                             'without')
        structure, classifier = loaded[name].before
        structure.restore()
        if classifier is not None:
            _put(model, find_classifier(model)[0], classifier)
        model.loaded_adapters = {}
        return
    remove_adapter(find_backbone(model), name)
    model.loaded_adapters = {key: one for key, one in _records(model).items() if key != name}
    _settle_heads(model)


def _read(folder: str | os.PathLike) -> LoRAFolder | KindFolder:
    if is_kind_folder(folder):
        return read_kind_folder(folder)
    record = Path(folder).expanduser() / RECORD
    if record.is_file() and read_object(record, DAMAGED).get('format') == CLIP_FORMAT:
        raise ValueError(f'{os.fspath(folder)!r} is of a CLIP with its text: mmlora.clip.load reads it')
    return read_lora_folder(folder)


def _load_kind(model: nn.Module, backbone: nn.Module, found: KindFolder, name: str, said: str | None) -> None:
    _check_head(model, found.head, found.path)
    known, classifier = next(iter(loaded_adapters(model).values()), None), find_classifier(model)
    structure = load_kind(backbone, found, lambda digest: _check_base(said, digest, found.path))
    before = (structure, classifier and classifier[1]) if structure is not None else known and known.before
    if found.head is not None and classifier is not None:
        _put_head(model, *classifier, found.head)
    model.loaded_adapters = {name: LoadedAdapter(_describe(found, name), found.head, True, before)}


def _put_head(model: nn.Module, name: str, linear: nn.Linear, head: Head) -> None:
    new = nn.Linear(linear.in_features, len(head.weight)).to(linear.weight).train(linear.training)
    with torch.no_grad():
        new.weight.copy_(head.weight)
        new.bias.copy_(head.bias)
    _put(model, name, new)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, module)


def _check_head(model: nn.Module, head: Head | None, path: Path) -> None:
    found = find_classifier(model)
    if head is not None and found is not None and found[1].in_features != head.weight.shape[1]:
        raise ValueError(f'the head of {path} is for features of {head.weight.shape[1]} numbers, the model has '
                         f'{found[1].in_features}')


def _check_base(said: str | None, own: str, path: Path) -> None:
    if said is None:
        print_log(f'{path} does not say on which weights it stands, so they could not be compared with those of the '
                  'model', 'current', logging.WARNING)
    elif said != own:
        raise ValueError(f'{path} stands on weights with the sha256 {said}, those of the model have {own}: give the '
                         "backbone init_cfg=dict(type='Pretrained', checkpoint=...) with the weights of the adapter, "
                         'in single precision')


def _fit_names(weights: LoRAWeights, backbone: nn.Module) -> LoRAWeights:
    """Return a LoRA under the names of a backbone, from those of another library or of a classifier."""
    modules = {name for name, _ in backbone.named_modules()}
    own = {(site.removeprefix('backbone.'), part): pair for (site, part), pair in weights.items()}
    return own if all(site in modules for site, _ in own) else own_names(own)


def _settle_heads(model: nn.Module) -> None:
    """Give a classifier the heads of its adapters; those that have none use its own."""
    found, loaded = find_classifier(model), loaded_adapters(model)
    if found is None:
        return
    name, layer = found
    own = layer.own if isinstance(layer, HeadBank) else layer
    heads = [one.head for one in loaded.values()]
    new: nn.Module = own
    if any(head is not None for head in heads):
        new = HeadBank(own, heads).train(own.training)
        if isinstance(layer, HeadBank) and layer.sizes == new.sizes:  # In place, for whoever has compiled the model.
            layer.weight.copy_(new.weight)
            layer.bias.copy_(new.bias)
            new = layer
    _put(model, name, new)
    set_adapter(model, named_adapters(find_backbone(model)).use)


def loaded_adapters(model: nn.Module) -> dict[str, LoadedAdapter]:
    """Return what is known of the adapters of a model by name: of those of ``add_adapter`` the kind and rank alone."""
    backbone, known = find_backbone(model), _records(model)
    alone = {name: one for name, one in known.items() if one.alone}
    return alone or {name: known.get(name) or LoadedAdapter(_added(backbone, name, number), None)
                     for number, name in enumerate(named_adapters(backbone).names)}


def _records(model: nn.Module) -> dict[str, LoadedAdapter]:
    return vars(model).get('loaded_adapters') or {}


def _added(backbone: nn.Module, name: str, number: int) -> AdapterInfo:
    rank = max((pair.rank for pair in take_adapter(backbone, number).values()), default=None)
    return AdapterInfo(name, 'lora', rank, None, None, None)


def _describe(found: LoRAFolder | KindFolder, name: str) -> AdapterInfo:
    record = found.record
    if isinstance(found, KindFolder):
        kind = record['adaptation']['kind']
        ranks = [row['rank'] for row in (record['rank_table'] or {'rows': ()})['rows']]
        rank = max(ranks, default=None)
    else:
        kind, rank = 'lora', max(pair.rank for pair in found.weights.values())
    classes = tuple(record['classes']) if record.get('classes') else None
    return AdapterInfo(name, kind, rank, classes, (record.get('base') or {}).get('sha256'), found.path, False, record)


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    base = {key: value for key, value in (record.get('base') or {}).items() if key != 'sha256'}
    return {**{key: value for key, value in record.items() if key not in OF_FILES | {'adaptation'}}, 'base': base}
