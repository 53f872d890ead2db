"""Take over hubs of the published code of LoRA-Recycle: what ``tools/import_hub.py`` calls."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.nn as nn
from mmengine.config import Config

from ..adapters import attach_bank, detach_bank
from ..io.hub import LoRAHub, member_name, member_records, write_index
from ..io.lora_folder import write_lora_folder
from ..io.published_hub import published_members, read_published_labels, read_published_lora
from ..models.backbones.ranks import pretrained_checkpoint
from ..version import __version__
from .hub_members import build_frozen
from .pretune_hub import LOCK
from .sweep_lock import lock_folder
from .variables import settle_variables


def import_published_hub(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str] | None = None,
    first: int = 0,
    cfg: Config | None = None,
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
        cfg: Says what the backbone is and which weights it has, such as a config of hubs. The members then say on which
            weights they stand, and each is checked to fit. None where the weights are not known.
        site: Name of the fused projection of a block, whose number takes the place of ``{}``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file holds something else, members do not fit each other or the backbone, the config names no
            weights, or there are members that are from elsewhere or stand on other weights.
        RuntimeError: Another process writes to the hub.
    """
    published = published_members(folder)
    backbone, base = _base_of(cfg)
    with lock_folder(out, LOCK):
        _check_there(out, folder, {member_name(number): str(lora) for number, (lora, _) in published.items()}, base)
        for number, (lora, labels) in published.items():
            ids = read_published_labels(labels)
            wrong = [k for k in ids if k < 0 or (class_names is not None and k >= len(class_names))]
            if wrong:
                raise ValueError(f'{labels} names the classes {wrong[:5]}, of the {len(class_names or ())} that have '
                                 'names')
            weights, head = read_published_lora(lora, site)
            if backbone is not None:
                with _naming(lora, backbone):
                    attach_bank(backbone, [weights])
                    detach_bank(backbone)
            record = dict(
                version=__version__,
                classes=[f'class {k}' if class_names is None else class_names[k] for k in ids],
                class_ids=[first + k for k in ids],
                task=dict(number=number, seed=None, source=str(lora), n_way=len(ids)),
                normalization=dict(mean=list(mean), std=list(std), to_rgb=True),
                base=base,
                metrics={},
                note='the published code does not store the bias of the head: it is 0 here',
            )  # fmt: skip
            card = (f'# LoRA {number}\n\nTaken over from `{lora.name}` of the published code of LoRA-Recycle, which '
                    'does not store the bias of the head: it is 0 here.\n')
            write_lora_folder(Path(out) / member_name(number), weights, record, head, card)
        return write_index(out, name=Path(out).name, sources=[str(folder)], published=True)


def _base_of(cfg: Config | None) -> tuple[nn.Module | None, dict[str, Any]]:
    """Return the backbone of a config with its weights, and what members say of these."""
    if cfg is None:
        return None, dict(sha256=None, name=None)
    name = pretrained_checkpoint((cfg.get('model') or {}).get('backbone', {}).get('init_cfg'))
    if name is None:
        raise ValueError("the config must give model.backbone init_cfg=dict(type='Pretrained', checkpoint=...): the "
                         'weights that the LoRAs stand on')
    cfg = cfg.copy()
    settle_variables(cfg)
    frozen, digest = build_frozen(cfg, 'cpu')
    return frozen.backbone, dict(sha256=digest, name=name)


def _check_there(
    out: str | os.PathLike, folder: str | os.PathLike, sources: Mapping[str, str], base: Mapping[str, Any]
) -> None:
    """Check that the members that are there were taken over from the same files, onto the same weights."""
    there = member_records(out)
    others = [name for name, record in there.items() if (record.get('task') or {}).get('source') != sources.get(name)]
    if others:
        raise ValueError(f'{os.fspath(out)!r} holds the members {others[:5]}, which are not from '
                         f'{os.fspath(folder)!r}: choose another folder to write')
    for name, record in there.items():
        known = (record.get('base') or {}).get('sha256')
        if known not in (None, base['sha256']):
            now = f'has {base["sha256"]}' if base['sha256'] else 'is not named now'
            raise ValueError(f'member {name!r} of {os.fspath(out)!r} stands on weights with the sha256 {known}, and '
                             f'the backbone {now}: give the config of then (--config), or another folder to write')


@contextmanager
def _naming(lora: Path, backbone: nn.Module) -> Iterator[None]:
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'{lora} does not fit a {type(backbone).__name__} ({error}): name the config of its backbone, '
                         'and the layers with --site') from error
