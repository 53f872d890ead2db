"""mmlora: low-rank adaptation of vision foundation models for OpenMMLab."""

from . import _requirements

_requirements.check()

from . import _compat  # noqa: E402

_compat.apply()

from .io.checkpoint import register_loaders  # noqa: E402

register_loaders()

from . import datasets, engine, evaluation, models  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']
