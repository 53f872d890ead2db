"""What must be installed beside mmlora, checked before anything of it is imported.

pip cannot check mmcv: ``mmcv`` and ``mmcv-lite`` are two distributions of one package, either will do, and a
requirement can name only one. Without the check a user meets a bare ``No module named 'mmcv'`` from inside mmpretrain.
"""

import re
from importlib import metadata
from importlib.util import find_spec


def install_extra(extra: str) -> str:
    """Return how an extra of mmlora is installed, from an index of packages or from a clone."""
    return f'pip install "mmlora[{extra}]" (in a clone: pip install -e ".[{extra}]")'


# package: (distributions that bring it, lowest version, first version too new, what to install)
NEEDED = {
    'mmcv': (('mmcv', 'mmcv-lite'), '2.0.0', '2.4.0', install_extra('lite')),
    'mmengine': (('mmengine', 'mmengine-lite'), '0.10.6', '1.0.0', 'pip install "mmengine>=0.10.6,<1.0.0"'),
    'mmpretrain': (('mmpretrain',), '1.2.0', '1.3.0', 'pip install "mmpretrain>=1.2.0,<1.3.0"'),
}


def release(version: str) -> tuple[int, ...]:
    """The numbers at the front of a version: ``'0.11.0rc3'`` gives ``(0, 11, 0)``."""
    return tuple(int(part) for part in re.findall(r'\d+', re.match(r'[\d.]*', version).group()))


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def check() -> None:
    """Compare the OpenMMLab packages of this environment with what mmlora is made for.

    Raises:
        ImportError: One is missing, or its version is outside the range. The text says what to install.
    """
    for package, (distributions, lowest, too_new, cure) in NEEDED.items():
        if not _is_installed(package):
            other = ' (with the extra "lite" it brings mmcv-lite; a full mmcv serves too)' if package == 'mmcv' else ''
            raise ImportError(f'mmlora needs {package}, which is not installed: {cure}{other}', name=package)
        version = _version(distributions)
        if version is None:  # a source tree on the path has no metadata
            continue
        if not release(lowest) <= release(version) < release(too_new):
            raise ImportError(f'mmlora needs {package}>={lowest},<{too_new}, and {version} is installed: {cure}',
                              name=package)
