"""A hook for tests: writes what each process saw and ended with."""

from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class RankProbeHook(Hook):
    """Write ``rank<N>.pth`` beside the checkpoints."""

    priority = 'LOW'

    def __init__(self):
        self.samples, self.noise = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.samples += [sample.img_path for sample in data_batch['data_samples']]
        self.noise.append(torch.rand(()).item())

    def after_train(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state = dict(state_dict=model.state_dict(), samples=self.samples, noise=self.noise)
        torch.save(state, Path(runner.work_dir) / f'rank{runner.rank}.pth')
