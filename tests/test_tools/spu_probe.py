"""A hook for tests: writes the seed and the draws of each process."""

from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class SPUProbeHook(Hook):
    """Write ``draws<N>.pth`` beside the checkpoints."""

    priority = 'HIGH'  # Before SPUHook gives the layers their full rank back.

    def __init__(self):
        self.draws = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        block = model.backbone.layers[0].attn
        self.draws.append([*block.qkv.sub_rank.ranks.values(), *block.proj.sub_rank.ranks.values()])

    def after_train(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state = dict(state_dict=model.state_dict(), draws=self.draws, seed=runner.seed)
        torch.save(state, Path(runner.work_dir) / f'draws{runner.rank}.pth')
