"""The bases of FGVC: their pipelines, which splits they read, and that a run can be made of them."""

import numpy as np
import pytest
from catalogue import CONFIGS
from fgvc_layouts import make_json
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, TRANSFORMS
from PIL import Image

from mmlora.apis import check_data, settle_variables
from mmlora.datasets import FGVC_SETS

BASES = CONFIGS / '_base_' / 'datasets'
CASES = [(folder, name) for folder in ('fgvc', 'fgvc_imagenet_224') for name in FGVC_SETS]


def load(folder, name, root='data/FGVC', **options):
    cfg = Config.fromfile(BASES / folder / f'{name}.py')
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.data_root = str(root)
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('folder, name', CASES)
def test_names_and_normalisation(folder, name):
    cfg = load(folder, name)
    assert cfg.dataset_name == f'fgvc-{name}'
    assert {cfg[f'{part}_dataloader'].dataset.name for part in ('train', 'val', 'test')} == {name}
    half = folder == 'fgvc'
    assert cfg.data_preprocessor.mean == ([127.5] * 3 if half else [123.675, 116.28, 103.53])
    assert cfg.data_preprocessor.std == ([127.5] * 3 if half else [58.395, 57.12, 57.375])
    assert cfg.data_preprocessor.to_rgb and cfg.train_dataloader.batch_size == 32


@pytest.mark.parametrize('tune, images', [(False, [14, 4]), (True, [12, 2, 4])])
@pytest.mark.parametrize('folder', ['fgvc', 'fgvc_imagenet_224'])
def test_splits_are_chosen_by_tune(tmp_path, folder, tune, images):
    make_json(tmp_path / 'StanfordCars')
    report = check_data(load(folder, 'cars', tmp_path, tune=tune))
    assert report.problems == [] and [loader.images for loader in report.loaders] == images
    assert all(loader.shape == (3, 224, 224) for loader in report.loaders)


def test_images_are_cut_as_published(tmp_path):
    """A wide image: RLRR squeezes it into a square, VPT cuts its sides off."""
    init_default_scope('mmpretrain')
    wide = np.zeros((300, 600, 3), np.uint8)
    wide[:, :150], wide[:, 450:] = 60, 180
    wide[..., 1] += np.arange(300, dtype=np.uint8)[:, None] // 2
    for folder, size in (('fgvc', (256, 256)), ('fgvc_imagenet_224', (512, 256))):
        steps = load(folder, 'dogs').test_dataloader.dataset.pipeline[1:-1]
        item = dict(img=wide, img_shape=wide.shape[:2])
        for step in steps:
            item = TRANSFORMS.build(step)(item)
        wanted = np.asarray(Image.fromarray(wide).resize(size, Image.Resampling.BILINEAR))
        top, left = (256 - 224) // 2, (size[0] - 224) // 2
        np.testing.assert_array_equal(item['img'], wanted[top:top + 224, left:left + 224])


def test_training_crops_and_flips(tmp_path):
    make_json(tmp_path / 'cub')
    for folder, resize in (('fgvc', 'Resize'), ('fgvc_imagenet_224', 'ResizeEdge')):
        cfg = load(folder, 'cub', tmp_path)
        settle_variables(cfg)
        pipeline = cfg.train_dataloader.dataset.pipeline
        assert [step.type for step in pipeline] == [
            'LoadImageFromFile', resize, 'RandomCrop', 'RandomFlip', 'PackInputs']
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        np.random.seed(0)
        assert len({dataset[0]['inputs'].numpy().tobytes() for _ in range(8)}) > 4
