"""How a run prepares images for testing, as plain data that names nothing but a few known steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from mmpretrain.models import ClsDataPreprocessor

STEPS: Mapping[str, tuple[str, ...]] = {
    'LoadImageFromFile': ('imdecode_backend', 'color_type'),
    'ResizeEdge': ('scale', 'edge', 'backend', 'interpolation'),
    'Resize': ('scale', 'keep_ratio', 'backend', 'interpolation'),
    'CenterCrop': ('crop_size',),
}
"""Transforms that may stand in a record, and their arguments; a record can ask for nothing else."""

LOAD = dict(type='LoadImageFromFile', imdecode_backend='pillow', color_type='color_ignore_orientation')
"""How the published code reads a file."""

IGNORED = ('PackInputs',)


def published_steps(size: int) -> list[dict[str, Any]]:
    """Return CLIP's own steps for images of this size: the short edge by bicubic interpolation, the centre."""
    return [
        dict(LOAD),
        dict(type='ResizeEdge', scale=size, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=size),
    ]


def describe_images(pipeline: Sequence[Mapping[str, Any]] | None, preprocessor: nn.Module) -> dict[str, Any]:
    """Return the steps of a test pipeline and the statistics.

    Args:
        pipeline: Of the test data set.
        preprocessor: Of the model.

    Returns:
        ``steps``, ``mean``, ``std`` and ``to_rgb``. Where a step is none of :data:`STEPS`, ``steps`` is None and
        ``why`` says which. Where the data set gives the images as they are, the one step is :data:`LOAD`.
    """
    about: dict[str, Any] = dict(steps=None, **statistics(preprocessor))
    steps = []
    for step in pipeline or ():
        kind = step.get('type')
        name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
        name = name.rpartition('.')[2]
        arguments = {key: value for key, value in step.items() if key != 'type'}
        if name in IGNORED:
            continue
        if not is_known(dict(arguments, type=name)):
            return dict(about, why=f'{name}({", ".join(f"{key}={value!r}" for key, value in arguments.items())})')
        steps.append(dict(type=name, **{key: _value(value) for key, value in arguments.items()}))
    if not pipeline:
        return dict(about, why='the config has no pipeline for its test data')
    if not steps or steps[0]['type'] != LOAD['type']:
        steps.insert(0, dict(LOAD))  # The data set gives arrays.
    return dict(about, steps=steps)


def is_known(step: Mapping[str, Any]) -> bool:
    """Return whether a step is one of :data:`STEPS` with plain arguments."""
    kind = step.get('type')
    return (
        isinstance(kind, str)
        and kind in STEPS
        and all(key == 'type' or (key in STEPS[kind] and _is_plain(value)) for key, value in step.items())
    )


def statistics(preprocessor: nn.Module) -> dict[str, Any]:
    """Return mean, standard deviation and order of the channels.

    Raises:
        ValueError: The preprocessor is none of mmpretrain's for classification, or does not normalise.
    """
    if not isinstance(preprocessor, ClsDataPreprocessor) or not preprocessor._enable_normalize:
        raise ValueError('the images of an adapter folder are normalised by ClsDataPreprocessor with mean and std, '
                         f'and the model has {preprocessor}')
    mean, std = (getattr(preprocessor, name).flatten().tolist() for name in ('mean', 'std'))
    return dict(mean=mean, std=std, to_rgb=bool(preprocessor.to_rgb))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str)) or (
        isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value)
    )


def _value(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
