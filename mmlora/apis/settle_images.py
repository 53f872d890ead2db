"""Settle how many training images a model is built for, where tensors have a row for each of them.

As the number of classes, it is put into the config before the model and its optimizer are built. Models that need it
have a ``rows_per_image``, which tells the name of such a tensor.
"""

from mmengine.config import Config

from .settle import adapted_backbones
from .settle_classes import count_rows, training_data


def settle_images(cfg: Config, checkpoint: str | None = None) -> int | None:
    """Write ``cache_size`` into the config of a model that needs it and has none, in place.

    Args:
        cfg: A whole config, whose variables are settled.
        checkpoint: The checkpoint that is to be tested, whose tensors tell the number. Without it, training data do.

    Returns:
        The number; None where the model needs none or has it already, or the checkpoint has no such tensor.

    Raises:
        FileNotFoundError: The training data do not exist.
    """
    settled = None
    for node, kind in adapted_backbones(cfg.get('model') or {}, 'rows_per_image'):
        if node.get('cache_size') is not None:
            continue
        settled = count_rows(checkpoint, kind.rows_per_image(node)) if checkpoint else len(training_data(cfg))
        if settled:
            node['cache_size'] = settled
    return settled
