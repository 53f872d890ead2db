"""Images that are decoded once: bit for bit what decoding gives, shared by workers, within a limit."""

import copy

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch.utils.data import DataLoader

from mmlora.datasets import ListDataset, SampleIndex, SeededDataset
from mmlora.engine.protocol import plain_data_config

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=16, backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]


@pytest.fixture
def files(tmp_path):
    draw = np.random.default_rng(0)
    for number, name in enumerate(('a.png', 'b.jpg', 'c.jpg')):
        picture = draw.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / 'list.txt').write_text('a.png 0\nb.jpg 1\nc.jpg 0\nb.jpg 1\n')
    return tmp_path


def build(folder, **kwargs):
    return ListDataset(ann_file=str(folder / 'list.txt'), data_prefix=str(folder), num_classes=2,
                       **{'pipeline': PIPELINE, **kwargs})


def drawn(dataset, epochs=3):
    seeded = SeededDataset(dataset)
    return torch.stack([seeded[SampleIndex(i, 7, epoch)]['inputs'] for epoch in range(epochs) for i in range(4)])


@pytest.mark.parametrize('lazy', [False, True])
def test_the_input_is_the_same_and_files_are_read_once(lazy, files):
    expected = drawn(build(files))
    kept = build(files, in_memory=0.1, lazy_init=lazy)
    kept.full_init()
    for name in ('a.png', 'b.jpg', 'c.jpg'):
        (files / name).unlink()
    assert torch.equal(drawn(kept), expected) and len({one.numpy().tobytes() for one in expected}) > 8
    loader = DataLoader(SeededDataset(kept), 1, sampler=[SampleIndex(i, 7, 1) for i in range(4)], num_workers=2,
                        collate_fn=pseudo_collate, multiprocessing_context='fork')
    assert torch.equal(torch.cat([batch['inputs'][0][None] for batch in loader]), expected[4:8])


def test_a_transform_that_writes_does_not_change_what_is_kept(files):
    kept = build(files, in_memory=0.1)
    load = kept.pipeline.transforms[0]
    first = load(dict(img_path=str(files / 'a.png')))['img']
    before = first.copy()
    first[:] = 0
    again = load(dict(img_path=str(files / 'a.png')))
    assert np.array_equal(again['img'], before) and again['img'].dtype == np.uint8
    assert again['ori_shape'] == again['img_shape'] == (30, 40)
    assert copy.deepcopy(kept).pipeline.transforms[0]._kept is load._kept, 'a copy shares the images'


def test_a_damaged_image_is_passed_over_where_that_is_asked_for(files):
    (files / 'a.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match='a.png cannot be read'):
        build(files, in_memory=0.1)
    kept = build(files, in_memory=0.1, pipeline=[dict(type='LoadImageFromFile', ignore_empty=True), *PIPELINE[1:]])
    load = kept.pipeline.transforms[0]
    assert set(load._kept) == {str(files / 'b.jpg'), str(files / 'c.jpg')}
    assert load(dict(img_path=str(files / 'a.png'))) is None


def test_results_with_and_without_it_are_on_the_same_data():
    config = dict(type='ListDataset', ann_file='a.txt')
    assert plain_data_config(dict(config, in_memory=2.0)) == plain_data_config(config)


@pytest.mark.parametrize('arguments, message', [
    (dict(in_memory=1e-5), r'3 of 3 decoded images take more than in_memory=1e-05 GiB, all would take about 0.0'),
    (dict(in_memory=0), 'in_memory=0 must be the GiB'),
    (dict(in_memory=True), 'in_memory=True must be the GiB'),
    (dict(in_memory='2GB'), "in_memory='2GB' must be the GiB"),
    (dict(in_memory=1, pipeline=[dict(type='PackInputs')]), r"and the pipeline has \['PackInputs'\]"),
])  # fmt: skip
def test_what_cannot_be_kept(arguments, message, files):
    with pytest.raises(ValueError, match=message):
        build(files, **arguments)
