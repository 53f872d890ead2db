"""What a user installs: the wheel, the source distribution and the editable install."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from mmlora import __version__

TOP = ('mmlora', 'configs', 'tools', 'data_splits', 'requirements', 'tests', 'setup.py', 'pyproject.toml',
       'MANIFEST.in', 'model-index.yml', 'README.md', 'LICENSE', 'CONTRIBUTING.md', 'Makefile',
       'pytest.ini', 'ruff.toml')
BUILD = 'import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))'


def build(tree: Path, kind: str, out: Path) -> Path:
    """Run one hook of the build backend (``build_wheel``, ``build_sdist``, ``build_editable``), without the network."""
    out.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, '-c', BUILD, kind, str(out)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def tree(root, tmp_path_factory) -> Path:
    """A copy of what a build reads: it must not write into the tree under test."""
    target = tmp_path_factory.mktemp('tree')
    for name in TOP:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        elif source.is_file():
            shutil.copy2(source, target / name)
    return target


@pytest.fixture(scope='module')
def wheel(tree, tmp_path_factory) -> zipfile.ZipFile:
    with zipfile.ZipFile(build(tree, 'build_wheel', tmp_path_factory.mktemp('wheel'))) as archive:
        yield archive


def payload(root: Path) -> set[str]:
    """Files that belong under ``.mim``, relative to the top of the repository."""
    folders = [root / name for name in ('configs', 'tools', 'data_splits')]
    files = [path for folder in folders for path in folder.rglob('*') if path.is_file()]
    return {'model-index.yml'} | {path.relative_to(root).as_posix() for path in files
                                  if '__pycache__' not in path.parts and not path.name.startswith('.')}


def test_wheel_holds_what_mim_looks_for(tree, wheel):
    held = {name.removeprefix('mmlora/.mim/') for name in wheel.namelist() if name.startswith('mmlora/.mim/')}
    assert held == payload(tree)
    assert any(name.startswith('configs/') for name in held) and any(name.startswith('tools/') for name in held)
    assert wheel.read('mmlora/.mim/model-index.yml') == (tree / 'model-index.yml').read_bytes()


def test_wheel_holds_every_module_and_asset(tree, wheel):
    held, package = set(wheel.namelist()), tree / 'mmlora'
    expected = [p for p in package.rglob('*') if p.is_file() and (p.suffix == '.py' or 'assets' in p.parts)]
    assert expected
    assert {p.relative_to(tree).as_posix() for p in expected} <= held
    assert 'mmlora/py.typed' in held
    assert not [name for name in held if name.startswith('tests')]


def test_wheel_metadata(wheel):
    name = next(name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    meta = Parser().parsestr(wheel.read(name).decode())
    assert meta['Name'] == 'mmlora' and meta['Version'] == __version__ and meta['Requires-Python'] == '>=3.10'
    extras = {'lite', 'quickstart', 'tests', 'vis', 'clip', 'florence', 'hf', 'bench', 'mim', 'vtab', 'ray', 'lint'}
    assert set(meta.get_all('Provides-Extra')) == extras
    always = {re.match(r'[\w-]+', line).group() for line in meta.get_all('Requires-Dist') if 'extra ==' not in line}
    # mmcv and mmcv-lite own the same files, so neither may come unasked.
    assert always == {'torch', 'torchvision', 'mmengine', 'mmpretrain', 'numpy', 'scipy', 'safetensors'}
    assert 'scikit-learn; extra == "quickstart"' in meta.get_all('Requires-Dist')
    # tensorflow is large: whoever wants it asks for it, and neither `make test` nor another extra does.
    tensorflow = [line for line in meta.get_all('Requires-Dist') if line.startswith('tensorflow')]
    assert len(tensorflow) == 2 and all(line.endswith('extra == "vtab"') for line in tensorflow)
    assert any(name.endswith('licenses/LICENSE') for name in wheel.namelist())


def test_wheel_from_the_source_distribution_is_the_same(tree, wheel, tmp_path):
    with tarfile.open(build(tree, 'build_sdist', tmp_path / 'sdist')) as archive:
        archive.extractall(tmp_path, filter='data')
    (unpacked,) = [p for p in tmp_path.iterdir() if p.name.startswith('mmlora-')]
    assert (unpacked / 'tests' / 'conftest.py').is_file() and not (unpacked / 'mmlora' / '.mim').exists()
    with zipfile.ZipFile(build(unpacked, 'build_wheel', tmp_path / 'again')) as again:
        assert set(again.namelist()) == set(wheel.namelist())


def test_editable_install_links_to_the_sources(tree, tmp_path):
    copy = tmp_path / 'tree'
    shutil.copytree(tree, copy)
    for _ in range(2):  # a second install finds the links of the first
        build(copy, 'build_editable', tmp_path / 'editable')
    for name in ('configs', 'tools', 'data_splits', 'model-index.yml'):
        link = copy / 'mmlora' / '.mim' / name
        assert link.is_symlink() and link.resolve() == (copy / name).resolve()
    build(copy, 'build_wheel', tmp_path / 'wheel')
    assert (copy / 'mmlora' / '.mim' / 'tools').is_symlink()  # a wheel built in the tree leaves the links alone


def test_setup_imports_nothing_that_an_isolated_build_lacks(root):
    tree = ast.parse((root / 'setup.py').read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split('.')[0] for name in names} - set(sys.stdlib_module_names) == {'setuptools'}


def test_model_index_names_existing_files(root):
    index = yaml.safe_load((root / 'model-index.yml').read_text())
    assert [name for name in index['Import'] if not (root / name).is_file()] == []


def test_mmpretrain_builds_the_models_of_the_index(root):
    import mmpretrain
    from mmpretrain.apis.model import ModelHub

    ModelHub.register_model_index(str(root / 'model-index.yml'), config_prefix=str(root))
    assert mmpretrain.list_models('vit-micro_*') == ['vit-micro_glyphs']
    backbone = mmpretrain.get_model('vit-micro_glyphs').backbone
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 398_304


def test_the_pins_agree(root):
    constraints = (root / 'requirements' / 'constraints.txt').read_text().splitlines()
    assert 'torch==2.13.0' in constraints
    for name in ('README.md', 'requirements/environment.py'):
        assert 'torch==2.13.0' in (root / name).read_text()
    (ruff,) = [line for line in constraints if line.startswith('ruff==')]
    assert f"'{ruff}'" in (root / 'setup.py').read_text()
