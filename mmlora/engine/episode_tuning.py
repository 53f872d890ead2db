"""A loop for tests in which something learns from the support of each episode: see :mod:`mmlora.engine.tuners`."""

import inspect
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.runner import Runner, TestLoop
from torch import Tensor

from ..episodes import draw_episode, positions_by_class
from ..evaluation import EpisodeAccuracy
from ..progress import progress_line
from ..registry import LOOPS, TUNERS, register
from .adaptation import unwrap_model
from .episode_loops import episode_metrics
from .feature_encoding import LOG_SECONDS
from .tuners import EpisodeTuner, NumberedEpisode, TestImages
from .tuners.tuner import whole


@register(LOOPS)
class EpisodeTuningLoop(TestLoop):
    """Test a way to learn from a few images, on the episodes that :class:`EpisodeTestLoop` draws.

    List one ``EpisodeAccuracy`` for each setting in ``test_evaluator``; its ``metric`` is not used. What an episode
    learns follows from the seed and its number alone, and nothing is chosen on queries. Several processes share the
    episodes out.

    Args:
        runner: The runner.
        dataloader: The images; its sampler is not used.
        evaluator: The metrics.
        tuner: Config of a tuner, such as ``dict(type='FeatureTuner', head='linear')``.
        fp16: Whether images are encoded with automatic mixed precision.
        seed: Of what tuners draw.

    Raises:
        ValueError: The tuner is unknown, or the seed is no whole number.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        tuner: Mapping[str, Any],
        fp16: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.tuner, self.seed = build_tuner(tuner), whole('seed', seed, 0)

    def run(self) -> dict[str, float]:
        """Tune and test all episodes of each metric, and return the accuracies.

        Raises:
            ValueError: The images cannot fill the episodes of a metric, or the tuner does not fit the model.
            TypeError: A metric is no ``EpisodeAccuracy``, or the data set does not say its labels.
        """
        runner = self.runner
        metrics, labels, classes = episode_metrics(self.evaluator, self.dataloader.dataset, 'test', self)
        others = [type(metric).__name__ for metric in self.evaluator.metrics if metric not in metrics]
        if others:
            raise TypeError(f'{type(self).__name__} gives accuracies of episodes, which {", ".join(others)} in '
                            'test_evaluator cannot take: leave it out')
        if len({metric.prefix for metric in metrics}) < len(metrics):
            raise ValueError('two EpisodeAccuracy of test_evaluator have one prefix, so that one result would replace '
                             f'the other, in {[metric.prefix for metric in metrics]}: give each a prefix of its own')
        runner.call_hook('before_test')
        runner.call_hook('before_test_epoch')
        runner.model.eval()
        images = TestImages(unwrap_model(runner.model), self.dataloader, self.fp16, runner.logger.info)
        found: dict[str, float] = {}
        try:
            self.tuner.start(images)
            for metric in metrics:
                values = self._accuracies(metric, images, labels)
                for name, value in metric.summarize(values, labels, classes).items():
                    found[f'{metric.prefix}/{name}' if metric.prefix else name] = value
        finally:
            self.tuner.finish()
        runner.call_hook('after_test_epoch', metrics=found)
        runner.call_hook('after_test')
        return found

    def _accuracies(self, metric: EpisodeAccuracy, images: TestImages, labels: np.ndarray) -> np.ndarray:
        """Return the accuracy ``(n_episodes,)`` in 0..1 of each episode of a metric."""
        positions, tuner = positions_by_class(labels), self.tuner
        numbers = range(get_rank(), metric.episodes['n_episodes'], get_world_size())
        sizes = {name: value for name, value in metric.episodes.items() if name != 'n_episodes'}
        episodes = [NumberedEpisode(draw_episode(positions, **sizes, number=number), number, self.seed)
                    for number in numbers]
        chunks = [episodes[i : i + tuner.together] for i in range(0, len(episodes), tuner.together)]
        values = torch.zeros(metric.episodes['n_episodes'], dtype=torch.float64)
        pictures: Iterable[Tensor | None] = [None] * len(chunks)
        if tuner.needs_images:
            pictures = images.read([np.concatenate([e.positions for e in chunk]) for chunk in chunks])
        begin = last = time.monotonic()
        done = diverged = 0
        with progress_line(metric.prefix or 'episodes', len(episodes)) as line:
            for chunk, inputs in zip(chunks, pictures, strict=True):
                scores = tuner.scores(chunk, None if inputs is None else inputs.unflatten(0, (len(chunk), -1)))
                values[[e.number for e in chunk]], lost = right_answers(scores)
                diverged, done = diverged + lost, done + len(chunk)
                due = time.monotonic() - last > LOG_SECONDS or done == len(episodes)
                mean = 100 * values[list(numbers[:done])].mean().item()
                line.update(done, accuracy=mean)
                if due:
                    last = time.monotonic()
                    left = (last - begin) / done * (len(episodes) - done)
                    self.runner.logger.info(f'{metric.prefix}: {done} of {len(episodes)} episodes in '
                                            f'{last - begin:.1f} s, accuracy {mean:.2f}, {left:.0f} s left')
        bad = torch.tensor(float(diverged))
        all_reduce(bad)
        all_reduce(values)  # Of the other processes' episodes each holds zeros.
        if bad:
            self.runner.logger.warning(f'{metric.prefix}: {int(bad)} of {len(values)} episodes diverged, and their '
                                       'queries count as wrong: lower the rate of the optimizer')
        return values.numpy()


def build_tuner(tuner: Mapping[str, Any]) -> EpisodeTuner:
    """Build a tuner from its config.

    Raises:
        ValueError: There is no such tuner, or it lacks a setting or has none of that name.
    """
    kind = TUNERS.get(tuner['type']) if isinstance(tuner.get('type'), str) else None
    if kind is None:
        raise ValueError(f'tuner={dict(tuner)} must name a type; choose from {", ".join(sorted(TUNERS.module_dict))}')
    settings = {name: value for name, value in tuner.items() if name != 'type'}
    try:
        inspect.signature(kind).bind(**settings)
    except TypeError as error:
        known = ', '.join(inspect.signature(kind).parameters)
        raise ValueError(f'tuner={dict(tuner)}: {error}; {kind.__name__} takes {known}') from error
    return kind(**settings)


def right_answers(scores: Tensor) -> tuple[Tensor, int]:
    """Return the part of right answers of each episode, and how many episodes have scores that are no numbers.

    Args:
        scores: ``(E, n_way * n_query, n_way)``; the queries of a class lie side by side.

    Returns:
        ``(E,)`` float64 in 0..1, where a query with a score that is not finite is wrong; and the number of episodes
        with such a query.
    """
    n_way = scores.shape[-1]
    wanted = torch.arange(n_way, device=scores.device).repeat_interleave(scores.shape[1] // n_way)
    finite = scores.isfinite().all(-1)  # (E, Q)
    right = (scores.argmax(-1) == wanted) & finite
    return right.double().mean(1).cpu(), int((~finite.all(1)).sum())
