"""The house rules that a reader can rely on, checked from the source: who imports whom, and what no file does.

``check_file`` returns the violations of one file as text; it is itself tested on small synthetic files, one a rule.
"""

import ast
from pathlib import Path, PurePosixPath

import pytest

FLOORS = {
    '_compat': 0, '_requirements': 0, 'assets': 0, 'episodes': 0, 'fused': 0, 'plain_json': 0, 'progress': 0,
    'randomness': 0, 'registry': 0, 'terminal': 0, 'version': 0,
    'adapters': 1, 'ranks': 1,
    'io': 2,
    'models': 3, 'datasets': 3, 'evaluation': 3,
    'engine': 4,
    'apis': 5,
    'clip': 6,
}  # yapf: disable
# The rooms near the ground know nothing of OpenMMLab, so that they serve any PyTorch program.
FOREIGN = {
    'adapters': {'mmengine', 'mmpretrain', 'mmcv'},
    'ranks': {'mmengine', 'mmpretrain', 'mmcv'},
    'io': {'mmpretrain', 'mmcv'},
}
MAX_LINES = 400
FORBIDDEN_CALLS = {'print': 'use the MMLogger', 'eval': 'text is data', 'exec': 'text is data'}


def imported_names(node: ast.Import | ast.ImportFrom, path: PurePosixPath) -> list[str]:
    """Absolute dotted names that an import statement in ``path`` (``mmlora/room/file.py``) asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    package = path.parent.parts
    base = package[:len(package) - node.level + 1] if node.level else ()
    module = '.'.join([*base, *([node.module] if node.module else [])])
    return [f'{module}.{alias.name}' for alias in node.names]


def room_of(parts: tuple[str, ...]) -> str:
    return parts[1].removesuffix('.py')


def import_violations(tree: ast.AST, path: PurePosixPath) -> list[str]:
    """Imports that go up or across, and foreign packages that a room may not know. The package's face is exempt."""
    if path == PurePosixPath('mmlora/__init__.py'):
        return []
    room, found = room_of(path.parts), []
    if room not in FLOORS:
        return [f'{path}: room {room!r} has no floor']
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for name in imported_names(node, path):
            top, *rest = name.split('.')
            if top in FOREIGN.get(room, ()):
                found.append(f'{path}:{node.lineno}: {room} may not know {top}')
            if top != 'mmlora':
                continue
            target = rest[0] if rest else ''
            if target not in FLOORS:
                found.append(f'{path}:{node.lineno}: imports {name}, the face of the package or an unknown room')
            elif target != room and FLOORS[target] >= max(FLOORS[room], 1):
                found.append(f'{path}:{node.lineno}: {room} (floor {FLOORS[room]}) imports {target} '
                             f'(floor {FLOORS[target]})')
    return found


def is_true(node: ast.Call, keyword: str) -> bool:
    return any(k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is True for k in node.keywords)


def call_violations(node: ast.Call, where: str) -> list[str]:
    """Calls that no file of the package makes."""
    function = ast.unparse(node.func)
    if function in FORBIDDEN_CALLS:
        return [f'{where}: {function}(...): {FORBIDDEN_CALLS[function]}']
    if function.endswith('.cuda'):
        return [f'{where}: .cuda(): take the device from a tensor or from the caller']
    if function == 'torch.load' and not is_true(node, 'weights_only'):
        return [f'{where}: torch.load without weights_only=True']
    return []


def body_violations(tree: ast.Module, path: PurePosixPath) -> list[str]:
    """Statements and calls that no file of the package holds, and public names without a docstring."""
    found = []
    for node in ast.walk(tree):
        where = f'{path}:{getattr(node, "lineno", 0)}'
        if isinstance(node, ast.Assert):
            found.append(f'{where}: assert: raise an error that says what to do')
        elif isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in ('Exception', 'BaseException')):
            found.append(f'{where}: catches everything')
        elif isinstance(node, ast.Call):
            found += call_violations(node, where)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            if not ast.get_docstring(node):
                found.append(f'{path}:{node.lineno}: {node.name} has no docstring')
    return found


def check_file(path: str, text: str) -> list[str]:
    """Violations of one file of the package, each as ``path:line: what``."""
    tree, place = ast.parse(text), PurePosixPath(path)
    found = import_violations(tree, place) + body_violations(tree, place)
    lines = text.count('\n')
    return found + ([f'{path}: {lines} lines, at most {MAX_LINES}'] if lines > MAX_LINES else [])


def check_config(path: str, text: str) -> list[str]:
    """Imports in a config, which mmengine would take for the other config style."""
    return [f'{path}:{node.lineno}: import in a config' for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.Import, ast.ImportFrom))]


def sources(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob('*.py')) if '.mim' not in p.parts and '__pycache__' not in p.parts]


def test_package_keeps_the_house_rules(root):
    files = sources(root / 'mmlora')
    assert len(files) > 20
    found = [v for f in files for v in check_file(f.relative_to(root).as_posix(), f.read_text(encoding='utf-8'))]
    assert not found, '\n'.join(found)


def test_configs_import_nothing(root):
    found = [v for f in sources(root / 'configs') for v in check_config(f.name, f.read_text(encoding='utf-8'))]
    assert not found, '\n'.join(found)


def test_every_room_has_a_floor(root):
    rooms = {p.name.removesuffix('.py') for p in (root / 'mmlora').iterdir()
             if p.suffix == '.py' or (p / '__init__.py').exists()}
    assert rooms - {'__init__'} <= set(FLOORS)


BAD = {
    'absolute import upward': ('mmlora/adapters/a.py', 'from mmlora.models import x', 'floor 1) imports models'),
    'relative import upward': ('mmlora/io/a.py', 'from ..engine.hooks import x', 'floor 2) imports engine'),
    'relative import of a room': ('mmlora/io/a.py', 'from .. import apis', 'floor 2) imports apis'),
    'from deep inside': ('mmlora/models/backbones/a.py', 'from ...engine import x', 'floor 3) imports engine'),
    'import in a function': ('mmlora/io/a.py', 'def _f():\n    import mmlora.engine', 'floor 2) imports engine'),
    'across': ('mmlora/models/a.py', 'from mmlora.datasets import x', 'floor 3) imports datasets'),
    'across on floor 1': ('mmlora/ranks/a.py', 'from ..adapters import x', 'floor 1) imports adapters'),
    'up from the ground': ('mmlora/_compat.py', 'from .io import x', 'floor 0) imports io'),
    'the face': ('mmlora/apis/a.py', 'import mmlora', 'the face'),
    'unknown room': ('mmlora/attic/a.py', '', 'no floor'),
    'foreign package': ('mmlora/adapters/a.py', 'from mmengine.logging import x', 'may not know mmengine'),
    'print': ('mmlora/io/a.py', 'print(1)', 'print'),
    'eval': ('mmlora/io/a.py', 'eval("1")', 'eval'),
    'assert': ('mmlora/io/a.py', 'assert True', 'assert'),
    'cuda': ('mmlora/io/a.py', 'x.y.cuda()', 'cuda'),
    'unsafe load': ('mmlora/io/a.py', 'torch.load(f, weights_only=False)', 'weights_only'),
    'default load': ('mmlora/io/a.py', 'torch.load(f)', 'weights_only'),
    'bare except': ('mmlora/io/a.py', 'try:\n    pass\nexcept:\n    pass', 'catches everything'),
    'broad except': ('mmlora/io/a.py', 'try:\n    pass\nexcept Exception:\n    pass', 'catches everything'),
    'no docstring': ('mmlora/io/a.py', 'class A:\n    pass', 'A has no docstring'),
    'too long': ('mmlora/io/a.py', 'x = 1\n' * (MAX_LINES + 1), 'at most'),
}


@pytest.mark.parametrize('path, text, message', BAD.values(), ids=BAD)
def test_the_checker_sees(path, text, message):
    found = check_file(path, text)
    assert len(found) == 1 and message in found[0]


@pytest.mark.parametrize('path, text', [
    ('mmlora/models/a.py', 'from ..adapters import x\nfrom mmlora.io.weights import y\nfrom .b import z'),
    ('mmlora/engine/hooks/a.py', 'from ...registry import HOOKS\nfrom ..loops import y\nimport mmpretrain'),
    ('mmlora/registry.py', 'from .version import __version__'),
    ('mmlora/__init__.py', 'from . import apis, _compat'),
    ('mmlora/io/a.py', 'torch.load(f, weights_only=True)\ndef _f():\n    pass'),
])
def test_the_checker_lets_pass(path, text):
    assert check_file(path, text) == []


def test_the_checker_sees_imports_in_configs():
    assert check_config('a.py', 'x = 1') == []
    assert len(check_config('a.py', 'import os')) == len(check_config('a.py', 'from mmlora import x')) == 1
