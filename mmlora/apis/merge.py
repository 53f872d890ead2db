"""Merging a trained checkpoint: a plain model of the same size and speed as without adapters, for any kind of them."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import DefaultScope
from safetensors.torch import save
from torch import Tensor

from ..adapters import adapter_modules, merged_state_dict, tunings
from ..adapters.merging import check_mergeable
from ..engine import SPUHook, StableRankHook
from ..engine.adaptation import check_scalings
from ..engine.clip_check import check_clip_settings
from ..engine.hooks.strict_load_hook import compare_keys
from ..io.atomic import write_atomically, write_bytes, write_text
from ..io.checkpoint import load_checkpoint
from ..io.clip_folder import ADAPTER
from ..io.clip_vision import why_not_elsewhere
from ..io.convert import convert, invert
from ..io.plain import plain_checkpoint
from ..io.weights import unwrap
from ..models.clip import LoRACLIPClassifier, restore_openai_keys
from ..models.clip.base_weights import complete_adapter
from ..models.clip.settings import describe_clip
from ..registry import HOOKS, MODELS
from ..version import __version__
from .settle import adapted_backbones, resolve_type, settle_ranks
from .variables import settle_variables

TOLERANCE = 1e-9
"""Largest difference of an output in float64, relative to the largest output."""

HEADER = '# Config without adapters, for the merged weights of'

OURS = (StableRankHook, SPUHook)
"""Hooks that need adapters."""


CLIP_LAYOUTS = {'openai': 'openai', 'open_clip': 'openai', 'hf': 'hf-clip'}
"""Names under which a merged CLIP can be written, and the row of :data:`mmlora.io.layouts.LAYOUTS` of each."""


def merge_checkpoint(cfg: Config, checkpoint: str, out: str, layout: str | None = None) -> tuple[Path, Path]:
    """Write a trained model without its adapters, and the config of it.

    The merged weights are loaded strictly into the plain model and compared with the adapted one on random images, in
    float64, before anything is written.

    Args:
        cfg: The config of the checkpoint; it is not changed.
        checkpoint: The trained checkpoint of the whole model, or the adapter folder of a CLIP.
        out: The file to write: ``.pth`` keeps the classes in its meta, ``.safetensors`` holds the weights alone.
        layout: For a CLIP, whose names the weights get: ``'openai'`` or ``'open_clip'``, which are the same, or
            ``'hf'``, those of transformers' ``CLIPModel``. The file then holds the weights alone. None keeps ours.

    Returns:
        The weights, and the config beside them (the same name, ending in ``.py``), with which ``tools/test.py`` and
        mmpretrain take them.

    Raises:
        ValueError: ``out`` has another ending or would take the place of another file, the layout is unknown or the
            model no whole CLIP or one that it cannot hold, the checkpoint does not fit the config, the model has no
            adapters or such as no weight can hold, or the plain model does not compute the same.
        FileNotFoundError: There is no such checkpoint.
    """
    if Path(out).suffix not in ('.pth', '.safetensors'):
        raise ValueError(f'{out!r} must end in .pth or .safetensors')
    config = Path(out).with_suffix('.py')
    if config.exists() and not config.read_text(encoding='utf-8').startswith(HEADER):
        raise ValueError(f'{config}, where the config of the merged model goes, is another file: choose another name')
    if Path(out).exists() and Path(checkpoint).exists() and Path(out).samefile(checkpoint):
        raise ValueError(f'{out!r} is the checkpoint itself, whose adapters would be lost: choose another name')
    if layout is not None and layout not in CLIP_LAYOUTS:
        raise ValueError(f'layout must be one of {list(CLIP_LAYOUTS)}, got {layout!r}')
    trained = load_checkpoint(checkpoint)
    cfg = copy.deepcopy(cfg)
    settle_variables(cfg)
    settle_ranks(cfg, checkpoint=checkpoint)
    plain_cfg, size = _plain_config(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        model, plain = MODELS.build(cfg.model), MODELS.build(plain_cfg.model)
    check_mergeable(model)
    if layout is not None and not isinstance(plain, LoRACLIPClassifier):
        raise ValueError(f'layout={layout!r} names the weights of a whole CLIP, and the model is a '
                         f'{type(model).__name__}: leave the layout out')
    reason = layout and why_not_elsewhere(plain.vision_arguments, plain.arch.patch_size)
    if reason:
        raise ValueError(f'layout={layout!r} has no room for this model: {reason}. Leave the layout out to write it '
                         'under our names')
    if ADAPTER in trained and isinstance(model, LoRACLIPClassifier):
        trained['state_dict'] = complete_adapter(model, trained)
    _load(model, trained, checkpoint)
    kinds = {type(layer).__name__ for layer in adapter_modules(model).values()}
    kinds = sorted(kinds | {tuning.name for tuning in tunings(model).values()})
    if not kinds:
        raise ValueError('the model of the config has no adapters, so there is nothing to merge')
    names = (trained.get('meta') or {}).get('dataset_meta')
    for each in (model, plain):
        each._dataset_meta = names  # as mmpretrain's get_model; CLIP reads its class names there
    types = {key: value.dtype for key, value in model.state_dict().items()}
    merged = _with_zero_biases(merged_state_dict(model.double()), plain)
    _check_same(model, plain, merged, size)
    weight_of = {key: key if key in types else key.removesuffix('bias') + 'weight' for key in merged}
    state = {key: value.to(types[weight_of[key]]).contiguous() for key, value in merged.items()}
    if layout is None:
        weights = _write(out, state, trained, kinds, plain)
    else:
        weights = _write_plain(out, clip_in_layout(state, layout))
    return weights, write_text(config, f'{HEADER} {checkpoint}\n{plain_cfg.pretty_text}')


def _plain_config(cfg: Config) -> tuple[Config, Any]:
    """Return the config without adapters, and the size of the images that its backbone expects."""
    plain = copy.deepcopy(cfg)
    size = 224
    for backbone, kind in list(adapted_backbones(plain.model)):
        bare = getattr(kind, 'merged_config', kind.bare_config)(backbone)
        size = bare.get('img_size', size)
        bare.pop('init_cfg', None)  # The weights are in the checkpoint.
        bare['type'] = bare['type'] if isinstance(bare['type'], str) else bare['type'].__name__
        backbone.clear()
        backbone.update(bare)
    for node, kind in list(adapted_backbones(plain.model, 'plain_config')):
        size = kind.image_size(node)
        bare = kind.plain_config(node)
        node.clear()
        node.update(bare)
    plain.pop('rank_table', None)
    hooks = plain.get('custom_hooks') or ()
    plain['custom_hooks'] = [hook for hook in hooks if resolve_type(hook.get('type'), HOOKS) not in OURS]
    return plain, size


def _load(model: nn.Module, trained: Mapping[str, Any], where: str) -> None:
    state = unwrap(trained, where)
    check_clip_settings(model, (trained.get('meta') or {}).get('mmlora'), where)
    report = compare_keys(model, state)
    if report:
        raise ValueError(f'{where} does not fit the model of the config: {report}')
    check_scalings(model, (trained.get('meta') or {}).get('mmlora'))
    model.load_state_dict(state, strict=False)  # The keys are compared above; Swin V2 drops buffers that it derives.


def _with_zero_biases(merged: Mapping[str, Tensor], plain: nn.Module) -> dict[str, Tensor]:
    """Add the biases that the plain model has and the adapted one, merged, lacks.

    A plain backbone has the biases of all its layers of a kind or of none, where only some may be shifted.
    """
    own = plain.double().state_dict()
    return {**merged, **{key: own[key].zero_() for key in own if key.endswith('.bias') and key not in merged}}


@torch.no_grad()
def _check_same(model: nn.Module, plain: nn.Module, merged: Mapping[str, Tensor], size: Any) -> None:
    """Load the merged weights into the plain model and compare the outputs of both.

    Raises:
        ValueError: The keys or the outputs differ.
    """
    report = compare_keys(plain, merged)
    if report:
        raise ValueError(
            f'the merged weights do not fit the plain model: {report}. Where only biases are too many, adapted layers '
            'without a bias got one by merging: switch it on in the plain backbone, and adapt that'
        )
    plain.load_state_dict(merged, strict=False)  # As above.
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model.eval()
    plain.eval()
    for one, other in zip(_tensors(model(images)), _tensors(plain(images)), strict=True):
        difference = float((one - other).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(one.abs().max())):
            raise ValueError(f'the merged model does not compute the same: outputs differ by {difference:.3g}')


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)]


def clip_in_layout(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Return the weights of a plain CLIP of this package under the names of another library.

    Args:
        state: Without factors.
        layout: A name in :data:`CLIP_LAYOUTS`.
    """
    openai = restore_openai_keys(state)
    row = CLIP_LAYOUTS[layout]
    if row == 'openai':
        return openai
    converted = convert(openai, 'openai', 'the merged model')
    return invert({**converted.backbone, **converted.aside}, row)


def _write_plain(out: str, state: Mapping[str, Tensor]) -> Path:
    state = {key: value.contiguous() for key, value in state.items()}
    if Path(out).suffix == '.safetensors':
        return write_bytes(out, save(state, metadata={'format': 'pt'}))
    return write_atomically(out, lambda file: torch.save(state, file))


def _write(out: str, state: dict[str, Tensor], trained: Mapping[str, Any], kinds: list[str], plain: nn.Module) -> Path:
    if Path(out).suffix == '.safetensors':
        return _write_plain(out, state)
    old = trained.get('meta') or {}
    meta = {key: old[key] for key in ('dataset_meta', 'epoch', 'iter', 'seed') if key in old}
    about = old.get('mmlora') or {}
    kept = {key: about[key] for key in ('protocol', 'truncated') if key in about}  # Results are those of the run.
    if isinstance(plain, LoRACLIPClassifier):
        kept['clip'] = describe_clip(plain)  # Its prompts are compared with those of a test.
    meta['mmlora'] = dict(version=__version__, merged=kinds, **kept)
    content = plain_checkpoint(dict(meta=meta, state_dict=state))
    return write_atomically(out, lambda file: torch.save(content, file))
