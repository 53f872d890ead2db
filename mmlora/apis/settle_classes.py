"""Settle how many classes a model is built for, where learned tensors have a row for each of them.

mmengine builds the model and its optimizer before it reads any data, so the number is put into the config first. Models
that need it have a ``rows_per_class``, which tells the name of such a tensor.
"""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from ..io.checkpoint import load_checkpoint
from ..io.weights import unwrap
from .class_names import class_names
from .labels import declared_classes, explain_missing_data, plain_datasets
from .settle import adapted_backbones


def settle_classes(cfg: Config, checkpoint: str | None = None) -> int | None:
    """Write ``num_classes`` into the config of a model that needs it and has none, in place.

    Args:
        cfg: A whole config, whose variables are settled.
        checkpoint: The checkpoint that is to be tested, whose tensors tell the number. Without it, training data do.

    Returns:
        The number; None where the model needs none or has it already.

    Raises:
        ValueError: The training data do not say how many classes they have.
        FileNotFoundError: They do not exist.
    """
    settled = None
    for node, kind in adapted_backbones(cfg.get('model') or {}, 'rows_per_class'):
        name = kind.rows_per_class(node)
        if name is None or node.get('num_classes') is not None:
            continue
        if checkpoint:
            settled = count_rows(checkpoint, name)
        else:
            settled = len(node.get('classes') or ()) or _classes_of_data(cfg)
        if settled:
            node['num_classes'] = settled
    return settled


def count_rows(checkpoint: str, name: str) -> int | None:
    """Return the number of rows of a tensor of a checkpoint; None where it is not there or empty."""
    state = unwrap(load_checkpoint(checkpoint), checkpoint)
    found = next((value for key, value in state.items() if key.removeprefix('module.') == name), None)
    return None if found is None else len(found) or None


def training_data(cfg: Config) -> Any:
    """Build the data set of training.

    Raises:
        FileNotFoundError: It does not exist.
    """
    config: Mapping[str, Any] = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    with explain_missing_data('train_dataloader'), DefaultScope.overwrite_default_scope(
            cfg.get('default_scope', 'mmpretrain')):
        return DATASETS.build(dict(config))


def _classes_of_data(cfg: Config) -> int:
    numbers = {len(class_names(part)) or declared_classes(part) for part in plain_datasets(training_data(cfg))}
    if len(numbers) != 1 or None in numbers:
        raise ValueError(f'the model needs the number of classes, and the training data have '
                         f'{sorted(map(str, numbers))}: give the model num_classes=...')
    return numbers.pop()
