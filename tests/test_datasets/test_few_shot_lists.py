from pathlib import Path

import pytest
from layouts import line_of, make_medfmc, make_vtab, write_image, write_lists
from tiny import call_tool

from mmlora.apis.splits import few_shot_files, list_source
from mmlora.datasets import Chest19, VTAB1k
from mmlora.datasets.few_shot_lists import choose_few_shot, describe_short
from mmlora.datasets.list_files import ListedImage, read_list

SINGLE = [ListedImage(f'{n}.png', n % 3, n) for n in range(30)]
MULTI = [ListedImage(f'{n}.png', () if n % 4 == 3 else tuple({n % 4, (n + 1) % 4}), n) for n in range(40)]


def names(images):
    return [image.name for image in images]


@pytest.mark.parametrize('n_shot', [1, 2, 10])
def test_single_label_choice_is_balanced(n_shot):
    chosen, short = choose_few_shot([*SINGLE, *SINGLE], 3, n_shot)
    assert [image.label for image in chosen] == sorted([0, 1, 2] * n_shot) and not short
    assert len(set(names(chosen))) == 3 * n_shot


def test_multi_label_choice_has_each_class_and_no_image_twice():
    chosen, short = choose_few_shot(MULTI, 4, 5)
    assert len(set(names(chosen))) == len(chosen) <= 20 and not short
    for label in range(4):
        assert sum(label in image.label for image in chosen) >= 5
    assert all(image.label for image in chosen)
    more, _ = choose_few_shot(MULTI, 4, 5, with_negatives=True)
    assert more[:len(chosen)] == chosen and [image.label for image in more[len(chosen):]] == [()] * 5


@pytest.mark.parametrize('images, num_classes', [(SINGLE, 3), (MULTI, 4)])
def test_choices_are_nested_and_seeded(images, num_classes):
    def choose(n_shot, **options):
        return set(names(choose_few_shot(images, num_classes, n_shot, **options)[0]))

    for exp in (1, 2):
        assert choose(1, exp=exp) < choose(2, exp=exp) < choose(5, exp=exp)
    assert len({frozenset(choose(5, exp=exp)) for exp in range(1, 6)}) == 5
    assert choose(5, seed=1) != choose(5)
    # The order of the list does not matter, and a machine or version of Python neither.
    assert choose_few_shot(images[::-1], num_classes, 5)[0] == choose_few_shot(images, num_classes, 5)[0]


def test_choice_is_pinned():
    assert names(choose_few_shot(SINGLE, 3, 2)[0]) == ['9.png', '21.png', '7.png', '16.png', '11.png', '29.png']


def test_too_few_images():
    images = [ListedImage('a.png', 0, 1), ListedImage('b.png', 2, 2), ListedImage('c.png', 2, 3)]
    chosen, short = choose_few_shot(images, 3, 2)
    assert sorted(names(chosen)) == ['a.png', 'b.png', 'c.png'] and short == {0: 1, 1: 0}
    assert describe_short(short, 2, 'xyz') == 'class 0 (x) has 1, class 1 (y) has 0 of the 2 images asked for'
    assert 'class 4 has 0 and 2 more of' in describe_short(dict.fromkeys(range(7), 0), 2)
    assert choose_few_shot(images, 3, 1, with_negatives=True)[1] == {1: 0, None: 0}


@pytest.mark.parametrize('options', [dict(n_shot=0), dict(n_shot=1, exp=0), dict(n_shot=1, seed=-1)])
def test_numbers_out_of_range(options):
    with pytest.raises(ValueError, match='must be at least 1, and seed'):
        choose_few_shot(SINGLE, 3, **options)


def test_tool_writes_lists_that_vtab_reads(tmp_path, capsys):
    root = make_vtab(tmp_path)
    assert call_tool('make_splits', 'fewshot', '--dataset', 'vtab1k', '--data-root', root, '--shots', 2, 4,
                     '--exps', 2) == 0
    assert 'train_4-shot_exp2.txt: 40 images\n' in capsys.readouterr().out
    for n_shot in (2, 4):
        dataset = VTAB1k('eurosat', n_shot=n_shot, exp=2, data_root=str(root))
        assert sorted(dataset.get_gt_labels().tolist()) == sorted(list(range(10)) * n_shot)
    assert len(VTAB1k('eurosat', 'val', n_shot=2, exp=1, data_root=str(root))) == 20


def test_tool_writes_lists_that_medfmc_reads(tmp_path):
    for name in ('chest', 'endo', 'colon'):
        make_medfmc(tmp_path, name)
    command = ['make_splits', 'fewshot', '--dataset', 'medfmc', '--data-root', tmp_path, '--shots', 1]
    assert call_tool(*command) == 2  # The published lists of 1 shot are there.
    assert call_tool(*command, '--out', tmp_path / 'lists', '--exps', 1) == 0
    options = dict(n_shot=1, data_root=str(tmp_path / 'chest'), list_dir=str(tmp_path / 'lists' / 'chest'))
    dataset = Chest19('train', **options)
    assert {label for i in range(len(dataset)) for label in dataset.get_cat_ids(i)} == set(range(19))
    first = (tmp_path / 'lists' / 'endo' / 'endo_1-shot_train_exp1.txt').read_text().splitlines()[0]
    assert len(first.split()) == 5  # Blanks between the labels, as in the published lists.
    assert len(read_list(tmp_path / 'lists' / 'colon' / 'colon_1-shot_train_exp1.txt', 2)) == 2


def test_tool_refuses_to_replace_and_to_take_fewer(tmp_path, capsys):
    root = make_vtab(tmp_path)
    folder = root / 'eurosat' / 'few_shot_exps'
    published = (folder / 'train_1-shot_exp1.txt').read_bytes()
    command = ['make_splits', 'fewshot', '--dataset', 'vtab1k', '--data-root', root, '--name', 'eurosat']
    assert call_tool(*command, '--exps', 3) == 2
    error = capsys.readouterr().err
    assert '2 lists exist with other content' in error and '--force' in error
    assert (folder / 'train_1-shot_exp1.txt').read_bytes() == published
    assert not (folder / 'train_1-shot_exp3.txt').exists()
    assert call_tool(*command, '--exps', 3, '--force') == 0
    assert (folder / 'train_1-shot_exp1.txt').read_bytes() != published
    capsys.readouterr()
    assert call_tool(*command, '--exps', 3) == 0 and 'as it was' in capsys.readouterr().out

    assert call_tool(*command, '--shots', 5) == 2
    error = capsys.readouterr().err
    assert 'class 0 (AnnualCrop) has 4' in error and 'and 5 more of the 5 images' in error and '--allow-fewer' in error
    assert call_tool(*command, '--shots', 5, '--exps', 1, '--allow-fewer') == 0
    out = capsys.readouterr().out
    assert 'class 0 (AnnualCrop) has 4' in out and 'train_5-shot_exp1.txt: 40 images' in out


def test_tool_reads_lists_and_folders_of_your_own(tmp_path):
    for label, name in enumerate(('cat', 'dog')):
        for number in range(3):
            write_image(tmp_path / 'images' / name / f'{number} x.jpg', label, number)
    out = tmp_path / 'out'
    assert call_tool('make_splits', 'fewshot', '--list', tmp_path / 'images', '--out', out, '--shots', 2) == 0
    chosen = read_list(out / 'train_2-shot_exp5.txt', 2)
    assert [image.name.partition('/')[0] for image in chosen] == ['cat', 'cat', 'dog', 'dog']
    assert [image.label for image in chosen] == [0, 0, 1, 1]
    write_lists(tmp_path, {'a.txt': ['x.png 0', 'y.png 1'], 'm.txt': [line_of('x.png', [0, 1], 2)],
                           'a.csv': ['image,label', 'x.png,cat', 'y.png,dog']})
    for extra in (['a.txt'], ['a.csv', '--classes', 'cat', 'dog'], ['m.txt', '--num-classes', '2', '--multi-label']):
        assert call_tool('make_splits', 'fewshot', '--list', tmp_path / extra[0], *extra[1:], '--out', out, '--exps', 1,
                         '--force') == 0
    assert (out / 'train_1-shot_exp1.txt').read_text() == 'x.png 1,1\n'


@pytest.mark.parametrize('args, message', [
    (['--dataset', 'vtab1k', '--data-root', 'none'], 'has no folder of a VTAB-1k set'),
    (['--dataset', 'vtab1k', '--name', 'mnist'], 'no set'),
    (['--dataset', 'medfmc', '--name', 'liver'], 'MedFMC has the sets'),
    (['--dataset', 'medfmc', '--data-root', 'none'], 'has none of the folders'),
    (['--list', 'none.txt', '--out', 'x'], 'no list'),
    (['--list', 'none.csv', '--out', 'x'], '(--num-classes), and its columns or keys with columns (--columns)'),
    (['--list', 'none.txt', '--out', 'x', '--multi-label'], 'give classes (--classes crow jay ...) or num_classes'),
    (['--list', '.', '--out', 'x', '--num-classes', '2'], 'is a folder'),
])
def test_tool_explains_wrong_arguments(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    assert call_tool('make_splits', 'fewshot', *args) == 2
    assert message in capsys.readouterr().err
    assert not Path('x').exists()


def test_number_of_lists(tmp_path):
    write_lists(tmp_path, {'a.txt': ['x.png 0']})
    with pytest.raises(ValueError, match='number of lists must be at least 1'):
        few_shot_files(list_source(tmp_path / 'a.txt', tmp_path), [1], 0)


@pytest.mark.parametrize('args, message', [
    ([], 'either --dataset'), (['--dataset', 'vtab1k', '--list', 'a.txt', '--out', 'x'], 'either --dataset'),
    (['--data-root', 'data/birds'], 'or --list, a folder with one folder of images per class, or a list file'),
    (['--list', 'a.txt'], '--list needs --out'),
])
def test_tool_asks_for_one_source(args, message, capsys):
    with pytest.raises(SystemExit):
        call_tool('make_splits', 'fewshot', *args)
    assert message in ' '.join(capsys.readouterr().err.split())


@pytest.mark.parametrize('args, message', [
    (['--dataset', 'vtab1k', '--multi-label'], '--multi-label goes with --list alone'),
    (['--dataset', 'vtab1k', '--num-classes', '2'], '--num-classes goes with --list alone'),
    (['--list', 'a.txt', '--out', 'x', '--name', 'dtd'], '--name goes with --dataset alone'),
])
def test_tool_refuses_options_that_it_would_not_use(capsys, args, message):
    with pytest.raises(SystemExit):
        call_tool('make_splits', 'fewshot', *args)
    assert message in capsys.readouterr().err
