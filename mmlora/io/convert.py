"""Weights from anywhere: tell a layout from the keys, convert it to mmpretrain's names, and back.

The table is :mod:`mmlora.io.layouts`; here is what reads it. Nothing is dropped unless a row says what it is, and
nothing keeps its old value: a converted tensor has the source's values, reordered at most.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .layouts import LAYOUTS, OWN, Layout, Rule
from .layouts.transforms import HEADS_IN
from .nests import names_of, unwrap

CONVERTED = 'mmlora_converted'
"""Key under which a converted checkpoint says where its weights are from; see :func:`convert_checkpoint`."""

ASIDE = re.compile(r'(head|pre_logits|text)\..*|visual_proj|logit_scale|logit_bias')
"""Names of what a backbone has no place for."""

SHOWN = 8


@dataclass(frozen=True)
class Converted:
    """Weights under mmpretrain's names.

    Attributes:
        layout: The row that was read.
        backbone: Weights of a bare backbone.
        aside: What a backbone has no place for, under stable names: ``head.*``, ``pre_logits.*``, ``visual_proj``,
            ``text.*``, ``logit_scale``, ``logit_bias``.
        dropped: Keys that were left out, and what they are.
        unknown: Tensors that the row does not know, under their names in the file.
        num_heads: Number of attention heads, where the shapes of the file tell it (Google's).
    """

    layout: Layout
    backbone: dict[str, Tensor]
    aside: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, Tensor] = field(default_factory=dict)
    num_heads: int | None = None

    def check(self, allow: Sequence[str] = (), where: str = 'the checkpoint') -> None:
        """Refuse tensors that the row does not know.

        Args:
            allow: Exact names that may be left out.
            where: Quoted in the error.

        Raises:
            ValueError: There are others.
        """
        unknown = [key for key in self.unknown if key not in allow]
        if unknown:
            raise ValueError(
                f'{where} looks like {self.layout.title}, but {len(unknown)} of its tensors have no place in that '
                f'layout: {_first(unknown)}. Is it another architecture? Names that may be left out must be allowed '
                'one by one'
            )


def detect_layout(keys: Iterable[str]) -> tuple[Layout, str] | None:
    """Return the layout that keys are of, and what stands before its names, or None."""
    keys = set(keys)
    for layout in LAYOUTS.values():
        for prefix in layout.prefixes:
            if all(prefix + sign in keys for sign in layout.signs):
                return layout, prefix
    return None


def convert(state: Mapping[str, Tensor], layout: str | None = None, where: str = 'the checkpoint') -> Converted:
    """Convert a flat state dict to mmpretrain's names.

    Args:
        state: Tensors by the names of their source.
        layout: A row of the table; by default it is told from the keys.
        where: Quoted in errors.

    Returns:
        The weights; what the row does not know is in ``unknown``, which :meth:`Converted.check` refuses.

    Raises:
        ValueError: The layout is unknown; or a part of a fused weight is missing, or there are two for one place; or
            the weights need what mmpretrain has no place for.
    """
    found = detect_layout(state)
    if layout is not None:
        row = look_up_layout(layout)
        if found is None or found[0] is not row:
            found = row, next((p for p in row.prefixes if any(k.startswith(p) for k in state)), '')
    if found is None:
        raise ValueError(f'{where} is of no known layout. {explain_unknown(state)}')
    row, prefix = found
    names: dict[str, str] = {}
    for key in state:
        _place_once(names, key.removeprefix(prefix), key, where)
    for name, key in names.items():
        reason = row.reason(row.refuses, name)
        if reason:
            raise ValueError(f'{where} ({row.title}) holds {key}: {reason}')
    known = _last_stage(names, row, lambda rule: rule.sources[0])
    parts: dict[str, dict[int, str]] = {}
    rules: dict[str, Rule] = {}
    dropped, unknown = {}, {}
    for name, key in names.items():
        match = _match_source(row, name, known)
        if match is not None:
            rule, index, values = match
            target = rule.target.format(values)
            rules[target] = rule
            _place_once(parts.setdefault(target, {}), index, key, where)
            continue
        reason = row.reason(row.drops, name)
        if reason:
            dropped[key] = reason
        else:
            unknown[key] = state[key]
    weights = {target: _join(rules[target], {index: state[key] for index, key in own.items()}, target, where)
               for target, own in parts.items()}
    backbone = {key: value for key, value in weights.items() if not ASIDE.fullmatch(key)}
    aside = {key: value for key, value in weights.items() if key not in backbone}
    split = (state[own[0]] for target, own in parts.items() if rules[target].transform is HEADS_IN)
    num_heads = next((kernel.shape[1] for kernel in split), None)
    return Converted(row, backbone, aside, dropped, unknown, num_heads)


def invert(
    weights: Mapping[str, Tensor], layout: str, num_heads: int | None = None, where: str = 'the checkpoint'
) -> dict[str, Tensor]:
    """Name and arrange weights as another layout does.

    Args:
        weights: Under mmpretrain's names, with what was kept aside or without.
        layout: A row of the table that can be written.
        num_heads: Number of attention heads, for layouts that split the width into them (Google's).
        where: Quoted in errors.

    Raises:
        ValueError: The layout is unknown or cannot be written, or has no place for some weights.
    """
    row = look_up_layout(layout)
    if not row.writable:
        raise ValueError(f'{row.title} can be read, not written; write one of {_writable()}')
    known = _last_stage(weights, row, lambda rule: rule.target)
    out: dict[str, Tensor] = {}
    homeless = []
    for key, tensor in weights.items():
        match = next(((r, v) for r in row.rules if (v := r.target.match(key, known)) is not None), None)
        if match is None:
            homeless.append(key)
            continue
        rule, values = match
        tensors = rule.transform.back(tensor, num_heads)
        names = [source.format(values) for source in rule.sources]
        out.update({name: part.clone() for name, part in zip(names, tensors, strict=True)})
    if homeless:
        raise ValueError(f'{row.title} has no place for {len(homeless)} tensors of {where}: {_first(homeless)}')
    return out


def convert_checkpoint(checkpoint: dict[str, Any], where: str = 'the checkpoint') -> dict[str, Any]:
    """Return a checkpoint under mmpretrain's names where it is of a foreign layout, else the very same object.

    A converted one holds ``state_dict``, the bare backbone with what the layout does not know under its old names, and
    under :data:`CONVERTED` the :class:`Converted` weights. Training state of the source is left out.

    Raises:
        ValueError: As :func:`convert`.
    """
    found = detect_layout(names_of(checkpoint))
    if found is None or found[0].name in OWN:
        return checkpoint
    converted = convert(unwrap(checkpoint, where), where=where)
    return {'state_dict': {**converted.backbone, **converted.unknown}, CONVERTED: converted}


def look_up_layout(name: str) -> Layout:
    """Return a row of the table.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in LAYOUTS:
        close = difflib.get_close_matches(name, LAYOUTS, n=3)
        raise ValueError(f'there is no layout {name!r}{_did_you_mean(close)}; known are {", ".join(LAYOUTS)}')
    return LAYOUTS[name]


def explain_unknown(keys: Iterable[str]) -> str:
    """Say which known layout keys are closest to, and which of them differ."""
    keys = list(keys)
    best: tuple[int, Layout, list[str]] | None = None
    for row in LAYOUTS.values():
        for prefix in row.prefixes:
            names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
            known = _last_stage(names, row, lambda rule: rule.sources[0])
            strange = [n for n in names if _match_source(row, n, known) is None and not row.reason(row.drops, n)]
            if best is None or len(names) - len(strange) > best[0]:
                best = len(names) - len(strange), row, strange
    fitting, row, strange = best
    if not fitting:
        return f'None of its {len(keys)} keys is known, they begin with {_first(keys)}. Known are: {_titles()}'
    missing = [sign for sign in row.signs if not any(key.endswith(sign) for key in keys)]
    return (
        f'The closest is {row.title} ({row.name!r}), which knows {fitting} of its {len(keys)} keys. '
        f'It differs in {_first(strange) or "none"}, and lacks {_first(missing) or "none"}'
    )


def _match_source(row: Layout, name: str, known: Mapping[str, int]) -> tuple[Rule, int, dict[str, int]] | None:
    for rule in row.rules:
        for index, source in enumerate(rule.sources):
            values = source.match(name, known)
            if values is not None:
                return rule, index, values
    return None


def _last_stage(names: Iterable[str], row: Layout, side: Any) -> dict[str, int]:
    if not row.stages:
        return {}
    blocks = [side(rule) for rule in row.rules if '{b}' in rule.target.text]
    stages = [v['s'] for name in names for t in blocks if (v := t.match(name, {})) is not None]
    return {'last': max(stages, default=0)}


def _place_once(places: dict[Any, str], place: Any, key: str, where: str) -> None:
    if places.setdefault(place, key) != key:
        raise ValueError(f'{where} holds the same weight twice, as {places[place]} and as {key}: save one of both by '
                         'itself')


def _join(rule: Rule, parts: Mapping[int, Tensor], target: str, where: str) -> Tensor:
    missing = [source.text for index, source in enumerate(rule.sources) if index not in parts]
    if missing:
        raise ValueError(f'{where} lacks a part of {target}: {_first(missing)}')
    return rule.transform.forward([parts[index] for index in sorted(parts)]).contiguous()


def _first(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (' ...' if len(names) > SHOWN else '')


def _did_you_mean(close: Sequence[str]) -> str:
    return f'; did you mean {" or ".join(close)}?' if close else ''


def _titles() -> str:
    return ', '.join(row.title for row in LAYOUTS.values())


def _writable() -> str:
    return ', '.join(row.name for row in LAYOUTS.values() if row.writable)
