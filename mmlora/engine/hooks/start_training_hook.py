"""Lets a model do what it has to do once, before its first step."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import BatchSampler

from ...datasets.seeded import SampleIndex
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..feature_encoding import read_batches


@register(HOOKS)
class StartTrainingHook(Hook):
    """Call ``start_training(read_view)`` of the model, if it has that, before the first step of a run.

    The weights are loaded by then. A run that is resumed has it behind it. ``read_view(v)`` gives all training images
    in the order of the data set, prepared as in training: inputs and data samples, batch by batch; random pipelines
    draw as in epoch v. With several processes each reads all images, and the first one's result counts for the head.
    """

    priority = 'LOWEST'  # The loader may have been given features by then.

    def before_train(self, runner: Runner) -> None:
        """Call it; see the class."""
        model = unwrap_model(runner.model)
        if not hasattr(model, 'start_training') or runner._resume:
            return
        loader = runner.train_dataloader
        batches = loader.batch_sampler
        sampler = loader.sampler if type(batches) is BatchSampler else getattr(batches, 'sampler', batches)
        seed = getattr(sampler, 'seed', runner.seed)

        def read_view(view: int) -> Iterator[tuple[torch.Tensor, Any]]:
            indices = [SampleIndex(i, seed, view) for i in range(len(loader.dataset))]
            for _, batch in read_batches(loader, indices):
                data = model.data_preprocessor(batch, False)
                with runner.optim_wrapper.optim_context(model):
                    yield data['inputs'], data['data_samples']

        model.start_training(read_view)
        for tensor in model.head.state_dict().values():
            broadcast(tensor)
