"""Loops for tests by episodes: each image is encoded once, and all episodes are drawn from the features.

Without gradients an image has the same feature in every episode, so that 600 episodes need no more encoding than the
images of the test set, and several settings (ways, shots, distances) share it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop, ValLoop
from mmengine.runner.amp import autocast

from ..evaluation import EpisodeAccuracy
from ..registry import LOOPS, register
from .adaptation import unwrap_model


def episode_metrics(
    evaluator: Evaluator, dataset: Any, stage: str, loop: Any
) -> tuple[list[EpisodeAccuracy], Any, Sequence[str] | None]:
    """Return the metrics of episodes, and what their episodes are drawn from, once all is checked.

    Args:
        evaluator: Of the loop.
        dataset: Its data set.
        stage: ``'test'`` or ``'val'``.
        loop: For messages.

    Returns:
        The metrics, the label of each image, and the names of the classes where they are known.

    Raises:
        ValueError: The images cannot fill the episodes of a metric.
        TypeError: No metric is an ``EpisodeAccuracy``, or the data set does not say its labels.
    """
    metrics = [metric for metric in evaluator.metrics if isinstance(metric, EpisodeAccuracy)]
    if not metrics:
        raise TypeError(f'{type(loop).__name__} needs an EpisodeAccuracy in {stage}_evaluator, got '
                        f'{", ".join(type(metric).__name__ for metric in evaluator.metrics)}')
    if not hasattr(dataset, 'get_gt_labels'):
        raise TypeError(f'episodes need the label of each image, which {type(dataset).__name__} does not tell')
    labels, classes = dataset.get_gt_labels(), (getattr(dataset, 'metainfo', None) or {}).get('classes')
    for metric in metrics:
        metric.check(labels, classes)
    return metrics, labels, classes


class _EncodeOnce:
    """What both loops share: how a batch becomes features, and what is checked before the first one."""

    stage: str
    runner: Any
    dataloader: Any
    evaluator: Any
    fp16: bool

    def run(self) -> dict[str, float]:
        """Encode all images, draw the episodes of each metric, and return the accuracies.

        Raises:
            ValueError: The images cannot fill the episodes of a metric; said before any is encoded.
            TypeError: No metric is an ``EpisodeAccuracy``, or the data set does not say its labels.
        """
        episode_metrics(self.evaluator, self.dataloader.dataset, self.stage, self)
        return super().run()  # type: ignore[misc]

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Encode a batch: data samples get ``feature``, the last feature of the model's ``extract_feat``.

        Raises:
            ValueError: The features are no vectors.
        """
        self.runner.call_hook(f'before_{self.stage}_iter', batch_idx=idx, data_batch=data_batch)
        model = unwrap_model(self.runner.model)
        with autocast(enabled=self.fp16):
            data = model.data_preprocessor(data_batch, False)
            features = model.extract_feat(data['inputs'])[-1]
        if features.ndim != 2:
            raise ValueError(f'the features of {type(model).__name__} have the shape {tuple(features.shape)}, and '
                             'episodes need (B, D): add a neck such as GlobalAveragePooling')
        samples = data['data_samples']
        for sample, feature in zip(samples, features.float(), strict=True):
            sample.set_field(feature, 'feature')
        self.evaluator.process(data_samples=samples, data_batch=data_batch)
        self.runner.call_hook(f'after_{self.stage}_iter', batch_idx=idx, data_batch=data_batch, outputs=samples)


@register(LOOPS)
class EpisodeTestLoop(_EncodeOnce, TestLoop):
    """Test any classifier by episodes; list one ``EpisodeAccuracy`` for each setting in ``test_evaluator``.

    The arguments are those of mmengine's ``TestLoop``. The head of the model is not used.
    """

    stage = 'test'


@register(LOOPS)
class EpisodeValLoop(_EncodeOnce, ValLoop):
    """Validate any classifier by episodes, as :class:`EpisodeTestLoop` tests."""

    stage = 'val'
