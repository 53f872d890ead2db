"""Episodes of the tasks of banks: images of a task, beside a LoRA that was trained for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..episodes import check_episode_size, positions_by_class
from ..io.lora_banks import LoRABanks
from ..randomness import derive_seed
from ..registry import DATA_SAMPLERS, DATASETS, register
from .episodes import EpisodeIndex, EpisodeSampler, Origin
from .episodic_dataset import EpisodicDataset

VECTOR = 'lora_vector'
"""Field of the data samples of the first class of a support set: a LoRA of the task, ``(L,)``."""


@register(DATASETS)
class BankEpisodes(EpisodicDataset):
    """Images with the classes of the tasks of banks; episodes of a task come with one of its LoRAs.

    Args:
        dataset: A data set or its config, or several, whose classes have the names that the banks give them; those of
            the banks in the same order where names occur twice.
        banks: Folder of the banks.

    Raises:
        FileNotFoundError: There is no bank.
        ValueError: A class of a task has no images here.
    """

    def __init__(self, dataset: Any, banks: str) -> None:
        super().__init__(dataset)
        self.banks = LoRABanks.open(banks)
        labels = {name: label for label, name in enumerate(self.meta_classes)}
        self.task_labels: dict[str, list[int]] = {}
        for task in self.banks.tasks:
            numbers = task.about.get('class_ids') or []
            numbered = [self.meta_classes[number] for number in numbers if number < len(self.meta_classes)]
            if numbered == list(task.classes):
                self.task_labels[task.name] = list(numbers)  # Several data sets may have classes of one name.
                continue
            missing = [name for name in task.classes if name not in labels]
            if missing:
                raise ValueError(f'the task {task.name!r} of {banks} has the class {missing[0]!r}, of which the data '
                                 f'set has no images: its classes are {list(labels)[:5]} ...')
            self.task_labels[task.name] = [labels[name] for name in task.classes]
        self.vectors = {task.name: self.banks.vectors(task.name) for task in self.banks.tasks}

    def bank_data(self) -> dict[str, Any]:
        """Return all LoRAs ``(n, L)`` as ``vectors``, and the A that they share as ``shared``."""
        return dict(vectors=torch.cat(list(self.vectors.values())), shared=self.banks.shared)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a prepared image; see the base class and :data:`VECTOR`."""
        item = super().__getitem__(index)
        place = index.place if isinstance(index, EpisodeIndex) else None
        if place is not None and place.origin is not None and place.support and not place.label:
            own = self.vectors[place.origin.lora]
            drawn = np.random.default_rng(derive_seed('bank checkpoint', index.seed, place.episode))
            item['data_samples'].set_field(own[drawn.integers(len(own))], VECTOR)
        return item


@register(DATA_SAMPLERS)
class BankEpisodeSampler(EpisodeSampler):
    """Batches of episodes, of which the part ``1 - p_interpolate`` are tasks of the banks of :class:`BankEpisodes`.

    The others have classes drawn from all images. Tasks are drawn uniformly; the arguments are those of
    :class:`EpisodeSampler`, and each task must have at least ``n_way`` classes.

    Raises:
        ValueError: The data set has no tasks, or the images cannot fill such episodes.
    """

    def _split_by_lora(self, dataset: Any, classes: Sequence[str] | None) -> dict[Origin, dict[int, np.ndarray]]:
        tasks = getattr(dataset, 'task_labels', None)
        if not tasks:
            raise ValueError("BankEpisodeSampler draws tasks of banks: train on dataset=dict(type='BankEpisodes', "
                             'banks=...), or set p_interpolate=1')
        positions, found = positions_by_class(dataset.get_gt_labels()), {}
        for name, labels in tasks.items():
            own = {label: positions[label] for label in labels if label in positions}
            try:
                check_episode_size(own, self.n_way, self.n_shot, self.n_query, classes)
            except ValueError as error:
                raise ValueError(f'images of the task {name!r}: {error}') from error
            found[Origin(0, name)] = own
        return found
