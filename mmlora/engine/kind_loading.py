"""The adapter of a folder that is no LoRA in a model: first tried on a twin without numbers, then put in for good.

What a folder says of its kind and of its sizes is data of a stranger. The twin lies on torch's ``meta`` device, so that
sizes which nobody could hold take no memory, and a folder that does not fit leaves the model as it was.
"""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..adapters import adapter_modules
from ..io.kind_folder import KIND, KindFolder
from ..models.backbones.adapt import adapt_as
from ..models.pretrained import HEADS
from ..ranks import RankTable
from .adapter_folder import frozen_sha256, learned_names
from .structure import Structure


def load_kind(backbone: nn.Module, found: KindFolder, check: Callable[[str], None]) -> Structure | None:
    """Give a backbone the adapter of a folder.

    Args:
        backbone: Plain, or adapted in the same way.
        found: The folder.
        check: Looks at the hash of the frozen weights.

    Returns:
        What a plain backbone was before.

    Raises:
        ValueError: They do not fit each other.
    """
    learned, before = set(found.tensors), None
    if getattr(backbone, 'adaptation', None) is None:
        if adapter_modules(backbone):
            raise ValueError(f'{found.path} is {found.record["adaptation"]["kind"]}, and the model has other adapters, '
                             'beside which it cannot be: take them away with delete_adapter, or give a plain model')
        check(frozen_sha256(backbone, learned))
        before, training = Structure(backbone, learned), backbone.training
        adapt_as_folder(backbone, found)
        backbone.train(training)
    else:
        check_adapted_as(backbone, found.record['adaptation'], found.record['rank_table'], str(found.path))
        check_tensors(backbone, found.tensors, str(found.path))
        check(frozen_sha256(backbone, learned))
    state = backbone.state_dict()
    with torch.no_grad():
        for key, value in found.tensors.items():
            state[key].copy_(value)
    return before


def adapt_as_folder(backbone: nn.Module, found: KindFolder) -> None:
    """Adapt a plain backbone as a folder says, in place; what learned is not put in yet.

    Raises:
        ValueError: The kind, its options or its tensors do not fit the backbone, which is as it was then.
    """
    adaptation, where = found.record['adaptation'], found.path
    table = found.record['rank_table']
    ranks = None if table is None else RankTable.from_dict(table, f'the rank table of {where}')
    twin = _without_numbers(backbone)
    try:
        with torch.device('meta'):
            adapt_as(twin, adaptation, ranks)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f'{where} does not fit the model: {error or type(error).__name__}') from error
    check_tensors(twin, found.tensors, str(where))
    adapt_as(backbone, adaptation, ranks)


def check_tensors(backbone: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that the tensors of a folder are those that learn in an adapted backbone.

    Raises:
        ValueError: They differ in names or shapes.
    """
    state, learned = backbone.state_dict(), learned_names(backbone)
    differ = sorted(learned ^ set(tensors)) + sorted(
        key for key in learned & set(tensors) if state[key].shape != tensors[key].shape)
    if differ:
        raise ValueError(f'{where} does not fit the model: {len(differ)} tensors are missing, too many or of another '
                         f'shape, the first: {differ[0]}')


def check_adapted_as(backbone: nn.Module, adaptation: Mapping[str, Any], table: Any, where: str) -> None:
    """Check that a backbone is adapted as a folder says.

    Raises:
        ValueError: It is adapted in another way, or not at all.
    """
    own = getattr(backbone, 'adaptation', None)
    ranks = {} if table is None else RankTable.from_dict(table, f'the rank table of {where}').ranks
    if own is None or json.loads(json.dumps([own, dict(backbone.rank_table.ranks)])) != [adaptation, ranks]:
        raise ValueError(f'{where} is adapted as {str(adaptation)[:500]}, the model as {own}, or at other ranks: give '
                         'a model or config that is adapted in the same way')


def complete_kind(model: nn.Module, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state dict of a model: its frozen weights, with what learned in a folder, and the head of that.

    As :func:`mmlora.engine.lora_loading.complete_lora`, for other kinds.

    Args:
        model: Its ``backbone`` is adapted as that of the folder.
        checkpoint: Of :func:`mmlora.io.kind_folder.kind_checkpoint`.

    Raises:
        ValueError: The model is adapted in another way, or stands on other weights.
    """
    about, tensors = checkpoint[KIND], checkpoint['state_dict']
    where, backbone = about['folder'], getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f'{where} is an adapter of a backbone, and the model, a {type(model).__name__}, has none')
    check_adapted_as(backbone, about['adaptation'], about['rank_table'], where)
    check_tensors(backbone, tensors, where)
    backbone.init_weights()
    digest = frozen_sha256(backbone, set(tensors))
    if about['sha256'] != digest:
        raise ValueError(f'{where} stands on weights with the sha256 {about["sha256"]}, those of the config have '
                         f"{digest}: give the backbone init_cfg=dict(type='Pretrained', checkpoint=...) with the "
                         'weights of the adapter')
    # What lies outside of the backbone and learns is the folder's or nobody's: the model's own was drawn at random.
    others = {name for name, _ in model.named_parameters() if not name.startswith('backbone.')}
    head = {f'{place}.{name}': value for name, value in (about['head'] or {}).items() for place in HEADS}
    return {**{name: value for name, value in model.state_dict().items() if name not in others},
            **{f'backbone.{name}': value for name, value in tensors.items()},
            **{name: value for name, value in head.items() if name in others}}


def _without_numbers(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the ``meta`` device, whose tensors have shapes alone."""
    twins = {}
    for tensor in (*module.parameters(), *module.buffers()):
        twin = torch.empty_like(tensor, device='meta')
        twins[id(tensor)] = (nn.Parameter(twin, requires_grad=tensor.requires_grad)
                             if isinstance(tensor, nn.Parameter) else twin)
    return copy.deepcopy(module, twins)
