"""What a CLIP with LoRA is, as plain data, and whether two of them are the same.

The data are those of the built model, not of its config: presets of layers are numbers, the order of ``params`` is
settled, defaults are written out. Checkpoints carry them in ``meta['mmlora']['clip']``, adapter folders in
``mmlora.json``.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn

from ...adapters import AdaptedLayer, adapter_modules
from ...io.clip_peft import Site, describe_sites
from ...io.clip_vision import computed, plain_vision
from .arch import ARCHS, CLIPArch
from .classifier import LoRACLIPClassifier
from .logits import LogitScale

STRUCTURE = ('encoder', 'params', 'layers', 'rank', 'alpha', 'scaling', 'factor', 'logit_scale')
"""Settings besides the sizes that change what factors mean or what is computed with them; the dropout does not."""

_TITLES = {'factor': 'scaling (the number that multiplies B A)', 'logit_scale': 'logit_scale'}
_SHOWN = 5


def lora_factors(model: LoRACLIPClassifier) -> dict[Site, tuple[torch.Tensor, torch.Tensor]]:
    """Return A ``(r, d)`` and B ``(d, r)`` of each adapted projection."""
    return {site: pair for site, pair, _ in _sites(model)}


def describe_clip(model: LoRACLIPClassifier) -> dict[str, Any]:
    """Return the settings of a model as plain data.

    Returns:
        ``arch`` (all sizes), ``backbone`` (their name, or None), ``vision`` (further arguments of the vision tower),
        ``encoder``, ``params`` (a list in the order q, k, v,
        o), ``layers`` (numbers by tower), ``rank``, ``alpha``, ``scaling`` (the rule), ``factor`` (the number),
        ``dropout``, ``logit_scale``, ``templates`` and ``classes`` (or None). Without adapters those of the adapters
        are left out.

    Raises:
        ValueError: Blocks are adapted differently, which no config of LoRACLIP does.
    """
    about: dict[str, Any] = dict(
        arch=dataclasses.asdict(model.arch),
        backbone=name_of(model.arch),
        vision=plain_vision(model.vision_arguments),
        encoder='none',
        logit_scale=_scale_name(model.scale),
        templates=list(model.templates),
        classes=None if model.classes is None else list(model.classes),
    )
    found = list(_sites(model))
    if found:
        layers = [layer for _, _, layer in found]
        ranks = {pair[0].shape[0] for _, pair, _ in found}
        rules = {(layer.alpha, layer.scaling_rule) for layer in layers}
        if len(ranks) > 1 or len(rules) > 1:
            raise ValueError(f'the model has the ranks {sorted(ranks)} and scalings {sorted(map(str, rules))}, where '
                             'LoRACLIP has one of each')
        (alpha, rule), site = rules.pop(), found[0][0]
        name = next(n for n in layers[0].scalings if n in ('', site.letter))
        dropout = getattr(layers[0].lora_dropout, 'p', 0.0)
        about |= describe_sites([site for site, _, _ in found], 'the model')
        about |= dict(rank=ranks.pop(), alpha=alpha, scaling=rule, factor=layers[0].scalings[name], dropout=dropout)
    return about


def name_of(arch: CLIPArch) -> str | None:
    """Return the name of sizes in :data:`ARCHS`, or None."""
    return next((name for name, known in ARCHS.items() if known == arch), None)


def check_structure(own: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Check that factors were made for a model like this.

    Args:
        own: The settings of the model, from :func:`describe_clip`.
        given: Those of the file; what it does not say is not compared.
        where: The file, quoted in the error.

    Raises:
        ValueError: They differ; both sides are quoted.
    """
    sizes = given.get('arch')
    if sizes is not None and dict(sizes) != own['arch']:
        raise ValueError(f'{where} was made for another backbone: {_backbones(given, own)}')
    differences = []
    if 'vision' in given:
        there, here = computed(given['vision']), computed(own['vision'])
        differences += [f'vision is {there} there and {here} in the config'] if there != here else []
    differences += [
        f'{_TITLES.get(name, name)} is {_plain(given[name])!r} there and {_plain(own.get(name))!r} in the config'
        for name in STRUCTURE
        if name in given and not _same(given[name], own.get(name))
    ]
    if differences:
        raise ValueError(f'{where} does not fit the config: {"; ".join(differences)}. Set them in the model as they '
                         'were in training')


def prompts_difference(own: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Say how classes or templates of a file differ from those of the model, or None; names read as prompts do."""
    found = []
    for name in ('classes', 'templates'):
        one, other = given.get(name), own.get(name)
        if one and other and [_spoken(text) for text in one] != [_spoken(text) for text in other]:
            found.append(f'{name} are {_listed(one, other)} there and {_listed(other, one)} in the config')
    return '; '.join(found) or None


def _sites(model: LoRACLIPClassifier) -> Iterator[tuple[Site, tuple[torch.Tensor, torch.Tensor], AdaptedLayer]]:
    for tower, part in (('text', model.text), ('vision', model.visual)):
        for name, layer in adapter_modules(part).items():
            if not hasattr(layer, 'factors') or not hasattr(layer, 'scaling_rule'):
                continue
            block = next(int(word) for word in name.split('.') if word.isdigit())
            for letter, pair in layer.factors().items():
                yield Site(tower, block, letter or 'o'), pair, layer


def _scale_name(scale: LogitScale) -> float | str:
    return scale.number if scale.number is not None else 'learned' if scale.learned else 'pretrained'


def _backbones(given: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    one, other = given.get('backbone'), own['backbone']
    sizes = {name: value for name, value in given['arch'].items() if own['arch'].get(name) != value}
    ours = {name: own['arch'][name] for name in sizes if name in own['arch']}
    differ = f' (they differ in {sorted(sizes)})' if one else ''
    return f'{one or sizes} there, {other or ours} in the config{differ}'


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)
    return _plain(one) == _plain(other)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in sorted(value.items())}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _spoken(text: str) -> str:
    return ' '.join(text.replace('_', ' ').split())


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """Return the names from the first that differs on, with how many there are."""
    start = next((i for i, (a, b) in enumerate(zip(names, others, strict=False)) if _spoken(a) != _spoken(b)),
                 min(len(names), len(others)))
    start = 0 if len(names) <= _SHOWN or start >= len(names) else start
    more = f' ... ({len(names)}, from number {start})' if len(names) > _SHOWN else ''
    return f'{list(names[start : start + _SHOWN])}{more}'


def learned_beside(model: nn.Module) -> list[str]:
    """Return the names of what learns in a model besides the factors and the logit scale."""
    factors = {id(x) for pair in lora_factors(model).values() for x in pair} | {id(model.logit_scale)}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in factors]
