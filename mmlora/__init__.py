"""mmlora: low-rank adaptation of vision foundation models for OpenMMLab."""

from . import _requirements

_requirements.check()

from . import _compat  # noqa: E402

with _compat.collector_at_rest():
    _compat.apply()

    from .io.checkpoint import register_loaders

    register_loaders()

    from . import datasets, engine, evaluation, models
from .version import __version__  # noqa: E402

__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']
