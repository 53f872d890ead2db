"""Episodes to train on: what they hold, their order, that they follow from the seed alone, and going on exactly."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from recycle_pool import CLASSES, LORAS, write_pool
from torch.utils.data import DataLoader

from mmlora.datasets import EpisodeSampler, EpisodicDataset, Glyphs, PoolImages, SeededDataset
from mmlora.datasets.episodes import EpisodeIndex, Origin, Place, shot_major
from mmlora.engine.loops import EndlessBatches, begin_epoch
from mmlora.episodes import Episode, draw_episode, positions_by_class

PACK = [dict(type='PackInputs')]
SMALL = dict(n_way=3, n_shot=1, n_query=2, num_episodes=12)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='module')
def pool(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp('pool')).folder


def images(pool, **kwargs):
    return PoolImages(str(pool), pipeline=PACK, **kwargs)


def letters(script, **kwargs):
    return Glyphs('test', 4, scripts=[script], redraw=False, pipeline=PACK, **kwargs)


def sampler(dataset, **kwargs):
    return EpisodeSampler(dataset=dataset, **{**SMALL, 'seed': 0, **kwargs})


def test_the_order_is_that_of_the_published_code(golden):
    wanted = json.loads((golden / 'lora_recycle' / 'episode_sampler.json').read_text())
    way, split = wanted['n_cls'], wanted['split_example']
    for batch in wanted['batches']:
        rows = np.array(batch).reshape(-1, way).T  # Place p is of the class p % way.
        support, query = shot_major(Episode(np.arange(way), rows[:, :split['shot']], rows[:, split['shot']:]))
        assert [*support, *query] == batch
        assert all(len({wanted['labels'][i] for i in row}) == 1 for row in rows)
    rows = np.array(wanted['batches'][0]).reshape(-1, way).T
    support, query = shot_major(Episode(np.arange(way), rows[:, :split['shot']], rows[:, split['shot']:]))
    assert (support.tolist(), query.tolist()) == (split['support_idx'], split['query_idx'])
    assert [p % way for p in range(len(support))] == split['support_label']
    assert [p % way for p in range(len(query))] == split['query_label']


def test_our_draws_have_this_order_and_repeat_nothing(golden):
    labels = json.loads((golden / 'lora_recycle' / 'episode_sampler.json').read_text())['labels']
    positions = positions_by_class(labels)
    seen = set()
    for number in range(4):
        episode = draw_episode(positions, 5, 1, 5, 42, number)
        support, query = shot_major(episode)
        everything = [*support.tolist(), *query.tolist()]
        assert len(set(everything)) == 30
        assert [labels[i] for i in everything] == [*episode.classes] * 6
        seen.add(tuple(everything))
    assert len(seen) == 4


def test_classes_of_several_sets_are_numbered_on(golden, root):
    wanted = json.loads((golden / 'lora_recycle' / 'labels.json').read_text())
    names = {'cifar100': 'cifar-fs', 'miniimagenet': 'mini-imagenet', 'cub': 'cub', 'flower': 'vgg-flower'}

    class OneEach:
        def __init__(self, count):
            self.count = count

        def __len__(self):
            return self.count

        def get_gt_labels(self):
            return np.arange(self.count)

    counts = []
    for key, name in names.items():
        split = json.loads((root / 'data_splits' / 'lora_recycle' / f'{name}.json').read_text())
        assert len(split['meta_train']) == wanted['dataset_classnum'][key]
        counts.append(len(split['meta_train']))
    data = EpisodicDataset([OneEach(count) for count in counts])
    assert data.get_gt_labels().tolist() == list(range(1 + wanted['bias_end']['mix']))
    firsts = [sum(counts[:number]) for number in range(len(counts))]
    assert dict(zip(names, firsts, strict=True)) == {key: wanted['bias'][key] for key in names}
    # Absolute to relative labels: the place of a class among those of an episode.
    positions = positions_by_class(wanted['label_abs'])
    own = {label: [wanted['relative'][i] for i in places] for label, places in positions.items()}
    assert own == {label: [wanted['specific'].index(label)] * len(places) for label, places in positions.items()}


def test_an_episode_of_a_pool(pool):
    data = EpisodicDataset(images(pool))
    assert data.meta_classes == tuple(CLASSES) and len(data) == 24
    (batch, *_) = loader = DataLoader(SeededDataset(data), batch_sampler=sampler(data, batch_size=2),
                                      collate_fn=default_collate)
    assert len(loader) == 6 and batch['inputs'].shape == (2 * 9, 3, 32, 32)
    samples = batch['data_samples']
    assert [int(s.gt_label) for s in samples] == [0, 1, 2] * 6
    assert [s.episode for s in samples] == [0] * 9 + [1] * 9
    assert [s.support for s in samples] == ([True] * 3 + [False] * 6) * 2
    assert {s.lora for s in samples} == {None}
    shades = batch['inputs'][:, 1, 20, 20].reshape(2, 3, 3)  # (episodes, places, classes): green tells the class
    assert (shades == shades[:, :1]).all() and all(len(set(row)) == 3 for row in shades[:, 0].tolist())


def test_episodes_of_single_loras_have_its_images_alone(pool):
    data = EpisodicDataset(images(pool))
    loras, labels = np.array(data.get_loras()), data.get_gt_labels()
    drawn = sampler(data, p_interpolate=0.5, num_episodes=400)
    kinds = [drawn.draw(number) for number in range(400)]
    of_one = [(episode, origin.lora) for episode, origin in kinds if origin]
    assert 150 < len(of_one) < 250 and {lora for _, lora in of_one} == set(LORAS)
    for episode, lora in of_one:
        places = np.concatenate(shot_major(episode))
        assert set(loras[places]) == {lora} and set(labels[places]) == set(LORAS[lora])
    crossing = [set(loras[np.concatenate(shot_major(episode))]) for episode, origin in kinds if origin is None]
    assert any(len(own) == 2 for own in crossing)
    place = drawn.indices(next(n for n, (_, origin) in enumerate(kinds) if origin == (0, '00001')))[0].place
    assert place.origin == Origin(0, '00001')


def test_a_mixture_of_sets_and_a_plain_index(pool):
    data = EpisodicDataset([images(pool), letters('ARMENIAN')])
    armenian = len(letters('ARMENIAN').metainfo['classes'])
    assert len(data.meta_classes) == 5 + armenian and len(data) == 24 + 4 * armenian
    assert data.get_gt_labels().max() == 4 + armenian
    assert int(data[0]['data_samples'].gt_label) == 0 and int(data[25]['data_samples'].gt_label) == 6
    assert data.get_loras()[23:25] == ['00001', None]
    crossing = {tuple(sorted(set(sampler(data, seed=s).draw(0)[0].classes.tolist()))) for s in range(20)}
    assert any(min(own) < 5 <= max(own) for own in crossing)
    with pytest.raises(IndexError):
        data[len(data)]


def test_loras_of_one_name_in_two_pools_are_two(pool, tmp_path):
    """Pools of two hubs: an episode of one LoRA has images of its pool alone."""
    other = write_pool(tmp_path, loras={'00000': [0, 1, 4]}, classes=[0, 1, 4]).folder
    data = EpisodicDataset([letters('ARMENIAN'), images(pool), images(other)])
    drawn = sampler(data, p_interpolate=0.0)
    assert drawn.loras == ((1, '00000'), (1, '00001'), (2, '00000'))
    sources = np.repeat([0, 1, 2], [len(one) for one in data.datasets])
    seen = set()
    for number in range(30):
        episode, origin = drawn.draw(number)
        assert set(sources[np.concatenate(shot_major(episode))]) == {origin.source}
        seen.add(origin)
    assert seen == set(drawn.loras)
    sample = data[drawn.indices(number)[0]]['data_samples']
    assert (sample.source, sample.lora) == origin


def test_parts_of_one_pool_are_joined_by_the_names_of_classes(tmp_path):
    """Two machines have each inverted a LoRA of one hub; both LoRAs have cats."""
    parts = [images(write_pool(tmp_path / lora, loras={lora: labels}, classes=labels, base='f' * 64).folder)
             for lora, labels in LORAS.items()]
    with pytest.raises(ValueError, match="both hold images of the class 'cat', number 12 .*: set join=True"):
        EpisodicDataset(parts)
    data = EpisodicDataset(parts, join=True)
    assert data.meta_classes == ('ant', 'bee', 'cat', 'dog', 'eel')
    assert np.bincount(data.get_gt_labels()).tolist() == [4, 4, 8, 4, 4]
    names = [data.meta_classes[int(data[i]['data_samples'].gt_label)] for i in range(len(data))]
    assert names == [CLASSES[label] for labels in LORAS.values() for label in labels for _ in range(4)]


def test_a_state_goes_on_exactly(pool):
    data = EpisodicDataset(images(pool))
    whole = sampler(data, batch_size=2)
    whole.set_epoch(3)
    batches = list(whole)
    assert whole.state_dict()['start'] == len(batches) == 6
    for stop in (0, 1, 4, 6):
        first = sampler(data, batch_size=2)
        first.set_epoch(3)
        passing = iter(first)
        assert [next(passing) for _ in range(stop)] == batches[:stop]
        state = json.loads(json.dumps(first.state_dict()))
        again = sampler(data, batch_size=2)
        again.load_state_dict(state)
        assert again.state_dict() == state
        again.set_epoch(again.epoch)  # As a program that counts epochs does at the start of each.
        assert list(again) == batches[stop:]
        again.set_epoch(4)
        assert again.state_dict()['start'] == 0 and len(list(again)) == 6
    for changes, message in ((dict(seed=1), 'seed was 0, now it is 1'), (dict(n_shot=2), 'n_shot was 1, now it is 2')):
        with pytest.raises(ValueError, match=f'other episodes: {message}; give the same'):
            sampler(data, **{'batch_size': 2, **changes}).load_state_dict(state)
    with pytest.raises(ValueError, match=r"has epoch, start and settings, got \['step'\]"):
        whole.load_state_dict(dict(step=3))


def test_draws_follow_from_the_seed_and_the_number(pool):
    data = EpisodicDataset(images(pool))
    batches = list(sampler(data))
    assert batches == list(sampler(data)) != list(sampler(data, seed=1))
    again = sampler(data)
    again.set_start(5)
    assert list(again) == batches[5:] and list(again) == batches
    again.set_epoch(1)
    assert [b[0].place.episode for b in again] == list(range(12, 24)) and list(again) != batches
    index = pickle.loads(pickle.dumps(batches[3][4]))
    assert isinstance(index, EpisodeIndex) and (index, index.place) == (batches[3][4], batches[3][4].place)
    assert index.epoch == 3 and index.derived_seed() == batches[3][4].derived_seed()


def test_processes_share_the_episodes(pool, monkeypatch):
    data, found = EpisodicDataset(images(pool)), []
    for rank in range(2):
        monkeypatch.setattr('mmlora.datasets.episodes.get_dist_info', lambda rank=rank: (rank, 2))
        own = sampler(data, batch_size=3)
        assert len(own) == 2
        found.append([[index.place.episode for index in batch[::9]] for batch in own])
    assert found == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]]


def test_a_loop_goes_on_exactly_without_reading_what_was_seen(pool):
    data = SeededDataset(EpisodicDataset(images(pool)))
    config = dict(batch_size=2, num_workers=0, sampler=dict(type='mmlora.ResumableSampler'), dataset=data,
                  batch_sampler=dict(type='EpisodeSampler', **SMALL))
    loader = Runner.build_dataloader(config, seed=7)
    assert loader.batch_sampler.seed == 7 and len(loader) == 6

    def numbers(batches, count):
        return [next(batches)['data_samples'][0].episode for _ in range(count)]

    assert numbers(EndlessBatches(loader), 9) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert numbers(EndlessBatches(loader, 8), 5) == [16, 18, 20, 22, 24]
    read = []
    loader.batch_sampler._batch = lambda step: read.append(step) or [0]
    next(begin_epoch(loader, 2, 4))
    assert read == [2 * 6 + 4]


def test_the_augmentation_of_an_image_follows_from_its_episode(pool):
    flips = [dict(type='RandomFlip', prob=0.5), *PACK]
    data = SeededDataset(EpisodicDataset(PoolImages(str(pool), pipeline=flips)))
    ways = {number: bool(data[EpisodeIndex(0, 0, Place(number, 0, True))]['data_samples'].flip) for number in range(20)}
    assert set(ways.values()) == {True, False}
    torch.manual_seed(5)
    assert ways == {n: bool(data[EpisodeIndex(0, 0, Place(n, 0, True))]['data_samples'].flip) for n in range(20)}


@pytest.mark.parametrize('arguments, error, message', [
    (dict(n_shot=3), ValueError, r"need 5 images of each class, but class 0 \(ant\) has 4"),
    (dict(n_way=6), ValueError, '6-way episodes need 6 classes, but the data has 5'),
    (dict(n_query=0), ValueError, 'n_query=0 must each be at least 1'),
    (dict(p_interpolate=0.5, n_way=4), ValueError, "images of the LoRA '00000': 4-way episodes need 4 classes"),
    (dict(p_interpolate=1.5), ValueError, 'a probability, from 0 to 1, got 1.5'),
    (dict(n_shot=1.0), TypeError, 'n_shot must be a whole number, got 1.0'),
    (dict(batch_size=13), ValueError, 'batch_size=13 on 1 processes .* num_episodes=12'),
    (dict(seed=None), ValueError, 'needs a data set and a seed'),
])
def test_what_cannot_be_drawn(pool, arguments, error, message):
    with pytest.raises(error, match=message):
        sampler(EpisodicDataset(images(pool)), **arguments)


def test_data_that_makes_no_episodes(pool):
    with pytest.raises(ValueError, match='no image that was made from one: train on a pool'):
        sampler(EpisodicDataset(letters('ARMENIAN')), p_interpolate=0.0)
    with pytest.raises(TypeError, match='list does not tell'):
        EpisodicDataset([[1, 2]])
    with pytest.raises(ValueError, match='at least one data set'):
        EpisodicDataset([])


def test_masks_flip_with_the_image(pool):
    both = [dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            dict(type='RandomFlip', prob=1.0, direction='vertical'), *PACK]
    plain, flipped = (PoolImages(str(pool), 0.5, pipeline=steps)[0] for steps in (PACK, both))
    black = plain['inputs'].reshape(3, 4, 8, 4, 8).amax(dim=(0, 2, 4)) == 0
    assert black.nonzero().tolist() == [[0, 0]]
    turned = flipped['inputs'].reshape(3, 4, 8, 4, 8).amax(dim=(0, 2, 4)) == 0
    assert turned.nonzero().tolist() == [[3, 3]]
    mask = plain['data_samples'].patch_mask.reshape(4, 4)
    assert mask.dtype == torch.bool and mask[:2].all() and not mask[2:].any()
    assert torch.equal(flipped['data_samples'].patch_mask.reshape(4, 4), mask.flip([0, 1]))


def test_images_of_a_pool(pool):
    bgr, rgb = images(pool)[5], images(pool, channels='rgb')[5]
    assert torch.equal(bgr['inputs'], rgb['inputs'].flip(0)) and not torch.equal(bgr['inputs'], rgb['inputs'])
    assert 'patch_mask' not in bgr['data_samples']
    assert len(images(pool, only_correct=True)) == 18
    assert images(pool, indices=[20, 2]).loras == ['00001', '00000']


@pytest.mark.parametrize('arguments, message', [
    (dict(channels='grey'), "channels='grey' must be one of rgb, bgr"),
    (dict(mask_ratio=0.25), 'has no mask of ratio 0.25: this pool has 0.5'),
])
def test_images_that_a_pool_does_not_have(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        images(pool, **arguments)


def test_a_pipeline_that_moves_patches(pool):
    data = PoolImages(str(pool), 0.5, pipeline=[dict(type='Resize', scale=40), *PACK])
    with pytest.raises(ValueError, match=re.escape('an image of (32, 32) pixels has (40, 40) after the pipeline')):
        data[0]
