"""The bases of CLIP's sets: what they read, how images are prepared, and what shot, seed and base_to_new change."""

import numpy as np
import pytest
from catalogue import CONFIGS
from coop_layouts import class_names, make_listed, make_shift
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, TRANSFORMS
from PIL import Image

from mmlora.apis import check_data, settle_variables
from mmlora.apis.run_folder import name_run
from mmlora.datasets import COOP_SETS, IMAGENET_SHIFTS
from mmlora.engine.protocol import describe_run, name_data

BASES = CONFIGS / '_base_' / 'datasets' / 'clip'
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def load(name, root='data/coop', seed=1, **options):
    cfg = Config.fromfile(BASES / f'{name}.py')
    for part in ('train', 'val', 'test'):
        if cfg[f'{part}_dataloader']:
            cfg[f'{part}_dataloader'].dataset.data_root = str(root)
    cfg.randomness = dict(seed=seed)
    cfg.merge_from_dict(options)
    return cfg


def images(cfg, part):
    dataset = DATASETS.build({**cfg[f'{part}_dataloader'].dataset, 'pipeline': [], 'serialize_data': False})
    return [(info['img_path'], info['gt_label']) for info in dataset.data_list]


@pytest.fixture
def eurosat(tmp_path):
    init_default_scope('mmpretrain')
    make_listed(tmp_path / 'eurosat', 'eurosat', counts=dict(train=3, val=2, test=1), real=True)
    return tmp_path


def test_there_is_a_base_for_each_set():
    assert {path.stem for path in BASES.glob('*.py')} == {*COOP_SETS, *IMAGENET_SHIFTS, 'class_folders'}


@pytest.mark.parametrize('name', [*COOP_SETS, *IMAGENET_SHIFTS])
def test_names_and_normalisation(name):
    cfg = load(name)
    assert cfg.dataset_name == name and cfg.test_dataloader.dataset.name == name
    assert (cfg.train_dataloader is None) is (name in IMAGENET_SHIFTS)
    if cfg.train_dataloader:
        assert cfg.train_dataloader.dataset.name == cfg.val_dataloader.dataset.name == name
    np.testing.assert_allclose(cfg.data_preprocessor.mean, 255 * np.array(MEAN), rtol=1e-9)
    np.testing.assert_allclose(cfg.data_preprocessor.std, 255 * np.array(STD), rtol=1e-9)
    assert cfg.data_preprocessor.to_rgb


def test_shot_and_seed(eurosat):
    drawn = {}
    for shot, seed in ((1, 1), (2, 1), (2, 2)):
        cfg = load('eurosat', eurosat, seed, shot=shot, tune=True)
        assert name_run(cfg, settle_variables(cfg)) == f'shot{shot}_tune_seed{seed}'
        dataset = cfg.train_dataloader.dataset
        assert (dataset.n_shot, dataset.seed, dataset.sampling, dataset.subset) == (shot, seed, 'clip_lora', 'all')
        drawn[shot, seed] = images(cfg, 'train')
        assert len(drawn[shot, seed]) == 10 * shot and len(images(cfg, 'val')) == 10 * shot
        assert len(images(cfg, 'test')) == 10
        assert describe_run(cfg)['shot'] == shot
    assert drawn[2, 1] != drawn[2, 2]
    cfg = load('eurosat', eurosat)
    settle_variables(cfg)
    assert cfg.val_dataloader is cfg.val_evaluator is cfg.val_cfg is None


@pytest.mark.parametrize('options, trained, tested, data', [
    ({}, 10, 10, ('eurosat', 'eurosat')),
    (dict(base_to_new=True), 5, 5, ('eurosat-base', 'eurosat-new')),
    (dict(base_to_new=True, test_subset='base'), 5, 5, ('eurosat-base', 'eurosat-base')),
    (dict(base_to_new=True, test_subset='all'), 5, 10, ('eurosat-base', 'eurosat')),
])
def test_base_to_new(eurosat, options, trained, tested, data):
    cfg = load('eurosat', eurosat, shot=1, **options)
    settle_variables(cfg)
    assert len(images(cfg, 'train')) == trained and len(images(cfg, 'test')) == tested
    assert describe_run(cfg)['dataset_name'] == data[0]
    assert name_data(cfg, cfg.test_dataloader.dataset) == data[1]
    tests_new = cfg.test_dataloader.dataset.subset == 'new'
    first = next(path for path, label in images(cfg, 'test') if label == 0)
    assert f'/class_{5 * tests_new}/' in first


def test_checked_as_a_whole(eurosat, tmp_path_factory):
    report = check_data(load('eurosat', eurosat, shot=1, tune=True))
    assert report.problems == [] and [loader.images for loader in report.loaders] == [10, 10, 10]
    assert all(loader.shape == (3, 224, 224) for loader in report.loaders)
    root = tmp_path_factory.mktemp('shift')
    make_shift(root, 'imagenet_r')
    (root / 'imagenet-rendition' / 'classnames.txt').write_text(class_names())
    report = check_data(load('imagenet_r', root))
    assert [loader.images for loader in report.loaders] == [200]


def test_images_of_ones_own(tmp_path):
    init_default_scope('mmpretrain')
    content = tmp_path / 'data'
    make_listed(tmp_path / 'eurosat', 'eurosat', counts=dict(train=2, val=1, test=1), real=True)
    (tmp_path / 'eurosat' / '2750').rename(content)
    report = check_data(load('class_folders', content, shot=1))
    assert report.problems == [] and [loader.images for loader in report.loaders] == [10, 10]
    cfg = load('class_folders', content, shot=1, base_to_new=True, tune=True)
    settle_variables(cfg)
    assert [len(images(cfg, part)) for part in ('train', 'val', 'test')] == [5, 5, 5]


@pytest.mark.parametrize('size', [(300, 500), (500, 300), (224, 224), (100, 130)])
def test_images_are_prepared_as_clip_does(tmp_path, size):
    """Of a file, as PIL reads it, without its orientation."""
    init_default_scope('mmpretrain')
    height, width = size
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / 'a.jpg', exif=exif)
    cfg = load('dtd')
    item = dict(img_path=str(tmp_path / 'a.jpg'), gt_label=0)
    for step in cfg.test_dataloader.dataset.pipeline:
        item = TRANSFORMS.build(step)(item)
    scale = 224 / min(size)
    wanted = Image.open(tmp_path / 'a.jpg').convert('RGB').resize(
        (round(int(width * scale + 1e-6)), round(int(height * scale + 1e-6))), Image.Resampling.BICUBIC)
    top, left = round((wanted.height - 224) / 2), round((wanted.width - 224) / 2)
    wanted = np.asarray(wanted)[top:top + 224, left:left + 224]
    np.testing.assert_array_equal(item['inputs'].permute(1, 2, 0).numpy()[..., ::-1], wanted)
    assert default_collate([item['inputs']]).shape == (1, 3, 224, 224)


def test_training_crops_and_flips():
    steps = load('dtd').train_dataloader.dataset.pipeline
    assert [step.type for step in steps] == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']
    crop = TRANSFORMS.build(steps[1])
    assert crop.crop_ratio_range == (0.08, 1.0) and crop.aspect_ratio_range == (3 / 4, 4 / 3)
    assert (crop.scale, crop.interpolation, crop.backend) == ((224, 224), 'bicubic', 'pillow')
