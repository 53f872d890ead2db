"""Lists, JSON and images that point elsewhere or have no end."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from attack_folders import FOLDERS, LONG, pool_folder, read_pool
from attacks import Attack, file_of, put
from safetensors.torch import save

import mmlora  # noqa: F401  (installs the loaders)
from mmlora.apis.generator_support import list_support
from mmlora.apis.records import read_records
from mmlora.datasets import LoadImageFromFile, find_meta_set
from mmlora.datasets.class_folder_files import read_class_names
from mmlora.datasets.coop_files import read_split_file
from mmlora.datasets.fgvc_files import read_fgvc_json
from mmlora.datasets.florence import read_annotations
from mmlora.datasets.index_files import chosen_images, read_index_file
from mmlora.datasets.list_files import ListedImage, read_list
from mmlora.datasets.table_files import read_csv, read_json
from mmlora.io.task_vectors import FORMAT as TASK_FORMAT
from mmlora.io.task_vectors import TaskVectors
from mmlora.ranks import RankTable

DEEP = 10_000

# --- lists -----------------------------------------------------------------------------------------------------------

NAMES = {
    'absolute': ('/etc/passwd', 'absolute path'),
    'above': ('a/../../x.png', r'leaves the image folder by \.\.'),
    'above, behind a line': ('a\n/../../x.png', r'leaves the image folder by \.\.|has no label'),
    'backslashes': ('..\\x.png', 'backslash'),
    'a drive': ('C:/x.png', 'Windows drive'),
    'a zero byte': ('a\0.png', 'control character'),
    '100,000 characters': ('a' * LONG, 'a name of 100000 bytes'),
    '50,000 folders': ('a/' * (LONG // 2) + 'b', 'a name of 100001 bytes'),
}
LISTS = {
    'text': ('a.txt', lambda name: f'{name} 1', read_list),
    'CSV': ('a.csv', lambda name: f'image,label\n"{name}",1', lambda path: read_csv(path, 3)),
    'JSON': ('a.json', lambda name: json.dumps([dict(image=name, label=1)]), lambda path: read_json(path, 3)),
    'FGVC': ('train.json', lambda name: json.dumps({name: 1}), read_fgvc_json),
    'CoOp': ('split.json', lambda name: json.dumps(dict(train=[[name, 0, 'x']], val=[], test=[])),
             lambda path: read_split_file(path, 1, 'the set')),
    'Florence': ('a.jsonl', lambda name: json.dumps(dict(image=name, suffix='')), read_annotations),
    'support': ('support.txt', lambda name: f'{name} x', list_support),
}
INTEGER = '9' * 5000
JSONS = {
    'rank table': RankTable.load, 'JSON': lambda path: read_json(path, 3), 'indices': read_index_file,
    'FGVC': read_fgvc_json, 'CoOp': lambda path: read_split_file(path, 2, 'the set'),
    'class names': read_class_names, 'Florence': read_annotations, 'results of tests': read_records,
}


def _choose(path: Path) -> Any:
    return chosen_images(read_index_file(path), 'train', [ListedImage('a/b.jpg', 0, 1)], path)


def _skin(path: Path) -> Any:
    return find_meta_set('isic').images(path, 'all')


def _skin_folder(name: str) -> Callable[[Path, Path], Path]:
    def build(folder: Path, marker: Path) -> Path:
        classes = find_meta_set('isic').classes('all')
        text = ','.join(['image', *classes]) + '\n' + ','.join([name, *('1' for _ in classes)])
        put(folder / 'a' / 'ISIC2018_Task3_Training_GroundTruth.csv', text)
        return folder / 'a'

    return build


def lists() -> Iterator[Attack]:
    for kind, (file, text, read) in LISTS.items():
        for name, (path, says) in NAMES.items():
            if kind == 'support' and '\n' in path:
                continue  # Lines there are none that begin with a blank.
            yield Attack('path in a list', f'{name}, {kind}', file_of(file, text(path)), read, says)
    yield Attack('path in a list', 'above, ISIC', _skin_folder('../../x'), _skin, r'leaves the image folder by \.\.')
    yield Attack('path in a list', 'field of 200,000 characters, ISIC', _skin_folder('a' * 2 * LONG), _skin,
                 'not a CSV table')
    slashes = json.dumps(dict(train=['a/' * LONG + 'b.png']))
    yield Attack('path in a list', '100,000 folders, indices', file_of('a.json', slashes), _choose, 'does not have')
    half = '[{"image": "a\\ud800", "label": 1}]'
    yield Attack('path in a list', 'half of a character, JSON', file_of('a.json', half), LISTS['JSON'][2],
                 'half of a character')
    no_box = json.dumps(dict(image='a', suffix='a' * LONG))
    big_box = json.dumps(dict(image='a', suffix=f'a<loc_{INTEGER}>'))
    rows = {
        '100,000 labels, text': ('a.txt', 'a.png ' + '1 ' * LONG, read_list, 'has 100000 labels'),
        '5000 digits, text': ('a.txt', f'a.png {INTEGER}', read_list, 'where a class index belongs'),
        '5000 digits, CSV': ('a.csv', f'image,label\na.png,{INTEGER}', LISTS['CSV'][2], 'where a class index belongs'),
        '5000 digits, JSON': ('a.json', json.dumps([dict(image='a', label=INTEGER)]), LISTS['JSON'][2], 'class index'),
        '5000 digits, FGVC': ('train.json', json.dumps({'a': INTEGER}), read_fgvc_json, 'where a class id'),
        '5000 digits, CoOp': ('a.json', json.dumps(dict(train=[['a', INTEGER, 'x']], val=[], test=[])),
                              LISTS['CoOp'][2], 'where a class index belongs'),
        '5000 digits, Florence': ('a.jsonl', big_box, read_annotations, 'for each box belong'),
        'text without a box, Florence': ('a.jsonl', no_box, read_annotations, 'for each box belong'),
        'field of 200,000 characters, CSV': ('a.csv', 'image,label\n' + 'a' * 2 * LONG, LISTS['CSV'][2], 'not a CSV'),
        'no text': ('a.txt', b'\xff\xfe\x00a', read_list, 'not text in UTF-8'),
    }
    for name, (file, text, read, says) in rows.items():
        yield Attack('line that is too long', name, file_of(file, text), read, says)


def _with_file(make: Callable[[Path], Path], file: str, text: str) -> Callable[[Path, Path], Path]:
    """A builder of a folder with one file replaced."""
    def build(folder: Path, marker: Path) -> Path:
        path = make(folder / 'a')
        put(path / file, text)
        return path

    return build


def jsons() -> Iterator[Attack]:
    kind = f'JSON nested {DEEP:,} deep'
    lists, dicts = '[' * DEEP + ']' * DEEP, '{"a":' * DEEP + '1' + '}' * DEEP
    for name, read in JSONS.items():
        for form, text in (('lists', lists), ('objects', dicts), ('lists without an end', '[' * DEEP)):
            yield Attack(kind, f'{form}, {name}', file_of('a.json', text), read, 'nested deeper than 64|JSON')
        yield Attack('number of 5000 digits in JSON', name, file_of('a.json', f'[{INTEGER}]'), read,
                     'JSON.*4300 digits')
    for name, (make, files, read) in FOLDERS.items():
        for file in files:
            for form, text in (('lists', lists), ('objects', dicts)):
                yield Attack(kind, f'{form}, {file} of {name}', _with_file(make, file, text), read,
                             'nested deeper than 64')
    tasks = save({'a': torch.ones(1, 2)}, dict(format=TASK_FORMAT, record=dicts))
    yield Attack(kind, 'record of task vectors', file_of('t.safetensors', tasks), TaskVectors.open,
                 'nested deeper than 64')


# --- images ----------------------------------------------------------------------------------------------------------

def png(width: int, height: int, rows: int = 1) -> bytes:
    """Return a PNG that claims a size and holds the bytes of some rows."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    head = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)  # One bit a pixel.
    data = zlib.compress(bytes((1 + (width + 7) // 8) * rows))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', data) + chunk(b'IEND', b'')


IMAGES = {
    'bomb of 156 million pixels': (png(12_500, 12_500, 12_500), 'more than max_pixels|too large|pixels, but the pool'),
    'bomb of 400 million pixels': (png(20_000, 20_000), 'too large|cannot be read'),
    'bomb of 2^62 pixels': (png(2**31 - 1, 2**31 - 1, 0), 'too large|cannot be read'),
    'no pixels': (png(0, 0, 0), 'cannot be read'),
    'cut': (png(4, 4, 4)[:44], 'cannot be read'),
    'text': (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'cannot be read'),
    'empty': (b'', 'cannot be read'),
}


def images() -> Iterator[Attack]:
    def in_pool(content: bytes) -> Callable[[Path, Path], Path]:
        def build(folder: Path, marker: Path) -> Path:
            put(pool_folder(folder / 'a') / 'images' / 'a.png', content)
            return folder / 'a'

        return build

    for name, (content, says) in IMAGES.items():
        for backend in ('cv2', 'pillow'):
            load = LoadImageFromFile(imdecode_backend=backend)
            yield Attack('image', f'{name}, {backend}', file_of('a.png', content),
                         lambda path, load=load: load(dict(img_path=str(path))), says)
        yield Attack('image', f'{name}, pool', in_pool(content), read_pool, says)


