"""What a vector of LoRA weights means: which tensors lie in it, of which shapes, in which order.

A generator of LoRAs sees each LoRA as one vector. The spec is what turns tensors into that vector and back, and it
travels with every file of vectors, so that no vector is ever read as something that it is not. Entries are ordered by
the depth of their block, then by the usual place of their layer in a block, then A before B; ``layers.10`` comes behind
``layers.2``. The order follows from the names alone, so that a LoRA has one spec, wherever it was read from.

Deviation from the published code of ICM-LoRA (IJCAI 2025, arXiv 2501.17635): that takes the order of the
sorted keys, in which ``layers.10`` comes before ``layers.2`` and neighbours in the vector are none in the network.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .lora_weights import LoRAWeights, Pair, by_site, read_lora

FORMAT = 'mmlora LoRA spec 1'
KINDS_IN_ORDER = ('q', 'k', 'v', 'qkv', 'kv', 'proj', 'fc1', 'fc2')
"""Layers of a block in the order in which data passes through them; others come behind, by their names."""

_KINDS = {'q_proj': 'q', 'query': 'q', 'k_proj': 'k', 'key': 'k', 'v_proj': 'v', 'value': 'v', 'out_proj': 'proj',
          'o_proj': 'proj', 'c_fc': 'fc1', 'c_proj': 'fc2'}
_FIRST = ('vision_tower', 'encoder', 'spatial_block', 'self_attn')
"""Parts through which data pass before their neighbours, though their names come later in the alphabet."""
_FFN = re.compile(r'(?:.*\.)?ffn\.layers\.(0\.0|1)')  # mmcv's FFN, by places in a Sequential
_BLOCK = re.compile(r'(?:[^.\d]+\.)*?[^.]*\d[^.]*(?:\.(?:[^.\d]+\.)?\d+)*(?=\.|$)')


@dataclass(frozen=True)
class LoRAEntry:
    """One tensor in a vector.

    Attributes:
        key: Its name in an adapted model, such as ``'layers.3.attn.qkv.lora_A_q'``.
        shape: Of A ``(r, in)``, of B ``(rows, r)``.
        module: Name of the adapted layer.
        depth: Place of its block among those that the LoRA changes, from 0.
        kind: ``'q'``, ``'k'``, ``'v'``, ``'qkv'``, ``'proj'``, ``'fc1'``, ``'fc2'``, or the own name of another layer.
        factor: ``'A'`` or ``'B'``.
    """

    key: str
    shape: tuple[int, ...]
    module: str
    depth: int
    kind: str
    factor: str

    @property
    def part(self) -> str:
        """The slice of a fused projection, ``''`` where the layer is adapted as one weight."""
        return self.key.removeprefix(f'{self.module}.lora_{self.factor}').removeprefix('_')

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class LoRASpec:
    """The tensors of a LoRA in their order.

    Attributes:
        entries: Of A and B, or of B alone; see :meth:`only`.
        rank: The largest one.
        alpha: ``scaling * rank``.
        scaling: Factor of each product B A.
        base_sha256: Hash of the weights that the LoRA stands on, or None where it is not known.
        slices: The adapted slices of fused projections, such as ``('q', 'v')``.

    Raises:
        ValueError: There is no entry, a key occurs twice, or an entry has no element.
    """

    entries: tuple[LoRAEntry, ...]
    rank: int
    alpha: float
    scaling: float
    base_sha256: str | None = None
    slices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError('a LoRA needs at least one tensor')
        keys = [entry.key for entry in self.entries]
        if len(set(keys)) < len(keys):
            raise ValueError(f'a spec lists {next(key for key in keys if keys.count(key) > 1)!r} twice')
        for entry in self.entries:
            if entry.length < 1 or entry.factor not in ('A', 'B'):
                raise ValueError(f'{entry.key} is {entry.factor!r} of the shape {entry.shape}, where A or B with at '
                                 'least one element belongs')

    @classmethod
    def of_model(cls, model: nn.Module, base_sha256: str | None = None) -> 'LoRASpec':
        """Return the spec of a model with LoRA.

        Raises:
            ValueError: It has no LoRA, or layers of different scalings.
            TypeError: A layer is adapted in another way.
        """
        return cls.of_weights(read_lora(model), base_sha256)

    @classmethod
    def of_weights(cls, weights: Mapping[tuple[str, str], Pair], base_sha256: str | None = None) -> 'LoRASpec':
        """Return the spec of a LoRA, as a folder, a hub or :func:`mmlora.adapters.read_lora` gives it.

        Raises:
            ValueError: There is no tensor, or layers have different scalings.
        """
        if not weights:
            raise ValueError('the LoRA changes no layer')
        by_site(weights)
        first, scaling = next(iter(weights)), next(iter(weights.values())).scaling
        for (site, part), pair in weights.items():
            if not math.isclose(pair.scaling, scaling, rel_tol=1e-9):
                raise ValueError(f'{_name(site, part)} has the scaling {pair.scaling}, {_name(*first)} has {scaling}: '
                                 'vectors of LoRAs share one, so train with scaling="constant"')
        depths = {block: depth for depth, block in enumerate(sorted({_block(site) for site, _ in weights}, key=_depth))}
        entries = []
        for site, part in sorted(weights, key=lambda name: (_depth(_block(name[0])), _place(*name))):
            depth, kind = depths[_block(site)], kind_of(site, part)
            for factor, tensor in zip('AB', weights[site, part][:2], strict=True):
                entries.append(LoRAEntry(key_of(site, part, factor), tuple(tensor.shape), site, depth, kind, factor))
        rank = max(pair.rank for pair in weights.values())
        parts = {part for _, part in weights if part}
        return cls(tuple(entries), rank, scaling * rank, scaling, base_sha256,
                   tuple(part for part in KINDS_IN_ORDER if part in parts))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> 'LoRASpec':
        """Return the spec that :meth:`to_document` has written.

        Raises:
            ValueError: It is no such document.
        """
        if document.get('format') != FORMAT:
            raise ValueError(f'a spec has the format {FORMAT!r}, got {document.get("format")!r}')
        try:
            entries = tuple(LoRAEntry(**{**entry, 'shape': tuple(entry['shape'])}) for entry in document['entries'])
            _check_types(document, entries)
            return cls(entries, document['rank'], document['alpha'], document['scaling'], document['base_sha256'],
                       tuple(document['slices']))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f'the spec of a LoRA is incomplete or has unknown fields: {error}') from error

    def to_document(self) -> dict[str, Any]:
        """Return the spec as plain data for JSON."""
        return json.loads(json.dumps({'format': FORMAT, **asdict(self)}))

    @cached_property
    def length(self) -> int:
        """Number of elements of a vector, L."""
        return sum(self.lengths)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of elements of each entry."""
        return tuple(entry.length for entry in self.entries)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Names of the entries."""
        return tuple(entry.key for entry in self.entries)

    def only(self, factor: str) -> 'LoRASpec':
        """Return the spec of one of the factors alone.

        Raises:
            ValueError: There is none of them.
        """
        entries = tuple(entry for entry in self.entries if entry.factor == factor)
        if not entries:
            raise ValueError(f'the spec has no factor {factor!r}, only {sorted({e.factor for e in self.entries})}')
        return replace(self, entries=entries)

    def check_same(self, other: 'LoRASpec', what: str = 'the other LoRA') -> None:
        """Check that vectors of another spec mean the same.

        Args:
            other: The other spec.
            what: What messages call it.

        Raises:
            ValueError: They do not; the first entry that differs is named, with both values.
        """
        for number in range(max(len(self.entries), len(other.entries))):
            own, given = (spec.entries[number] if number < len(spec.entries) else None for spec in (self, other))
            if own != given:
                raise ValueError(f'{what} differs in entry {number}: {_say(own)} here, {_say(given)} there. Both must '
                                 'be LoRAs of the same layers, slices and rank of one backbone')
        if not math.isclose(self.scaling, other.scaling, rel_tol=1e-9):
            raise ValueError(f'{what} has the scaling {other.scaling}, here it is {self.scaling}: multiply its B by '
                             'the quotient first')
        hashes = self.base_sha256, other.base_sha256
        if None not in hashes and hashes[0] != hashes[1]:
            raise ValueError(f'{what} stands on weights with the sha256 {hashes[1]}, here they have {hashes[0]}: LoRAs '
                             'of other weights mean something else')

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return tensors as one vector, ``(L,)``; gradients flow.

        Raises:
            ValueError: One is missing, is of no entry, or has another shape; the first is named.
        """
        unknown = sorted(set(tensors) - set(self.keys))
        if unknown:
            raise ValueError(f'{len(unknown)} tensors are no entries of the spec, the first: {unknown[0]}')
        for entry in self.entries:
            if entry.key not in tensors:
                raise ValueError(f'{entry.key} {entry.shape} is missing')
            if tuple(tensors[entry.key].shape) != entry.shape:
                raise ValueError(f'{entry.key} must be {entry.shape}, got {tuple(tensors[entry.key].shape)}')
        return torch.cat([tensors[entry.key].reshape(-1) for entry in self.entries])

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the tensors of vectors, views of them; leading axes stay.

        Args:
            vector: ``(..., L)``.

        Raises:
            ValueError: It has another length.
        """
        self.check_length(vector)
        parts = vector.split(self.lengths, dim=-1)
        return {entry.key: part.reshape(*vector.shape[:-1], *entry.shape)
                for entry, part in zip(self.entries, parts, strict=True)}

    def check_length(self, vector: Tensor, what: str = 'a vector of this LoRA') -> None:
        """Check the last axis of vectors.

        Raises:
            ValueError: It has another length.
        """
        if vector.ndim < 1 or vector.shape[-1] != self.length:
            raise ValueError(f'{what} has {self.length} elements, got {tuple(vector.shape)}: '
                             f'{len(self.entries)} tensors from {self.keys[0]} to {self.keys[-1]}')

    def weights(self, tensors: Mapping[str, Tensor]) -> LoRAWeights:
        """Return tensors of both factors as a LoRA, for a folder, a bank or a model.

        Raises:
            ValueError: The spec lacks a factor, or a tensor is missing.
        """
        weights: LoRAWeights = {}
        for entry in self.entries:
            names = [key_of(entry.module, entry.part, factor) for factor in 'AB']
            lacking = [name for name in names if name not in tensors]
            if lacking:
                raise ValueError(f'{lacking[0]} is missing: a LoRA needs A and B of each layer')
            weights[entry.module, entry.part] = Pair(*(tensors[name] for name in names), self.scaling)
        return weights


def _check_types(document: Mapping[str, Any], entries: Sequence[LoRAEntry]) -> None:
    """Check what a document says.

    Raises:
        TypeError: A number or a name is of another type.
    """
    for entry in entries:
        texts, sizes = (entry.key, entry.module, entry.kind, entry.factor), (entry.depth, *entry.shape)
        if not all(isinstance(text, str) for text in texts) or not all(type(size) is int for size in sizes):
            raise TypeError(f'{str(entry)[:200]} needs text, and whole numbers for depth and shape')
    for name in ('rank', 'alpha', 'scaling'):
        if type(document[name]) not in (int, float) or not math.isfinite(document[name]):
            raise TypeError(f'{name}={str(document[name])[:100]!r} is no number')
    if not isinstance(document['base_sha256'], str | None) or not isinstance(document['slices'], list):
        raise TypeError('base_sha256 must be text or null, and slices a list')


def lora_tensors(weights: Mapping[tuple[str, str], Pair]) -> dict[str, Tensor]:
    """Return the tensors of a LoRA by the keys of its spec."""
    return {key_of(site, part, factor): tensor for (site, part), pair in weights.items()
            for factor, tensor in zip('AB', pair[:2], strict=True)}


def key_of(module: str, part: str, factor: str) -> str:
    """Return the name of a factor in an adapted model."""
    return f'{module}.lora_{factor}{"_" if part else ""}{part}'


def kind_of(module: str, part: str = '') -> str:
    """Return what a layer is in its block; see :class:`LoRAEntry`."""
    if part:
        return part
    ffn = _FFN.fullmatch(module)
    if ffn:
        return 'fc1' if ffn[1] == '0.0' else 'fc2'
    names = [name for name in module.split('.') if not name.isdigit()]
    last = names[-1] if names else module
    return 'proj' if module.endswith('attn.c_proj') else _KINDS.get(last, last)


def _block(module: str) -> str:
    """Return the name of the block of a layer, ``'stages.2.blocks.5'``, or '' where it is in none."""
    found = _BLOCK.match(module)
    return found[0] if found and found[0] != module else ''


def _natural(name: str) -> tuple[tuple[Any, ...], ...]:
    return tuple((1, int(piece)) if piece.isdigit() else (0, piece not in _FIRST, piece)
                 for piece in re.split(r'(\d+)|\.', name) if piece)


def _depth(block: str) -> tuple[tuple, ...]:
    # What belongs to a whole stage or model, such as a downsampling or a head, comes behind the blocks in it.
    return (*_natural(block), (2,))


def _place(module: str, part: str) -> tuple[int, tuple]:
    kind = kind_of(module, part)
    place = KINDS_IN_ORDER.index(kind) if kind in KINDS_IN_ORDER else len(KINDS_IN_ORDER)
    return place, _natural(module)


def _name(site: str, part: str) -> str:
    return f'{site}, slice {part!r}' if part else site


def _say(entry: LoRAEntry | None) -> str:
    return f'{entry.key} {entry.shape} ({entry.kind}, depth {entry.depth})' if entry else 'none'
