"""What is killed: a tiny run of each way to train, and of each long tool that goes on where it was."""

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tiny
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.models import VisionTransformer

from mmlora.apis import train
from mmlora.apis.build_banks import build_banks
from mmlora.apis.hub_teachers import HubTeachers
from mmlora.apis.pretune_hub import pretune_hub

# Configs and worlds are those of the tests of each part.
sys.path += [str(tiny.ROOT / 'tests' / name) for name in ('test_engine', 'test_apis')]
import test_build_banks  # noqa: E402
import test_clip_method_runs  # noqa: E402
import test_feature_cache  # noqa: E402
import test_generate_lora  # noqa: E402
import test_invert_hub  # noqa: E402
import test_meta_lora_distillation  # noqa: E402
import test_pretune_hub  # noqa: E402
import test_two_stage  # noqa: E402

STATE = r'(epoch|iter)_\d+\.pth'
POINTS = {
    'within an epoch': ('hook before_train_iter', 0.5),
    'between epochs': ('hook before_(train|val)_epoch', 0.5),
    'half-written checkpoint': (f'half {STATE}', 0.5),
    'checkpoint, no pointer': (f'whole {STATE}', 0.5),
    'pointer, not yet tidied': ('whole last_checkpoint', 0.5),
}
"""Where a run is killed: at which of the events that match, as a fraction of them."""

TOOL = {
    'within an epoch': ('step', 0.6),
    'between epochs': ('whole index.json', 0.5),
    'half-written checkpoint': ('half .*safetensors', 0.5),
    'checkpoint, no pointer': ('whole .*safetensors', 0.6),
    'pointer, not yet tidied': ('half index.json', 0.99),
}
"""The same of a tool: within the training of a member, between two of them, and in their writing."""

LORA = dict(model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks=2, model__backbone__lora_dropout=0.2)
BY_ITER = dict(default_hooks__checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4, max_keep_ckpts=2))
BEST = dict(default_hooks__checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='auto'))
FEW = dict(default_hooks__checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2))


class World:
    """The files that runs read; each part is written when it is first asked for.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def images(self) -> Path:
        """Images of three classes, in folders."""
        return tiny.make_images(self.folder / 'images')

    @functools.cached_property
    def plain(self) -> Path:
        """A checkpoint of the ViT without adapters."""
        cfg = tiny.tiny_config(self.images, self.folder / 'plain', train_cfg__max_epochs=1)
        train(cfg, validate=False)
        return self.folder / 'plain' / 'epoch_1.pth'

    @functools.cached_property
    def distillation(self) -> Path:
        """A hub, its pool and the weights below it."""
        (self.folder / 'distillation').mkdir()
        return test_meta_lora_distillation.write_world(self.folder / 'distillation')

    @functools.cached_property
    def banks(self) -> Path:
        """Banks of LoRAs and their task vectors."""
        (self.folder / 'banks').mkdir()
        return test_generate_lora.write_place(self.folder / 'banks')

    @functools.cached_property
    def hub(self) -> Path:
        """Images and the weights of a ViT of 16 pixels."""
        init_default_scope('mmpretrain')
        folder = tiny.make_images(self.folder / 'hub' / 'images').parent
        torch.manual_seed(0)
        model = VisionTransformer(**{k: v for k, v in test_pretune_hub.BACKBONE.items() if k != 'type'})
        torch.save(model.state_dict(), folder / 'vit.pth')
        return folder

    @functools.cached_property
    def teachers(self) -> HubTeachers:
        """LoRAs to invert."""
        hub = test_invert_hub.write_hub(self.folder / 'teachers')
        return HubTeachers(hub, test_invert_hub.backbone(), 'f' * 64)


@dataclass(frozen=True)
class Mode:
    """A way to train.

    Attributes:
        reads: The part of the world that it reads.
        run: Does it in a folder, or goes on where the folder is.
        points: Where it is killed, as in :data:`POINTS`.
    """

    reads: str
    run: Callable[[World, Path], object]
    points: dict[str, tuple[str, float]] = field(default_factory=lambda: POINTS)


def _vit(**options: object) -> Mode:
    return _training('images', lambda world, folder: tiny.tiny_config(world.images, folder, **{**FEW, **options}))


def _training(reads: str, config: Callable[[World, Path], Config], **points: tuple[str, float]) -> Mode:
    def run(world: World, folder: Path) -> None:
        cfg = config(world, folder)
        cfg.log_level = 'ERROR'
        train(cfg, resume='auto')

    return Mode(reads, run, {**POINTS, **{name.replace('_', ' '): point for name, point in points.items()}})


def _automatic_ranks(world: World, folder: Path) -> Config:
    return tiny.tiny_config(
        world.images, folder, **FEW, load_from=str(world.plain), custom_hooks=[dict(type='StableRankHook')],
        model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks='stable_rank')


def _two_stage(world: World, folder: Path) -> Config:
    cfg = test_two_stage.config(world.images, folder)
    cfg.default_hooks.checkpoint.update(interval=4, max_keep_ckpts=2)
    return cfg


def _clip(world: World, folder: Path) -> Config:
    cfg = Config.fromfile(test_two_stage.CONFIG)
    cfg.merge_from_dict({**tiny.data_options(world.images), 'default_hooks.checkpoint.max_keep_ckpts': 2})
    cfg.work_dir = str(folder)
    return cfg


def _features(world: World, folder: Path) -> Config:
    return test_feature_cache.config(world.images, folder, dict(num_views=2, shard_size=16), double=False)


def _distillation(world: World, folder: Path) -> Config:
    cfg = test_meta_lora_distillation.config(world.distillation, folder)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=2)
    cfg.train_dataloader.num_workers = 1
    return cfg


def _generator(world: World, folder: Path) -> Config:
    cfg = test_generate_lora.load('conv-cvae', world.banks)
    cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size, cfg.work_dir = 4, 3, str(folder)
    cfg.default_hooks.checkpoint.interval = 1
    return cfg


def _pretune(world: World, folder: Path) -> None:
    init_default_scope('mmpretrain')
    cfg = test_pretune_hub.make_cfg(world.hub, tiny.ROOT)
    cfg.hub_name = 'toy'
    pretune_hub(cfg, folder, num_loras=3)


def _banks(world: World, folder: Path) -> None:
    init_default_scope('mmpretrain')
    cfg = test_pretune_hub.make_cfg(world.hub, tiny.ROOT)
    cfg.merge_from_dict(test_build_banks.OPTIONS)
    build_banks(cfg, folder, num_tasks=3, together=1)


def _kept_in_banks(world: World, folder: Path) -> Config:
    cfg = tiny.tiny_config(world.images, folder, **BEST, dataset_name='toy')
    cfg.model.backbone = dict(type='AdaptedBackbone', backbone=cfg.model.backbone, targets=['attn.qkv'], lora_ranks=2)
    cfg.custom_hooks = [dict(type='LoRABankHook', folder=str(folder / 'banks'), task='run', max_keep=2)]
    return cfg


def _invert(world: World, folder: Path) -> None:
    test_invert_hub.make(world.teachers, folder, per_class=1, batch_size=2, save_every=1)


EMA = dict(type='EMAHook', momentum=0.1)
MODES = {
    'LoRA, dropout, augmentation, 2 workers, best checkpoint': _vit(**LORA, **BEST, train_dataloader__num_workers=2),
    'by iterations, 2 workers': _vit(
        **LORA, **BY_ITER, train_cfg=dict(type='IterBasedTrainLoop', max_iters=15, val_interval=4),
        train_dataloader__sampler__type='InfiniteSampler', train_dataloader__num_workers=2),
    'EMA': _vit(**LORA, **BEST, custom_hooks=[EMA]),
    'SPU': _vit(**LORA, custom_hooks=[dict(type='SPUHook'), EMA]),
    'accumulated gradients': _vit(**LORA, **BY_ITER, optim_wrapper__accumulative_counts=3),
    'bfloat16': _vit(**LORA, optim_wrapper__type='BF16OptimWrapper'),
    'SR-LoRA, automatic ranks': _training('plain', _automatic_ranks),
    'RLRR': _vit(model__backbone__type='RLRRViT', model__backbone__lora_ranks=1),
    'CLIP-LoRA': _training('images', _clip),
    'two-stage CLIP': _training('images', _two_stage),
    'CoOp': _training('images', lambda world, folder: test_clip_method_runs.config(world.images, folder, 'coop')),
    'CLIP-LoRA, kept features': _training('images', _features),
    'episodes, distillation, a worker': _training(
        'distillation', _distillation, between_epochs=('hook before_train_iter', 0.75)),
    'generator of LoRAs': _training('banks', _generator),
    'LoRA, kept in banks': _training('images', _kept_in_banks),
    'hub pre-tuning': Mode('hub', _pretune, TOOL),
    'banks of LoRAs': Mode('hub', _banks, TOOL),
    'inversion of a hub': Mode('teachers', _invert, TOOL),
}


CLOCK = re.compile(r'(^|.*/)(\w*time|memory)')
NOTES = ('cfg', 'mmlora_cfg_text', 'experiment_name', 'mmengine_version', 'eta', 'epoch', 'iter')
"""What the message hub notes of the process; where the run was is in the meta, too."""


def contents(folder: Path) -> dict[str, object]:
    """Return what a run has left behind and what must not depend on kills: all of it but clocks, paths and logs.

    A kill may leave a half-written file in a folder that is not the run's own top, which nobody takes for anything.
    """
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob('*') if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if re.match(r'\d{8}_\d{6}/|features/|[^/]+\.py$|.*(\.lock|last_checkpoint|README\.md)$|.*/\..*\.tmp$', name):
            continue
        found[name] = _state(path) if path.suffix == '.pth' else path.read_bytes()
    return found


def _state(path: Path) -> dict:
    checkpoint = tiny.load(path)
    meta, hub = checkpoint.pop('meta'), checkpoint.pop('message_hub')
    checkpoint['at'] = [meta[key] for key in ('epoch', 'iter', 'seed', 'mmlora')]
    checkpoint['scalars'] = {key: value for key, value in hub['log_scalars'].items()
                             if not CLOCK.fullmatch(key)}
    checkpoint['known'] = {key: Path(str(value)).name for key, value in hub['runtime_info'].items()
                           if key not in NOTES}
    return checkpoint
