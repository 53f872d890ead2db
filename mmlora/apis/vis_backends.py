"""Backends of the visualizer that need packages which mmlora does not install by itself."""

from importlib.util import find_spec
from typing import Any

from mmengine.config import Config

from .._requirements import install_extra
from .prepare import stock_name

PACKAGES = {'TensorboardVisBackend': ('tensorboard', 'vis')}
"""Backend -> what it needs, and the extra that brings it."""


def check_vis_backends(cfg: Config) -> None:
    """Check that the packages of the backends in ``visualizer.vis_backends`` are installed.

    mmengine finds out when the first number is written, after data and model have been built.

    Raises:
        ImportError: One is missing; the extra that brings it is named.
    """
    backends: Any = (cfg.get('visualizer') or {}).get('vis_backends') or []
    for backend in backends if isinstance(backends, (list, tuple)) else [backends]:
        package, extra = PACKAGES.get(stock_name(backend), (None, ''))
        if package and find_spec(package) is None:
            raise ImportError(f'{stock_name(backend)} needs {package}, which is not installed: '
                              f'{install_extra(extra)}', name=package)
