"""Teachers for meta-training: the LoRAs of the hub that the images of an episode were made from."""

from collections.abc import Iterator, Mapping, Sequence
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
from ..hub_distillation import HubTeachers

TOKENS = ('dense', 'sparse')


@register(HOOKS)
class MetaLoRADistillationHook(Hook):
    """Give the queries of an episode of one LoRA the logits of that LoRA (LoRA-Recycle, CVPR 2025, eq. 3a).

    How many episodes are of one LoRA says ``p_interpolate`` of the ``EpisodeSampler``; where it is 1 no LoRA is read,
    and the hook only checks the pool. The teachers stand on the frozen weights of the student, with adapters of their
    own; nothing of the student is changed.

    Args:
        hub: Folder of the hub that the pool was made from.
        tokens: ``'dense'``: the teacher sees whole images; ``'sparse'``: only the patches that their masks keep.

    Raises:
        ValueError: ``tokens`` is unknown.
    """

    def __init__(self, hub: str, tokens: str = 'dense') -> None:
        if tokens not in TOKENS:
            raise ValueError(f'tokens={tokens!r} must be one of {", ".join(TOKENS)}')
        self.hub, self.tokens = hub, tokens
        self._teachers: HubTeachers | None = None

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
        pools = [one for one in getattr(loader.dataset, 'datasets', ()) if isinstance(one, PoolImages)]
        turned = bool(getattr(model.data_preprocessor, 'to_rgb', False))
        for pool in pools:
            if (pool.channels == 'bgr') != turned:
                raise ValueError(f'channels={pool.channels!r} of the pool and to_rgb={turned} of the data preprocessor '
                                 f"would swap red and blue: set channels={'bgr' if turned else 'rgb'!r}")
        if not sampler.loras:
            return
        hub = LoRAHub.open(self.hub)
        _check_preparation(hub, model.data_preprocessor)
        for pool in pools:
            _check_classes(hub, pool)
        self._teachers = HubTeachers(hub, sampler.loras, model.backbone, model.neck if model.with_neck else None)
        runner.logger.info(f'{len(sampler.loras)} LoRAs of {self.hub} teach in '
                           f'{100 * (1 - sampler.p_interpolate):g} % of the episodes')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Let the teachers classify the queries of the episodes that are of one LoRA each."""
        if self._teachers is None:
            return
        samples = data_batch['data_samples']
        places = [p for p, sample in enumerate(samples) if not sample.support and sample.lora is not None]
        if not places:
            return
        asked = [samples[place] for place in places]
        keep = torch.stack([sample.get(MASK) for sample in asked]) if self.tokens == 'sparse' else None
        images = unwrap_model(runner.model).data_preprocessor(data_batch, False)['inputs'][places]
        columns = _columns(samples)
        for sample, logits in zip(asked, self._teachers(images, [s.lora for s in asked], keep), strict=True):
            sample.set_field(logits[columns[sample.episode]], TEACHER)

    def after_train(self, runner: Runner) -> None:
        """Let go of the teachers."""
        self._teachers = None


def _columns(samples: Sequence[DataSample]) -> dict[int, list[int]]:
    """Return for each episode of one LoRA the output of its head for each class of the episode."""
    outputs: dict[int, dict[int, int]] = {}
    for sample in samples:
        if sample.lora is not None:
            outputs.setdefault(sample.episode, {})[int(sample.gt_label)] = sample.lora_label
    return {number: [own[label] for label in range(len(own))] for number, own in outputs.items()}


def _check_preparation(hub: LoRAHub, preprocessor: Any) -> None:
    wanted, own = dict(hub.normalization), _preparation(preprocessor)
    if not all(_close(wanted[name], own[name]) for name in own):
        raise ValueError(f'the LoRAs of {hub.folder} were trained on images prepared by {wanted}, the model prepares '
                         f'them by {own}: give data_preprocessor the values of the hub')


def _preparation(preprocessor: Any) -> Mapping[str, Any]:
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    return dict(mean=[0.0] * 3 if mean is None else mean.flatten().tolist(),
                std=[1.0] * 3 if std is None else std.flatten().tolist(),
                to_rgb=bool(getattr(preprocessor, 'to_rgb', False)))


def _close(wanted: Any, own: Any) -> bool:
    if isinstance(own, bool):
        return wanted == own
    return len(wanted) == len(own) and all(abs(a - b) < 1e-3 for a, b in zip(wanted, own, strict=True))


def _check_classes(hub: LoRAHub, pool: PoolImages) -> None:
    for lora, label, name in _used(pool):
        known = hub.classes(lora) if lora in hub.records else []
        if not 0 <= label < len(known) or known[label] != name:
            own = f'is {known[label]!r}' if 0 <= label < len(known) else 'does not exist'
            raise ValueError(f'output {label} of the LoRA {lora!r} is {name!r} in the pool {pool.pool.folder}, and '
                             f'{own} in the hub {hub.folder}: name the hub that the pool was made from')


def _used(pool: PoolImages) -> Iterator[tuple[str, int, str]]:
    """Give each LoRA of a pool with each of its outputs and the name of the class, once."""
    seen = {(image.lora, image.lora_label): image.gt_label for image in pool.images}
    return ((lora, label, pool.pool.classes[gt_label]) for (lora, label), gt_label in seen.items())
