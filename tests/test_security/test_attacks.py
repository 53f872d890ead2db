"""Every attack of the table is refused in words, runs nothing and writes nothing."""

import hashlib
import multiprocessing
import sys
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
    if attack.says is None:
        attack.read(path)
        return
    with pytest.raises(attack.error, match=attack.says) as caught:
        attack.read(path)
    assert type(caught.value) is attack.error
    assert path.name in str(caught.value) and len(str(caught.value)) < 1500
    assert hashes(tmp_path) == before


def test_the_documentation_counts_them(root):
    assert table() in (root / 'docs' / 'reliability.md').read_text(encoding='utf-8')


BOMBS = [attack for attack in ATTACKS if attack.name in (
    'a number as 4 TB', 'lists that repeat, 2^45', 'zip of zeros', 'shape larger than the data', 'header of 2^62 bytes',
    '10 million tokens, VPT', '10^15 tokens, VPT', '10^18 numbers', 'rank of 10^9, rlrr', 'lists without an end, JSON',
    '100,000 labels, text', 'bomb of 156 million pixels, cv2', 'bomb of 156 million pixels, pillow',
    'bomb of 156 million pixels, pool')]


def growth(folder):
    """Return by how many bytes the peak of the memory of this process grows when each bomb is read."""
    grown = {}
    for number, bomb in enumerate(BOMBS):
        path = bomb.build(folder / str(number), folder / 'ran')
        Path('/proc/self/clear_refs').write_text('5')  # From here on the peak counts anew.
        before = peak()
        with pytest.raises(bomb.error):
            bomb.read(path)
        grown[bomb.name] = peak() - before
    return grown


def peak():
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM'))


@pytest.mark.skipif(sys.platform != 'linux', reason='peak memory is read from /proc')
def test_bombs_take_no_memory(tmp_path):
    """What stands for gigabytes is refused with a hundred MiB at most; in a copy of this process, which is let go."""
    with multiprocessing.get_context('fork').Pool(1) as pool:
        grown = pool.apply(growth, (tmp_path,))
    assert len(grown) == len(BOMBS) == 14 and max(grown.values()) < 100 * 2**20, grown


def test_nothing_is_unpacked_anywhere(root):
    """No file of the package or of its tools unpacks an archive, where a member could be written elsewhere."""
    for path in (*root.glob('mmlora/**/*.py'), *root.glob('tools/*.py')):
        text = path.read_text(encoding='utf-8')
        assert not any(word in text for word in ('extractall', 'unpack_archive', '.extract(', 'import tarfile')), path
