"""docs/datasets.md: its configs load data, its commands run, its table is the program's."""

import json
import re
import shutil
from pathlib import Path

import pytest
from coop_layouts import make_listed
from fgvc_layouts import make_cub
from layouts import make_medfmc, make_vtab, write_image, write_lists
from mmengine.config import Config
from tiny import call_tool, quick  # noqa: F401

from mmlora.apis import check_data
from mmlora.apis.splits import few_shot_files, list_source
from mmlora.apis.splits import write_lists as save_lists
from mmlora.apis.train import prepare_train_cfg
from mmlora.datasets import COOP_SETS, FGVC_SETS, IMAGENET_SHIFTS, VTAB_SETS

DOCS = (Path(__file__).resolve().parents[2] / 'docs' / 'datasets.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w+)\n(.*?)^```$', DOCS, re.MULTILINE | re.DOTALL)
CONFIGS = [text for language, text in BLOCKS if language == 'python' and not text.startswith('# part of a config')]
COMMANDS, RUNS, SHELL = ([line.split() for language, text in BLOCKS if language == own for line in text.splitlines()]
                         for own in ('bash', 'console', 'sh'))
LOOKS = [command for command in SHELL if command[1] == 'tools/check_data.py']


@pytest.fixture(scope='module')
def checkout(root, tmp_path_factory):
    """A folder with the repository's configs, and the data that the page speaks of."""
    top = tmp_path_factory.mktemp('checkout')
    shutil.copytree(root / 'configs', top / 'configs')
    make_vtab(top / 'data' / 'vtab-1k', per_class=10)
    make_vtab(top / 'data' / 'vtab-1k', 'kitti', 4, per_class=10)
    make_medfmc(top / 'data' / 'MedFMC', 'endo', 48)
    make_cub(top / 'data' / 'FGVC' / 'CUB_200_2011')
    make_listed(top / 'data' / 'coop' / 'eurosat', 'eurosat', counts=dict(train=3, val=2, test=1), real=True)
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
    shutil.copytree(birds / 'val', birds / 'test')
    save_lists(few_shot_files(list_source(birds / 'train', birds / 'few_shot'), [1, 2], 2)[0])
    return top


def test_blocks_were_found():
    assert len(CONFIGS) == 9 and len(LOOKS) == 8 and len(COMMANDS) >= 8 and len(RUNS) == 3


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
    force = ['--force', '--allow-fewer'] if command[2] == 'fewshot' else []
    assert call_tool(name, *(word.replace('/disk', str(checkout / 'disk')) for word in command[2:]), *force) == 0


def test_own_few_shots_are_read_and_named(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    text = next(text for text in CONFIGS if text.startswith(f'# {RUNS[0][2]}\n'))
    Path(RUNS[0][2]).write_text(text)
    cfg = Config.fromfile(RUNS[0][2])
    assert RUNS[0][3:] == ['--no-validate', '--cfg-options', 'shot=2', 'split=1'] and RUNS[1][4:] == RUNS[0][4:]
    cfg.merge_from_dict(dict(shot=2, split=1))
    assert RUNS[1][2:4] == [RUNS[0][2], f'{prepare_train_cfg(cfg, validate=False).work_dir}/epoch_20.pth']
    report = check_data(cfg, read_all=True)
    assert report.loaders[0].per_class == {0: 2, 1: 2} and report.loaders[0].read == 4 and not report.problems
    assert RUNS[2] == ['python', 'tools/summarize.py', 'work_dirs']


@pytest.mark.parametrize('command', LOOKS, ids=' '.join)
def test_looks_without_a_config_run(command, checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    status = call_tool('check_data', *command[2:])
    text = capsys.readouterr().out
    problems = [line for line in text.splitlines() if line.startswith('problem: ')]
    # The data here is smaller than the published one, and has no other fault.
    assert all(', officially ' in line for line in problems) and status == bool(problems) and '  images: ' in text


def test_table_of_coop_is_the_programs():
    for row in (*COOP_SETS.values(), *IMAGENET_SHIFTS.values()):
        assert coop_row(row) in DOCS


def coop_row(row):
    """Return the line of a set."""
    images = (row.images.get(split, '') for split in ('train', 'val', 'test'))
    places = ' or '.join(f'`{place}`' if place else 'the folder' for place in row.image_folders)
    folders = ', '.join(f'`{folder}`' for folder in row.folders)
    file = f'`{row.split_file}`' if row.split_file else ''
    return f'| {" | ".join(map(str, (row.name, folders, places, row.num_classes, *images, file, row.template)))} |'


def test_table_of_fgvc_is_the_programs():
    for row in FGVC_SETS.values():
        cells = (row.name, row.num_classes, *(row.images[split] for split in ('train', 'val', 'trainval', 'test')))
        assert f'| {" | ".join(map(str, cells))} | ' in DOCS


def test_table_of_sets_is_the_programs():
    for row in VTAB_SETS.values():
        cells = (row.name, ', '.join(row.spellings), row.group, row.num_classes, row.test_images)
        assert f'| {" | ".join(map(str, cells))} |' in DOCS
