"""The config of a hub: what it must say, and what decides on its members."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..io.hub import member_name, member_records
from ..models.backbones.ranks import pretrained_checkpoint
from .hub_heads import HEADS
from .sweep_plan import differences, identity
from .variables import settle_variables


@dataclass(frozen=True)
class HubPlan:
    """The entries ``hub`` and ``hub_sources`` of a config.

    Attributes:
        sources: As :func:`mmlora.apis.hub_tasks.build_sources` takes them.
        targets: Patterns of the adapted layers.
        rank: Of each pair of factors.
        slices: Adapted slices of a fused projection; None adapts it as one weight.
        scaling: Factor of the change.
        num_loras: Members of the hub.
        n_way: Classes of a task.
        train_fraction: Part of the images of a class to learn from.
        across: Whether the classes of a task may come from several sources.
        together: Tasks that are trained at once.
        batch_size: Images of a task in a step.
        num_workers: Processes that prepare images.
        cache: Whether the images of a group stay in memory as they are first prepared.
        shared_a: Whether all LoRAs have one A, which stays as it is drawn, so that B alone learns.
        head: What classes are told apart with while a LoRA learns: ``'linear'``, or ``'prototype'``, the means of the
            classes.
    """

    sources: Sequence[Mapping[str, Any]]
    targets: Sequence[str]
    rank: int = 4
    slices: Sequence[str] | None = 'qv'
    scaling: float = 1.0
    num_loras: int = 100
    n_way: int = 5
    train_fraction: float = 0.8
    across: bool = False
    together: int = 1
    batch_size: int = 64
    num_workers: int = 0
    cache: bool = False
    shared_a: bool = False
    head: str = 'linear'

    def __post_init__(self) -> None:
        for name, least in (('num_loras', 1), ('n_way', 2), ('together', 1), ('batch_size', 1), ('num_workers', 0),
                            ('rank', 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'hub.{name} must be a whole number of at least {least}, got {value!r}')
        if not 0 < self.train_fraction < 1:
            raise ValueError(f'hub.train_fraction must lie between 0 and 1, got {self.train_fraction!r}')
        if isinstance(self.scaling, bool) or not isinstance(self.scaling, int | float) \
                or not 0 < self.scaling < float('inf'):
            raise ValueError(f'hub.scaling must be a number above 0, got {self.scaling!r}')
        if self.head not in HEADS:
            raise ValueError(f'hub.head must be one of {sorted(HEADS)}, got {self.head!r}')
        if self.head == 'prototype' and self.batch_size < 2 * self.n_way:
            raise ValueError(f"hub.head='prototype' compares images of a batch with others of their class: batch_size "
                             f'must be at least 2 * n_way = {2 * self.n_way}, got {self.batch_size}')
        if self.cache and self.num_workers:
            raise ValueError(f'hub.cache keeps images in this process and needs num_workers=0, got {self.num_workers}')


FREE = ('num_loras', 'together', 'num_workers')
"""Settings of a hub that may change without its members being others, but for the rounding of sums."""


def settle_hub(cfg: Config, num_loras: int | None = None, together: int | None = None) -> Config:
    """Return the config of a hub with everything settled.

    Raises:
        ValueError: An entry is missing or unknown, or cannot be used.
    """
    cfg = copy.deepcopy(cfg)
    needed = ('model', 'hub', 'hub_sources', 'optim_wrapper', 'train_cfg', 'randomness')
    missing = [name for name in needed if not cfg.get(name)]
    if missing:
        raise ValueError(f'the config of a hub needs {", ".join(missing)}: inherit configs/_base_/hub_runtime.py, and '
                         'give model and hub_sources')
    known = {one.name for one in fields(HubPlan)} - {'sources'}
    unknown = sorted(set(cfg.hub) - known)
    if unknown:
        raise ValueError(f'hub has no {unknown}: it has {sorted(known)}')
    for name, value in (('num_loras', num_loras), ('together', together)):
        if value is not None:
            cfg.hub[name] = value
    cfg.hub.sources = cfg.hub_sources
    if not cfg.hub.get('targets'):
        raise ValueError("hub.targets is missing: the layers that the LoRAs change, such as ['attn.qkv']")
    settle_variables(cfg)
    extra = sorted(set(cfg.optim_wrapper) - {'type', 'optimizer', 'clip_grad'})
    clip = cfg.optim_wrapper.get('clip_grad') or {}
    if extra or set(clip) - {'max_norm'} or not cfg.optim_wrapper.get('optimizer'):
        raise ValueError('optim_wrapper of a hub has optimizer and perhaps clip_grad=dict(max_norm=...), got '
                         f'{cfg.optim_wrapper.to_dict()}')
    if set(cfg.train_cfg) != {'max_epochs'} or not isinstance(cfg.train_cfg.max_epochs, int) \
            or cfg.train_cfg.max_epochs < 1:
        raise ValueError(f'train_cfg of a hub is dict(max_epochs=...), at least 1, got {cfg.train_cfg.to_dict()}')
    if pretrained_checkpoint(cfg.model.backbone.get('init_cfg')) is None:
        raise ValueError('the backbone of a hub needs weights, on which all LoRAs stand: give model.backbone '
                         "init_cfg=dict(type='Pretrained', checkpoint=...)")
    HubPlan(**cfg.hub)
    return cfg


def hub_identity(cfg: Config) -> dict[str, Any]:
    """Return what decides on the members of a hub, as plain data for JSON."""
    hub = {name: value for name, value in cfg.hub.to_dict().items() if name not in FREE}
    model = {name: cfg.model[name] for name in ('backbone', 'neck') if cfg.model.get(name)}
    return identity(Config(dict(
        model=model, data_preprocessor=cfg.get('data_preprocessor') or {}, hub=hub, optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.get('param_scheduler') or [], train_cfg=cfg.train_cfg, seed=cfg.randomness.seed)))


def groups_to_do(plan: HubPlan, recipe: Mapping[str, Any], folder: Path) -> list[list[int]]:
    """Return the groups of task numbers of which a member is missing.

    Raises:
        ValueError: A member was made by other settings; it is named with the differences.
    """
    there = member_records(folder)
    for name, record in there.items():
        changed = differences(record.get('recipe', {}), recipe)
        if changed:
            more = f' and {len(changed) - 5} more' if len(changed) > 5 else ''
            raise ValueError(f'member {name!r} of {folder} was made by other settings: {"; ".join(changed[:5])}{more}. '
                             'Give another folder (--work-dir), or move this one away')
    groups = [list(range(first, min(first + plan.together, plan.num_loras)))
              for first in range(0, plan.num_loras, plan.together)]
    return [group for group in groups if any(member_name(number) not in there for number in group)]
