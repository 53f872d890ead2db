"""Teachers for meta-training: the LoRAs of the hub that the images of an episode were made from."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

from ...datasets import EpisodeSampler, PoolImages
from ...io.hub import LoRAHub
from ...models.meta_classifier import MASK, TEACHER, MetaClassifier
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..hub_distillation import HubTeachers, check_pool, check_preparation

TOKENS = ('dense', 'sparse')


@register(HOOKS)
class MetaLoRADistillationHook(Hook):
    """Give the queries of an episode of one LoRA the logits of that LoRA (LoRA-Recycle, CVPR 2025, eq. 3a).

    How many episodes are of one LoRA says ``p_interpolate`` of the ``EpisodeSampler``; where it is 1 no LoRA is read,
    and the hook only checks the pool. The teachers stand on the frozen weights of the student, with adapters of their
    own; nothing of the student is changed.

    Args:
        hub: Folder of the hub that the pool was made from; for pools of several hubs a list, one for each pool.
        tokens: ``'dense'``: the teacher sees whole images; ``'sparse'``: only the patches that their masks keep.

    Raises:
        ValueError: ``tokens`` is unknown, or no hub is named.
    """

    def __init__(self, hub: str | Sequence[str], tokens: str = 'dense') -> None:
        if tokens not in TOKENS:
            raise ValueError(f'tokens={tokens!r} must be one of {", ".join(TOKENS)}')
        if not hub:
            raise ValueError(f'hub={hub!r} must name the folder of the hub that the pool was made from')
        self.hub, self.tokens = hub, tokens
        self._teachers: dict[int, HubTeachers] = {}  # By the number of the pool among the data sets.

    def before_train(self, runner: Runner) -> None:
        """Check that hub, pool and model belong together, and read the teachers.

        Raises:
            TypeError: The model is no ``MetaClassifier``, or the batches are no episodes.
            ValueError: The model prepares images in another way than the hub, or the pool is of another one.
            FileNotFoundError: There is no hub.
        """
        model, loader = unwrap_model(runner.model), runner.train_dataloader
        sampler = getattr(loader, 'batch_sampler', None)
        if not isinstance(model, MetaClassifier) or not isinstance(sampler, EpisodeSampler):
            raise TypeError('MetaLoRADistillationHook is for a MetaClassifier and batches of an EpisodeSampler, got '
                            f'{type(model).__name__} and {type(sampler).__name__}')
        sets = getattr(loader.dataset, 'datasets', ())
        pools = {number: one for number, one in enumerate(sets) if isinstance(one, PoolImages)}
        turned = bool(getattr(model.data_preprocessor, 'to_rgb', False))
        for pool in pools.values():
            if (pool.channels == 'bgr') != turned:
                raise ValueError(f'channels={pool.channels!r} of the pool and to_rgb={turned} of the data preprocessor '
                                 f"would swap red and blue: set channels={'bgr' if turned else 'rgb'!r}")
        if not sampler.loras:
            return
        for number, folder in zip(pools, self._folders(len(pools)), strict=True):
            hub = LoRAHub.open(folder)
            check_preparation(hub, model.data_preprocessor)
            check_pool(hub, pools[number])
            members = [origin.lora for origin in sampler.loras if origin.source == number]
            neck = model.neck if model.with_neck else None
            self._teachers[number] = teachers = HubTeachers(hub, members, model.backbone, neck)
            teachers.check_base(pools[number])
        runner.logger.info(f'{len(sampler.loras)} LoRAs of {self.hub} teach in '
                           f'{100 * (1 - sampler.p_interpolate):g} % of the episodes')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Let the teachers classify the queries of the episodes that are of one LoRA each."""
        if not self._teachers:
            return
        samples = data_batch['data_samples']
        places = [p for p, sample in enumerate(samples) if not sample.support and sample.lora is not None]
        if not places:
            return
        asked = [samples[place] for place in places]
        keep = torch.stack([sample.get(MASK) for sample in asked]) if self.tokens == 'sparse' else None
        images = unwrap_model(runner.model).data_preprocessor(data_batch, False)['inputs'][places]
        columns = _columns(samples)
        for source in {sample.source for sample in asked}:
            own = [p for p, sample in enumerate(asked) if sample.source == source]
            seen = keep[own] if keep is not None else None
            said = self._teachers[source](images[own], [asked[p].lora for p in own], seen)
            for p, logits in zip(own, said, strict=True):
                asked[p].set_field(logits[columns[asked[p].episode]], TEACHER)

    def after_train(self, runner: Runner) -> None:
        """Let go of the teachers."""
        self._teachers = {}

    def _folders(self, count: int) -> Sequence[str]:
        """Return the hub of each pool.

        Raises:
            ValueError: Several hubs are named, but another number of pools is trained on.
        """
        if isinstance(self.hub, str):
            return [self.hub] * count
        if len(self.hub) != count:
            raise ValueError(f'{len(self.hub)} hubs are named ({", ".join(self.hub)}) for {count} pools: name one for '
                             'each PoolImages, in their order, or one for all')
        return self.hub


def _columns(samples: Sequence[DataSample]) -> dict[int, list[int]]:
    """Return for each episode of one LoRA the output of its head for each class of the episode."""
    outputs: dict[int, dict[int, int]] = {}
    for sample in samples:
        if sample.lora is not None:
            outputs.setdefault(sample.episode, {})[int(sample.gt_label)] = sample.lora_label
    return {number: [own[label] for label in range(len(own))] for number, own in outputs.items()}
