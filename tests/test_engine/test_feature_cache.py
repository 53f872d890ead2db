"""Kept features: runs that equal those that read images, what is encoded again, and what is refused."""

import copy
import multiprocessing
import os
import shutil
import socket

import cv2
import numpy as np
import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample

from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.datasets import SampleIndex
from mmlora.datasets.feature_dataset import FeatureDataset, ImageKeys, check_samples, locate
from mmlora.engine import FeatureCacheHook
from mmlora.engine.feature_encoding import VERSIONS
from mmlora.io.plain import from_plain
from mmlora.models import LoRACLIPClassifier

CONFIG = tiny.ROOT / 'tests' / 'data' / 'configs' / 'tiny_clip.py'
FIXED = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


@HOOKS.register_module(force=True)
class DoubleHook(Hook):
    """Compute in float64."""

    def before_run(self, runner):
        runner.model.double()


@pytest.fixture
def encoded(monkeypatch):
    """Count the images that are encoded."""
    counts, encode = [], LoRACLIPClassifier.encode_image

    def counting(self, inputs):
        counts.append(len(inputs))
        return encode(self, inputs)

    # The hook asks whether a class encodes in a way of its own, so the class itself is patched.
    monkeypatch.setattr(LoRACLIPClassifier, 'encode_image', counting)
    return counts


def config(images, work_dir, hook=None, double=True, pipeline=None, **model):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(tiny.data_options(images))
    cfg.model.update(dict(encoder='text', vision=dict(drop_path_rate=0.0)))
    cfg.model.update(model)
    cfg.work_dir = str(work_dir)
    if pipeline is not None:
        cfg.train_dataloader.dataset.pipeline = pipeline
    if double:
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='DoubleHook')]
    if hook is not None:
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='FeatureCacheHook', folder=str(work_dir / 'features'), **hook)]
    return cfg


def assert_same_runs(first, second, name='epoch_3.pth', tolerance=1e-10):
    one, other = (tiny.load(folder / name) for folder in (first, second))
    assert set(one['state_dict']) == set(other['state_dict'])
    for key, value in one['state_dict'].items():
        torch.testing.assert_close(value, other['state_dict'][key], rtol=tolerance, atol=tolerance)
    losses = [from_plain(run['message_hub'])['log_scalars']['train/loss'].data[0] for run in (one, other)]
    np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.fixture(scope='module')
def plain(tmp_path_factory, images):
    """Runs that read images: of a fixed pipeline and of a random one."""
    folders = {}
    with tiny.quick_runs():
        for name, pipeline in (('fixed', FIXED), ('random', None)):
            DefaultScope._instance_dict.clear()
            folders[name] = tmp_path_factory.mktemp(name)
            train(config(images, folders[name], pipeline=pipeline))
    return folders


@pytest.mark.parametrize('name, hook', [('fixed', {}), ('random', dict(num_views=3)), ('random', dict(num_views=4))])
def test_training_equals_that_on_images_in_float64(tmp_path, images, plain, name, hook, encoded):
    runner = train(config(images, tmp_path, hook, pipeline=FIXED if name == 'fixed' else None))
    assert_same_runs(tmp_path, plain[name])
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() > 40  # chance is a third
    assert isinstance(runner.train_dataloader.dataset, FeatureDataset)
    # Validation shows the images of the fixed training pipeline, and finds them.
    assert sum(encoded) == 36 * (hook.get('num_views', 0) + 1)


def test_a_resumed_run_equals_the_whole_one(tmp_path, images, plain, encoded):
    cfg = config(images, tmp_path, dict(num_views=3))
    cfg.load_from, cfg.resume = str(plain['random'] / 'epoch_1.pth'), True
    train(cfg)
    assert_same_runs(tmp_path, plain['random'])


def test_mixed_precision_and_how_far_it_is(tmp_path, images, monkeypatch):
    monkeypatch.setattr('mmlora.engine.feature_encoding.LOG_SECONDS', -1)
    losses = []
    for hook in (None, dict(num_views=3)):
        folder = tmp_path / str(len(losses))
        train(config(images, folder, hook, double=False), amp=True)
        hub = from_plain(tiny.load(folder / 'epoch_3.pth')['message_hub'])
        losses.append(hub['log_scalars']['train/loss'].data[0])
    np.testing.assert_allclose(*losses, rtol=0.05)
    [log] = folder.glob('*/*.log')
    assert 'train_dataloader: features of 40 of 108 images, ' in log.read_text()
    spaces = [path.read_text() for path in (folder / 'features').glob('*/about.json')]
    assert sum('"autocast": "torch.bfloat16"' in about for about in spaces) == 1


def test_a_run_of_few_views_goes_round(tmp_path, images, plain):
    train(config(images, tmp_path, dict(num_views=1)))
    weights = [tiny.load(folder / 'epoch_1.pth')['state_dict'] for folder in (tmp_path, plain['random'])]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-10, atol=1e-10)
    with pytest.raises(AssertionError):
        assert_same_runs(tmp_path, plain['random'])


def test_what_changed_is_encoded_again_and_nothing_else(tmp_path, images, plain, encoded, monkeypatch):
    data = tmp_path / 'data'
    shutil.copytree(images, data)
    checkpoint = str(plain['fixed'] / 'epoch_3.pth')

    def accuracy(change=lambda cfg: None, hook={}, **model):  # noqa: B006
        encoded.clear()
        cfg = config(data, tmp_path / 'work', hook, double=False, **model)
        change(cfg)
        result = run_test(cfg, checkpoint, record=False)['accuracy/top1']
        return result, sum(encoded)

    def blur(cfg):
        cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='CenterCrop', crop_size=16))
        cfg.test_dataloader.dataset.pipeline.insert(2, dict(type='Resize', scale=32))

    first, count = accuracy(hook=None)
    assert count == 36 and first > 40
    assert accuracy() == (first, 36)
    assert accuracy() == (first, 0)
    assert accuracy(lambda cfg: cfg.test_dataloader.update(batch_size=5)) == (first, 0)
    assert accuracy(blur)[1] == 36
    assert accuracy(lambda cfg: cfg.data_preprocessor.update(std=[60.0] * 3))[1] == 36
    assert accuracy(lambda cfg: cfg.test_cfg.update(fp16=True))[1] == 36
    assert accuracy() == (first, 0)
    path = next((data / 'class1').glob('*.png'))
    os.utime(path, ns=(1, 1))
    assert accuracy() == (first, 1)
    cv2.imwrite(str(path), np.zeros((32, 32, 3), np.uint8))
    assert accuracy()[1] == 1
    other = tiny.load(tmp_path.__class__(checkpoint))
    other['state_dict']['visual.layers.1.ffn.layers.1.bias'][0] += 1e-3
    checkpoint = str(tmp_path / 'other.pth')
    torch.save(other, checkpoint)
    assert accuracy()[1] == 36
    assert accuracy()[1] == 0
    monkeypatch.setitem(VERSIONS, 'torch', '99.0')
    assert accuracy()[1] == 36


def test_bits_are_equal_where_batches_are(tmp_path, images, plain):
    outs = []
    for hook in (None, {}, {}):
        out = tmp_path / f'{len(outs)}.pkl'
        run_test(config(images, tmp_path, hook, double=False), str(plain['fixed'] / 'epoch_3.pth'), out=str(out))
        outs.append(torch.tensor(np.stack([np.asarray(sample['pred_score']) for sample in torch_load(out)])))
    assert outs[0].dtype == torch.float32 and outs[0].std() > 0
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def torch_load(path):
    import pickle

    return pickle.loads(path.read_bytes())  # written by this test


def test_an_adapted_tower_is_validated_right_after_every_change(tmp_path, images, encoded):
    folders = []
    for hook in (None, dict(parts=['val', 'test'])):
        folders.append(tmp_path / str(len(folders)))
        train(config(images, folders[-1], hook, encoder='both', lora_dropout=0.0))
    assert_same_runs(*folders)
    logs = ['\n'.join(path.read_text() for path in folder.glob('*/vis_data/scalars.json')) for folder in folders]
    values = [[line.split('accuracy/top1')[1][3:9] for line in log.splitlines() if 'top1' in line] for log in logs]
    assert len(values[0]) == 3 and values[0] == values[1]
    assert len(list((folders[1] / 'features').iterdir())) == 3  # a space for the weights of each epoch


REFUSED = [
    (dict(), dict(encoder='vision'), "'visual.layers.0.attn.qkv.lora_A_q'.*parts="),
    (dict(), dict(vision=dict(drop_path_rate=0.1)), 'drops at random'),
    (dict(), dict(), r'RandomResizedCrop, RandomFlip, ColorJitter.*num_views=10'),
    (dict(num_views=0), dict(), 'num_views must'),
    (dict(parts=['train', 'tset']), dict(), 'parts must'),
    (dict(parts='val'), dict(), r"write \['val'\]"),
    (dict(shard_size=0), dict(), 'shard_size'),
]


@pytest.mark.parametrize('hook, model, message', REFUSED)
def test_what_cannot_be_kept_is_refused(tmp_path, images, hook, model, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train(config(images, tmp_path, hook, **model))
    assert not list(tmp_path.glob('*.pth'))


def test_other_models_are_refused(tmp_path, images):
    cfg = tiny.tiny_config(images, tmp_path, custom_hooks=[dict(type='FeatureCacheHook')])
    with pytest.raises(TypeError, match='is a ImageClassifier'):
        train(cfg)


GLYPHS = dict(type='Glyphs', split='train', samples_per_class=1, scripts=['GREEK'], indices=6,
              serialize_data=False)  # fmt: skip


@pytest.mark.parametrize('redraw, num_views, message', [(True, None, 'other images in each epoch'), (False, None, None),
                                                        (True, 2, None)])
def test_drawn_images(tmp_path, images, encoded, redraw, num_views, message):
    def run(folder, hook):
        cfg = config(images, folder, hook, pipeline=[dict(type='PackInputs')])
        cfg.train_dataloader.dataset = dict(GLYPHS, redraw=redraw, pipeline=[dict(type='PackInputs')])
        cfg.custom_hooks = [entry for entry in cfg.custom_hooks if entry.type != 'ClassNamesHook']
        cfg.model.classes = ['a photo', 'class0', 'class1', 'class2', 'of', '.']
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.train_cfg.max_epochs = 2
        train(cfg)

    if message:
        with pytest.raises(ValueError, match=message):
            run(tmp_path, dict(num_views=num_views))
        return
    run(tmp_path / 'images', None)
    encoded.clear()
    run(tmp_path / 'features', dict(num_views=num_views))
    assert_same_runs(tmp_path / 'images', tmp_path / 'features', 'epoch_2.pth')
    assert sum(encoded) == 6 * (num_views or 1)


def built(**kwargs):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(kwargs)


def test_keys_of_wrapped_data_sets_are_those_of_the_images(images):
    folder = dict(type='CustomDataset', data_root=str(images), with_label=True, pipeline=FIXED, serialize_data=False)
    keys = ImageKeys(built(**folder))
    twice = built(type='RepeatDataset', dataset=folder, times=2)
    small = [FIXED[0], dict(type='Resize', scale=16), FIXED[1]]
    both = built(type='ConcatDataset', datasets=[folder, dict(folder, pipeline=small)])
    fold = built(type='KFoldDataset', dataset=folder, fold=1, num_splits=3, test_mode=True)
    seeded = built(type='SeededDataset', dataset=folder)
    assert len({keys.key(i) for i in range(36)}) == 36
    assert ImageKeys(twice).key(40) == keys.key(4) and ImageKeys(both).key(35) == keys.key(35)
    assert ImageKeys(both).key(36) != keys.key(0)
    assert ImageKeys(fold).key(0) == keys.key(12) and locate(fold, 1)[0].get_data_info(1) == fold.get_data_info(1)
    assert ImageKeys(seeded).key(3) == keys.key(3) != keys.key(3, 0, 0) != keys.key(3, 0, 1)
    drawn = [ImageKeys(built(**dict(GLYPHS, seed=seed, pipeline=[]))).key(0) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_features_take_the_place_of_images(images):
    data = built(type='CustomDataset', data_root=str(images), with_label=True, pipeline=FIXED, serialize_data=False)
    features = torch.randn(2, 36, 5)
    held = FeatureDataset(data, features, seed=3)
    assert len(held) == 36 and held.metainfo == data.metainfo
    for epoch, view in ((0, 0), (3, 1)):
        item = held[SampleIndex(7, 3, epoch)]
        assert torch.equal(item['inputs'], features[view, 7])
        assert item['data_samples'].img_path == data[7]['data_samples'].img_path
        assert torch.equal(item['data_samples'].gt_label, data[7]['data_samples'].gt_label)
    for index in (7, SampleIndex(7, 4, 0), SampleIndex(7, 3, 0, draw=1)):
        with pytest.raises(ValueError, match='seed 3'):
            held[index]
    with pytest.raises(ValueError, match='36 samples'):
        FeatureDataset(data, features[:, :35])
    check_samples(data, 7, data[7]['data_samples'])
    for wrong in (data[8]['data_samples'], copy.deepcopy(data[7]['data_samples']).set_field(1, 'domain')
                  or DataSample(metainfo=dict(domain='x'))):
        with pytest.raises(ValueError, match='comes from its pipeline'):
            check_samples(data, 7, wrong)


def _share(rank, port, folder, images, queue):
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    counts, encode = [], LoRACLIPClassifier.encode_image
    LoRACLIPClassifier.encode_image = lambda self, inputs: counts.append(len(inputs)) or encode(self, inputs)
    from mmengine.runner import Runner

    from mmlora.apis.train import prepare_train_cfg

    cfg = prepare_train_cfg(config(images, folder, pipeline=FIXED, double=False))
    runner = Runner.from_cfg(cfg)
    hook = FeatureCacheHook(folder=folder / 'features')
    runner.optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    hook.before_train(runner)
    queue.put((rank, sum(counts), runner.train_dataloader.dataset.features.double().sum().item()))
    torch.distributed.destroy_process_group()


def test_each_process_encodes_its_share(tmp_path, images):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    workers = [context.Process(target=_share, args=(rank, port, tmp_path, images, queue)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    results = sorted(queue.get() for _ in workers)
    assert [count for _, count, _ in results] == [18, 18]
    assert results[0][2] == results[1][2] != 0
