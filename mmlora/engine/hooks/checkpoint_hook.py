"""Checkpoints that a crash cannot spoil and that hold nothing but data."""

import glob
import hashlib
import os
import string
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook as StockCheckpointHook
from mmengine.runner import Runner, save_checkpoint

from ...io.atomic import is_remote, remove_leftovers, write_text
from ...io.checkpoint import load_checkpoint
from ...io.plain import plain_checkpoint
from ...registry import HOOKS, register
from ..adaptation import describe_adaptation, unwrap_model

SEALED = {'backend': 'mmlora_sealed'}
POINTER = 'last_checkpoint'
VALIDATED = 'mmlora_validated_iter'
"""Where the message hub keeps the iteration of the last finished validation."""
OUTDATED = 'mmlora_outdated_checkpoints'
"""Where a checkpoint names the files that go once it is safe."""


@register(HOOKS, bare=False)
class CheckpointHook(StockCheckpointHook):
    """mmengine's ``CheckpointHook`` with its arguments, and four promises.

    Files are replaced atomically, in this order: checkpoint, pointer ``last_checkpoint``, and only then the removal of
    what is outdated, best checkpoints included. A crash at any moment leaves a checkpoint to which the pointer leads,
    and the run that goes on removes what the crash has left over.

    Each file carries the hash of its content (:mod:`mmlora.io.seal`), by which readers find damage.

    What is saved is plain data that ``torch.load(weights_only=True)`` reads.

    ``meta['mmlora']`` says how the model was adapted; see :func:`mmlora.engine.adaptation.describe_adaptation`. In a
    best checkpoint, ``selected_by`` names the metric that chose it.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out where checkpoints go; local folders are written atomically. Tidy up after a run that was killed."""
        out_dir = str(self.out_dir or runner.work_dir)
        if self.backend_args is None and self.file_client_args is None and not is_remote(out_dir):
            self.backend_args = dict(SEALED)
        super().before_train(runner)
        known = runner.message_hub.runtime_info
        if runner._resume and known.get('last_ckpt'):
            own = Path(known['last_ckpt']).parts[-len(Path(self.filename_tmpl).parts) :]
            self.last_ckpt = self._inside(os.path.join(*own))
        if self.backend_args == SEALED:
            self._tidy(runner, known.get(OUTDATED, []))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note that the validation is done and save the best checkpoint, if this is one."""
        runner.message_hub.update_info(VALIDATED, runner.iter)
        super().after_val_epoch(runner, metrics or {})

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Say how the model was adapted and turn the checkpoint into plain data."""
        about = checkpoint.setdefault('meta', {}).setdefault('mmlora', {})
        about.update(describe_adaptation(unwrap_model(runner.model), runner.cfg.get('rank_table')))
        plain = plain_checkpoint(checkpoint)
        checkpoint.clear()
        checkpoint.update(plain)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict, best: Sequence[str] = ()) -> None:
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [*(s for s in self.keep_ckpt_ids if s != step), step]
            outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        gone = [*(self.filename_tmpl.format(old) for old in outdated), *map(os.path.basename, best)]
        runner.message_hub.update_info(OUTDATED, gone)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_text(os.path.join(runner.work_dir, POINTER), self.last_ckpt)
        for name in gone:
            self._remove(self._inside(name))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        time = runner.epoch if self.by_epoch else runner.iter
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        outdated, improved = [], False
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            if key not in metrics:
                raise ValueError(f'save_best={key!r} is not among the metrics {sorted(metrics)}')
            suffix = '' if len(self.key_indicators) == 1 else f'_{key}'
            best = runner.message_hub.runtime_info.get(f'best_score{suffix}', self.init_value_map[rule])
            if metrics[key] is None or not self.is_better_than[key](metrics[key], best):
                continue
            improved = True
            name = f'best_{key}_{self.filename_tmpl.format(time)}'.replace('/', '_')
            path = self.file_backend.join_path(self.out_dir, name)
            outdated.append((self._swap_best_path(key, path), path))
            runner.message_hub.update_info(f'best_score{suffix}', metrics[key])
            runner.message_hub.update_info(f'best_ckpt{suffix}', path)
            runner.save_checkpoint(
                self.out_dir,
                filename=name,
                file_client_args=self.file_client_args,
                save_optimizer=False,
                save_param_scheduler=False,
                meta=dict(meta, mmlora=dict(selected_by=key)),
                by_epoch=False,
                backend_args=self.backend_args,
            )
            runner.logger.info(f'The best checkpoint so far, {key} = {metrics[key]:0.4f}, is saved to {name}.')
        outdated = [self._beside(old) for old, new in outdated if old and self._beside(old) != self._beside(new)]
        # Once more, so that the file to resume from knows the new best one before the old one goes.
        if improved and self.last_ckpt is not None:
            self._save_checkpoint_with_step(runner, time, meta, outdated)
        for old in outdated:
            self._remove(old)

    def _swap_best_path(self, key: str, path: str) -> str | None:
        if len(self.key_indicators) == 1:
            old, self.best_ckpt_path = self.best_ckpt_path, path
            return old
        old = self.best_ckpt_path_dict.get(key)
        self.best_ckpt_path_dict[key] = path
        return old

    @master_only
    def _tidy(self, runner: Runner, outdated: Sequence[str]) -> None:
        step = ''.join(glob.escape(text) + '*' * (field is not None)
                       for text, field, *_ in string.Formatter().parse(self.filename_tmpl))
        # Of its own files only: a test or a report may be writing beside the training.
        own = [POINTER, os.path.basename(step), 'best_*_' + step.replace('/', '_')]
        home = os.path.dirname(self._inside(self.filename_tmpl))
        for folder in {self.out_dir, home, runner.work_dir}:
            if os.path.isdir(folder):
                remove_leftovers(folder, own)
        # A checkpoint of another folder says nothing about the files of this one.
        if runner._resume and Path(runner._load_from or '').resolve().parent == Path(home).resolve():
            for name in outdated:
                self._remove(self._inside(name))

    def _beside(self, path: str) -> str:
        """Return where a best checkpoint is; the folder may have been moved since its path was written down."""
        return self.file_backend.join_path(self.out_dir, os.path.basename(path))

    def _inside(self, name: str) -> str:
        """Return where a file of a name is; those of ``filename_tmpl`` may have folders, but none outside."""
        if os.path.isabs(name) or '..' in Path(name).parts:
            return self._beside(name)
        return self.file_backend.join_path(self.out_dir, name)

    @master_only
    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        checkpoint: dict[str, Any] = load_checkpoint(ckpt_path)
        checkpoint = plain_checkpoint({k: v for k, v in checkpoint.items() if k in self.published_keys})
        digest = hashlib.sha256(repr(sorted(checkpoint)).encode())
        for name, value in sorted(checkpoint.get('state_dict', {}).items()):
            digest.update(name.encode() + value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        path = Path(ckpt_path)
        final = str(path.with_name(f'{path.stem}-{digest.hexdigest()[:8]}.pth'))
        save_checkpoint(checkpoint, final, backend_args=self.backend_args)
        runner.logger.info(f'{ckpt_path} is published as {final}')
