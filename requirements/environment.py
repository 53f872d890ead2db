"""Make ``.venv`` hold mmlora with the given extras, and do nothing where it already does.

Usage: ``python3 requirements/environment.py tests``, or ``lite,quickstart``, or ``lint``. The Makefile calls it.

A stamp in the environment says what was installed. It is removed before pip starts and written after pip is done; a
run that was killed in between leaves a mark, and the next run then builds the environment anew. Only the standard
library is used, and no recent syntax, so that an old Python gets as far as the message that tells it so.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / 'requirements' / 'constraints.txt'
INPUTS = (
    'setup.py', 'pyproject.toml', 'mmlora/version.py', 'requirements/constraints.txt', 'requirements/environment.py',
)
LOWEST = (3, 10)
TORCH = 'torch==2.13.0'
UNFINISHED = '.mmlora-unfinished'
# What must be importable; a stamp beside a package that has gone since is not believed.
PACKAGE = ('mmlora', 'torch', 'torchvision', 'mmengine', 'mmpretrain', 'numpy', 'scipy', 'safetensors')
EXTRAS = {
    'lint': ('ruff',),
    'lite': ('mmcv',),
    'quickstart': ('sklearn',),
    'tests': (
        'pytest', 'xdist', 'pytest_timeout', 'hypothesis', 'sklearn', 'mmcv', 'transformers', 'peft', 'timm',
        'open_clip', 'ftfy',
    ),
}


def say(text):
    """Tell the user what takes time."""
    print('mmlora: ' + text, flush=True)


def venv_python(venv):
    """The interpreter of an environment."""
    return venv / 'Scripts' / 'python.exe' if os.name == 'nt' else venv / 'bin' / 'python'


def stamp_path(venv, extras):
    """The file that says that these extras are installed."""
    return venv / ('.mmlora-' + '-'.join(extras))


def fingerprint(extras):
    """Hash of everything that decides what an install gives."""
    digest = hashlib.sha256(','.join(extras).encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def ask(python, code):
    """What ``python -c code`` prints, or None where that fails."""
    try:
        done = subprocess.run([str(python), '-c', code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    return None if done.returncode else done.stdout.decode().strip()


def is_current(venv, extras):
    """Whether the stamp fits today's files and everything that it promises can still be found."""
    stamp = stamp_path(venv, extras)
    if not stamp.is_file() or stamp.read_text() != fingerprint(extras):
        return False
    names = [name for extra in extras for name in EXTRAS.get(extra, ())]
    if extras != ['lint']:
        names += PACKAGE
    found = f'from importlib.util import find_spec; assert all(find_spec(name) for name in {names!r})'
    return ask(venv_python(venv), found) is not None


def why_rebuild(venv, exact):
    """The reason why an existing environment cannot be built upon, or an empty string."""
    if (venv / UNFINISHED).exists():
        return 'its last install was interrupted'
    version = ask(venv_python(venv), 'import sys; print(*sys.version_info[:2])')
    if version is None:
        return 'its Python does not start'
    version = tuple(map(int, version.split()))
    if version < LOWEST:
        return 'it holds Python {}.{}'.format(*version)
    if exact and version != sys.version_info[:2]:
        return 'it holds Python {}.{}, and {}.{} was asked for'.format(*version, *sys.version_info[:2])
    if ask(venv_python(venv), 'import pip') is None:
        return 'it has no working pip'
    return ''


def create(venv):
    """Make a virtual environment with pip, also where the system's Python comes without ``ensurepip``."""
    venv.mkdir(parents=True)
    (venv / UNFINISHED).touch()
    if subprocess.run([sys.executable, '-m', 'venv', str(venv)]).returncode == 0:
        return
    say(f'python -m venv could not bring pip along; using the pip of {sys.executable}')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', '--clear', str(venv)], check=True)
    (venv / UNFINISHED).touch()
    site = ask(venv_python(venv), 'import sysconfig; print(sysconfig.get_path("purelib"))')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--target', site, 'pip'], check=True)


def remove(venv):
    """Delete an environment; refuses a folder that is none."""
    if any(venv.iterdir()) and not (venv / 'pyvenv.cfg').exists() and not (venv / UNFINISHED).exists():
        raise SystemExit(f'mmlora: {venv} is not a virtual environment. Move it away, then run the same command again.')
    shutil.rmtree(str(venv))


def install(venv, extras):
    """Let pip install the extras under the pinned versions; torch is pinned in the same command."""
    what = ['ruff'] if extras == ['lint'] else [TORCH, '-e', f'{ROOT}[{",".join(extras)}]']
    say('installing ' + ' '.join(what))
    pip = [str(venv_python(venv)), '-m', 'pip', 'install', '-qq', '--disable-pip-version-check']
    return subprocess.run([*pip, '-c', str(CONSTRAINTS), *what], cwd=str(ROOT)).returncode


@contextlib.contextmanager
def alone(venv):
    """Keep a second run waiting until the first is done; it would take the half-made environment for a broken one."""
    with open(f'{venv}.lock', 'w') as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say(f'another run is at work on {venv}; waiting for it')
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure(venv, extras, exact=False):
    """Bring an environment to the wanted state with as little work as is safe."""
    if venv.exists():
        reason = why_rebuild(venv, exact)
        if not reason and is_current(venv, extras):
            return
        if reason:
            say(f'building {venv} anew: {reason}')
            remove(venv)
    if not venv.exists():
        create(venv)
    unfinished, stamp = venv / UNFINISHED, stamp_path(venv, extras)
    unfinished.touch()
    if stamp.exists():
        stamp.unlink()
    code = install(venv, extras)
    unfinished.unlink()  # also after an error of pip: it resolves before it installs, and a rerun can build upon that
    if code:
        raise SystemExit(f'mmlora: pip ended with status {code}; its message is above. When the cause is gone, run the '
                         'same command again.')
    stamp.write_text(fingerprint(extras))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('extras', help='extras of setup.py, separated by commas')
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='folder of the environment')
    parser.add_argument('--exact', action='store_true', help='build the environment anew if it holds another Python')
    args = parser.parse_args()
    if sys.version_info[:2] < LOWEST:
        raise SystemExit('mmlora: Python {}.{} or later is needed, and {} is {}.{}. Name another interpreter, for '
                         'example PYTHON=python3.12.'.format(*LOWEST, sys.executable, *sys.version_info[:2]))
    venv = args.venv.absolute()
    with alone(venv):
        ensure(venv, sorted(set(args.extras.split(','))), args.exact)


if __name__ == '__main__':
    main()
