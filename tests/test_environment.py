"""The script behind ``make``: an environment is made once, and one that is broken is made whole."""

import importlib.util
import shutil
import subprocess
import sys

import pytest


def load(root):
    spec = importlib.util.spec_from_file_location('environment', root / 'requirements' / 'environment.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def template(root, tmp_path_factory):
    """A virtual environment made for real; the tests copy it, which is faster."""
    path = tmp_path_factory.mktemp('template') / 'venv'
    load(root).create(path)
    return path


@pytest.fixture
def environment(root, template, monkeypatch):
    """The module, with an ``install`` that only counts."""
    module = load(root)
    module.installs, module.code = [], 0
    monkeypatch.setattr(module, 'create', lambda venv: shutil.copytree(template, venv, symlinks=True))

    def install(venv, extras):
        module.installs.append(extras)
        return module.code

    monkeypatch.setattr(module, 'install', install)
    monkeypatch.setattr(module, 'PACKAGE', ())
    monkeypatch.setattr(module, 'EXTRAS', {'lite': ('pip',)})
    return module


def test_an_environment_is_made_once_and_again_when_its_inputs_change(environment, tmp_path, monkeypatch):
    venv = tmp_path / 'venv'
    environment.ensure(venv, ['lite'])
    environment.ensure(venv, ['lite'])
    assert environment.installs == [['lite']]
    environment.ensure(venv, ['lite', 'tests'])
    assert environment.installs == [['lite'], ['lite', 'tests']]
    monkeypatch.setattr(environment, 'INPUTS', ('setup.py',))
    environment.ensure(venv, ['lite'])
    assert len(environment.installs) == 3


def break_interrupted(venv, environment):
    (venv / environment.UNFINISHED).touch()


def break_python(venv, environment):
    python = environment.venv_python(venv)
    python.unlink()
    python.symlink_to(venv / 'gone')


def break_pip(venv, environment):
    (pip,) = venv.glob('lib/python*/site-packages/pip')
    shutil.rmtree(pip)


def break_half_made(venv, environment):
    shutil.rmtree(venv)
    venv.mkdir()


@pytest.mark.parametrize('harm', [break_interrupted, break_python, break_pip, break_half_made])
def test_a_broken_environment_heals(environment, tmp_path, harm):
    venv = tmp_path / 'venv'
    environment.ensure(venv, ['lite'])
    harm(venv, environment)
    (venv / 'old').touch()
    if harm is break_half_made:
        (venv / 'old').unlink()
    environment.ensure(venv, ['lite'])
    assert len(environment.installs) == 2 and not (venv / 'old').exists()
    assert environment.ask(environment.venv_python(venv), 'import pip') is not None
    environment.ensure(venv, ['lite'])
    assert len(environment.installs) == 2


def test_a_package_that_went_away_is_installed_again(environment, tmp_path, monkeypatch):
    venv = tmp_path / 'venv'
    environment.ensure(venv, ['lite'])
    monkeypatch.setattr(environment, 'PACKAGE', ('no_such_package',))
    environment.ensure(venv, ['lite'])
    assert len(environment.installs) == 2


def test_an_error_of_pip_keeps_the_environment(environment, tmp_path):
    venv = tmp_path / 'venv'
    environment.ensure(venv, ['lite'])
    (venv / 'mine').touch()
    environment.code = 1
    with pytest.raises(SystemExit, match='pip ended with status 1'):
        environment.ensure(venv, ['lite', 'tests'])
    environment.code = 0
    environment.ensure(venv, ['lite', 'tests'])
    assert (venv / 'mine').exists() and len(environment.installs) == 3


def test_a_folder_that_is_no_environment_is_never_deleted(environment, tmp_path):
    (tmp_path / 'thesis.txt').touch()
    with pytest.raises(SystemExit, match='not a virtual environment'):
        environment.ensure(tmp_path, ['lite'])
    assert (tmp_path / 'thesis.txt').exists()


def test_another_python_is_taken_only_when_asked_for(environment, tmp_path, monkeypatch):
    venv = tmp_path / 'venv'
    environment.ensure(venv, ['lite'])
    monkeypatch.setattr(environment.sys, 'version_info', (3, 99, 0))
    assert environment.why_rebuild(venv, exact=False) == ''
    assert '3.99 was asked for' in environment.why_rebuild(venv, exact=True)


def test_a_second_run_waits_for_the_first(root, tmp_path):
    script = f"""
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location('environment', {str(root / 'requirements' / 'environment.py')!r})
environment = importlib.util.module_from_spec(spec)
spec.loader.exec_module(environment)
with environment.alone(Path({str(tmp_path / 'venv')!r})):
    print('in', flush=True)
    sys.stdin.read()
    print('out', flush=True)
"""
    start = [sys.executable, '-c', script]
    first = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == 'in\n'
    second = subprocess.Popen(start, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert 'another run is at work' in second.stdout.readline()
    assert second.poll() is None
    assert first.communicate(timeout=60)[0] == 'out\n'
    assert second.communicate(timeout=60)[0] == 'in\nout\n'
