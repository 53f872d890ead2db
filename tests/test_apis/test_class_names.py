"""Labels that do not mean the same in two data sets are an error before the first step."""

import shutil
from types import SimpleNamespace

import pytest
from layouts import write_image
from mmengine.config import Config, ConfigDict
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmpretrain.datasets import CustomDataset
from tiny import tiny_config

from mmlora.apis import check_data, train
from mmlora.apis import test as run_test
from mmlora.apis.class_names import moved_names, names_problem, names_problems, trained_names_problem
from mmlora.apis.labels import check_labels
from mmlora.datasets import Digits, Glyphs, SeededDataset

SHAPES = ('bar', 'square', 'stripe')


@pytest.fixture
def folders(tmp_path):
    """Three classes for training, of which val lacks the first, and train_empty has no image of it."""
    for part, names in dict(train=SHAPES, whole=SHAPES, val=SHAPES[1:], cut=SHAPES[:2], train_empty=SHAPES).items():
        for name in names:
            if (part, name) == ('train_empty', 'bar'):
                (tmp_path / part / name).mkdir(parents=True)
            else:
                write_image(tmp_path / part / name / f'{part}.png', 0, 0)
    (tmp_path / 'list.txt').write_text('train/bar/train.png 0\n')
    return tmp_path


def folder(root, part, **options):
    return CustomDataset(data_root=str(root), data_prefix=part, **options)


def listed(root, classes=None):
    return CustomDataset(data_root=str(root), ann_file='list.txt', classes=classes)


def test_a_class_that_val_lacks(folders):
    problem = names_problem('val_dataloader', folder(folders, 'val'), 'train_dataloader', folder(folders, 'train'))
    assert problem.startswith('val_dataloader has the classes [square, stripe], train_dataloader [bar, square, stripe]:'
                              ' the labels do not mean the same; give both the same folders')
    assert 'no images' not in problem
    problem = names_problem('val', folder(folders, 'val'), 'train', folder(folders, 'train_empty'))
    assert '[bar] of train has no images: remove it, or fill it' in problem


def test_lists_are_told_to_set_classes(folders):
    problem = names_problem('val', listed(folders, ['square', 'bar']), 'train', listed(folders, ['bar', 'square']))
    assert problem.endswith('the labels do not mean the same; set classes=[...] in both')
    problem = names_problem('val', listed(folders, ['square', 'bar']), 'train', folder(folders, 'cut'))
    assert problem.endswith('set classes=[...] of the list in the order of the folders')
    many = [f'class {number}' for number in range(20)]
    problem = names_problem('val', listed(folders, many[:12] + many[13:]), 'train', listed(folders, many))
    assert 'class 7, ... 20 in all]' in problem and '(only train has [class 12])' in problem


@pytest.mark.parametrize('first, second', [
    ('folder whole', 'folder train'), ('folder train_empty', 'folder train'), ('folder named', 'folder train'),
    ('list', 'folder train'), ('list', 'list named'), ('list named', 'folder train'), ('none', 'folder train'),
])
def test_what_means_the_same_is_left_alone(folders, first, second):
    make = {
        **{f'folder {part}': lambda part=part: folder(folders, part) for part in ('whole', 'train', 'train_empty')},
        'folder named': lambda: folder(folders, 'whole', classes=['a bar', 'a square', 'a stripe']),
        'list': lambda: listed(folders), 'list named': lambda: listed(folders, list(SHAPES)), 'none': object,
    }
    assert names_problem('a', make[first](), 'b', make[second]()) is None
    assert names_problem('b', make[second](), 'a', make[first]()) is None


def test_each_loader_is_named_once(folders):
    train, val = folder(folders, 'train'), folder(folders, 'val')
    found = list(names_problems([('own', [listed(folders)]), ('train', [train, train]), ('val', [val, val]),
                                 ('test', [val])]))
    assert [text.partition(' ')[0] for text in found] == ['val', 'test']
    assert len(list(names_problems([('train', [train, val])]))) == 1  # Two parts of one loader.


@pytest.mark.parametrize('names, trained, moved', [
    (('square', 'stripe'), SHAPES, ['square', 'stripe']),
    (SHAPES, SHAPES, []),
    (('bar', 'square'), SHAPES, []),  # The last class is not tested.
    (('negative', 'positive'), ('negtive', 'positive'), []),  # Another word for the same.
    (('tench', 'goldfish'), ('n01440764', 'n01443537'), []),
    (('crane', 'jay', 'crane'), ('crane', 'jay', 'crane'), []),  # As in ImageNet.
    ((), SHAPES, []), (SHAPES, (), []),
])
def test_names_that_moved(names, trained, moved):
    assert moved_names(names, trained) == moved


def test_of_a_checkpoint_only_what_moved_matters(folders):
    problem = trained_names_problem('test_dataloader', folder(folders, 'val'), list(SHAPES))
    assert "the checkpoint [bar, square, stripe]" in problem and "('square' is 0 here and was 1 in training)" in problem
    problem = trained_names_problem('test_dataloader', folder(folders, 'train_empty'), SHAPES[1:])
    assert '[bar] of test_dataloader has no images' in problem
    assert 'set classes=[...] as in training' in trained_names_problem('test', listed(folders, SHAPES[::-1]), SHAPES)
    assert trained_names_problem('test', folder(folders, 'cut'), SHAPES) is None


@pytest.mark.parametrize('part, trained, warned', [
    ('cut', SHAPES, False), ('cut', ('a bar', 'square'), True), ('cut', SHAPES[:1], True), ('train', (), False),
    ('train', ['a', 'b', 'c'], True),
])
def test_other_names_than_in_training_are_told(folders, monkeypatch, part, trained, warned):
    told = []
    monkeypatch.setattr('mmlora.apis.class_names.print_log', lambda text, **options: told.append(text))
    assert trained_names_problem('test_dataloader', folder(folders, part), trained) is None
    assert len(told) == warned
    assert not warned or 'counts only if these are other names for the same classes' in told[0]


def as_runner(**datasets):
    loops = {f'{part}_loop': SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
             for part, dataset in datasets.items()}
    return SimpleNamespace(cfg=ConfigDict(model=dict(head=dict(num_classes=100))), **loops)


def test_wrapped_data_sets_are_compared(folders):
    train, val = folder(folders, 'train'), folder(folders, 'val')
    wrapped = SeededDataset(ConcatDataset([train, folder(folders, 'whole')]))
    check_labels(as_runner(train=wrapped, val=folder(folders, 'whole')), 'train', 'val')
    with pytest.raises(ValueError, match='val_dataloader has the classes .square, stripe., train_dataloader .bar'):
        check_labels(as_runner(train=wrapped, val=RepeatDataset(val, 2)), 'train', 'val')
    check_labels(as_runner(test=val), 'test')
    with pytest.raises(ValueError, match='test_dataloader has the classes .*, the checkpoint'):
        check_labels(as_runner(test=RepeatDataset(val, 2)), 'test', trained_classes=SHAPES)


def test_generated_data_is_sound():
    check_labels(as_runner(train=Digits('train'), val=Digits('val')), 'train', 'val')
    check_labels(as_runner(test=Digits('test')), 'test', trained_classes=Digits('train').metainfo['classes'])
    letters = [Glyphs(split, samples_per_class=1) for split in ('train', 'val')]
    runner = as_runner(train=letters[0], val=letters[1])
    runner.cfg = ConfigDict(model=dict(type='Own'))  # Val has other letters, which is what episodes are for.
    check_labels(runner, 'train', 'val')


@pytest.mark.parametrize('num_classes, found', [(3, 1), (None, 0)])
def test_report_has_the_problem(folders, num_classes, found):
    parts = {f'{part}_dataloader': dict(dataset=dict(
        type='CustomDataset', data_root=str(folders), data_prefix=part,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])) for part in ('train', 'val')}
    head = dict(num_classes=num_classes) if num_classes else {}
    report = check_data(Config(dict(model=dict(head=head), **parts)))
    assert len(report.problems) == found
    assert not found or report.problems[0].startswith('val_dataloader has the classes [square, stripe]')


def test_training_and_testing_say_so(images, tmp_path, whole_run):
    for name in ('class1', 'class2'):
        shutil.copytree(images / name, tmp_path / 'lacking' / name)
    options = {f'{part}_dataloader__dataset__data_root': str(tmp_path / 'lacking') for part in ('val', 'test')}
    cfg = tiny_config(images, tmp_path / 'run', **options)
    with pytest.raises(ValueError, match='val_dataloader has the classes .class1, class2., train_dataloader .class0'):
        train(cfg)
    with pytest.raises(ValueError, match='test_dataloader has the classes .class1, class2., the checkpoint .class0'):
        run_test(cfg, str(whole_run / 'epoch_3.pth'))
    (tmp_path / 'lacking' / 'class0').mkdir()
    assert run_test(cfg, str(whole_run / 'epoch_3.pth'), record=False)
