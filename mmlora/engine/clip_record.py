"""What an adapter folder says of a run: model, base weights, preparation of images, labels, metrics; and its card."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor

from ..io.adapter_card import own_command, shown_paths
from ..io.clip_card import model_card
from ..io.clip_folder import is_adapter_folder, read_folder, write_folder
from ..io.clip_peft import Site
from ..io.clip_vision import why_no_vision
from ..models.backbones.ranks import pretrained_checkpoint
from ..models.clip import LoRACLIPClassifier
from ..models.clip.base_weights import base_sha256
from ..models.clip.settings import describe_clip, learned_beside, lora_factors
from ..version import __version__
from .adapter_folder import VALIDATION
from .clip_images import describe_images
from .protocol import describe_run, inner_dataset

_HUB = re.compile(r'https?://huggingface\.co/([^/]+/[^/]+)/resolve/')


def why_no_folder(model: Any) -> str | None:
    """Say why a model has no adapter folder, or None where it has one."""
    if not isinstance(model, LoRACLIPClassifier):
        return f'adapter folders are for LoRACLIP, and the model is a {type(model).__name__}'
    if not lora_factors(model):
        return f'the model ({type(model).__name__}, encoder={model.encoder!r}) has no LoRA'
    others = learned_beside(model)
    if others or type(model) is not LoRACLIPClassifier:
        return (f'{type(model).__name__} learns more than the factors, which a LoRA of peft cannot hold: {others[:5]}'
                if others else f'{type(model).__name__} computes otherwise than LoRACLIP')
    return why_no_vision(model.vision_arguments)


def write_run(
    folder: str | Path, cfg: Config, model: LoRACLIPClassifier, protocol: Mapping[str, Any] | None,
    results: Sequence[Mapping[str, Any]] = (), state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the adapter folder of a run.

    Args:
        folder: The folder to write.
        cfg: The config of the run; it is not changed.
        model: The trained model, whose classes are set.
        protocol: Labels of the run and where it stood, as in the meta of its checkpoints; by default of the config.
        results: Rows of :func:`mmlora.engine.adapter_folder.result_row`.
        state: Weights that take the place of those of the model, such as their average.

    Raises:
        ValueError: The model has no adapter folder, or the folder holds other things.
    """
    reason = why_no_folder(model)
    if reason:
        raise ValueError(f'there is no adapter to write: {reason}')
    settings, location = describe_clip(model), base_location(cfg)
    if location is None:
        print_log(f'The config does not say where the frozen weights come from, so {folder} does not either: give them '
                  'whenever it is loaded. Weights drawn at random are in the checkpoints of the run alone',
                  'current', logging.WARNING)
    record = dict(
        version=__version__,
        model=settings,
        base=dict(sha256=base_sha256(model), location=location),
        tokenizer=_tokenizer(model, cfg),
        images=describe_images(_pipeline(cfg), model.data_preprocessor),
        protocol=shown_paths(protocol or describe_run(cfg)),
        metrics={f'val/{row["name"]}' if row['data'] == VALIDATION else f'{row["data"]}: {row["name"]}': row['value']
                 for row in results},
        results=list(results),
        commands=own_command(),
    )
    if model.scale.learned:
        record['logit_scale_value'] = float((state or model.state_dict())['logit_scale'])
    return write_record(folder, _factors(model, state), record)


def write_record(folder: str | Path, factors: Mapping[Site, tuple[Tensor, Tensor]], record: Mapping[str, Any]) -> Path:
    """Write a folder from its record, with the card and the name of the base model that follow from it."""
    found = _HUB.match(record['base'].get('location') or '')
    base_name = found[1] if found else None
    return write_folder(folder, factors, record, model_card(record, base_name), base_name)


def base_location(cfg: Config) -> str | None:
    """Return where a config takes its frozen weights from, as it is written there, or None if it names none."""
    own = pretrained_checkpoint((cfg.get('model') or {}).get('init_cfg'))
    start = None if cfg.get('resume') else cfg.get('load_from')
    if own or not start:
        return own
    return read_folder(start).base['location'] if is_adapter_folder(start) else start


def _factors(
    model: LoRACLIPClassifier, state: Mapping[str, Tensor] | None
) -> dict[Site, tuple[Tensor, Tensor]]:
    factors = lora_factors(model)
    if state is None:
        return factors
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {site: tuple(state[names[id(part)]] for part in pair) for site, pair in factors.items()}


def _tokenizer(model: LoRACLIPClassifier, cfg: Config) -> dict[str, Any]:
    own = dict((cfg.get('model') or {}).get('tokenizer') or dict(type='CLIPTokenizer'))
    kind = own.pop('type')
    kind = kind if isinstance(kind, str) else kind.__name__
    described = getattr(model.tokenizer, 'words', None)
    if described is not None:
        own['vocabulary'] = list(described)  # A folder must not need the file that the words came from.
    return dict(type=kind.rpartition('.')[2], **own)


def _pipeline(cfg: Config) -> Any:
    for part in ('test', 'val'):
        pipeline = inner_dataset((cfg.get(f'{part}_dataloader') or {}).get('dataset')).get('pipeline')
        if pipeline:
            return pipeline
    return None
