"""The cures of ``mmlora/_compat.py``, by row of its table: each fails without the cure and rests where it can.

What changes a process for good (imports, operators) runs in one of its own. There ``cures`` is the module under test,
loaded from its file, so that nothing of mmlora is applied before.
"""

import logging
import os
import subprocess
import sys
import textwrap
import warnings
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

import mmengine
import mmengine.utils.package_utils as package_utils
import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmpretrain.utils import dependency

from mmlora import _compat

LOAD = f'''
import importlib.util, sys, warnings
warnings.simplefilter('ignore')
spec = importlib.util.spec_from_file_location('cures', {_compat.__file__!r})
cures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cures)
'''


def _python(code, *path):
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, path)), 'OMP_NUM_THREADS': '1'}
    return subprocess.run([sys.executable, '-c', LOAD + textwrap.dedent(code)], env=environment, text=True,
                          capture_output=True, check=False)


def _passes(code, *path):
    process = _python(code, *path)
    assert process.returncode == 0, process.stderr


def _dies(error, code, *path):
    process = _python(code, *path)
    assert process.returncode == 1 and error in process.stderr, process.stderr


# --- row 1 -----------------------------------------------------------------------------------------------------------

CPU_TORCH = 'import torch; torch.version.cuda = torch.version.hip = None\n'


@pytest.fixture
def broken_torchvision(tmp_path):
    """A torchvision whose compiled library does not load and whose import needs its operators."""
    folder = tmp_path / 'torchvision'
    folder.mkdir()
    (folder / '_C.so').write_bytes(b'built for something else')
    (folder / '__init__.py').write_text(
        'import torch\n'
        'for name in ("nms", "qnms"):\n'
        '    torch.library.register_fake(f"torchvision::{name}", lambda dets, scores, limit: dets)\n')
    return tmp_path


def test_row01_without_the_cure(broken_torchvision):
    _dies('operator torchvision::nms does not exist', 'import torchvision', broken_torchvision)


def test_row01(broken_torchvision):
    _passes(CPU_TORCH + '''
assert cures.torchvision_schemas() is True
assert cures.torchvision_schemas() is False  # A second declaration would fail.
import torchvision
assert cures.torchvision_schemas() is False
''', broken_torchvision)


def test_row01_rests_with_cuda_torch(broken_torchvision):
    _passes('import torch; torch.version.cuda = "13.2"; assert cures.torchvision_schemas() is False',
            broken_torchvision)


def test_row01_rests_where_the_library_loads(broken_torchvision):
    _passes(CPU_TORCH + '''
seen = []
torch.ops.load_library = seen.append
assert cures.torchvision_schemas() is False
assert [path[-5:] for path in seen] == ['_C.so']
''', broken_torchvision)


def test_row01_rests_without_torchvision():
    _passes(CPU_TORCH + 'cures.importlib.util.find_spec = lambda name: None\n'
            'assert cures.torchvision_schemas() is False')


@pytest.mark.slow
def test_row01_the_installed_torchvision_imports():
    _passes('cures.torchvision_schemas(); import torchvision.transforms.functional')


# --- row 3 -----------------------------------------------------------------------------------------------------------

def _old(package):
    import pkg_resources
    return pkg_resources.get_distribution(package)


@pytest.fixture
def without_pkg_resources(monkeypatch):
    find_spec = _compat.importlib.util.find_spec
    monkeypatch.setattr(_compat.importlib.util, 'find_spec',
                        lambda name, *args: None if name == 'pkg_resources' else find_spec(name, *args))
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)


@pytest.fixture
def old_mmengine(monkeypatch):
    """mmengine as before 0.11, in whatever version is installed: every holder has the old functions."""
    names = ('is_installed', 'get_installed_path', 'package2module')
    for module in [module for name, module in sys.modules.items() if name.split('.')[0] == 'mmengine']:
        for name in names:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, _old)


HOLDERS = {'mmengine': mmengine.utils, 'package_utils': package_utils, 'config': sys.modules['mmengine.config.config']}


def test_row03_without_the_cure(without_pkg_resources, old_mmengine):
    for module in HOLDERS.values():
        with pytest.raises(ModuleNotFoundError, match='pkg_resources'):
            module.get_installed_path('mmpretrain')


def test_row03(without_pkg_resources, old_mmengine):
    assert _compat.package_utils() is True
    for module in HOLDERS.values():
        path = Path(module.get_installed_path('mmpretrain'))
        assert (path / '__init__.py').is_file() and path.name == 'mmpretrain'
    assert _compat.package_utils() is False


def test_row03_a_base_config_of_mmpretrain_is_found(tmp_path):
    """What a user sees of it."""
    (tmp_path / 'child.py').write_text("_base_ = ['mmpretrain::_base_/default_runtime.py']\n")
    assert Config.fromfile(tmp_path / 'child.py').default_scope == 'mmpretrain'


def test_row03_rests_with_pkg_resources(monkeypatch, old_mmengine):
    monkeypatch.setattr(_compat.importlib.util, 'find_spec', lambda name: ModuleSpec(name, None))
    assert _compat.package_utils() is False
    assert package_utils.is_installed is _old


def test_row03_rests_with_a_newer_mmengine(monkeypatch, without_pkg_resources):
    for name in ('is_installed', 'get_installed_path', 'package2module'):
        monkeypatch.setattr(package_utils, name, getattr(_compat, name))
    assert _compat.package_utils() is False


def test_row03_the_new_functions_agree_with_the_old_documentation():
    assert _compat.is_installed('mmengine') and _compat.is_installed('json')
    assert not _compat.is_installed('no_such_package_at_all')
    assert _compat.package2module('mmpretrain') == 'mmpretrain'
    assert _compat.package2module('scikit-learn') == 'sklearn'
    assert Path(_compat.get_installed_path('scikit-learn')).name == 'sklearn'
    with pytest.raises(metadata.PackageNotFoundError):
        _compat.get_installed_path('no_such_package_at_all')


def test_row03_a_namespace_package_and_a_silent_distribution(tmp_path, monkeypatch):
    (tmp_path / 'spread_out').mkdir()
    (tmp_path / 'silent-1.0.dist-info').mkdir()
    (tmp_path / 'silent-1.0.dist-info' / 'METADATA').write_text('Metadata-Version: 2.1\nName: silent\nVersion: 1.0\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert not _compat.is_installed('spread_out') and _compat.is_installed('silent')
    with pytest.raises(RuntimeError, match='namespace package'):
        _compat.get_installed_path('spread_out')
    with pytest.raises(ValueError, match='can not infer the module name of silent'):
        _compat.package2module('silent')


# --- row 4 -----------------------------------------------------------------------------------------------------------

MULTIMODAL = '''
import importlib.metadata
if not hasattr(importlib.metadata, '_genuine'):
    importlib.metadata._genuine = importlib.metadata.version
    importlib.metadata.version = lambda name: '5.23.0' if name == 'transformers' else importlib.metadata._genuine(name)
cures.torchvision_schemas()
from mmpretrain.utils import dependency
dependency.WITH_MULTIMODAL = True
'''


@pytest.fixture
def recent_transformers(tmp_path):
    """A transformers without the names that mmpretrain's multimodal models import."""
    (tmp_path / 'transformers').mkdir()
    (tmp_path / 'transformers' / '__init__.py').write_text('__version__ = "5.23.0"\n')
    return tmp_path


@pytest.mark.slow
def test_row04_without_the_cure(recent_transformers):
    _dies('transformers', MULTIMODAL + 'import mmpretrain.models', recent_transformers)


@pytest.mark.slow
def test_row04(recent_transformers):
    _passes(MULTIMODAL + 'assert cures.without_multimodal() is True; import mmpretrain.models', recent_transformers)


@pytest.mark.parametrize(('wanted', 'version', 'imported', 'changes'), [
    (True, '5.23.0', False, True), (True, '4.49.0.dev0', False, True), (True, '4.48.3', False, False),
    (False, '5.23.0', False, False), (True, '5.23.0', True, False)])
def test_row04_acts_only_where_it_must(monkeypatch, wanted, version, imported, changes):
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', wanted)
    monkeypatch.setattr(_compat.metadata, 'version', lambda name: version)
    if not imported:
        monkeypatch.delitem(sys.modules, 'mmpretrain.models', raising=False)
    assert _compat.without_multimodal() is changes
    assert dependency.WITH_MULTIMODAL is (wanted and not changes)


# --- row 19 ----------------------------------------------------------------------------------------------------------

TEXT = 'Fail to import ``MultiScaleDeformableAttention`` from ``mmcv.ops.multi_scale_deform_attn``, You should ...'


def _warned(*texts):
    with warnings.catch_warnings(record=True) as seen:
        for text in texts:
            warnings.warn(text, stacklevel=1)
    return [str(warning.message) for warning in seen]


@pytest.fixture
def all_warnings():
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter('always')
        yield


@pytest.fixture
def lite(monkeypatch):
    monkeypatch.setattr(_compat.importlib.util, 'find_spec',
                        lambda name: None if name == 'mmcv._ext' else ModuleSpec(name, None))


def test_row19(all_warnings, lite):
    assert _warned(TEXT) == [TEXT]
    assert _compat.deformable_attention_warning() is True
    assert _warned(TEXT, 'Fail to import something else', 'x ' + TEXT) == ['Fail to import something else', 'x ' + TEXT]
    count = len(warnings.filters)
    assert _compat.deformable_attention_warning() is False and len(warnings.filters) == count


def test_row19_rests_with_a_full_mmcv(all_warnings, monkeypatch):
    monkeypatch.setattr(_compat.importlib.util, 'find_spec', lambda name: ModuleSpec(name, None))
    assert _compat.deformable_attention_warning() is False
    assert _warned(TEXT) == [TEXT]


@pytest.mark.slow
def test_row19_importing_mmlora_says_nothing():
    """And it brings nothing along that is slow to import and that few processes need."""
    code = ('import mmlora.apis, sys, gc; assert "mmcv.cnn.bricks.transformer" in sys.modules and gc.isenabled(); '
            'print(*{"matplotlib", "peft", "scipy.linalg", "sklearn", "timm", "transformers"} & set(sys.modules))')
    process = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, check=False,
                             cwd=Path(_compat.__file__).parent.parent)
    assert process.returncode == 0 and 'MultiScaleDeformableAttention' not in process.stderr, process.stderr
    assert process.stdout.split() == []


# --- row 21 ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def odd_transformers(tmp_path):
    """A transformers that says when it is imported, and whose Adafactor only keeps what it is given."""
    folder = tmp_path / 'transformers'
    folder.mkdir()
    (folder / '__init__.py').write_text(
        'print("imported")\nmore = 1\n'
        'class Adafactor:\n    def __init__(self, params, lr):\n        self.given = params, lr\n')
    return tmp_path


def test_row21(odd_transformers):
    process = _python('''
assert cures.adafactor_later() is True and cures.adafactor_later() is False
import mmengine.model
from mmengine.registry import OPTIMIZERS
assert not [name for name in ("transformers", "peft", "accelerate") if name in sys.modules]
print("later")
optimizer = OPTIMIZERS.build(dict(type="Adafactor", params=[1], lr=0.5))
import transformers
assert type(optimizer) is transformers.Adafactor and optimizer.given == ([1], 0.5)
''', odd_transformers)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith('later\n') and process.stdout.split().count('imported') == 1


def test_row21_a_module_that_asks_for_more_gets_it(odd_transformers, monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmengine.optim.optimizer.builder', raising=False)
    monkeypatch.delitem(sys.modules, 'transformers', raising=False)
    monkeypatch.syspath_prepend(odd_transformers)

    def imported(name):
        if name == 'transformers':
            return __import__(name)
        from transformers import Adafactor, more

        assert more == 1 and Adafactor is not sys.modules['transformers'].Adafactor

    monkeypatch.setattr(_compat.importlib, 'import_module', imported)
    assert _compat.adafactor_later() is True
    assert sys.modules['transformers'].__file__.startswith(str(odd_transformers)), 'the genuine one is gone'


def test_row21_rests_without_transformers_or_too_late(monkeypatch):
    assert _compat.adafactor_later() is False, 'mmengine has its optimizers'
    monkeypatch.delitem(sys.modules, 'mmengine.optim.optimizer.builder')
    monkeypatch.delitem(sys.modules, 'transformers', raising=False)
    monkeypatch.setattr(_compat.importlib.util, 'find_spec', lambda name: None)
    assert _compat.adafactor_later() is False and 'transformers' not in sys.modules


# --- the whole -------------------------------------------------------------------------------------------------------

def test_the_package_is_known_by_name(monkeypatch):
    monkeypatch.delitem(MODULE2PACKAGE, 'mmlora', raising=False)
    assert _compat.package_name() is True and MODULE2PACKAGE['mmlora'] == 'mmlora'
    assert _compat.package_name() is False


def test_a_second_call_changes_nothing_and_both_are_logged(caplog):
    _compat.apply()
    with caplog.at_level(logging.DEBUG, logger='mmlora'):
        assert _compat.apply() == []
    assert 'cures applied: none' in caplog.text


def test_the_report_names_what_was_done(monkeypatch, caplog):
    _compat.apply()
    monkeypatch.delitem(MODULE2PACKAGE, 'mmlora', raising=False)
    with caplog.at_level(logging.DEBUG, logger='mmlora'):
        assert _compat.apply() == ['package_name']
    assert 'cures applied: package_name' in caplog.text


def test_every_cure_says_what_makes_it_unnecessary():
    for cure in _compat.CURES:
        assert 'nnecessary' in cure.__doc__, cure.__name__
