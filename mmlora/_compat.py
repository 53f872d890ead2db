"""Cures for today's OpenMMLab stack, applied once by ``import mmlora``, before mmpretrain's models are imported.

Each cure is a function that first probes whether the environment needs it, does nothing where it does not, may be
called any number of times, and returns whether it changed something. Delete a cure when the lowest supported version
of its package is the one named as making it unnecessary.

=== ==================================================== ======== ====================================================
row what breaks                                          touches  where it is cured
                                                         us?
=== ==================================================== ======== ====================================================
1   torchvision's CUDA wheel does not import on CPU      yes      :func:`torchvision_schemas`
    torch
2   mmengine cannot read its own checkpoints (0.10), or  yes      ``mmlora/io/checkpoint.py``
    reads them in full trust (0.11)
3   ``pkg_resources`` is gone from setuptools            yes      :func:`package_utils`
4   ``import mmpretrain.models`` dies when pycocotools   yes      :func:`without_multimodal`
    and a recent transformers are installed
5   mmpretrain's CLIP is a placeholder                   no       mmlora has its own and imports nothing multimodal
6   Adafactor is registered twice                        no       mmengine>=0.10.6 in ``setup.py``
7   automatic mixed precision is refused on CPU          yes      ``mmlora/engine/optim_wrappers.py``
8   ``cfg.compile`` fails with ``paramwise_cfg``         yes      ``mmlora/engine/hooks/compile_hook.py``
9   several processes on CPU (gloo) are refused          yes      ``mmlora/apis/distributed.py``
10  an import in a ``_base_`` config                     no       no text config here holds an import
11  mmpretrain's wheel lacks its lazy configs            no       configs here are self-contained
12  a dict over None in a child config                   no       every config here is parsed by a test
13  ``persistent_workers`` without workers               yes      ``mmlora/apis/prepare.py``
14  ``train()`` and ``eval()`` of backbones return None  yes      ``VitSR_LoRA`` and ``SwinSR_LoRA`` return self
15  second-order gradients through fused attention       yes      ``mmlora/adapters/attention_math.py``
16  fused attention is missing in counts of operations   yes      ``mmlora/apis/flops.py``
17  ``np.in1d`` is gone, which retrieval metrics call    no       no retrieval metric is used here
18  mmpretrain's tool scripts                            no       tools here stand on their own
19  a warning about deformable attention on every run    yes      :func:`deformable_attention_warning`
20  hubs need a network                                  no       the tests run with every outside connection refused
21  ``import mmengine.model`` imports transformers and   yes      :func:`adafactor_later`
    peft where they are installed, for one optimizer
--  ``mmlora::...`` configs are not found by mmengine    yes      :func:`package_name`
=== ==================================================== ======== ====================================================
"""

import functools
import gc
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_FIRST_TRANSFORMERS_TOO_NEW = (4, 49)
_DEFORMABLE = 'Fail to import ``MultiScaleDeformableAttention``'


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Collect no garbage inside, where modules are imported.

    What an import makes stays. To look through all of it again and again takes a sixth of the time of
    ``import mmlora``.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def apply() -> list[str]:
    """Apply every cure that this environment needs.

    Returns:
        The names of the cures that changed something; also logged at level DEBUG under ``mmlora``.
    """
    done = [cure.__name__ for cure in CURES if cure()]
    logging.getLogger('mmlora').debug('cures applied: %s', ', '.join(done) or 'none')
    return done


def torchvision_schemas() -> bool:
    """Row 1: declare the two operators that ``import torchvision`` decorates.

    PyPI's torchvision is built for CUDA; on CPU torch its library does not load, and the import then fails with
    ``operator torchvision::nms does not exist``. Where the library loads nothing may be declared: a second declaration
    would abort the process. The transforms, boxes and models of torchvision then work, its compiled operators do not.

    Unnecessary once PyPI's torchvision imports beside CPU torch (0.29.2 does not).
    """
    import torch

    if 'torchvision' in sys.modules or torch.version.cuda or torch.version.hip:
        return False
    if hasattr(torch.ops.torchvision, 'nms'):
        return False
    spec = importlib.util.find_spec('torchvision')
    if spec is None or spec.origin is None:
        return False
    folder = Path(spec.origin).parent
    for library in sorted([*folder.glob('_C*.so'), *folder.glob('_C*.pyd')]):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return False
    _declared_operators()
    return True


@functools.cache
def _declared_operators() -> object:
    """Declare the operators; the cache keeps the library alive, and with it the declarations."""
    import torch

    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    return library


def package_utils() -> bool:
    """Row 3: look up installed packages without ``pkg_resources``, which setuptools 82 dropped.

    Configs that inherit from ``mmpretrain::...`` need it. The functions are replaced wherever mmengine holds them.

    Unnecessary from mmengine 0.11.0rc3.
    """
    from mmengine.utils import package_utils as stock

    if importlib.util.find_spec('pkg_resources') is not None:
        return False
    changed = False
    for new in (is_installed, get_installed_path, package2module):
        old = getattr(stock, new.__name__)
        if not isinstance(old, FunctionType) or 'pkg_resources' not in old.__code__.co_names:
            continue
        for name, module in list(sys.modules.items()):
            if name.split('.')[0] == 'mmengine' and getattr(module, new.__name__, None) is old:
                setattr(module, new.__name__, new)
                changed = True
    return changed


def is_installed(package: str) -> bool:
    """Whether a distribution or an importable module has this name; as ``mmengine.utils.is_installed``."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(package)
        return spec is not None and spec.origin is not None
    return True


def get_installed_path(package: str) -> str:
    """The folder of a package's code; as ``mmengine.utils.get_installed_path``.

    Args:
        package: The name of a distribution (``mmcv-lite``) or of a module (``mmcv``).

    Raises:
        PackageNotFoundError: Neither exists.
        RuntimeError: The module is a namespace package, which has no folder of its own.
    """
    spec = importlib.util.find_spec(package2module(package))
    if spec is None:
        raise metadata.PackageNotFoundError(package)
    if spec.origin is None:
        raise RuntimeError(f'{package} is a namespace package, which has no single folder')
    return os.path.dirname(spec.origin)


def package2module(package: str) -> str:
    """The module that a distribution brings; as ``mmengine.utils.package2module``.

    Args:
        package: The name of a distribution or of a module.

    Raises:
        PackageNotFoundError: There is no such distribution.
        ValueError: The distribution does not say what it brings.
    """
    if '.' not in package and importlib.util.find_spec(package) is not None:
        return package
    distribution = metadata.distribution(package)
    names = (distribution.read_text('top_level.txt') or '').split()
    if not names:  # Today's build programs do not write that file.
        names = sorted(file.parts[0] for file in distribution.files or ()
                       if len(file.parts) == 2 and file.name == '__init__.py')
    if not names:
        raise ValueError(f'can not infer the module name of {package}')
    return names[0]


def without_multimodal() -> bool:
    """Row 4: keep mmpretrain from importing its multimodal models beside a transformers that they do not know.

    They stay placeholders, as without pycocotools. The switch is read when ``mmpretrain.models`` is imported.

    No version of mmpretrain makes it unnecessary yet (1.2.0 is the last); it rests below transformers 4.49.
    """
    from mmpretrain.utils import dependency

    if not dependency.WITH_MULTIMODAL or 'mmpretrain.models' in sys.modules:
        return False
    release = tuple(int(part) for part in metadata.version('transformers').split('.')[:2])
    if release < _FIRST_TRANSFORMERS_TOO_NEW:
        return False
    dependency.WITH_MULTIMODAL = False
    return True


def adafactor_later() -> bool:
    """Row 21: let mmengine register the Adafactor of transformers without importing transformers.

    The import, which brings peft and accelerate along, takes as long as all else of mmengine and mmpretrain together.
    It is put off until an Adafactor is built: while mmengine registers its optimizers a stand-in answers.

    No version of mmengine makes it unnecessary yet (0.11.0rc4 is the last).
    """
    registers = 'mmengine.optim.optimizer.builder'
    if registers in sys.modules or 'transformers' in sys.modules:
        return False
    spec = importlib.util.find_spec('transformers')
    if spec is None:
        return False
    sys.modules['transformers'] = stand_in = _Transformers('transformers')
    stand_in.__spec__ = spec
    try:
        importlib.import_module(registers)
    finally:
        if sys.modules['transformers'] is stand_in:
            del sys.modules['transformers']
    return True


class _Transformers(ModuleType):
    """Stands in for transformers: it has its Adafactor, and makes way for the genuine one if asked for more."""

    @staticmethod
    def Adafactor(params: Any, **kwargs: Any) -> Any:  # noqa: N802
        """Build transformers' Adafactor; mmengine takes a function for a class."""
        from transformers import Adafactor

        return Adafactor(params, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):  # Python itself asks a module for its file and its path.
            raise AttributeError(name)
        if sys.modules.get('transformers') is self:
            del sys.modules['transformers']
        return getattr(importlib.import_module('transformers'), name)


def deformable_attention_warning() -> bool:
    """Row 19: silence one warning of ``mmcv-lite``, about an operator that no model here uses.

    Unnecessary with a full mmcv. No version of mmcv-lite makes it unnecessary yet (2.2.0 is the last).
    """
    if importlib.util.find_spec('mmcv') is None or importlib.util.find_spec('mmcv._ext') is not None:
        return False
    if any(action == 'ignore' and text is not None and text.pattern == _DEFORMABLE
           for action, text, *_ in warnings.filters):
        return False
    warnings.filterwarnings('ignore', message=_DEFORMABLE, category=UserWarning)
    return True


def package_name() -> bool:
    """Tell mmengine which distribution brings ``mmlora``, for ``mmlora::...`` configs and ``mmengine.hub``.

    Unnecessary if mmengine's own table comes to list it.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    known = 'mmlora' in MODULE2PACKAGE
    MODULE2PACKAGE.setdefault('mmlora', 'mmlora')
    return not known


CURES = (torchvision_schemas, package_utils, adafactor_later, without_multimodal, deformable_attention_warning,
         package_name)
