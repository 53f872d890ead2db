"""What a card says of the machine that wrote it: no paths but those below the present folder."""

import shlex
from pathlib import Path

import pytest

from mmlora.io.adapter_card import complete_card, describe_images, own_command, shown_path, shown_paths

PATHS = {
    '/home/me/data/cats': 'cats',
    '/home/me/data/my cats.json': 'my cats.json',
    '~/data/cats': 'cats',
    '../data/cats': 'cats',
    'file:///home/me/cats': 'cats',
    '{here}/configs/a.py': 'configs/a.py',
    'configs/a.py': 'configs/a.py',
    'configs/../a.py': 'configs/../a.py',
    'https://host/home/me/a.pth': 'https://host/home/me/a.pth',
    's3://bucket/a.pth': 's3://bucket/a.pth',
    'accuracy/top1': 'accuracy/top1',
    '/': '/',
    '': '',
}


@pytest.mark.parametrize('path', PATHS)
def test_a_path_as_others_may_read_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = shown_path(path.format(here=Path.cwd()))
    assert found == PATHS[path] and shown_path(found) == found


WORDS = {
    '/home/me/a.py': 'a.py',
    '--out=/home/me/out': '--out=out',
    'work_dir=/home/me/runs/x': 'work_dir=x',
    "list=['/home/me/a', \"/home/me/b\"]": "list=['a', \"b\"]",
    'list=[/home/me/a,/home/me/b]': 'list=[a,b]',
    "init=dict(checkpoint='/home/me/a b.pth')": "init=dict(checkpoint='a b.pth')",
    'cats:/home/me/cats': 'cats:cats',
    'load_from=https://host/x/a.pth': 'load_from=https://host/x/a.pth',
    'optim_wrapper.optimizer.lr=1e-3': 'optim_wrapper.optimizer.lr=1e-3',
    'a=1/2': 'a=1/2',
}


@pytest.mark.parametrize('word', WORDS)
def test_the_command_holds_no_paths_from_elsewhere(word, monkeypatch):
    monkeypatch.setattr('sys.argv', ['/home/me/mmlora/tools/train.py', word, '--cfg-options', 'seed=0'])
    assert [shlex.split(line) for line in own_command()] == [
        ['python', 'tools/train.py', WORDS[word], '--cfg-options', 'seed=0']]


def test_data_and_weights_lose_their_folders_too():
    config = dict(dataset=dict(data_root='/home/me/cats'))
    data = dict(images=3, list='/home/me/train.txt', fingerprint='0', config=config)
    assert describe_images(data) == describe_images(shown_paths(data)) == '3 of train.txt, cats (fingerprint 0)'
    card = complete_card('# A card', dict(base=dict(sha256='ab', location='/home/me/vit.pth')), {})
    assert '`vit.pth`, sha256 `ab`' in card and '/home' not in card
