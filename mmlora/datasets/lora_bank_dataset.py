"""LoRAs of banks as training data: each item is a LoRA beside a description of its task."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..io.lora_banks import LoRABanks
from ..io.task_vectors import TaskVectors
from ..registry import DATASETS, register


@register(DATASETS)
class LoRABankDataset:
    """Checkpoints of LoRAs with task vectors: ``dict(inputs=dict(vector=(L,), condition=(...)))``.

    Tasks are balanced: an epoch has each task equally often, as often as the largest bank has checkpoints. Which
    checkpoint and which support set of the task an item has is drawn anew each time, so that conditions vary as those
    of new tasks do.

    Args:
        banks: Folder of the banks.
        task_vectors: File of :mod:`mmlora.io.task_vectors`.

    Raises:
        FileNotFoundError: There is no bank or no file.
        ValueError: They do not belong together, or there are fewer than two LoRAs.
    """

    def __init__(self, banks: str, task_vectors: str) -> None:
        self.banks, self.described = LoRABanks.open(banks), TaskVectors.open(task_vectors)
        own, given = self.banks.full_spec.base_sha256, self.described.record.get('base_sha256')
        if None not in (own, given) and own != given:
            raise ValueError(f'the LoRAs of {banks} stand on weights with the sha256 {own}, the task vectors of '
                             f'{task_vectors} were seen by {given}: extract them again')
        self.names = [task.name for task in self.banks.tasks]
        self.vectors = [self.banks.vectors(name) for name in self.names]
        self.descriptions = self.described.stack(self.names, str(task_vectors))
        if sum(map(len, self.vectors)) < 2:
            raise ValueError(f'{banks} holds one LoRA: there is nothing to learn from fewer than 2. Keep more '
                             'checkpoints, or add tasks')

    @property
    def metainfo(self) -> dict[str, Any]:
        """The names of the tasks as ``tasks``; there are no classes of a head."""
        return dict(tasks=tuple(self.names))

    def fit_data(self) -> dict[str, Any]:
        """Return all data, the arguments of :meth:`mmlora.models.generators.LoRAGenerator.fit`."""
        counts = torch.tensor([len(own) for own in self.vectors])
        return dict(vectors=torch.cat(self.vectors), descriptions=self.descriptions,
                    tasks=torch.arange(len(counts)).repeat_interleave(counts), shared=self.banks.shared)

    def __len__(self) -> int:
        """Return the number of items of an epoch."""
        return len(self.names) * max(map(len, self.vectors))

    def __getitem__(self, index: int) -> dict[str, dict[str, Tensor]]:
        """Return an item; see the class."""
        if not 0 <= index < len(self):
            raise IndexError(f'there are {len(self)} items, got the index {int(index)}')
        task = int(index) % len(self.names)
        own, described = self.vectors[task], self.descriptions[task]
        # The generator that SeededDataset seeds by run, epoch and item.
        checkpoint, draw = np.random.randint(len(own)), np.random.randint(len(described))
        return dict(inputs=dict(vector=own[checkpoint], condition=described[draw]))
