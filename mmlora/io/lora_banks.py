"""Banks: for each of many tasks several LoRAs of one training, as material for a generator of LoRAs.

::

    BANKS/
        index.json                  the spec of the LoRAs, which factors the files hold, the tasks in order
        shared.safetensors          the A of all LoRAs, where the files hold B alone
        00000/                      a task
            manifest.json           its classes, and its checkpoints, the best one by the metric first
            240.safetensors         the factors after 240 steps, by the keys of the spec
            240.head.safetensors    weight (n, D) and bias (n) of the head of then; missing where there is none

The spec says which backbone, layers and rank the LoRAs have; one that differs in anything is refused. Manifests are
written after the files that they name, the index after the manifest: what the index names is whole. One process at a
time writes into banks. Nothing in them is ever run.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..adapters.lora_spec import LoRASpec
from ..adapters.lora_weights import LoRAWeights
from .atomic import write_bytes, write_text
from .json_object import read_object
from .lora_folder import Head
from .reader import read_checkpoint

INDEX, MANIFEST, SHARED = 'index.json', 'manifest.json', 'shared.safetensors'
FORMAT = 'mmlora LoRA banks 1'
FACTORS = ('AB', 'B')
RULES = {'greater': -1, 'less': 1}
_NAME = re.compile(r'[\w][\w.+-]*')
_DAMAGED = 'copy the banks again, or build them anew'


@dataclass(frozen=True)
class BankCheckpoint:
    """One LoRA of a task.

    Attributes:
        file: Name in the folder of the task.
        step: Steps of the optimizer until then.
        metric: Of the validation.
        head: Name of the file of its head, or None.
    """

    file: str
    step: int
    metric: float
    head: str | None = None


@dataclass(frozen=True)
class BankTask:
    """The bank of one task.

    Attributes:
        name: Its folder.
        classes: Names, in the order of the outputs of the heads.
        checkpoints: The best one first.
        about: What else the manifest says, such as ``class_ids``, the numbers of the classes among all.
    """

    name: str
    classes: tuple[str, ...]
    checkpoints: tuple[BankCheckpoint, ...]
    about: Mapping[str, Any] = field(default_factory=dict)


class LoRABanks:
    """A folder of banks; made by :meth:`open` or :meth:`create`.

    Attributes:
        folder: Where they are.
        full_spec: Of the LoRAs, with both factors.
        spec: Of the vectors: that of B alone where the LoRAs share one A.
        factors: ``'AB'``, or ``'B'`` over a shared A.
        shared: The A of all LoRAs by key; empty with ``'AB'``.
        metric: Name of the metric that ranks checkpoints.
        rule: ``'greater'`` or ``'less'``: which is better.
        about: What else the index says, such as ``normalization`` of images.
        tasks: In the order in which they came.
    """

    def __init__(
        self, folder: Path, spec: LoRASpec, factors: str, shared: Mapping[str, Tensor], metric: str, rule: str,
        about: Mapping[str, Any], tasks: Sequence[BankTask] = (),
    ) -> None:  # fmt: skip
        self.folder, self.full_spec, self.factors, self.shared = folder, spec, factors, dict(shared)
        self.spec = spec if factors == 'AB' else spec.only('B')
        self.metric, self.rule, self.about, self.tasks = metric, rule, dict(about), list(tasks)

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        spec: LoRASpec,
        factors: str = 'AB',
        shared: Mapping[str, Tensor] | None = None,
        metric: str = 'accuracy/top1',
        rule: str = 'greater',
        **about: Any,
    ) -> 'LoRABanks':
        """Make banks without tasks.

        Args:
            folder: Missing or empty.
            spec: Of the LoRAs, with both factors.
            factors: Which ones the files hold: ``'AB'`` or ``'B'``.
            shared: The A of all LoRAs by key, for ``'B'``.
            metric: Name of the metric that ranks checkpoints.
            rule: ``'greater'`` or ``'less'``: which is better.
            **about: What else the index says, as plain data.

        Raises:
            ValueError: The folder holds something, a setting is unknown, or the shared A does not fit.
        """
        folder = Path(folder)
        if folder.is_dir() and any(not entry.name.startswith('.') for entry in folder.iterdir()):
            raise ValueError(f'{folder} holds {sorted(p.name for p in folder.iterdir())[:5]}: give banks a folder of '
                             'their own')
        for name, value, known in (('factors', factors, FACTORS), ('rule', rule, tuple(RULES))):
            if value not in known:
                raise ValueError(f'{name} of banks must be one of {known}, got {value!r}')
        spec.weights(dict.fromkeys(spec.keys))
        if factors == 'B':
            _check_finite(spec.only('A').flatten(shared or {}), 'the shared A')
            write_bytes(folder / SHARED, save(_plain(shared)))
        elif shared:
            raise ValueError(f"factors='AB' has no shared A, got {sorted(shared)[:3]}")
        banks = cls(folder, spec, factors, shared or {}, metric, rule, about)
        banks._write_index()
        return banks

    @classmethod
    def open(cls, folder: str | os.PathLike) -> 'LoRABanks':
        """Open banks.

        Raises:
            FileNotFoundError: There is no index, or a file that it names is missing.
            ValueError: A file is damaged.
        """
        folder = Path(folder).expanduser()
        if not (folder / INDEX).is_file():
            there = f'holds {sorted(p.name for p in folder.iterdir())[:8]}' if folder.is_dir() else 'does not exist'
            raise FileNotFoundError(f'{str(folder)!r} holds no banks: it has no {INDEX} ({there})')
        index = read_object(folder / INDEX, _DAMAGED)
        missing = sorted({'spec', 'factors', 'metric', 'rule', 'tasks', 'about'} - set(index))
        known = not missing and index['factors'] in FACTORS and index['rule'] in tuple(RULES)
        if index.get('format') != FORMAT or not known:
            raise ValueError(f'{folder / INDEX} is none of {FORMAT!r}: format={index.get("format")!r}, it lacks '
                             f'{missing}: {_DAMAGED}')
        for name, kind in (('tasks', list), ('about', dict), ('spec', dict)):
            if not isinstance(index[name], kind):
                raise ValueError(f'{folder / INDEX} has {name} that are no {kind.__name__}: {_DAMAGED}')
        try:
            spec = LoRASpec.from_document(index['spec'])
        except ValueError as error:
            raise ValueError(f'{folder / INDEX}: {error}') from error
        shared = read_checkpoint(folder / SHARED) if index['factors'] == 'B' else {}
        if shared:
            spec.only('A').flatten(shared)
        for name in index['tasks']:
            _check_name(name, f'{folder / INDEX}: ')
        tasks = [_read_task(folder / name) for name in index['tasks']]
        return cls(folder, spec, index['factors'], shared, index['metric'], index['rule'], index['about'], tasks)

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.tasks)

    def task(self, name: str) -> BankTask:
        """Return a task by its name.

        Raises:
            ValueError: There is none of that name.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise ValueError(f'{self.folder} has no task {name!r}, only {names[:5]} of {len(names)}')

    def add(
        self,
        task: str,
        tensors: Mapping[str, Tensor],
        step: int,
        metric: float,
        head: Head | None = None,
        max_keep: int | None = None,
        classes: Sequence[str] = (),
        **about: Any,
    ) -> BankTask:
        """Add a checkpoint to the bank of a task, which is made with the first one.

        Args:
            task: Its name, that of a folder.
            tensors: By the keys of :attr:`spec`, or of :attr:`full_spec`: A must be the shared one then.
            step: Steps until then. A checkpoint of the same step is replaced.
            metric: Of the validation.
            head: The head of then.
            max_keep: The worst ones beyond so many are deleted.
            classes: Names of the classes of a new task.
            **about: What else the manifest of a new task says, as plain data.

        Raises:
            ValueError: The tensors are of another spec, not finite, all zero or over another A, or the name, step or
                metric cannot be used; nothing is written then.
        """
        _check_name(task)
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f'step must be a whole number of at least 0, got {step!r}')
        if not math.isfinite(metric):
            raise ValueError(f'{self.metric} of task {task!r} at step {step} is {metric}, which ranks nothing')
        if max_keep is not None and max_keep < 1:
            raise ValueError(f'max_keep must be at least 1, got {max_keep}')
        own = self._own(tensors, f'task {task!r}, step {step}')
        old = next((one for one in self.tasks if one.name == task), None)
        folder = self.folder / task
        checkpoint = BankCheckpoint(f'{step}.safetensors', step, float(metric), f'{step}.head.safetensors'
                                    if head is not None else None)
        write_bytes(folder / checkpoint.file, save(_plain(own), metadata={'format': 'pt'}))
        if head is not None:
            write_bytes(folder / checkpoint.head, save(_plain(head._asdict())))
        kept = [one for one in (old.checkpoints if old else ()) if one.step != step]
        # Among equals the later one, which has learned for longer.
        ranked = sorted([*kept, checkpoint], key=lambda one: (RULES[self.rule] * one.metric, -one.step))
        new = BankTask(task, old.classes if old else tuple(classes), tuple(ranked[:max_keep]),
                       old.about if old else about)
        self._write_manifest(new)
        if old is None:
            self.tasks.append(new)
            self._write_index()
        else:
            self.tasks[self.tasks.index(old)] = new
        for one in ranked[len(new.checkpoints):]:
            for name in (one.file, one.head):
                if name:
                    (folder / name).unlink(missing_ok=True)
        return new

    def remove(self, task: str) -> None:
        """Take a task away, with its files.

        Raises:
            ValueError: There is none of that name.
        """
        self.tasks.remove(self.task(task))
        self._write_index()
        shutil.rmtree(self.folder / task)

    def vectors(self, task: BankTask | str, limit: int | None = None) -> Tensor:
        """Return the LoRAs of a task as vectors, the best first, float32 ``(n, L)``.

        Args:
            task: Or its name.
            limit: At most so many.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file holds another LoRA, or values that are not finite; it is named.
        """
        task = self.task(task) if isinstance(task, str) else task
        return torch.stack([self._vector(self.folder / task.name / one.file) for one in task.checkpoints[:limit]])

    def weights(self, vector: Tensor) -> LoRAWeights:
        """Return a vector ``(L,)`` as a LoRA, with the shared A.

        Raises:
            ValueError: It has another length.
        """
        return self.full_spec.weights({**self.shared, **self.spec.split(vector)})

    def head(self, task: BankTask | str, rank: int = 0) -> Head | None:
        """Return the head that was stored beside a checkpoint, None where there is none.

        Args:
            task: Or its name.
            rank: Place of the checkpoint; 0 is the best.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: It holds something else.
        """
        task = self.task(task) if isinstance(task, str) else task
        name = task.checkpoints[rank].head
        if name is None:
            return None
        found = read_checkpoint(self.folder / task.name / name)
        if set(found) != set(Head._fields):
            raise ValueError(f'{self.folder / task.name / name} holds {sorted(found)}, where weight and bias belong')
        return Head(**found)

    def check_shared(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Check that the A of a LoRA, as far as it is given, is the shared one, where there is one.

        Raises:
            ValueError: It is not; the first tensor that differs is named.
        """
        for key, own in self.shared.items():
            if key in tensors and not torch.equal(tensors[key].detach().cpu().float(), own.float()):
                raise ValueError(f'{where}: {key} is not the A that the LoRAs of {self.folder} share, in {SHARED}: '
                                 'train with the same seed of the A, or make banks with factors="AB"')

    def _own(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return the tensors that a file holds, checked."""
        self.check_shared(tensors, where)
        given = {key: value for key, value in tensors.items() if key not in self.shared}
        try:
            vector = self.spec.flatten(given)
        except ValueError as error:
            raise ValueError(f'{where} is no LoRA of {self.folder}: {error}') from error
        _check_finite(vector, where)
        if not any(given[entry.key].any() for entry in self.spec.entries if entry.factor == 'B'):
            raise ValueError(f'{where}: every B is zero, the LoRA has not learned anything')
        return given

    def _vector(self, path: Path) -> Tensor:
        tensors = read_checkpoint(path)
        try:
            vector = self.spec.flatten(tensors).float()
        except ValueError as error:
            raise ValueError(f'{path} does not fit the spec of the banks: {error}') from error
        _check_finite(vector, str(path))
        return vector

    def _write_manifest(self, task: BankTask) -> None:
        content = dict(format=FORMAT, name=task.name, classes=list(task.classes), metric=self.metric, about=task.about,
                       checkpoints=[asdict(one) for one in task.checkpoints])
        write_text(self.folder / task.name / MANIFEST, json.dumps(content, indent=1, allow_nan=False) + '\n')

    def _write_index(self) -> None:
        content = dict(format=FORMAT, factors=self.factors, metric=self.metric, rule=self.rule, about=self.about,
                       base_sha256=self.full_spec.base_sha256, tasks=[task.name for task in self.tasks],
                       spec=self.full_spec.to_document())
        write_text(self.folder / INDEX, json.dumps(content, indent=1, allow_nan=False) + '\n')


def _check_name(task: str, where: str = '') -> None:
    if not isinstance(task, str) or not _NAME.fullmatch(task):
        raise ValueError(f'{where}a task is named by letters, digits and ".+-_", got {str(task)[:100]!r}')


def _read_task(folder: Path) -> BankTask:
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f'{folder} has no {MANIFEST}: {_DAMAGED}')
    content = read_object(folder / MANIFEST, _DAMAGED)
    try:
        checkpoints = tuple(BankCheckpoint(**one) for one in content['checkpoints'])
        task = BankTask(folder.name, tuple(content['classes']), checkpoints, content['about'])
    except (KeyError, TypeError) as error:
        raise ValueError(f'{folder / MANIFEST} is incomplete or has unknown fields ({error}): {_DAMAGED}') from error
    for one in checkpoints:
        if isinstance(one.step, bool) or not isinstance(one.step, int) or not _is_number(one.metric):
            raise ValueError(f'{folder / MANIFEST} has the step {one.step!r} with the metric {one.metric!r}, which '
                             f'must be numbers: {_DAMAGED}')
    if not isinstance(content['about'], dict):
        raise ValueError(f'{folder / MANIFEST} has about={str(content["about"])[:100]!r}, which is no object: '
                         f'{_DAMAGED}')
    if not checkpoints:
        raise ValueError(f'{folder / MANIFEST} names no checkpoint: {_DAMAGED}')
    for name in (name for one in checkpoints for name in (one.file, *([] if one.head is None else [one.head]))):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f'{folder / MANIFEST} names {name!r}, which is no file beside it')
    return task


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().float().cpu().clone().contiguous() for key, value in tensors.items()}


def _check_finite(vector: Tensor, where: str) -> None:
    if not vector.isfinite().all():
        raise ValueError(f'{where}: {int((~vector.isfinite()).sum())} of {vector.numel()} values are not finite, as of '
                         'a training that diverged')
