"""tools/check_data.py with a data set instead of a config."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from coop_layouts import make_listed
from fgvc_layouts import make_cub, make_dogs, make_json
from layouts import make_medfmc, make_vtab, write_image, write_lists
from tiny import call_tool

from mmlora.apis import known_data
from mmlora.apis.check_known import check_folders, check_known, check_lists
from mmlora.apis.known_data import FAMILIES, find_family, list_known
from mmlora.datasets import COOP_SETS, FGVC_SETS, IMAGENET_SHIFTS, VTAB_SETS


@pytest.fixture
def small(monkeypatch):
    """A function that gives a set of a family the numbers of a small folder."""

    def change(family, name, num_classes, **images):
        known = replace(FAMILIES[family].sets[name], images=images, num_classes=num_classes)
        changed = replace(FAMILIES[family], sets={**FAMILIES[family].sets, name: known})
        changed = replace(changed, find=lambda wanted: changed.sets[FAMILIES[family].find(wanted).name])
        monkeypatch.setattr(known_data, 'FAMILIES', {**FAMILIES, family: changed})

    return change


@pytest.fixture
def eurosat(tmp_path, small):
    """A small EuroSAT that is whole."""
    small('vtab1k', 'eurosat', 10, train800=32, val200=8, train800val200=40, test=20)
    return make_vtab(tmp_path)


@pytest.fixture
def cub(tmp_path, small):
    """A small CUB with its official files that is whole."""
    small('fgvc', 'cub', 3, train=27, val=3, trainval=30, test=6)
    make_cub(tmp_path / 'CUB_200_2011')
    return tmp_path


def found(report):
    """The only problem of a report."""
    (problem,) = report.problems
    return problem


# Sets that are whole.


def test_vtab_that_is_whole(eurosat, capsys):
    assert call_tool('check_data', 'vtab1k', eurosat, '--name', 'EuroSAT') == 0
    text = capsys.readouterr().out
    assert 'eurosat train800: VTAB1k (' in text and '  images: 40\n' in text
    assert re.search(r'for example: 000000.jpg is 0 \(AnnualCrop\); 0000\d\d.jpg is \d \(', text)
    assert 'note: eurosat: 2 of 2 few-shot lists are part of train800val200' in text
    assert text.endswith('no problem found\n')
    report = check_known('VTAB-1k', eurosat)
    assert not report.problems and report.notes[0].startswith('not in ') and 'cifar, caltech101' in report.notes[0]


def test_fgvc_that_is_whole(cub, capsys):
    assert call_tool('check_data', 'fgvc', cub, '--name', 'CUB_200_2011', '--read-all') == 0
    text = capsys.readouterr().out
    assert 'cub trainval: FGVC (trainval of' in text and '(Laysan_Albatross)' in text and 'no problem found' in text
    assert '(30 images were read)' in text


@pytest.mark.parametrize('name, num_classes', [('chest', 19), ('endo', 4), ('colon', 2)])
def test_medfmc_that_is_whole(tmp_path, small, name, num_classes):
    small('medfmc', name, num_classes, trainval=24, test=12)
    make_medfmc(tmp_path, name)
    report = check_known('medfmc', tmp_path, [name])
    assert report.problems == [] and report.notes == [f'{name}: 1 of 1 few-shot lists are part of trainval']


def test_what_comes_with_the_package(capsys):
    assert call_tool('check_data', 'digits') == call_tool('check_data', 'glyphs') == 0
    assert '  images: 597\n' in capsys.readouterr().out


# Sets that are not.


def test_counts_and_classes_are_compared_with_the_official_ones(tmp_path, capsys):
    make_json(tmp_path / 'CUB_200_2011')
    assert call_tool('check_data', 'fgvc', tmp_path, '--name', 'cub') == 1
    text = capsys.readouterr().out
    assert 'problem: cub train: has 12 images, officially 5394' in text
    assert 'problem: cub test: has 3 classes, officially 200' in text


def test_missing_images(cub):
    shutil.rmtree(cub / 'CUB_200_2011' / 'images' / '002.Laysan_Albatross')
    problems = check_known('fgvc', cub, ['cub']).problems
    assert problems[-1].startswith('cub test: 2 of 6 images are missing: ')
    assert 'Laysan_Albatross 10.jpg' in problems[-1]


@pytest.fixture
def coop(tmp_path, small):
    small('coop', 'eurosat', 10, train=30, val=20, test=10)
    make_listed(tmp_path / 'EuroSAT', 'eurosat', counts=dict(train=3, val=2, test=1), real=True)
    return tmp_path


def test_coop_that_is_whole(coop, capsys):
    assert call_tool('check_data', 'coop', coop, '--read-all') == 0
    text = capsys.readouterr().out
    assert 'eurosat train: CoOpDataset (' in text and '  images: 30\n' in text and '(the class ' in text
    assert call_tool('check_data', 'coop', coop, '--name', 'dtd') == 2


def test_coop_with_faults(coop):
    make_listed(coop / 'dtd', 'dtd', counts=dict(train=1, val=1, test=1), images=False)
    problems = check_known('coop', coop).problems
    assert 'dtd train: has 47 images, officially 2820' in problems
    assert any(problem.startswith('dtd test: 47 of 47 images are missing') for problem in problems)
    assert not any(problem.startswith('eurosat') for problem in problems)
    path = coop / 'EuroSAT' / 'split_zhou_EuroSAT.json'
    content = json.loads(path.read_text())
    content['test'] = content['train'][:10]
    path.write_text(json.dumps(content))
    assert found(check_known('coop', coop, ['eurosat'])).startswith(
        '10 of the 10 images of eurosat test are in eurosat train too')


def test_missing_lists(eurosat):
    (eurosat / 'eurosat' / 'val200.txt').unlink()
    assert re.match(r"eurosat val200: .*there is no list '.*val200.txt'", found(check_known('vtab1k', eurosat)))


def test_overlap_of_splits(eurosat):
    folder = eurosat / 'eurosat'
    lines = (folder / 'val200.txt').read_text().splitlines()
    other = (folder / 'train800.txt').read_text().splitlines()[0]
    write_lists(folder, {'val200.txt': [*lines[1:], other]})
    problems = check_known('vtab1k', eurosat).problems
    assert problems[0].startswith('eurosat: train800val200 is not train800 and val200 together: 1 images are on one')
    assert problems[1].startswith('1 of the 8 images of eurosat val200 are in eurosat train800 too, such as ')
    assert len(problems) == 2


def test_trainval_of_fgvc_is_train_and_val(tmp_path, small):
    small('fgvc', 'cub', 3, train=12, val=2, trainval=15, test=4)
    folder = make_json(tmp_path / 'cub', trainval=True)
    entries = json.loads((folder / 'trainval.json').read_text())
    (folder / 'trainval.json').write_text(json.dumps({**entries, 'b/t0_0.jpg': 3}))
    problems = check_known('fgvc', tmp_path, ['cub']).problems
    assert 'trainval is not train and val together: 1 images' in problems[0] and '/b/t0_0.jpg' in problems[0]
    assert problems[1].startswith('1 of the 4 images of cub test are in cub trainval too') and len(problems) == 2


def test_few_shot_lists_that_do_not_fit(eurosat):
    write_lists(eurosat / 'eurosat', {'few_shot_exps/train_2-shot_exp1.txt': [
        'images/train800val200/000000.jpg 1', 'images/test/000000.jpg 0']})
    report = check_known('vtab1k', eurosat)
    assert re.match(r'eurosat few_shot_exps/train_2-shot_exp1.txt: 2 images do not fit train800val200, such as '
                    r'.*train800val200/000000.jpg, which has another label there', found(report))
    assert report.notes[-1] == 'eurosat: 2 of 3 few-shot lists are part of train800val200'


def test_broken_and_copied_images_are_found_by_reading_all(cub):
    images = cub / 'CUB_200_2011' / 'images'
    (images / '001.Black_footed_Albatross' / 'Black_footed_Albatross 11.jpg').write_bytes(b'no image')
    shutil.copy(images / '003.Sooty_Albatross' / 'Sooty_Albatross 0.jpg', images / '003.Sooty_Albatross' /
                'Sooty_Albatross 10.jpg')
    assert not check_known('fgvc', cub, ['cub']).problems
    report = check_known('fgvc', cub, ['cub'], read_all=True)
    assert 'cub test: 1 images cannot be prepared:\n' in found(report)
    notes = [note for note in report.notes if 'content of images of' in note]
    assert len(notes) == 1 and re.match(
        r'1 images of cub test have the content of images of cub (train|val) under another name, such as '
        r'.*Sooty_Albatross 10.jpg and .*Sooty_Albatross 0.jpg', notes[0])


def test_layouts_are_looked_at_by_themselves(cub, capsys):
    make_json(cub / 'CUB_200_2011')
    assert call_tool('check_data', 'fgvc', cub, '--name', 'cub', '--layout', 'official') == 0
    assert call_tool('check_data', 'fgvc', cub, '--name', 'cub') == 1
    assert call_tool('check_data', 'vtab1k', cub, '--layout', 'json') == 2
    make_vtab(cub)
    capsys.readouterr()
    assert call_tool('check_data', 'vtab1k', cub, '--layout', 'json') == 2
    assert "vtab1k has no option 'layout'" in capsys.readouterr().err


@pytest.mark.parametrize('words, message', [
    (('vtab', '.'), "no data set 'vtab', nor such a config file; choose from vtab1k, .* did you mean 'vtab1k'"),
    (('fgvc', '{root}', '--name', 'cup'), "no set 'cup'.*did you mean 'cub'"),
    (('fgvc', '{root}', '--name', 'dogs'), 'no folder Stanford-dogs'),
    (('medfmc', '{root}', '--name', 'lung'), "medfmc has the sets chest, endo, colon, not 'lung'"),
    (('medfmc', '{root}'), 'has no folder of medfmc: its sets are chest, endo, colon'),
    (('digits', '{root}'), 'digits comes with mmlora and has no folder'),
    (('list', '{root}/none.txt'), "no list '.*none.txt'"), (('folder', '{root}/none'), "no folder '.*none'"),
    (('list', '{root}/a.csv'), 'give classes'),
])
def test_what_cannot_be_looked_at(tmp_path, words, message, capsys):
    (tmp_path / 'a.csv').write_text('image,label\n')
    assert call_tool('check_data', *(word.replace('{root}', str(tmp_path)) for word in words)) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize('words, message', [
    ((), 'give a config file'), (('--list', 'fgvc'), 'give a config file'),
    (('fgvc', 'a', 'b'), 'fgvc takes one folder, not a b'), (('config.py', 'a'), 'config.py takes no folder, not a'),
    (('folder',), 'folder takes one folder or several, not none'),
    (('fgvc', '--cfg-options', 'a=1'), '--cfg-options does not go with fgvc'),
    (('config.py', '--name', 'cub'), '--name does not go with config.py'),
    (('folder', 'a', '--num-classes', '3'), '--num-classes does not go with folder'),
])
def test_command_lines_that_do_not_fit(words, message, capsys):
    with pytest.raises(SystemExit):
        call_tool('check_data', *words)
    assert message in capsys.readouterr().err


def test_two_spellings_of_one_set_are_a_problem(tmp_path):
    make_dogs(tmp_path / 'Stanford-dogs')
    make_dogs(tmp_path / 'StanfordDogs')
    problem = found(check_known('fgvc', tmp_path))
    assert re.match('dogs: .*Stanford-dogs and StanfordDogs, which are names of one set', problem)


# Lists and folders.


def test_lists(tmp_path, capsys):
    for number in range(5):
        write_image(tmp_path / f'images/bird {number}.jpg', number % 2, number)
    lines = [f'images/bird {number}.jpg {number % 2}' for number in range(5)]
    write_lists(tmp_path, {'train.txt': lines[:3], 'val.txt': lines[3:], 'leak.txt': lines[2:]})
    assert call_tool('check_data', 'list', tmp_path / 'train.txt', tmp_path / 'val.txt', '--read-all') == 0
    assert 'bird 1.jpg is 1' in capsys.readouterr().out
    assert call_tool('check_data', 'list', tmp_path / 'train.txt', tmp_path / 'leak.txt') == 1
    assert '1 of the 3 images of' in capsys.readouterr().out
    assert call_tool('check_data', 'list', tmp_path / 'train.txt', '--image-root', tmp_path / 'images') == 1
    assert '3 of 3 images are missing' in capsys.readouterr().out
    assert 'outside of 0..0' in found(check_lists([tmp_path / 'val.txt'], num_classes=1))
    (tmp_path / 'train.csv').write_text('image,label\nimages/bird 0.jpg,jay\n')
    report = check_lists([tmp_path / 'train.csv'], classes=['crow', 'jay'])
    assert not report.problems and report.loaders[0].examples == ['bird 0.jpg is 1 (jay)']
    assert "has the label 'jay'" in found(check_lists([tmp_path / 'train.csv'], classes=['crow', 'owl']))


def test_folders(tmp_path, capsys):
    for split, name in (('train', 'crow'), ('train', 'jay'), ('val', 'crow'), ('val', 'jay')):
        write_image(tmp_path / split / name / f'{split}.jpg', 0, 0)
    report = check_folders([tmp_path])
    assert not report.problems and [loader.loader for loader in report.loaders] == [
        str(tmp_path / 'train'), str(tmp_path / 'val')]
    notes = check_folders([tmp_path], read_all=True).notes
    assert len(notes) == 3 and '2 images of' in notes[1] and 'under another name' in notes[1]
    assert call_tool('check_data', 'folder', tmp_path / 'train', tmp_path / 'val') == 0
    shutil.rmtree(tmp_path / 'val' / 'crow')
    assert call_tool('check_data', 'folder', tmp_path) == 1
    assert 'the labels do not mean the same' in capsys.readouterr().out
    assert 'are in' in found(check_folders([tmp_path / 'train', tmp_path / 'train' / '..' / 'train']))


def test_a_folder_one_level_too_high(tmp_path):
    for split in ('training', 'validation'):
        for name in ('crow', 'jay'):
            write_image(tmp_path / 'birds' / split / name / f'{split}.jpg', 0, 0)
    assert "'training' would be a class, but holds folders (crow, jay)" in found(check_folders([tmp_path / 'birds']))
    assert "'birds' would be a class, but holds folders (training, validation)" in found(check_folders([tmp_path]))
    write_image(tmp_path / 'birds' / 'training' / 'more' / 'nested' / '1.jpg', 0, 0)
    write_image(tmp_path / 'birds' / 'training' / 'more' / '2.jpg', 0, 0)
    assert not check_folders([tmp_path / 'birds' / 'training']).problems


# What is known.


def test_list_of_all(capsys):
    assert call_tool('check_data', '--list') == 0
    text = capsys.readouterr().out
    assert text.splitlines() == list_known() and all(
        f'  {name}: ' in text for name in (*VTAB_SETS, *FGVC_SETS, *COOP_SETS, *IMAGENET_SHIFTS))
    assert 'cars: train 7329, val 815, trainval 8144, test 8041; 196 classes; folder Stanford-cars or' in text
    assert 'eurosat: train800 800, val200 200, train800val200 1000, test 5400; 10 classes; folder eurosat' in text
    assert 'chest: trainval 979, test 1161; 19 classes' in text and 'data/MedFMC' in text


@pytest.mark.parametrize('name, train, val, test, classes', [
    ('cub', 5394, 600, 5794, 200), ('nabirds', 21536, 2393, 24633, 555), ('flowers', 1020, 1020, 6149, 102),
    ('dogs', 10800, 1200, 8580, 120), ('cars', 7329, 815, 8041, 196),
])
def test_official_counts(name, train, val, test, classes):
    known = find_family('fgvc').sets[name]
    assert known.images == dict(train=train, val=val, trainval=train + val, test=test)
    assert known.num_classes == classes and known.source.startswith('http')


def test_published_chest_lists_have_the_official_counts(tmp_path):
    lines = [f'{number}.png {",".join("0" * 19)}' for number in range(980)]
    (tmp_path / 'chest').mkdir()
    write_lists(tmp_path / 'chest', {'trainval.txt': lines[:979], 'test_WithLabel.txt': lines})
    report = check_known('medfmc', tmp_path, ['chest'])
    assert [loader.images for loader in report.loaders] == [979, 980]
    assert [problem for problem in report.problems if 'officially' in problem] == [
        'chest test: has 980 images, officially 1161']
    assert any('979 of the 980 images of chest test are in chest trainval too' in text for text in report.problems)
