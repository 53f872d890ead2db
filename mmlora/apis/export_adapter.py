"""The adapter folder of a training checkpoint, of a CLIP or of any other classifier."""

import copy
import os
from pathlib import Path

from mmengine.config import Config

from ..engine.adaptation import check_scalings
from ..engine.adapter_folder import write_run_adapter
from ..engine.hooks.strict_load_hook import compare_keys
from ..io.adapter_card import shown_path
from ..io.checkpoint import load_checkpoint
from ..io.clip_folder import is_adapter_folder
from ..io.weights import unwrap
from ..models.clip import LoRACLIPClassifier
from .clip_adapter import build_clip
from .clip_adapter import export_adapter as export_clip_adapter
from .result_rows import result_rows
from .settle import settle_ranks
from .variables import settle_variables


def export_adapter(
    cfg: Config, checkpoint: str | os.PathLike, out: str | os.PathLike, library: str | None = None
) -> Path:
    """Write the adapter folder of a training checkpoint, with its head, classes, results and a model card.

    Args:
        cfg: The config of the checkpoint; it is not changed.
        checkpoint: A checkpoint of the whole model.
        out: The folder to write.
        library: Whose module names peft shall find, as for :func:`mmlora.save_adapter`. CLIP has those of transformers.

    Returns:
        The folder.

    Raises:
        ValueError: The checkpoint does not fit the config, or has no adapter, or the folder holds other things.
        FileNotFoundError: There is no such checkpoint.
    """
    checkpoint = os.fspath(checkpoint)
    if is_adapter_folder(checkpoint):
        raise ValueError(f'{checkpoint} is an adapter folder already: copy it')
    original, cfg = cfg, copy.deepcopy(cfg)
    settle_variables(cfg)
    settle_ranks(cfg, checkpoint=checkpoint)
    model = build_clip(cfg)
    if isinstance(model, LoRACLIPClassifier):
        if library is not None:
            raise ValueError(f'the folder of a CLIP has the names of transformers, got library={library!r}: leave it '
                             'out')
        return export_clip_adapter(original, checkpoint, out)
    trained = load_checkpoint(checkpoint)
    meta = trained.get('meta') or {}
    about, state = meta.get('mmlora') or {}, unwrap(trained, checkpoint)
    report = compare_keys(model, state)
    if report:
        raise ValueError(f'{checkpoint} does not fit the model of the config: {report}')
    check_scalings(model, about)
    model.load_state_dict(state, strict=False)  # The keys are compared above; Swin V2 drops buffers that it derives.
    protocol = about.get('protocol')
    config = cfg.filename and shown_path(cfg.filename)
    commands = [f'python tools/train.py {config}',
                f'python tools/export_adapter.py {config} {shown_path(checkpoint)} --out {shown_path(os.fspath(out))}',
                f'python tools/test.py {config} {shown_path(os.fspath(out))}'] if config else []
    classes = (meta.get('dataset_meta') or {}).get('classes')
    return write_run_adapter(out, cfg, model, protocol, result_rows(trained, checkpoint, protocol), classes, library,
                             commands)
