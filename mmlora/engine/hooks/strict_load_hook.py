"""A checkpoint that does not fit the model is an error, where mmengine only writes a line into the log."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ...adapters import adapter_tensor_names
from ...io.clip_folder import ADAPTER
from ...io.convert import CONVERTED
from ...io.kind_folder import KIND
from ...io.lora_checkpoint import LORA
from ...models.backbones.load_guard import DERIVED
from ...models.clip import LoRACLIPClassifier
from ...models.clip.base_weights import complete_adapter
from ...models.pretrained import fit_weights, prefix_backbone
from ...registry import HOOKS, register
from ..adaptation import check_scalings, unwrap_model
from ..clip_check import check_clip_run
from ..kind_loading import complete_kind
from ..lora_loading import complete_lora

SHOWN = 10


@dataclass(frozen=True)
class KeyReport:
    """How the keys of a checkpoint differ from those of a model.

    Attributes:
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model lacks.
        misshapen: Keys of both, each with the checkpoint's shape and the model's.
    """

    missing: list[str]
    unexpected: list[str]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        shapes = [f'{key} {given} for {own}' for key, (given, own) in self.misshapen.items()]
        parts = {
            'missing': self.missing,
            'unexpected': self.unexpected,
            'of another shape (checkpoint for model)': shapes,
        }
        return '; '.join(f'{len(keys)} {name}: {_first(keys)}' for name, keys in parts.items() if keys)

    def split(self, keys: Iterable[str]) -> tuple['KeyReport', 'KeyReport']:
        """Return the report of the given keys and that of all others."""
        keys = set(keys)

        def part(inside: bool) -> KeyReport:
            return KeyReport(
                [k for k in self.missing if (k in keys) == inside],
                [k for k in self.unexpected if (k in keys) == inside],
                {k: v for k, v in self.misshapen.items() if (k in keys) == inside},
            )

        return part(True), part(False)

    def keys(self) -> list[str]:
        """Return all keys of the report."""
        return [*self.missing, *self.unexpected, *self.misshapen]


def compare_keys(model: nn.Module, state_dict: Mapping[str, Tensor]) -> KeyReport:
    """Compare a checkpoint with a model as loading would see it.

    The load hooks of the model run on a copy first, so that what they convert or resize is no difference.

    Args:
        model: The model, unwrapped.
        state_dict: The checkpoint's tensors; a leading ``module.`` of their names is dropped.

    Raises:
        ValueError: A load hook refuses the checkpoint.
    """
    given = {re.sub(r'^module\.', '', key): value for key, value in state_dict.items()}
    for name, module in model.named_modules():
        for hook in module._load_state_dict_pre_hooks.values():
            hook(given, f'{name}.' if name else '', {}, True, [], [], [])
    own = model.state_dict()
    return KeyReport(
        missing=[key for key in own if key not in given and not key.endswith(DERIVED)],
        unexpected=[key for key in given if key not in own],
        misshapen={
            key: (tuple(given[key].shape), tuple(own[key].shape))
            for key in own
            if isinstance(given.get(key), Tensor) and given[key].shape != own[key].shape
        },
    )


@register(HOOKS)
class StrictLoadHook(Hook):
    """Raise where a checkpoint and the model have different keys or shapes, in resume and test.

    Weights of another layout (timm, Hugging Face, CLIP, Google ...), which the loader gives as those of a bare
    backbone, are fitted to the model first; see :func:`mmlora.models.pretrained.fit_weights`.

    Args:
        fine_tune: Whether ``load_from`` may bring pre-trained weights for another task: a classifier head that differs
            and what the model has no place for (warnings say so), and no adapters at all. Resuming is strict in any
            case.
        allow_missing: Exact names that a checkpoint may lack.
        allow_unexpected: Exact names that a checkpoint may have too many.
        head: Beginnings of the names of the classifier head.
        other_prompts: Whether a CLIP may be tested with other classes and templates than it was trained with, on the
            same data set; on another one it may in any case.
    """

    priority = 'VERY_HIGH'  # Before hooks that load parts of the checkpoint on their own, such as EMAHook.

    def __init__(
        self,
        fine_tune: bool = False,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        head: Sequence[str] = ('head.',),
        other_prompts: bool = False,
    ) -> None:
        for name, value in dict(allow_missing=allow_missing, allow_unexpected=allow_unexpected, head=head).items():
            if isinstance(value, str):
                raise TypeError(f'{name} is a list of names, got the text {value!r}: write [{value!r}]')
        self.fine_tune = fine_tune
        self.allow_missing = tuple(allow_missing)
        self.allow_unexpected = tuple(allow_unexpected)
        self.head = tuple(head)
        self.other_prompts = other_prompts

    @torch.no_grad()
    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with the model before it is loaded.

        Raises:
            ValueError: They differ; the keys are listed. Or a run is to be resumed from weights of another layout. Or
                a CLIP was trained with other settings; see :func:`mmlora.engine.clip_check.check_clip_run`.
        """
        model = unwrap_model(runner.model)
        about = (checkpoint.get('meta') or {}).get('mmlora')
        check_clip_run(runner, model, about, self.fine_tune and not runner._resume, self.other_prompts)
        self._fit(runner, model, checkpoint)
        report = compare_keys(model, checkpoint.get('state_dict', checkpoint))
        allowed = [k for k in report.missing if k in self.allow_missing]
        allowed += [k for k in report.unexpected if k in self.allow_unexpected]
        report = report.split(allowed)[1]
        if self.fine_tune and not runner._resume:
            report = self._forgive(runner, model, report)
        if report:
            raise ValueError(
                f'the checkpoint does not fit the model: {report}. Check that config and checkpoint belong together; '
                'names that may differ go into allow_missing or allow_unexpected of StrictLoadHook'
            )
        check_scalings(model, about)

    def _fit(self, runner: Runner, model: nn.Module, checkpoint: dict[str, Any]) -> None:
        if ADAPTER in checkpoint:
            if not isinstance(model, LoRACLIPClassifier):
                raise ValueError(f'{runner._load_from} is the adapter of a CLIP, and the model is a '
                                 f'{type(model).__name__}')
            checkpoint['state_dict'] = complete_adapter(model, checkpoint)
            return
        if LORA in checkpoint:
            checkpoint['state_dict'] = complete_lora(model, checkpoint)
            return
        if KIND in checkpoint:
            checkpoint['state_dict'] = complete_kind(model, checkpoint)
            return
        converted = checkpoint.get(CONVERTED)
        if converted is None:
            state = checkpoint.get('state_dict', checkpoint)
            fitted = prefix_backbone(state, model)
            if fitted is not state:
                checkpoint['state_dict'] = fitted
            return
        if runner._resume:
            raise ValueError(
                f'a run cannot be resumed from weights of {converted.layout.title}, which hold no state of a run: '
                'start from them with load_from'
            )
        where = str(runner._load_from or 'the checkpoint')
        checkpoint['state_dict'] = fit_weights(converted, model, where, self.allow_missing, self.allow_unexpected)

    def _forgive(self, runner: Runner, model: nn.Module, report: KeyReport) -> KeyReport:
        head, report = report.split(key for key in report.keys() if key.startswith(self.head))
        if head:
            runner.logger.warning(f'The classifier head is not taken from the checkpoint, it differs: {head}')
        extra, report = report.split(report.unexpected)
        if extra:
            runner.logger.warning(f'The checkpoint holds more than the model takes: {extra}')
        adapters = set(adapter_tensor_names(model))
        if adapters and adapters <= set(report.missing):
            runner.logger.info(f'The checkpoint holds no adapters; the {len(adapters)} tensors of ours start fresh.')
            report = report.split(adapters)[1]
        return report


def _first(keys: Sequence[str]) -> str:
    return ', '.join(keys[:SHOWN]) + (' ...' if len(keys) > SHOWN else '')
