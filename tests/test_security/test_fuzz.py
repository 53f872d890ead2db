"""Whatever bytes a small text file holds, its parser returns a value or says in words what is wrong with which file.

A short run is part of the suite. ``make test-long`` tries a million inputs in all: ``MMLORA_FUZZ`` is their number.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from attack_folders import (
    CLIP_KEY,
    banks_folder,
    clip_folder,
    hub_folder,
    kind_folder,
    lora_folder,
    peft_folder,
    pool_folder,
    read_kind,
)
from attack_lists import JSONS, LISTS
from attacks import put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmlora.apis.reporting.files import Folder
from mmlora.apis.reporting.run import curves, results
from mmlora.apis.reporting.tested import confusions, episodes, errors
from mmlora.datasets.index_files import chosen_images, read_index_file
from mmlora.datasets.list_files import ListedImage, read_list
from mmlora.datasets.table_files import read_csv, read_json
from mmlora.io.clip_folder import folder_checkpoint, read_folder
from mmlora.io.hub import LoRAHub
from mmlora.io.lora_banks import LoRABanks
from mmlora.io.lora_folder import read_lora_folder
from mmlora.io.pool import Pool
from mmlora.ranks import RankTable

INPUTS = int(os.environ.get('MMLORA_FUZZ', '400'))
REFUSED = (ValueError, TypeError, FileNotFoundError)
IMAGES = [ListedImage('a/b.jpg', 0, 1), ListedImage('c.jpg', 1, 2)]

words = st.sampled_from([
    'a.jpg', 'c.jpg', 'a/b.jpg', '..', '../x', '/x', 'q', 'v', 'AB', 'B', 'greater', 'layers.0.attn.qkv', '1', '-1', '',
    '00000', 'a\n', '\0', '\ud800', '(a+)+$', '.*x', '(', 'LORA', 'a<loc_1><loc_2><loc_3><loc_4>', '<loc_1>'])
leaves = st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.integers(), st.floats(), words, st.text(max_size=8))


class Parser(NamedTuple):
    """One parser.

    Attributes:
        file: The file that it reads, below a folder of its own.
        read: ``path of the file -> value``.
        valid: A document that it takes.
        make: Makes the rest of the folder.
    """

    file: str
    read: Callable[[Path], Any]
    valid: Any
    make: Callable[[Path], Path] | None = None


def _choose(path: Path) -> list:
    content = read_index_file(path)
    return [chosen_images(content, split, IMAGES, path) for split in ('train', 'val')]


PARSERS = {
    'rank table': Parser('ranks.json', lambda path: str(RankTable.load(path)), dict(
        format='mmlora.ranks/1', source='a.pth', sha256=None, budget=dict(params=3),
        rows=[dict(module='a.qkv', rank=2, slice='q', value=0.5), dict(module='b', rank=0, params=8)])),
    'indices': Parser('few.json', _choose, dict(
        train=dict(indices=[0, 1], paths=['a/b.jpg', 'c.jpg']), val=dict(data=[dict(impath='x/c.jpg')]))),
    'CoOp': Parser('split.json', JSONS['CoOp'], dict(
        train=[['a.jpg', 0, 'cat'], ['b.jpg', 1, 'dog']], val=[['c.jpg', 0, 'cat']], test=[['d.jpg', 1, 'dog']])),
    'FGVC': Parser('train.json', JSONS['FGVC'], {'a/b.jpg': 1, 'c.jpg': '2'}),
    'JSON list': Parser('a.json', JSONS['JSON'], [dict(image='a.jpg', label=1), dict(image='c.jpg', label='2')]),
    'JSON list of several labels': Parser('a.json', lambda path: read_json(path, 3, ('x', 'y', 'z'), True), [
        dict(image='a.jpg', label=['x', 2]), dict(image='c.jpg', label=[])]),
    'class names': Parser('names.json', JSONS['class names'], dict(n1='tench', n2='shark')),
    'Florence': Parser('a.jsonl', JSONS['Florence'], dict(
        image='a.jpg', prefix='<OD>', suffix='cat<loc_1><loc_2><loc_3><loc_4>')),
    'adapter config': Parser('adapter_config.json', lambda path: read_lora_folder(path.parent), dict(
        peft_type='LORA', r=2, lora_alpha=2, rank_pattern={'fc': 2}, alpha_pattern={'a.fc': 4.0}, bias='none',
        target_modules=['fc'], init_lora_weights=True, modules_to_save=None, use_rslora=False), peft_folder),
    'adapter config of a CLIP': Parser('adapter_config.json', lambda path: read_folder(path.parent), dict(
        peft_type='LORA', r=2, lora_alpha=2, bias='none', target_modules='.*q_proj', use_rslora=False),
        lambda path: peft_folder(path, key=CLIP_KEY)),
    'record of a CLIP': Parser('mmlora.json', lambda path: folder_checkpoint(path.parent), None, clip_folder),
    'record of another kind': Parser('mmlora.json', lambda path: read_kind(path.parent), None, kind_folder),
    'record of a tuning': Parser('mmlora.json', lambda path: read_kind(path.parent), None,
                                 lambda path: kind_folder(path, 'VPT')),
    'record of a LoRA': Parser('mmlora.json', lambda path: read_lora_folder(path.parent), None, lora_folder),
    'index of a hub': Parser('index.json', lambda path: repr(LoRAHub.open(path.parent).base_sha256), None, hub_folder),
    'index of banks': Parser('index.json', lambda path: LoRABanks.open(path.parent), None, banks_folder),
    'manifest of a bank': Parser('00000/manifest.json', lambda path: LoRABanks.open(path.parents[1]), None,
                                 banks_folder),
    'predictions': Parser('details/a.predictions.json', lambda path: [
        make(Folder(path.parents[1])) for make in (confusions, errors)], dict(
        format='mmlora predictions 1', classes=['a', 'b'], labels=[0, 1], predictions=[1, 1], scores=[0.5, 0.5],
        errors=[dict(index=0, path='a', png=None)])),
    'accuracies of episodes': Parser('details/a.episodes.json', lambda path: episodes(Folder(path.parents[1])), dict(
        format='mmlora episodes 1', episodes=dict(n_way=2, n_shot=1, n_episodes=2), images='x', accuracies=[50, 60.0])),
    'results': Parser('results.json', lambda path: results(Folder(path.parent)), dict(
        format='mmlora results 1', results=[dict(
            method='m', dataset_name='d', backbone='b', shot=None, split=None, seed=0, metrics={'accuracy/top1': 50.0},
            checkpoint=dict(name='a.pth'), test=dict(list=None, images=2, majority_rate=50.0), date='2026',
            protocol=dict(selection='last epoch', at=None, on_test=None))])),
    'index of a pool': Parser('index.json', lambda path: Pool.open(path.parent).check_finished(), None, pool_folder),
}
"""Parsers of JSON."""

LINES = {
    'list': Parser('a.txt', read_list, 'images/a.jpg 1\nb c.jpg 0\n'),
    'list of several labels': Parser('a.txt', lambda path: read_list(path, None, True), 'a.jpg 0,1\nb.jpg 1,1\n'),
    'CSV': Parser('a.csv', LISTS['CSV'][2], 'image,label\na.jpg,1\n"b c.jpg",0\n'),
    'CSV of several labels': Parser('a.csv', lambda path: read_csv(path, 2, ('x', 'y'), True),
                                    'image,x,y\na.jpg,1,0\nb.jpg,0,0\n'),
    'logged numbers': Parser('t/vis_data/scalars.json', lambda path: curves(Folder(path.parents[2])),
                             '{"iter": 1, "loss": 2.5, "lr": 1e-3}\n{"accuracy/top1": 50.0, "step": 1}\n'),
    'class names as text': Parser('names.txt', JSONS['class names'], 'n1 tench\nn2 great white shark\n'),
}
"""Parsers of other text."""


def places_of(value: Any, place: tuple = ()) -> list[tuple]:
    """Return the way to each value within a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(way for key, child in inner for way in places_of(child, (*place, key)))]


def replaced(document: Any, place: tuple, change: Callable[[Any], Any]) -> Any:
    """Return a document with another value at a place."""
    if not place:
        return change(document)
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[place[0]] = replaced(copy[place[0]], place[1:], change)
    return copy


@st.composite
def documents(draw, valid):
    """A valid document with some values replaced, removed, renamed or doubled, or an arbitrary one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.recursive(leaves, lambda inner: st.lists(inner, max_size=3)
                                 | st.dictionaries(words, inner, max_size=3), max_leaves=6))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places_of(valid)))
        kind = draw(st.integers(0, 5))
        if kind < 3:
            new = draw(leaves | st.lists(leaves, max_size=2) | st.dictionaries(words, leaves, max_size=2))
            valid = replaced(valid, place, lambda _, new=new: new)
        elif kind == 3:
            valid = replaced(valid, place, lambda old: [old, old])
        elif kind == 4:
            valid = replaced(valid, place, lambda old: dict(list(old.items())[1:]) if isinstance(old, dict) else None)
        else:
            key, new = draw(words), draw(leaves)
            valid = replaced(valid, place, lambda old, k=key, n=new: {**old, k: n} if isinstance(old, dict) else [n])
    return valid


@st.composite
def spoiled(draw, text):
    """A text with pieces cut out, doubled or put in, as bytes."""
    content = text.encode()
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.integers(0, len(content))) for _ in range(2))
        new = draw(st.binary(max_size=4) | words.map(lambda word: word.encode('utf-8', 'surrogatepass'))
                   | st.just(content[start:end] * 2))
        content = content[:start] + new + content[end:]
    return content


def check(parser: Parser, path: Path, content: bytes) -> None:
    """Let a parser read some bytes."""
    path.write_bytes(content)
    try:
        parser.read(path)
    except REFUSED as error:
        named = path.name in str(error) or path.parent.name in str(error)
        assert type(error) in REFUSED and named and len(str(error)) < 5000, repr(error)


def fuzz(strategy: st.SearchStrategy, test: Callable[[Any], None], share: int) -> None:
    """Try a share of the inputs; the same ones each time in the suite."""
    count = max(1, INPUTS // share)
    common = dict(database=None, deadline=None, derandomize=INPUTS < 10_000, max_examples=count)
    given(strategy)(settings(suppress_health_check=list(HealthCheck), **common)(test))()


SHARE = 2 * len(PARSERS) + len(LINES)


@pytest.mark.parametrize('name', PARSERS)
def test_documents(name, tmp_path):
    parser = PARSERS[name]
    folder = parser.make(tmp_path / 'fuzzed') if parser.make else tmp_path / 'fuzzed'
    path = folder / parser.file
    valid = json.loads(path.read_text()) if parser.valid is None else parser.valid
    put(path, json.dumps(valid))
    parser.read(path)

    fuzz(documents(valid), lambda value: check(parser, path, json.dumps(value).encode()), SHARE)


@pytest.mark.parametrize('name', [*PARSERS, *LINES])
def test_texts(name, tmp_path):
    parser = {**PARSERS, **LINES}[name]
    folder = parser.make(tmp_path / 'fuzzed') if parser.make else tmp_path / 'fuzzed'
    path = folder / parser.file
    if parser.valid is not None:
        put(path, parser.valid if isinstance(parser.valid, str) else json.dumps(parser.valid))
    parser.read(path)

    fuzz(spoiled(path.read_text()), lambda content: check(parser, path, content), SHARE)
