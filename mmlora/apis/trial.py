"""One run of an experiment: train by a config with some settings replaced, then evaluate the trained model."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from .train import train


@dataclass(frozen=True)
class Trial:
    """The result of one run.

    Attributes:
        accuracy: Top-1, in percent.
        trainable: Number of trained parameters, the classifier's included.
        seconds: Wall time of building, training and evaluating.
        work_dir: Folder with config, log and checkpoint.
    """

    accuracy: float
    trainable: int
    seconds: float
    work_dir: Path

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, which ``last_checkpoint`` in the work directory names."""
        return Path((self.work_dir / 'last_checkpoint').read_text(encoding='utf-8').strip())


def run_trial(
    config: Path, work_dir: Path, seed: int, split: str = 'test', overrides: Mapping[str, Any] | None = None
) -> Trial:
    """Train by a config without validation, then evaluate the last weights.

    Args:
        config: The config file; its training data set has a ``seed`` that chooses the few images.
        work_dir: Folder of the run.
        seed: Seed of the run and of the choice of images.
        split: ``'test'``, or ``'val'`` for choosing hyper-parameters.
        overrides: Settings that replace those of the config, by dotted key.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The split is neither of the two.
    """
    if split not in ('val', 'test'):
        raise ValueError(f"a trial is evaluated on 'val' or 'test', got {split!r}")
    start = time.perf_counter()
    cfg = Config.fromfile(str(config))
    cfg.merge_from_dict(
        {
            'randomness.seed': seed,
            'train_dataloader.dataset.seed': seed,
            'log_level': 'ERROR',
            **(overrides or {}),
        }
    )
    if split == 'val':
        cfg.test_dataloader, cfg.test_evaluator = copy.deepcopy((cfg.val_dataloader, cfg.val_evaluator))
    runner = train(cfg, work_dir=str(work_dir), validate=False)
    accuracy = runner.test()['accuracy/top1']
    return Trial(accuracy, count_trainable(runner), time.perf_counter() - start, work_dir)


def count_trainable(runner: Runner) -> int:
    """Return the number of parameters that were trained."""
    return sum(parameter.numel() for parameter in runner.model.parameters() if parameter.requires_grad)
