"""The tasks of a hub: which classes each LoRA learns to tell apart, and from which images.

A task is a pure function of the data, the seed of the hub and its number: n classes of the meta-train classes of one
set (or of all sets together), their first images for training and their last for validation. The published code of
LoRA-Recycle does not hold this step; classes are drawn as its author's code for an earlier paper does, images are split
as its data sets do (the first 80 % of each class in the order of the list).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.dataset import pseudo_collate
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader, Dataset

from ..datasets import SampleIndex, SeededDataset
from ..datasets.split_files import load_split
from ..episodes import positions_by_class
from ..randomness import derive_seed

Ref = tuple[int, int, int]
"""An image: number of the source, of the data set in it, and position there."""


@dataclass(frozen=True)
class Source:
    """A set of images whose classes tasks are drawn from.

    Attributes:
        name: What the hub calls it.
        datasets: Its parts, which share their classes.
        classes: Names of the chosen classes.
        images: For each of them its images, as (number of the part, position).
        first: Number of its first class among those of all sources.
    """

    name: str
    datasets: Sequence[Any]
    classes: Sequence[str]
    images: Sequence[Sequence[tuple[int, int]]]
    first: int = 0


@dataclass(frozen=True)
class Task:
    """What a LoRA learns.

    Attributes:
        number: Of the task in the hub.
        source: Names of the sources, joined by ``+``.
        classes: Names, in the order of the outputs of the head.
        class_ids: Their numbers among the classes of all sources.
        train: Images to learn from.
        train_labels: Their outputs.
        val: Images to validate with.
        val_labels: Their outputs.
    """

    number: int
    source: str
    classes: Sequence[str]
    class_ids: Sequence[int]
    train: Sequence[Ref]
    train_labels: Sequence[int]
    val: Sequence[Ref]
    val_labels: Sequence[int]


def build_sources(configs: Sequence[Mapping[str, Any]]) -> list[Source]:
    """Build the data sets of a hub.

    Args:
        configs: For each source ``name``, ``dataset`` (a config, or those of parts with the same classes) and, where
            not all classes are meant, ``classes``: names or numbers, or ``'<file>:<key>'`` of ``data_splits``.

    Raises:
        ValueError: A source is incomplete, a class is unknown or has no image, or parts have other classes.
    """
    sources: list[Source] = []
    for config in configs:
        unknown = sorted(set(config) - {'name', 'dataset', 'classes'})
        if unknown or not {'name', 'dataset'} <= set(config):
            raise ValueError(f'a source of a hub has name, dataset and perhaps classes, got {sorted(config)}')
        first = sum(len(source.classes) for source in sources)
        sources.append(_build_source(config['name'], config['dataset'], config.get('classes'), first))
    if not sources:
        raise ValueError('a hub needs at least one source of images: hub_sources=[dict(name=..., dataset=...)]')
    return sources


def draw_task(
    sources: Sequence[Source], number: int, seed: int, n_way: int, train_fraction: float = 0.8, across: bool = False
) -> Task:
    """Draw a task.

    Args:
        sources: From :func:`build_sources`. Without ``across`` all classes of a task come from one of them.
        number: Of the task, at least 0.
        seed: Of the hub.
        n_way: Number of classes.
        train_fraction: Part of the images of a class, the first in its order, to learn from; the others validate.
        across: Whether the classes of a task may come from several sources.

    Returns:
        The task; the same for the same arguments, whatever was drawn before.

    Raises:
        ValueError: There are too few classes, or a class has too few images.
    """
    rng = np.random.default_rng(derive_seed('hub task', seed, number))
    among = range(len(sources)) if across else [int(rng.integers(len(sources)))]
    pool = [(s, c) for s in among for c in range(len(sources[s].classes))]
    names = '+'.join(sources[s].name for s in among)
    if not 2 <= n_way <= len(pool):
        raise ValueError(f'{n_way}-way tasks need at least 2 and at most the {len(pool)} classes of {names}')
    chosen = [pool[i] for i in rng.choice(len(pool), n_way, replace=False)]
    parts: dict[str, list] = dict(train=[], train_labels=[], val=[], val_labels=[])
    for label, (s, c) in enumerate(chosen):
        images = [(s, part, place) for part, place in sources[s].images[c]]
        cut = int(len(images) * train_fraction)
        if not 0 < cut < len(images):
            raise ValueError(f'class {sources[s].classes[c]!r} of {sources[s].name} has {len(images)} images, of which '
                             f'train_fraction={train_fraction} leaves {cut} to learn from and {len(images) - cut} to '
                             'validate with: both must be at least 1')
        for key, own in (('train', images[:cut]), ('val', images[cut:])):
            parts[key] += own
            parts[f'{key}_labels'] += [label] * len(own)
    return Task(number, '+'.join(dict.fromkeys(sources[s].name for s, _ in chosen)),
                [sources[s].classes[c] for s, c in chosen], [sources[s].first + c for s, c in chosen], **parts)


@dataclass(frozen=True)
class Part:
    """What one task does in a step.

    Attributes:
        place: Of the task among those that are trained together.
        epoch: Its pass over its images, from 0.
        images: Places in ``task.train``.
        ends: Whether this is the last step of the epoch.
    """

    place: int
    epoch: int
    images: Sequence[int]
    ends: bool


def steps(tasks: Sequence[Task], seed: int, batch_size: int, max_epochs: int) -> Iterator[list[Part]]:
    """Give the batches of each step, of all tasks that have not ended.

    The batches of a task are a pure function of the seed and the number of the task: it does not matter with which
    others it is trained. The last batch of an epoch may be smaller.
    """
    def batches(place: int, task: Task) -> Iterator[Part]:
        for epoch in range(max_epochs):
            order = np.random.default_rng(derive_seed('hub batches', seed, task.number, epoch)).permutation(
                len(task.train)).tolist()
            for start in range(0, len(order), batch_size):
                yield Part(place, epoch, order[start : start + batch_size], start + batch_size >= len(order))

    running = [batches(place, task) for place, task in enumerate(tasks)]
    while True:
        step = [part for part in (next(one, None) for one in running) if part is not None]
        if not step:
            return
        yield step


@dataclass
class HubImages(Dataset):
    """Images of all sources.

    Attributes:
        sources: From :func:`build_sources`.
        cache: Whether images are kept as they are first prepared; without it they are prepared anew for each epoch.
    """

    sources: Sequence[Source]
    cache: bool = False
    _kept: dict[Ref, Any] = field(default_factory=dict)

    def __getitem__(self, request: tuple[Ref, int, int]) -> Any:
        """Return a prepared image.

        Args:
            request: The image, the seed of its augmentation and the epoch.
        """
        ref, seed, epoch = request
        if ref in self._kept:
            return self._kept[ref]
        source, part, place = ref
        item = self.sources[source].datasets[part][SampleIndex(place, seed, 0 if self.cache else epoch)]
        if self.cache:
            self._kept[ref] = item
        return item

    def forget(self) -> None:
        """Let go of what is kept."""
        self._kept.clear()


def load_images(images: HubImages, requests: Any, num_workers: int = 0) -> DataLoader:
    """Return a loader of batches ``dict(inputs=[...], data_samples=[...])``.

    Args:
        images: All images.
        requests: Gives a list of requests for each batch, each time that it is gone through.
        num_workers: Processes that prepare images. With a cache it must be 0, since each would keep its own.
    """
    return DataLoader(images, batch_sampler=requests, num_workers=num_workers, collate_fn=pseudo_collate)


def _build_source(name: str, config: Any, wanted: Any, first: int) -> Source:
    parts = [DATASETS.build(part) for part in (config if isinstance(config, (list, tuple)) else [config])]
    classes = parts[0].metainfo.get('classes')
    labels = [part.get_gt_labels() for part in parts]
    if classes is None:
        classes = [f'class {k}' for k in range(1 + max(int(own.max()) for own in labels))]
    for part in parts[1:]:
        if part.metainfo.get('classes') is not None and tuple(part.metainfo['classes']) != tuple(classes):
            raise ValueError(f'the parts of {name} have other classes: {len(classes)} and '
                             f'{len(part.metainfo["classes"])}, or in another order')
    chosen = list(range(len(classes))) if wanted is None else _chosen(name, wanted, list(classes))
    positions = [positions_by_class(own) for own in labels]
    images = [[(number, int(place)) for number, own in enumerate(positions) for place in own.get(label, ())]
              for label in chosen]
    empty = [classes[label] for label, own in zip(chosen, images, strict=True) if not own]
    if empty:
        raise ValueError(f'{name} has no image of {len(empty)} of the chosen classes, such as {empty[:3]}')
    seeded = [SeededDataset(part) for part in parts]
    return Source(name, seeded, [str(classes[label]) for label in chosen], images, first)


def _chosen(name: str, wanted: Any, classes: list[str]) -> list[int]:
    if isinstance(wanted, str):
        path, _, key = wanted.partition(':')
        content = load_split(path)
        if key not in content:
            raise ValueError(f'classes={wanted!r} of {name}: {path} has {sorted(content)}; write one behind the ":"')
        wanted = content[key]
    known = {own: label for label, own in enumerate(classes)}
    unknown = [one for one in wanted if (one not in known if isinstance(one, str) else not 0 <= one < len(classes))]
    if unknown:
        raise ValueError(f'{name} has no classes {unknown[:5]}: it has {len(classes)}, such as {classes[:3]}')
    labels = [known[one] if isinstance(one, str) else int(one) for one in wanted]
    if len(set(labels)) < len(labels):
        raise ValueError(f'{name}: a class is listed twice among {len(labels)}')
    return labels
