"""Adapter folders of CLIP from checkpoints of this package and from files of the published CLIP-LoRA code."""

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope

from ..datasets import CoOpDataset
from ..datasets.coop_sets import find_coop_set
from ..engine.adaptation import check_scalings
from ..engine.clip_check import check_clip_settings
from ..engine.clip_images import describe_images, published_steps
from ..engine.clip_record import base_location, why_no_folder, write_record, write_run
from ..engine.hooks.strict_load_hook import compare_keys
from ..io.checkpoint import load_checkpoint
from ..io.clip_folder import ADAPTER
from ..io.clip_lora_file import PublishedLoRA, labels_of, place_layers, read_published_lora
from ..io.clip_peft import describe_sites
from ..io.clip_vision import plain_vision, why_no_vision
from ..io.weights import unwrap
from ..models.backbones.skeleton import Skeleton
from ..models.clip import CLIPArch, LoRACLIPClassifier, find_arch
from ..models.clip.base_weights import base_sha256, read_base
from ..models.clip.classifier import TEMPLATE
from ..models.clip.preprocessor import preprocessor_config
from ..models.clip.prompts import check_classes, check_templates, make_prompts, tokenize
from ..models.clip.settings import describe_clip, name_of, prompts_difference
from ..registry import MODELS, TOKENIZERS
from ..version import __version__
from .result_rows import result_rows
from .variables import settle_variables


def export_adapter(cfg: Config, checkpoint: str, out: str | Path) -> Path:
    """Write the adapter folder of a trained CLIP; see :mod:`mmlora.io.clip_folder`.

    Args:
        cfg: The config of the checkpoint; it is not changed.
        checkpoint: A checkpoint of the whole model.
        out: The folder to write.

    Returns:
        The folder.

    Raises:
        ValueError: The checkpoint does not fit the config, or has no LoRA that peft could hold, or the folder holds
            other things.
        FileNotFoundError: There is no such checkpoint.
    """
    trained = load_checkpoint(checkpoint)
    if ADAPTER in trained:
        raise ValueError(f'{checkpoint} is an adapter folder already: copy it')
    cfg = copy.deepcopy(cfg)
    settle_variables(cfg)
    meta = trained.get('meta') or {}
    about = meta.get('mmlora') or {}
    model = build_clip(cfg)
    reason = why_no_folder(model)
    if reason:
        raise ValueError(f'there is no adapter to write: {reason}')
    check_clip_settings(model, about, checkpoint)
    state = unwrap(trained, checkpoint)
    report = compare_keys(model, state)
    if report:
        raise ValueError(f'{checkpoint} does not fit the model of the config: {report}')
    check_scalings(model, about)
    model.load_state_dict(state)
    _take_prompts(model, about.get('clip') or dict(meta.get('dataset_meta') or {}), checkpoint)
    protocol = about.get('protocol')
    return write_run(out, cfg, model, protocol, result_rows(trained, checkpoint, protocol))


def build_clip(cfg: Config) -> Any:
    """Build the model of a config as a runner does, with the ``data_preprocessor`` of its top."""
    model = dict(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        return MODELS.build(model)


def import_clip_lora(
    path: str | Path,
    out: str | Path,
    backbone: str | Mapping[str, Any] | None = None,
    config: Config | None = None,
    classes: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    weights: str | None = None,
) -> Path:
    """Write the adapter folder of a file of the published CLIP-LoRA code.

    Args:
        path: The ``.pt``. Backbone, data set, shots and seed are read from a published path,
            ``<backbone>/<data set>/<k>shots/seed<s>/<name>.pt``.
        out: The folder to write.
        backbone: Name or sizes of the backbone, where neither the path nor a config says it.
        config: A config of LoRACLIP, of which sizes, tokenizer, statistics, test pipeline, and unless they are given
            here classes, templates and weights are taken.
        classes: Names of the classes in the order of the labels. Without them, and without ``data_root``, the folder
            has none, and they are given when it is loaded.
        templates: Prompts; the published code has ``'a photo of a {}.'``.
        dataset: Name of the data set, where the path does not say it.
        data_root: Folder of the sets of CoOp, from which the classes are read.
        weights: The frozen weights, whose hash and place are recorded.

    Returns:
        The folder.

    Raises:
        ValueError: The file contradicts itself, its path, the config or the backbone; both sides are quoted.
        FileNotFoundError: A file does not exist.
    """
    lora, labels, model_cfg = read_published_lora(path), labels_of(path), dict((config or {}).get('model') or {})
    arch = _backbone(backbone, model_cfg, labels, str(path))
    factors, tables = place_layers(
        lora, dict(text=arch.text_layers, vision=arch.vision_layers),
        dict(text=arch.text_width, vision=arch.vision_width), name_of(arch),
    )
    reason = why_no_vision(model_cfg.get('vision'))
    if reason:
        raise ValueError(f'the config does not fit into an adapter folder: {reason}')
    dataset = _dataset(dataset, labels.get('dataset_name'), str(path))
    names = _classes(classes, model_cfg, dataset, data_root)
    texts = list(check_templates(templates or model_cfg.get('templates') or TEMPLATE))
    tokenizer = dict(model_cfg.get('tokenizer') or dict(type='CLIPTokenizer'))
    if names:
        tokenize(TOKENIZERS.build(dict(tokenizer)), make_prompts(names, texts), arch.context_length, arch.vocab_size)
    weights = weights or base_location(config or Config())
    given = (config or {}).get('data_preprocessor') or model_cfg.get('data_preprocessor')
    preprocessor = MODELS.build(preprocessor_config(given))
    images = describe_images(published_steps(arch.image_size), preprocessor)
    record = dict(
        version=__version__,
        model=dict(
            arch=dataclasses.asdict(arch), backbone=name_of(arch), logit_scale=100.0, templates=texts, classes=names,
            vision=plain_vision(model_cfg.get('vision')), **describe_sites(factors, str(path)), **_numbers(lora),
        ),
        base=dict(sha256=_hash(arch, model_cfg.get('vision'), weights) if weights else None, location=weights),
        tokenizer=tokenizer,
        images=images,
        protocol=dict(method='CLIP-LoRA', dataset_name=dataset, shot=labels.get('shot'), seed=labels.get('seed')),
        metrics={},
        imported_from=f'{Path(path).name}, position {lora.position!r}',
    )
    for tower, title in tables.items():
        print_log(f'{path}: {lora.position!r} of the {tower} tower is read by {title}', 'current')
    if not weights:
        print_log(f'{out} does not know its frozen weights, which the file does not name either: give weights to have '
                  'them checked whenever the folder is used', 'current', logging.WARNING)
    return write_record(out, factors, record)


def _hash(arch: CLIPArch, vision: Mapping[str, Any] | None, weights: str) -> str:
    with Skeleton():  # Names and shapes are all that is needed.
        model = LoRACLIPClassifier(arch, 'none', tokenizer=dict(type='WordTokenizer', vocabulary=['a']), vision=vision)
    return base_sha256(model, read_base(model, weights))


def _numbers(lora: PublishedLoRA) -> dict[str, Any]:
    return dict(rank=lora.rank, alpha=lora.alpha, scaling='alpha/sqrt(r)', factor=lora.factor, dropout=None)


def _backbone(
    backbone: str | Mapping[str, Any] | None, model_cfg: Mapping[str, Any], labels: Mapping[str, Any], path: str
) -> CLIPArch:
    """Return the sizes that are given, of the config, or of the path; what has a name must not be contradicted."""
    said = {}
    if backbone is not None:
        said['the given backbone'] = find_arch(backbone)
    if model_cfg:
        said['the config'] = find_arch(model_cfg.get('arch', 'ViT-B/16'), model_cfg.get('image_size'))
    if labels:
        with suppress(ValueError):  # A folder may have any name.
            said['the path'] = find_arch(labels['backbone'])
    if not said:
        raise ValueError(f'{path} does not say its backbone, which the published code writes into the path: give '
                         "backbone='ViT-B/16', 'ViT-B/32' or 'ViT-L/14', or a config")
    named = {source: name_of(arch) for source, arch in said.items() if name_of(arch)}
    if len(set(named.values())) > 1:
        text = ', '.join(f'{source} says {name}' for source, name in named.items())
        raise ValueError(f'{path}: {text}: which backbone was the adapter made for?')
    return next(iter(said.values()))


def _dataset(given: str | None, of_path: str | None, path: str) -> str | None:
    own, other = (_known(name) for name in (given, of_path))
    if own and other and own != other:
        raise ValueError(f'{path} is of the data set {of_path!r} by its path, and {given!r} is given')
    return own or other


def _known(name: str | None) -> str | None:
    with suppress(ValueError):
        return find_coop_set(name).name if name else None
    return name


def _classes(
    given: Sequence[str] | None, model_cfg: Mapping[str, Any], dataset: str | None, data_root: str | Path | None
) -> list[str] | None:
    if given is not None and data_root is not None:
        raise ValueError('classes are given, and data_root too, from which they would be read: give one of both')
    if given is None and data_root is not None:
        if dataset is None:
            raise ValueError(f'data_root={str(data_root)!r} needs the name of the data set: give dataset=...')
        given = CoOpDataset(dataset, split='test', data_root=str(data_root), pipeline=[]).metainfo['classes']
    given = given if given is not None else model_cfg.get('classes')
    return None if given is None else list(check_classes(given))


def _take_prompts(model: LoRACLIPClassifier, given: Mapping[str, Any], where: str) -> None:
    own = describe_clip(model)
    own = dict(classes=own['classes'], templates=own['templates'] if model.templates_given else None)
    difference = prompts_difference(own, given)
    if difference:
        raise ValueError(f'{where} was trained with other prompts: {difference}')
    if given.get('classes'):
        model.set_classes(given['classes'], given.get('templates') or None)
