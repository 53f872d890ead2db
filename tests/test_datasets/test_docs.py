"""docs/datasets.md: its configs load data, its commands run, its table is the program's."""

import json
import re
import shutil
from pathlib import Path

import pytest
from layouts import make_medfmc, make_vtab, write_image, write_lists
from mmengine.config import Config
from tiny import call_tool, quick  # noqa: F401

from mmlora.apis import check_data
from mmlora.datasets import VTAB_SETS

DOCS = (Path(__file__).resolve().parents[2] / 'docs' / 'datasets.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w+)\n(.*?)^```$', DOCS, re.MULTILINE | re.DOTALL)
CONFIGS = [text for language, text in BLOCKS if language == 'python']
COMMANDS = [line.split() for language, text in BLOCKS if language == 'bash' for line in text.splitlines()]


@pytest.fixture(scope='module')
def checkout(root, tmp_path_factory):
    """A folder with the repository's configs, and the data that the page speaks of."""
    top = tmp_path_factory.mktemp('checkout')
    shutil.copytree(root / 'configs', top / 'configs')
    make_vtab(top / 'data' / 'vtab-1k', per_class=10)
    make_medfmc(top / 'data' / 'MedFMC', 'endo', 48)
    shutil.copytree(top / 'data' / 'MedFMC' / 'endo', top / 'disk' / 'endo')
    shutil.copy(top / 'data' / 'MedFMC' / 'endo' / 'test_WithLabel.txt', top / 'data/MedFMC/endo/val_WithLabel.txt')
    birds, names = top / 'data' / 'birds', ['crow', 'jay']
    rows = {'train': [0, 1, 0, 1, 0, 1, 0, 1], 'val': [1, 0]}
    for part, labels in rows.items():
        lines = [(f'images/{part}{number}.jpg', label) for number, label in enumerate(labels)]
        for image, label in lines:
            write_image(birds / image, label, label)
            write_image(birds / part / names[label] / Path(image).name, label, label)
        write_lists(birds, {f'{part}.txt': [f'{image} {label}' for image, label in lines],
                            f'{part}.csv': ['file,bird', *(f'{image},{names[label]}' for image, label in lines)]})
        entries = [dict(image=image, label=names[:label + 1]) for image, label in lines]
        (birds / f'{part}.json').write_text(json.dumps(entries))
    return top


def test_blocks_were_found():
    assert len(CONFIGS) == 5 and len(COMMANDS) >= 7


@pytest.mark.parametrize('text', CONFIGS, ids=lambda text: text.split()[1])
def test_configs_load_their_data(text, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    path = Path(text.split()[1])
    path.write_text(text)
    report = check_data(Config.fromfile(path))
    assert report.problems == [] and len(report.loaders) == 3
    assert all(loader.images and loader.shape for loader in report.loaders)


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_commands_run(command, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    name = command[1].removeprefix('tools/').removesuffix('.py')
    force = ['--force', '--allow-fewer'] if name == 'make_splits' else []
    assert call_tool(name, *(word.replace('/disk', str(checkout / 'disk')) for word in command[2:]), *force) == 0


def test_table_of_sets_is_the_programs():
    for row in VTAB_SETS.values():
        cells = (row.name, ', '.join(row.spellings), row.group, row.num_classes, row.test_images)
        assert f'| {" | ".join(map(str, cells))} |' in DOCS
