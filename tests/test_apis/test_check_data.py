import json
import logging
import pickle
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from layouts import make_medfmc, make_vtab, write_image, write_lists
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset, KFoldDataset, MultiLabelDataset
from tiny import CONFIG, call_tool, tiny_config

from mmlora.apis import check_data, labels, train
from mmlora.apis import test as run_test
from mmlora.apis.labels import check_labels, head_classes, image_infos, label_problem, plain_datasets
from mmlora.datasets import Endoscopy, ListDataset, SeededDataset, VTAB1k

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')]


def config(num_classes=10, **loaders):
    return Config(dict(
        default_scope='mmpretrain', model=dict(head=dict(num_classes=num_classes)), shot=1, split=1,
        **{f'{part}_dataloader': dict(dataset=dict(pipeline=PIPELINE, **dataset)) for part, dataset in loaders.items()},
    ))


@pytest.fixture(scope='module')
def vtab(tmp_path_factory):
    return make_vtab(tmp_path_factory.mktemp('vtab'))


@pytest.fixture(scope='module')
def endo(tmp_path_factory):
    return make_medfmc(tmp_path_factory.mktemp('medfmc'), 'endo')


def eurosat(vtab, **options):
    return dict(type='VTAB1k', name='eurosat', data_root=str(vtab), **options)


def test_report_of_sound_data(vtab):
    cfg = config(train=eurosat(vtab, n_shot='{shot}', exp='{split}'), val=eurosat(vtab, split='val', n_shot='{shot}'),
                 test=eurosat(vtab, split='test'))
    before = cfg.to_dict()
    report = check_data(cfg)
    assert cfg.to_dict() == before
    assert not report.problems and not report.notes
    trained, validated, tested = report.loaders
    assert (trained.images, validated.images, tested.images) == (10, 30, 20)
    assert trained.shape == (3, 16, 16) and not trained.empty_classes
    assert 'few_shot_exps/train_1-shot_exp1.txt' in trained.sources[0]
    text = str(report)
    assert 'classes: 10, images of each: at least 3, median 3, at most 3' in text
    assert 'prepared image: 3 x 16 x 16' in text and text.endswith('no problem found')


def test_report_of_several_labels(endo):
    options = dict(type='Endoscopy', data_root=str(endo), n_shot='{shot}')
    report = check_data(config(4, train=options, val=dict(split='val', **options)))
    trained, validated = report.loaders
    assert trained.multi_label and trained.repeated == 1 and trained.without_class == 1 and trained.images == 7
    assert [trained.per_class[label] for label in range(4)] == [3, 5, 3, 1]
    assert validated.without_class == 5 and not report.problems
    assert 'of which 1 repeat a file' in str(report) and 'labels of an image: 1.71 on average, none in 1' in str(report)


def test_report_of_images_without_any_class(lists):
    (lists / 'none.json').write_text(json.dumps(dict(metainfo={}, data_list=[dict(img_path='a.png', gt_label=[])])))
    options = dict(type='MultiLabelDataset', ann_file='none.json', data_root=str(lists))
    assert 'none in 1 images' in str(check_data(config(2, train=options)))


def test_leaks_are_problems(vtab, endo):
    report = check_data(config(train=eurosat(vtab), val=eurosat(vtab, split='val200')))
    assert len(report.problems) == 1
    assert report.problems[0].startswith('8 of the 8 images of val_dataloader are in train_dataloader too, such as /')
    (vtab / 'link').symlink_to(vtab / 'eurosat')  # The same images by another path.
    linked = dict(type='ListDataset', data_root=str(vtab / 'link'), ann_file='val200.txt', num_classes=10)
    assert check_data(config(train=eurosat(vtab), val=linked)).problems[0].startswith('8 of the 8 images of val_')
    published = dict(type='Endoscopy', data_root=str(endo), n_shot=1)
    report = check_data(config(4, train=published, val=dict(split='official_val', **published)))
    assert '4 of the 22 images of val_dataloader are in train_dataloader too' in report.problems[0]


def test_validation_on_test_images_is_noted(vtab):
    tested = eurosat(vtab, split='test')
    report = check_data(config(train=eurosat(vtab), val=tested, test=tested))
    assert not report.problems
    assert report.notes == ['val and test are the same images: do not choose a checkpoint with them']
    (vtab / 'eurosat' / 'some.txt').write_text('images/test/000000.jpg 0\n')
    report = check_data(config(train=eurosat(vtab), val=eurosat(vtab, ann_file='some.txt'), test=tested))
    assert report.notes == ['1 of the 20 images of test_dataloader are in val_dataloader too: do not choose a '
                            'checkpoint with them']


def test_empty_classes_are_counted(vtab, tmp_path):
    shutil.copytree(vtab, tmp_path / 'vtab')
    write_lists(tmp_path / 'vtab' / 'eurosat', {'few.txt': ['images/test/000001.jpg 1', 'images/test/000001.jpg 1']})
    report = check_data(config(train=eurosat(tmp_path / 'vtab', ann_file='few.txt')))
    assert report.loaders[0].empty_classes == [0, *range(2, 10)] and report.loaders[0].repeated == 1
    assert 'without an image: 9 (AnnualCrop, HerbaceousVegetation, Highway, Industrial, Pasture, ...)' in str(report)


@pytest.mark.parametrize('dataset, message', [
    (dict(type='VTAB1k', name='dtd'), 'train_dataloader: no folder dtd'),
    (dict(type='VTAB1k', name='eurosat', split='val'), 'train_dataloader: .*needs n_shot'),
    (dict(type='VTAB1k', name='eurosat', shots=1), "train_dataloader: .*argument 'shots'"),
    (dict(), 'train_dataloader: .*must contain the key "type"'),
    (dict(type='CustomDataset', data_root='{root}', data_prefix='eurosat/few_shot_exps'), 'train_dataloader: Found 0'),
    (dict(type='CustomDataset', data_root='{root}', data_prefix='valid'),
     r"train_dataloader: there is no '.*/valid'. Its place is set by train_dataloader.dataset.data_root, .ann_file"),
    (dict(type='CustomDataset', data_root='{root}', ann_file='gone.txt', data_prefix=''),
     'train_dataloader: 1 of 2 images are missing: .*gone.jpg'),
    (dict(type='CustomDataset', data_root='{root}', ann_file='broken.txt', data_prefix=''),
     'train_dataloader: its first image cannot be prepared'),
])
def test_what_cannot_be_read_is_a_problem(vtab, dataset, message):
    there = 'eurosat/images/train800val200/000000.jpg'
    write_lists(vtab, {'gone.txt': [f'{there} 0', 'gone.jpg 1'], 'broken.txt': ['broken.jpg 0']})
    (vtab / 'broken.jpg').write_bytes(b'no image')
    dataset = {'data_root': str(vtab), **dataset}
    dataset['data_root'] = dataset['data_root'].replace('{root}', str(vtab))
    report = check_data(config(train=dataset, test=eurosat(vtab, split='test')))
    assert len(report.problems) == 1
    pytest.raises(ValueError, report_error, report.problems[0]).match(message)
    assert report.loaders[-1].images == 20  # The other loader is looked at all the same.


def report_error(text):
    raise ValueError(text)


def test_outputs_to_spare_are_noted(vtab):
    report = check_data(config(12, train=eurosat(vtab)))
    assert not report.problems
    assert 'has 10 classes, and model.head.num_classes=12 has outputs to spare' in report.notes[0]
    assert 'has 10 classes, but the head has num_classes=9: set model.head.num_classes=10' in check_data(
        config(9, train=eurosat(vtab))).problems[0]


def test_config_without_data_or_variable(vtab):
    with pytest.raises(ValueError, match='has none of train_dataloader'):
        check_data(Config(dict(model=dict())))
    with pytest.raises(ValueError, match="variable 'shots'"):
        check_data(config(train=eurosat(vtab, n_shot='{shots}')))
    assert "did you mean 'VTAB1k'" in check_data(config(train=dict(type='VTAB2k'))).problems[0]


def test_tool(vtab, tmp_path, capsys):
    path = tmp_path / 'config.py'
    cfg = config(train=eurosat(vtab, n_shot='{shot}', exp='{split}'), test=eurosat(vtab, split='test'))
    path.write_text(''.join(f'{name} = {value!r}\n' for name, value in cfg.to_dict().items()))
    assert call_tool('check_data', path) == 0 and 'no problem found' in capsys.readouterr().out
    assert call_tool('check_data', path, '--cfg-options', 'split=2') == 0
    assert 'train_1-shot_exp2.txt' in capsys.readouterr().out
    assert call_tool('check_data', path, '--cfg-options', 'test_dataloader.dataset.split=val200') == 0
    assert call_tool('check_data', path, '--cfg-options', 'shot=None', 'test_dataloader.dataset.split=val200') == 1
    assert 'problem: 8 of the 8 images' in capsys.readouterr().out
    assert call_tool('check_data', path, '--cfg-options', 'shot=0') == 2
    assert 'shot must be' in capsys.readouterr().err
    assert call_tool('check_data', tmp_path / 'none.py') == 2


# Images through the pipeline.


@pytest.fixture
def broken(tmp_path):
    """A list of four images, of which the last two cannot be read, and one that is listed twice."""
    for name in 'ab':
        write_image(tmp_path / f'{name}.png', 0, 0)
    for name in ('cut.png', 'empty.png'):
        (tmp_path / name).write_bytes(b'no image' if name == 'cut.png' else b'')
    write_lists(tmp_path, {'list.txt': ['a.png 0', 'b.png 1', 'a.png 0', 'cut.png 0', 'empty.png 1']})
    return dict(type='CustomDataset', data_root=str(tmp_path), ann_file='list.txt', data_prefix='')


def test_all_images_are_read_where_asked(broken):
    cfg = config(2, train=dict(type='RepeatDataset', times=2, dataset=dict(pipeline=PIPELINE, **broken)))
    del cfg.train_dataloader.dataset['pipeline']
    report = check_data(cfg)
    assert not report.problems and '3 x 16 x 16 (one image was read)' in str(report)
    report = check_data(cfg, read_all=True)
    assert len(report.problems) == 1 and '(2 images were read)' in str(report)
    heading, cut, empty = report.problems[0].splitlines()
    assert heading == 'train_dataloader: 2 images cannot be prepared:'
    assert '/cut.png: ' in cut and 'it is an empty file: copy it again' in empty


def test_images_that_a_pipeline_passes_over_are_found(broken):
    broken['pipeline'] = [dict(type='LoadImageFromFile', ignore_empty=True), *PIPELINE[1:]]
    cfg = Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=broken)))
    assert '/empty.png: ValueError: the pipeline returns None' in check_data(cfg, read_all=True).problems[0]


def test_tool_reads_all_images(broken, tmp_path, capsys):
    path = tmp_path / 'config.py'
    path.write_text(f'train_dataloader = dict(dataset={dict(broken, pipeline=PIPELINE)!r})\n')
    assert call_tool('check_data', path) == 0
    assert call_tool('check_data', path, '--read-all') == 1
    assert 'cut.png' in capsys.readouterr().out


@pytest.mark.parametrize('model, noted', [
    (dict(backbone=dict(img_size=16)), False), (dict(backbone=dict()), False), (dict(), False),
    (dict(backbone=dict(img_size=(16, 16))), False), (dict(backbone=dict(img_size=(16, 32))), True),
    (dict(backbone=dict(img_size=32)), True), (dict(module=dict(backbone=dict(img_size=32))), True),
])
def test_size_that_the_backbone_does_not_have_is_noted(vtab, model, noted):
    cfg = config(train=eurosat(vtab))
    cfg.model = ConfigDict(model)
    notes = check_data(cfg).notes
    assert len(notes) == noted
    assert not noted or 'the prepared image is 16 x 16, and model.backbone.img_size says' in notes[0]


def test_sizes_that_do_not_make_a_batch_are_noted(tmp_path):
    for side in (16, 24):
        cv2.imwrite(str(tmp_path / f'{side}.png'), np.zeros((side, side, 3), np.uint8))
    write_lists(tmp_path, {'list.txt': ['16.png 0', '24.png 1']})
    cfg = config(2, train=dict(type='ListDataset', data_root=str(tmp_path), ann_file='list.txt', num_classes=2))
    del cfg.train_dataloader.dataset.pipeline[1]
    assert not check_data(cfg).notes
    assert '2 sizes, such as 3 x 16 x 16 and 3 x 24 x 24' in check_data(cfg, read_all=True).notes[0]


# Labels against the head.


class Scores(BaseDataset):
    def load_data_list(self):
        return [dict(gt_score=np.zeros(3)), dict(gt_score=np.zeros(3))]


@pytest.fixture
def lists(tmp_path):
    write_image(tmp_path / 'a.png', 0, 0)
    (tmp_path / 'one.txt').write_text('a.png 2\n')
    (tmp_path / 'many.txt').write_text('a.png 1,0,1\n')
    for label in range(2):
        write_image(tmp_path / 'folders' / str(label) / 'a.png', label, label)
    stock = dict(metainfo=dict(classes=list('abcd')), data_list=[dict(img_path='a.png', gt_label=[0, 2])])
    (tmp_path / 'stock.json').write_text(json.dumps(stock))
    return tmp_path


def custom(lists, **options):
    return CustomDataset(data_root=str(lists), ann_file='one.txt', **options)


def stock(lists):
    return MultiLabelDataset('stock.json', data_root=str(lists))


FITS = {
    'own list': (lambda lists: ListDataset('one.txt', num_classes=3, data_root=str(lists)), 3, 'set .*num_classes=3'),
    'own list of several labels': (
        lambda lists: ListDataset('many.txt', None, 3, multi_label=True, data_root=str(lists)), 3, 'num_classes=3'),
    "mmpretrain's list": (custom, 3, r'has the label 2, but the head has num_classes=2, whose labels are 0\.\.1'),
    "mmpretrain's list, kept as objects": (lambda lists: custom(lists, serialize_data=False), 3, 'has the label 2'),
    "mmpretrain's folders": (
        lambda lists: CustomDataset(data_prefix=str(lists / 'folders')), 2, 'has the label 1.*num_classes=2, or mend'),
    "mmpretrain's several labels": (stock, 3, 'has the label 2.*set model.head.num_classes=4'),
    'scores': (lambda lists: Scores(), 3, 'labels for 3 classes'),
}


@pytest.mark.parametrize('make, num_classes, message', FITS.values(), ids=FITS)
def test_labels_fit_the_head_or_not(lists, make, num_classes, message):
    dataset = make(lists)
    assert label_problem(dataset, num_classes) is None
    pytest.raises(ValueError, report_error, label_problem(dataset, num_classes - 1)).match(message)


def test_width_of_several_labels_must_be_exact(lists):
    assert 'num_classes=3' in label_problem(FITS['own list of several labels'][0](lists), 4)
    assert '3 classes' in label_problem(Scores(), 4)
    assert label_problem(custom(lists), 4) is None


@pytest.mark.parametrize('label, several, message', [
    (-1, False, 'has the label -1 below 0'), (-100, False, 'has the label -100 below 0'),
    ([0, -1], True, 'has the label -1 below 0'), ([], True, None),
])
def test_labels_below_0_do_not_fit(lists, label, several, message):
    content = dict(metainfo=dict(classes=['a', 'b']), data_list=[dict(img_path='a.png', gt_label=label)])
    (lists / 'below.json').write_text(json.dumps(content))
    problem = label_problem((MultiLabelDataset if several else BaseDataset)('below.json', data_root=str(lists)), 2)
    assert (message in problem) if message else problem is None


def test_wrappers_are_looked_through(lists):
    dataset = custom(lists)
    init_default_scope('mmpretrain')
    fold = KFoldDataset(dict(type='CustomDataset', data_root=str(lists), ann_file='one.txt'), num_splits=1,
                        test_mode=True)
    for wrapped in (ConcatDataset([dataset, custom(lists)]), RepeatDataset(dataset, 3)):
        assert next(plain_datasets(SeededDataset(wrapped))) is dataset
        assert all(len(part) == 1 for part in plain_datasets(wrapped))
    assert [len(part) for part in plain_datasets(SeededDataset(fold))] == [1]
    assert list(image_infos(object())) == []


def test_data_sets_without_list_are_passed_over(lists):
    runner = SimpleNamespace(cfg=ConfigDict(model=dict(head=dict(num_classes=2))), val_loop=None,
                             train_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=[1, 2, 3])))
    check_labels(runner, 'train', 'val')
    runner.train_loop.dataloader.dataset = custom(lists)
    with pytest.raises(ValueError, match='train_dataloader: CustomDataset .*one.txt'):
        check_labels(runner, 'train')
    runner.cfg = ConfigDict(model=dict(type='Own'))
    check_labels(runner, 'train')


def test_a_head_with_outputs_for_no_class_is_said(lists, monkeypatch):
    said = []
    monkeypatch.setattr(labels, 'print_log', lambda message, **kwargs: said.append((message, kwargs['level'])))
    dataset = custom(lists, metainfo=dict(classes=['a', 'b', 'c']))
    runner = SimpleNamespace(train_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)))
    for num_classes, expected in ((3, 0), (4, 1)):
        runner.cfg = ConfigDict(model=dict(head=dict(num_classes=num_classes)))
        check_labels(runner, 'train')
        assert len(said) == expected
    assert 'has 3 classes' in said[0][0] and 'num_classes=4' in said[0][0] and said[0][1] == logging.WARNING


@pytest.mark.parametrize('model, expected', [
    (dict(head=dict(num_classes=5)), 5), (dict(module=dict(head=dict(num_classes=6))), 6), (dict(head=dict()), None),
    (dict(), None), (dict(head=[dict(num_classes=1)]), None),
])
def test_classes_of_the_head(model, expected):
    assert head_classes(Config(dict(model=model))) == expected


@pytest.mark.parametrize('part', ['train', 'val'])
def test_training_says_so_before_the_first_step(images, tmp_path, part):
    cfg = tiny_config(images, tmp_path, **{'model__head__num_classes': 3})
    (tmp_path / 'four.txt').write_text(f'{next(images.rglob("*.png")).relative_to(images)} 3\n')
    cfg.merge_from_dict({f'{part}_dataloader.dataset.ann_file': str(tmp_path / 'four.txt')})
    with pytest.raises(ValueError, match=f'{part}_dataloader: CustomDataset .* has the label 3, .*num_classes=4'):
        train(cfg)


def test_missing_folder_names_loader_and_option(images, tmp_path, whole_run):
    cfg = tiny_config(images, tmp_path, val_dataloader__dataset__data_prefix='validation')
    with pytest.raises(FileNotFoundError, match="val_dataloader: there is no '.*/validation'.*--cfg-options val_data"):
        train(cfg)
    cfg = tiny_config(images, tmp_path, test_dataloader__dataset__data_root=str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match="test_dataloader: there is no '.*/none/'"):
        run_test(cfg, str(whole_run / 'epoch_3.pth'))


def test_testing_says_so_too(images, tmp_path, whole_run):
    (tmp_path / 'four.txt').write_text(f'{next(images.rglob("*.png")).relative_to(images)} 3\n')
    cfg = tiny_config(images, tmp_path, test_dataloader__dataset__ann_file=str(tmp_path / 'four.txt'))
    with pytest.raises(ValueError, match='test_dataloader: CustomDataset .* has the label 3'):
        run_test(cfg, str(whole_run / 'epoch_3.pth'))


def test_configs_of_tests_are_sound(images):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({f'{part}_dataloader.dataset.data_root': str(images) for part in ('train', 'val', 'test')})
    report = check_data(cfg)
    assert [loader.images for loader in report.loaders] == [36, 36, 36]
    assert len(report.problems) == 2 and all('a leak' in problem for problem in report.problems)


def test_data_sets_of_generated_images_have_no_files():
    report = check_data(Config(dict(test_dataloader=dict(dataset=dict(
        type='Digits', split='test', pipeline=[dict(type='PackInputs')])))))
    assert report.loaders[0].images == 597 and not report.loaders[0].files and report.loaders[0].shape == (3, 32, 32)
    assert not report.problems


def test_own_data_sets_are_picklable_with_their_names(vtab, endo):
    for dataset in (VTAB1k('eurosat', data_root=str(vtab)), Endoscopy(data_root=str(endo))):
        assert len(pickle.loads(pickle.dumps(dataset))) == len(dataset)
