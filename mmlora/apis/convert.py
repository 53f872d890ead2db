"""Writing the weights of one library as a file of another."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from safetensors.torch import save
from torch import Tensor

from ..io.atomic import write_bytes
from ..io.convert import Converted, convert, invert, look_up_layout
from ..io.layouts import LAYOUTS, OWN
from ..io.resize import resize_positions
from ..io.weights import load_state_dict
from ..models.backbones.load_guard import DERIVED
from ..models.backbones.skeleton import build_skeleton

SHOWN = 5


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        path: The file.
        source: The layout that was read.
        target: The layout that was written.
        count: Number of tensors in the file.
        left_out: Names that are not in the file, each with what it is.
    """

    path: Path
    source: str
    target: str
    count: int
    left_out: dict[str, str]

    def __str__(self) -> str:
        kinds: dict[str, int] = {}
        for reason in self.left_out.values():
            kinds[reason] = kinds.get(reason, 0) + 1
        left = ', '.join(f'{reason} ({count})' for reason, count in kinds.items()) or 'nothing'
        return f'{self.source} -> {self.target}: {self.count} tensors; left out: {left}'


def convert_weights(
    source: str,
    out: str | Path,
    to: str = 'mmpretrain',
    layout: str | None = None,
    arch: str | None = None,
    num_heads: int | None = None,
    image_size: Sequence[int] | None = None,
    aside: bool | None = None,
    allow: Sequence[str] = (),
) -> Conversion:
    """Convert a file of weights and write the result in one step.

    Args:
        source: Anything that the checkpoint loader reads, in any layout.
        out: The file to write, ending in ``.pth`` or ``.safetensors``, or ``.npz`` for Google's layout.
        to: The layout to write, a name in :data:`mmlora.io.layouts.LAYOUTS`; for a Swin ``'timm'`` means
            ``'timm-swin'``, and so on.
        layout: The layout to read; by default it is told from the names.
        arch: An architecture of mmpretrain that the weights must be of, such as ``'base'``.
        num_heads: Number of attention heads, which Google's layout needs, if neither the file nor ``arch`` tells it.
        image_size: Height and width in pixels for which the position embedding of a ViT is resized, as the source
            library does it.
        aside: Whether to write what a backbone has no place for: classifier, projections, text tower. None writes what
            the other library has a place for, and for mmpretrain none of it; False none; True all of it.
        allow: Exact names of the file that may be left out although its layout does not know them.

    Raises:
        ValueError: An argument is not valid; or the layout is unknown; or the weights do not fit it, the architecture
            or the layout to write.
        FileNotFoundError: There is no such file.
    """
    out = Path(out)
    state = load_state_dict(source, convert=False)
    converted = convert(state, layout, source)
    converted.check(allow, source)
    target = _target(to, converted)
    write = _writer(out, target)
    if Path(source).exists() and out.exists() and out.samefile(source):
        raise ValueError(f'{str(out)!r} is the file to read: choose another name')
    weights = dict(converted.backbone)
    zoo = _architecture(arch, converted) if arch is not None else {}
    if image_size is not None:
        weights['pos_embed'] = _resize(weights, image_size, converted)
    kept, left = _aside(converted, target, aside)
    if target not in OWN:
        heads = num_heads or converted.num_heads or zoo.get('num_heads')
        weights = invert({**weights, **kept}, target, heads, source)
    else:
        weights |= kept
    path = write(out, weights)
    left |= {**converted.dropped, **dict.fromkeys(converted.unknown, 'allowed by name')}
    return Conversion(path, converted.layout.title, LAYOUTS[target].title, len(weights), left)


def _target(to: str, converted: Converted) -> str:
    swin = f'{to}-swin'
    row = look_up_layout(swin if converted.layout.stages and swin in LAYOUTS else to)
    if row.stages != converted.layout.stages:
        kinds = [name for name, other in LAYOUTS.items() if other.stages == converted.layout.stages and other.writable]
        raise ValueError(f'{converted.layout.title} cannot be written as {row.title}; it can as {", ".join(kinds)}')
    return row.name


def _aside(converted: Converted, target: str, aside: bool | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what is written beside the backbone, and what is left out of it."""
    if aside is None:
        places = [rule.target for rule in LAYOUTS[target].rules] if target not in OWN else []
        kept = [key for key in converted.aside if any(place.match(key, {}) is not None for place in places)]
    else:
        kept = list(converted.aside) if aside else []
    left = {key: f'{key.split(".")[0]} beside the backbone' for key in converted.aside if key not in kept}
    return {key: converted.aside[key] for key in kept}, left


def _resize(weights: Mapping[str, Tensor], image_size: Sequence[int], converted: Converted) -> Tensor:
    if converted.layout.stages:
        raise ValueError('image_size is for position embeddings, which this Swin has none of; its tables of relative '
                         'positions follow the window and are resized where they are loaded')
    if 'pos_embed' not in weights:
        raise ValueError('image_size is for position embeddings, of which these weights have none')
    if len(image_size) != 2:
        raise ValueError(f'image_size is a height and a width in pixels, got {image_size!r}')
    patch = weights['patch_embed.projection.weight'].shape[2:]
    size = tuple(pixels // side for pixels, side in zip(image_size, patch, strict=True))
    if min(size) < 1:
        raise ValueError(f'image_size={tuple(image_size)} is less than one patch of {tuple(patch)}')
    tokens = sum(name in weights for name in ('cls_token', 'dist_token'))
    return resize_positions(weights['pos_embed'], size, tokens, tokens, converted.layout.resize)


def _architecture(arch: str, converted: Converted) -> dict[str, Any]:
    """Return an architecture of mmpretrain after a check of the weights against it."""
    kind = SwinTransformer if converted.layout.stages else VisionTransformer
    if arch not in kind.arch_zoo:
        raise ValueError(f'arch={arch!r} is none of {kind.__name__}: {", ".join(kind.arch_zoo)}')
    weights = converted.backbone
    patch = tuple(weights['patch_embed.projection.weight'].shape[2:])
    config: dict[str, Any] = dict(type=kind.__name__, arch=arch, patch_size=patch[0])
    if kind is SwinTransformer:
        tables = [value for key, value in weights.items() if key.endswith('relative_position_bias_table')]
        window = (math.isqrt(len(tables[0])) + 1) // 2
        config.update(window_size=window, img_size=patch[0] * window * 8)
    else:
        swiglu = dict(ffn_type='swiglu_fused') if 'layers.0.ffn.w12.weight' in weights else {}
        config.update(
            pre_norm='pre_norm.weight' in weights,
            qkv_bias='layers.0.attn.qkv.bias' in weights,
            layer_scale_init_value=1e-5 if 'layers.0.attn.gamma1.weight' in weights else 0.0,
            layer_cfgs=swiglu,
        )
    own = build_skeleton(config).state_dict()
    blocks = ('layers.', 'stages.')
    missing = [key for key in own if key.startswith(blocks) and not key.endswith(DERIVED) and key not in weights]
    extra = [key for key in weights if key.startswith(blocks) and key not in own]
    other = [
        f'{key} is {tuple(value.shape)}, {arch!r} has {tuple(own[key].shape)}'
        for key, value in weights.items()
        if key in own and key != 'pos_embed' and value.shape != own[key].shape
    ]
    problems = [*other, *(f'{key} is missing' for key in missing), *(f'{key} is too many' for key in extra)]
    if problems:
        raise ValueError(f'the weights are not of arch={arch!r}: {"; ".join(problems[:SHOWN])}'
                         + (' ...' if len(problems) > SHOWN else ''))
    return {**kind.arch_zoo[arch]}


def _writer(out: Path, target: str) -> Callable[[Path, Mapping[str, Tensor]], Path]:
    endings = _GOOGLE if target == 'google' else _PLAIN
    if out.suffix not in endings:
        raise ValueError(f'{str(out)!r} must end in {" or ".join(endings)} for the layout {target!r}')
    return endings[out.suffix]


def _write_torch(out: Path, weights: Mapping[str, Tensor]) -> Path:
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous().clone() for name, tensor in weights.items()}, buffer)
    return write_bytes(out, buffer.getvalue())


def _write_safetensors(out: Path, weights: Mapping[str, Tensor]) -> Path:
    return write_bytes(out, save({name: tensor.contiguous() for name, tensor in weights.items()}, {'format': 'pt'}))


def _write_npz(out: Path, weights: Mapping[str, Tensor]) -> Path:
    strange = sorted({str(tensor.dtype) for tensor in weights.values() if tensor.dtype == torch.bfloat16})
    if strange:
        raise ValueError(f'{str(out)!r}: numpy has no {strange[0]}; convert from weights in float32 or float16')
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.contiguous().numpy() for name, tensor in weights.items()})
    return write_bytes(out, buffer.getvalue())


_PLAIN = {'.pth': _write_torch, '.safetensors': _write_safetensors}
_GOOGLE = {'.npz': _write_npz}
