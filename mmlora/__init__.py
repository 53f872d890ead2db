"""mmlora: low-rank adaptation of vision foundation models for OpenMMLab."""

from importlib import import_module

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

_ADAPTERS = {
    'combine_adapters': 'combine_adapters',
    **dict.fromkeys(('delete_adapter', 'disable_adapter', 'list_adapters', 'load_adapter', 'save_adapter',
                     'set_adapter'), 'adapters'),
}  # fmt: skip
"""The calls for adapters, and the module of each."""


def __getattr__(name):
    # They import all of the package's apis, which a training does not need.
    if name in _ADAPTERS:
        return getattr(import_module(f'.apis.{_ADAPTERS[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
