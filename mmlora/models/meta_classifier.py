"""A backbone that meta-learns: each batch holds whole episodes, and there are no classes beyond them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from typing import Any

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from ..adapters import SparseTokens
from ..io.convert import Converted
from ..registry import MODELS, register
from .pretrained import fit_weights

TEACHER, MASK, FEATURE = 'teacher_logits', 'patch_mask', 'feature'
"""Fields of data samples: logits of the classes of the episode, mask of patches, and what :meth:`predict` gives."""


def split_episodes(samples: Sequence[DataSample]) -> list[tuple[list[int], list[int]]]:
    """Return the places of the support and of the query images of each episode of a batch.

    Raises:
        ValueError: A sample does not say what it is in which episode, or an episode lacks support, queries or a class.
    """
    lost = next((s for s in samples if 'episode' not in s or 'support' not in s), None)
    if lost is not None:
        raise ValueError('a training image does not say which episode it belongs to: train on an EpisodicDataset with '
                         "batch_sampler=dict(type='EpisodeSampler', ...)")
    found = []
    for number, group in groupby(range(len(samples)), key=lambda place: samples[place].episode):
        places = list(group)
        support, query = ([p for p in places if bool(samples[p].support) is kind] for kind in (True, False))
        classes, asked = ({int(samples[p].gt_label) for p in part} for part in (support, query))
        if classes != set(range(len(classes))) or not query or not asked <= classes:
            raise ValueError(f'episode {number} has support images of the classes {sorted(classes)} and queries of '
                             f'{sorted(asked)}: a batch must hold whole episodes')
        found.append((support, query))
    return found


@register(MODELS)
class MetaClassifier(ImageClassifier):
    """Learns features in which class means of a few images tell new classes apart.

    In training support and query images of all episodes of a batch go through the backbone together, and the losses of
    the episodes are summed. How many classes and images an episode has follows from the batch, so that it may differ
    between training and tests. In tests each image gets its feature, which ``EpisodeAccuracy`` draws episodes from.

    Args:
        backbone: Config of the backbone, such as an ``AdaptedBackbone``; its last feature is ``(B, D)``.
        neck: Config of a neck, or None.
        head: Config of the head, a ``PrototypeHead`` by default.
        sparse: Train on the patches alone that the masks of the images keep; tests always use all patches.
        data_preprocessor: Config, of a ``ClsDataPreprocessor`` by default.
        init_cfg: As in mmengine.
    """

    def __init__(
        self,
        backbone: Any,
        neck: Any = None,
        head: Any = None,
        sparse: bool = False,
        data_preprocessor: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(
            backbone, neck, head or dict(type='mmlora.PrototypeHead'), data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )  # fmt: skip
        self.sparse = bool(sparse)

    def loss(self, inputs: Tensor, data_samples: Sequence[DataSample]) -> dict[str, Tensor]:
        """Return the sum of the losses of the episodes, and the mean of their accuracies in percent.

        Queries with ``teacher_logits`` are compared with them, those of other episodes with their labels.

        Args:
            inputs: ``(B, C, H, W)``, of whole episodes.
            data_samples: Of an :class:`mmlora.datasets.EpisodicDataset`.

        Raises:
            ValueError: The batch holds no whole episodes, an episode of one LoRA has no teacher, or masks are missing.
        """
        episodes = split_episodes(data_samples)
        with self._tokens(data_samples):
            features = self.extract_feat(inputs)[-1]
        labels = torch.tensor([int(sample.gt_label) for sample in data_samples], device=features.device)
        losses, right = [], []
        for support, query in episodes:
            scores = self.head.scores(features[support], labels[support], features[query])
            teacher = _teacher_of([data_samples[place] for place in query])
            losses.append(self.head.episode_loss(scores, labels[query], teacher))
            right.append((scores.argmax(-1) == labels[query]).float().mean())
        return dict(loss=torch.stack(losses).sum(), accuracy=100 * torch.stack(right).mean())

    def predict(
        self, inputs: Tensor, data_samples: Sequence[DataSample] | None = None, **kwargs: Any
    ) -> list[DataSample]:
        """Return data samples with the feature of each image, ``(D,)``, as ``feature``."""
        features = self.extract_feat(inputs)[-1]
        samples = list(data_samples) if data_samples is not None else [DataSample() for _ in features]
        for sample, feature in zip(samples, features, strict=True):
            sample.set_field(feature, FEATURE)
        return samples

    def fit_converted(
        self,
        converted: Converted,
        where: str,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        source_grid: Any = None,
    ) -> dict[str, Tensor]:
        """Return weights of another layout, which are those of the backbone, under the names of this model.

        Raises:
            ValueError: They do not fit; see :func:`mmlora.models.pretrained.fit_weights`.
        """
        allowed = ([name.removeprefix('backbone.') for name in names] for names in (allow_missing, allow_unexpected))
        weights = fit_weights(converted, self.backbone, where, *allowed, source_grid)
        return {f'backbone.{name}': value for name, value in weights.items()}

    def _tokens(self, samples: Sequence[DataSample]) -> AbstractContextManager[None]:
        if not self.sparse:
            return nullcontext()
        lacking = sum(MASK not in sample for sample in samples)
        if lacking:
            raise ValueError(f'{lacking} of {len(samples)} images have no mask, which sparse=True needs: set '
                             'mask_ratio of PoolImages, or sparse=False')
        return sparse_forward(self.backbone, torch.stack([sample.get(MASK) for sample in samples]))


@contextmanager
def sparse_forward(backbone: torch.nn.Module, keep: Tensor) -> Any:
    """Let a backbone use, within a ``with`` block, only the patches that masks ``(B, P)`` keep."""
    sparse = SparseTokens()
    sparse.attach(backbone)  # For this forward pass alone: copies and checkpoints of the model know nothing of it.
    try:
        with sparse.only(keep.to(next(backbone.parameters()).device)):
            yield
    finally:
        sparse.detach()


def _teacher_of(samples: Sequence[DataSample]) -> Tensor | None:
    """Return the logits of the teacher for the queries of an episode, ``(Q, n_way)``; None where labels count.

    Raises:
        ValueError: The episode is of one LoRA, and some queries have no logits.
    """
    lacking = [sample for sample in samples if TEACHER not in sample]
    if not lacking:
        return torch.stack([sample.get(TEACHER) for sample in samples])
    if lacking[0].get('lora') is not None:
        raise ValueError(f'an episode of the LoRA {lacking[0].lora!r} has no logits of a teacher: list '
                         "dict(type='MetaLoRADistillationHook', hub=...) in custom_hooks, or set p_interpolate=1")
    return None
