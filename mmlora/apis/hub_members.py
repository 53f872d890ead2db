"""The members of a hub: train groups of tasks over one frozen backbone, and write what each has learned."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ..adapters import freeze
from ..engine.adapter_folder import result_row
from ..io.hub import member_name, member_records
from ..io.lora_folder import write_lora_folder
from ..models.backbones.ranks import pretrained_checkpoint
from ..models.pretrained import PretrainedWeights
from ..progress import note, tracked
from ..ranks import weights_sha256
from ..version import __version__
from .hub_plan import HubPlan, hub_identity
from .hub_tasks import HubImages, build_sources, draw_task
from .hub_training import Frozen, Recipe, Trained, train_tasks


def build_frozen(cfg: Config, device: str | None = None) -> tuple[Frozen, str]:
    """Build the frozen backbone of a hub with its weights.

    Args:
        cfg: A settled config.
        device: Where it lies; None takes a GPU where there is one.

    Returns:
        The backbone, and the hash of its weights as float32.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    with torch.random.fork_rng(devices=[]):  # What is drawn before the weights are loaded is nobody's concern.
        backbone = MODELS.build(cfg.model.backbone)
        init = {name: value for name, value in cfg.model.backbone.init_cfg.items() if name != 'type'}
        PretrainedWeights(**init)(backbone)
        neck = MODELS.build(cfg.model.neck) if cfg.model.get('neck') else None
    preprocessor = MODELS.build({'type': 'mmpretrain.ClsDataPreprocessor', **(cfg.get('data_preprocessor') or {})})
    freeze(backbone)
    backbone.eval()
    digest = weights_sha256({name: torch.atleast_1d(value.float()) for name, value in backbone.state_dict().items()})
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    return Frozen(backbone.to(device), preprocessor.to(device), neck and neck.to(device).eval()), digest


def train_groups(
    cfg: Config,
    folder: Path,
    groups: Sequence[Sequence[int]],
    device: str | None,
    done: Callable[[list[Trained]], None],
) -> None:
    """Train groups of tasks in this process, and write the members that are missing.

    Args:
        cfg: A settled config.
        folder: The hub.
        groups: Numbers of tasks.
        device: As for :func:`build_frozen`.
        done: Called after each group.

    Raises:
        ValueError: A task cannot be drawn, a setting does not fit, members that are there stand on other weights, or a
            training has diverged.
    """
    plan, recipe = HubPlan(**cfg.hub), hub_identity(cfg)
    frozen, digest = build_frozen(cfg, device)
    for name, record in member_records(folder).items():
        own, source = record.get('base', {}).get('sha256'), pretrained_checkpoint(cfg.model.backbone.init_cfg)
        if own != digest:
            raise ValueError(f'member {name!r} of {folder} stands on weights with the sha256 {own}, those of {source} '
                             f'have {digest} now: give the weights of then, or another folder (--work-dir)')
    images = HubImages(build_sources(plan.sources), plan.cache)
    how = hub_recipe(cfg, plan)
    for group in tracked(groups, 'group of LoRAs'):
        tasks = [draw_task(images.sources, number, how.seed, plan.n_way, plan.train_fraction, plan.across)
                 for number in group]
        trained = train_tasks(frozen, images, tasks, how, plan.num_workers)
        note(accuracy=sum(one.metrics['accuracy/top1'] for one in trained) / len(trained))
        images.forget()
        there, failures = member_records(folder), []
        for one in trained:
            if member_name(one.task.number) not in there:
                record = _record(cfg, plan, one, digest, recipe)
                path = folder / member_name(one.task.number)
                try:
                    write_lora_folder(path, one.weights, record, one.head, _card(record))
                except ValueError as error:  # One that has diverged does not take along those that learned beside it.
                    failures.append(error)
        if failures:
            raise failures[0]
        done(trained)


def hub_recipe(cfg: Config, plan: HubPlan) -> Recipe:
    """Return how the LoRAs of a settled config are trained."""
    schedulers = cfg.get('param_scheduler') or []
    clip = cfg.optim_wrapper.get('clip_grad') or {}
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    return Recipe(
        targets=plan.targets, rank=plan.rank, slices=plan.slices, scaling=plan.scaling,
        optimizer=cfg.optim_wrapper.optimizer, schedulers=schedulers, max_norm=clip.get('max_norm'),
        batch_size=plan.batch_size, max_epochs=cfg.train_cfg.max_epochs, seed=cfg.randomness.seed,
        shared_a=plan.shared_a, head=plan.head,
    )  # fmt: skip


def _record(cfg: Config, plan: HubPlan, one: Trained, digest: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    task, preparation = one.task, cfg.get('data_preprocessor') or {}
    return dict(
        version=__version__,
        classes=list(task.classes),
        class_ids=list(task.class_ids),
        task=dict(number=task.number, seed=cfg.randomness.seed, source=task.source, n_way=plan.n_way,
                  train_images=len(task.train), val_images=len(task.val)),
        normalization=dict(
            mean=list(preparation.get('mean') or [0, 0, 0]), std=list(preparation.get('std') or [1, 1, 1]),
            to_rgb=bool(preparation.get('to_rgb', False))),
        base=dict(sha256=digest, name=pretrained_checkpoint(cfg.model.backbone.init_cfg)),
        metrics=one.metrics,
        recipe=recipe,
    )  # fmt: skip


def _card(record: Mapping[str, Any]) -> str:
    task, metrics = record['task'], record['metrics']
    classes = ''.join(f'{number}. {name}\n' for number, name in enumerate(record['classes']))
    row = result_row(task['source'], 'accuracy/top1', metrics['accuracy/top1'], task['val_images'])
    return (f'# LoRA {member_name(task["number"])}\n\n'
            f'Tells {len(record["classes"])} classes of {task["source"]} apart, in the order of the outputs of the '
            'head:\n\n'
            f'{classes}\n'
            f'* Learned from {task["train_images"]} images; {row["value"]:.1f} % of {row["images"]} others are '
            f'classified correctly (95 % interval {row["low"]:.1f} to {row["high"]:.1f}).\n'
            f'* Stands on the weights `{record["base"]["name"]}`, sha256 `{record["base"]["sha256"]}`.\n'
            f'* Task {task["number"]} of the seed {task["seed"]}; the settings are in `mmlora.json`.\n')
