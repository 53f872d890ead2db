"""Every attack of the table is refused in words, runs nothing and writes nothing."""

import hashlib
from pathlib import Path

import pytest
from attack_table import ATTACKS, table


@pytest.fixture
def marker(tmp_path):
    """What a program in a file would make."""
    path = tmp_path / 'ran'
    yield path
    assert not path.exists()


def hashes(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).rglob('*') if path.is_file()}


@pytest.mark.timeout(60)
@pytest.mark.parametrize('attack', ATTACKS, ids=[f'{attack.kind}: {attack.name}' for attack in ATTACKS])
def test_an_attack_is_refused(attack, tmp_path, marker):
    path = attack.build(tmp_path / 'in', marker)
    before = hashes(tmp_path)
    with pytest.raises(attack.error, match=attack.says) as caught:
        attack.read(path)
    assert type(caught.value) is attack.error
    assert path.name in str(caught.value) and len(str(caught.value)) < 1500
    assert hashes(tmp_path) == before


def test_the_documentation_counts_them(root):
    assert table() in (root / 'docs' / 'reliability.md').read_text(encoding='utf-8')


def test_nothing_is_unpacked_anywhere(root):
    """No file of the package or of its tools unpacks an archive, where a member could be written elsewhere."""
    for path in (*root.glob('mmlora/**/*.py'), *root.glob('tools/*.py')):
        text = path.read_text(encoding='utf-8')
        assert not any(word in text for word in ('extractall', 'unpack_archive', '.extract(', 'import tarfile')), path
