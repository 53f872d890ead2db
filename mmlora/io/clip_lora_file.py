"""The files of the published CLIP-LoRA code: ``{'weights': ..., 'metadata': ...}`` in a ``.pt``.

``weights`` has ``layer_0``, ``layer_1``, ... for the adapted blocks, those of the text tower first, then those of the
vision tower, and in each ``q_proj``, ``k_proj``, ``v_proj`` or ``proj`` (the output) with ``w_lora_A`` ``(r, d)`` and
``w_lora_B`` ``(d, r)``. ``metadata`` has ``r``, ``alpha``, ``encoder``, ``params`` and ``position``. Which blocks the
layers are follows from the position and the backbone, and the backbone stands in the path alone:
``<backbone>/<data set>/<k>shots/seed<s>/<name>.pt``. The scaling is ``alpha / sqrt(r)``.

Positions of ViT-L/14 meant other blocks until 12 September 2024: ``all`` left out the last three, and the others were
those of a tower of 12 blocks. The number of layers in a file tells which it was written with.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .clip_peft import Site
from .reader import read_checkpoint

PROJECTIONS = {'q_proj': 'q', 'k_proj': 'k', 'v_proj': 'v', 'proj': 'o'}
METADATA = ('r', 'alpha', 'encoder', 'params', 'position')
TOWERS = {'text': ('text',), 'vision': ('vision',), 'both': ('text', 'vision')}
BACKBONES = {'vitb16': 'ViT-B/16', 'vitb32': 'ViT-B/32', 'vitl14': 'ViT-L/14'}

_TWELVE = {
    'top1': range(11, 12), 'top2': range(10, 12), 'top3': range(9, 12), 'bottom': range(4), 'mid': range(4, 8),
    'up': range(8, 12), 'half-up': range(6, 12), 'half-bottom': range(6), 'all': range(12),
}  # fmt: skip
_NOW = 'the published positions'
_OLD = 'the positions published until 12 September 2024'
POSITIONS: Mapping[tuple[str, str], Mapping[str, Mapping[str, range]]] = {
    ('text', ''): {_NOW: _TWELVE},
    ('vision', ''): {_NOW: {**_TWELVE, 'top': range(11, 12)}},
    ('vision', 'ViT-B/32'): {_NOW: {name: own for name, own in _TWELVE.items() if not name.startswith('top')}},
    ('vision', 'ViT-L/14'): {
        _NOW: {'half-up': range(12, 24), 'half-bottom': range(12), 'all': range(24)},
        _OLD: {**{name: own for name, own in _TWELVE.items() if not name.startswith('top')}, 'all': range(21)},
    },
}
"""(tower, backbone) -> whose positions -> name -> blocks. ``''`` is every other backbone, cut to its depth."""

_PATH = re.compile(r'(\d+)shots/seed(\d+)')


@dataclass(frozen=True)
class PublishedLoRA:
    """What a file says.

    Attributes:
        path: The file.
        rank: ``r``.
        alpha: Numerator of the scaling ``alpha / sqrt(r)``.
        encoder: ``'text'``, ``'vision'`` or ``'both'``.
        params: The adapted projections, in the order q, k, v, o.
        position: Name of the blocks.
        layers: For each adapted block A and B by projection (q, k, v, o).
    """

    path: str
    rank: int
    alpha: float
    encoder: str
    params: tuple[str, ...]
    position: str
    layers: tuple[Mapping[str, tuple[Tensor, Tensor]], ...]

    @property
    def factor(self) -> float:
        """The number that multiplies B A."""
        return self.alpha / math.sqrt(self.rank)


def is_published_lora(content: Mapping[str, Any]) -> bool:
    """Return whether what was read is a file of the published code, which holds nothing else."""
    return set(content) == {'weights', 'metadata'}


def read_published_lora(path: str | os.PathLike) -> PublishedLoRA:
    """Read a file of the published code, without trusting it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none of that code, or its weights are not what its metadata say; both are quoted.
    """
    path = os.fspath(path)
    content = read_checkpoint(path)
    weights, about = content.get('weights'), content.get('metadata')
    if not isinstance(weights, Mapping) or not isinstance(about, Mapping):
        raise ValueError(f"{path} is no file of CLIP-LoRA: it must hold 'weights' and 'metadata', and holds "
                         f'{sorted(map(str, content))[:8]}')
    lacking = [name for name in METADATA if name not in about]
    if lacking:
        raise ValueError(f'{path}: metadata lack {lacking}; they have {sorted(map(str, about))}')
    rank, alpha, encoder, position = (about[name] for name in ('r', 'alpha', 'encoder', 'position'))
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f'{path}: r must be an integer of at least 1, got {rank!r}')
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f'{path}: alpha must be a number, got {alpha!r}')
    if not isinstance(encoder, str) or encoder not in TOWERS:
        raise ValueError(f'{path}: encoder must be one of {list(TOWERS)}, got {encoder!r}')
    given = list(about['params']) if isinstance(about['params'], (str, list, tuple)) else []
    params = tuple(letter for letter in 'qkvo' if letter in given)
    if not params or sorted(map(str, given)) != sorted(params):
        raise ValueError(f'{path}: params must name some of q, k, v and o, each once, got {about["params"]!r}')
    names = [f'layer_{i}' for i in range(len(weights))]
    if not weights or set(weights) != set(names):
        raise ValueError(f'{path}: the layers must be numbered from layer_0 on without a gap, got '
                         f'{sorted(map(str, weights))}')
    layers = tuple(_layer(weights[name], name, rank, params, path) for name in names)
    return PublishedLoRA(path, rank, float(alpha), encoder, params, str(position), layers)


def place_layers(
    lora: PublishedLoRA, depths: Mapping[str, int], widths: Mapping[str, int], backbone: str | None
) -> tuple[dict[Site, tuple[Tensor, Tensor]], dict[str, str]]:
    """Say which block of which tower each layer of a file is.

    Args:
        lora: The file.
        depths: Number of blocks of each tower.
        widths: Width of each tower.
        backbone: Name of the backbone, or None for sizes without a name.

    Returns:
        A and B by site, and for each adapted tower whose table of positions was meant.

    Raises:
        ValueError: The position is unknown for the backbone, or gives another number of layers than the file has, or
            factors do not fit the towers; both sides are quoted.
    """
    tables = {tower: _tables(lora, tower, depths[tower], backbone) for tower in TOWERS[lora.encoder]}
    ways = [{}]
    for tower, own in tables.items():
        ways = [{**way, tower: (title, blocks)} for way in ways for title, blocks in own.items()]
    fitting = [way for way in ways if sum(len(blocks) for _, blocks in way.values()) == len(lora.layers)]
    if not fitting:
        meant = ' or '.join(
            ' + '.join(f'{len(blocks)} of the {tower} tower' for tower, (_, blocks) in way.items())
            + (f' ({_OLD})' if any(title == _OLD for title, _ in way.values()) else '') for way in ways
        )
        raise ValueError(
            f'{lora.path} has {len(lora.layers)} layers, and encoder={lora.encoder!r} with position={lora.position!r} '
            f'means {meant} of {backbone or dict(depths)}: is it of another backbone?'
        )
    placed = [(tower, block) for tower, (_, blocks) in fitting[0].items() for block in blocks]
    factors = {}
    for number, ((tower, block), layer) in enumerate(zip(placed, lora.layers, strict=True)):
        for letter, (a, b) in layer.items():
            if a.shape[1] != widths[tower]:
                raise ValueError(
                    f'{lora.path}: {letter} of layer_{number}, block {block} of the {tower} tower, is for a width of '
                    f'{a.shape[1]}, and that of {backbone or "the backbone"} is {widths[tower]}: is it of another '
                    'backbone?'
                )
            factors[Site(tower, block, letter)] = (a, b)
    return factors, {tower: title for tower, (title, _) in fitting[0].items()}


def labels_of(path: str | os.PathLike) -> dict[str, Any]:
    """Return ``backbone``, ``dataset_name``, ``shot`` and ``seed`` from a published path, or nothing of another one."""
    parts = Path(path).resolve().parts[-5:]
    match = _PATH.fullmatch('/'.join(parts[2:4])) if len(parts) == 5 else None
    if match is None:
        return {}
    return dict(backbone=BACKBONES.get(parts[0], parts[0]), dataset_name=parts[1], shot=int(match[1]),
                seed=int(match[2]))


def _tables(lora: PublishedLoRA, tower: str, depth: int, backbone: str | None) -> dict[str, list[int]]:
    tables = POSITIONS.get((tower, backbone or ''), POSITIONS[tower, ''])
    found = {title: [block for block in table[lora.position] if block < depth] for title, table in tables.items()
             if lora.position in table}
    if not found:
        known = sorted({name for table in tables.values() for name in table})
        raise ValueError(f'{lora.path}: position={lora.position!r} is unknown for the {tower} tower of '
                         f'{backbone or "this backbone"}; the published ones are {known}')
    return found


def _layer(
    layer: Any, name: str, rank: int, params: tuple[str, ...], path: str
) -> dict[str, tuple[Tensor, Tensor]]:
    if not isinstance(layer, Mapping):
        raise ValueError(f'{path}: {name} must hold projections, got a {type(layer).__name__}')
    unknown = sorted(set(map(str, layer)) - set(PROJECTIONS))
    if unknown:
        raise ValueError(f'{path}: {name} has the projections {unknown}; known are {list(PROJECTIONS)}')
    given = ''.join(sorted((PROJECTIONS[key] for key in layer), key='qkvo'.index))
    if given != ''.join(params):
        raise ValueError(f'{path}: {name} adapts {given!r}, and params say {"".join(params)!r}')
    pairs = {}
    for key, letter in PROJECTIONS.items():
        if key not in layer:
            continue
        pair = layer[key]
        shapes = {part: tuple(pair[part].shape) if isinstance(pair.get(part), Tensor) else None
                  for part in ('w_lora_A', 'w_lora_B')} if isinstance(pair, Mapping) else {}
        a, b = shapes.get('w_lora_A'), shapes.get('w_lora_B')
        if not a or not b or len(a) != 2 or a[0] != rank or b != (a[1], rank):
            raise ValueError(f'{path}: {key} of {name} must have w_lora_A ({rank}, d) and w_lora_B (d, {rank}) as r='
                             f'{rank} says, and has {a} and {b}')
        pairs[letter] = (pair['w_lora_A'], pair['w_lora_B'])
    return pairs
