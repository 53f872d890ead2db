"""Randomness is a function of the seed and of where it is drawn, and of nothing else."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmlora.datasets import (
    ResumableInfiniteSampler,
    ResumableRepeatAugSampler,
    ResumableSampler,
    SampleIndex,
    SeededDataset,
)
from mmlora.engine.loops import EndlessBatches, begin_epoch
from mmlora.randomness import derive_seed, seed_all, seeded


class Noise(Dataset):
    """Draws from all three generators for each sample."""

    metainfo = {'classes': ('a', 'b')}

    def __init__(self, size: int = 20) -> None:
        self.size = size
        self.pipeline = 'first'

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([int(index), random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)

    def get_cat_ids(self, index: int) -> list[int]:
        return [index % 2]


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_derived_seeds_are_the_same_everywhere():
    # Numbers, not properties: a change of these would change every published run.
    assert derive_seed('step', 0, 0, 0) == 8485250146724865451
    assert derive_seed('sample', 0, 0, 0, 0) == 963739716971681971


def test_derived_seeds_tell_their_parts_apart():
    parts = [(1, 2), (2, 1), (12,), ('1', 2), (1, '2'), ('12',), (1, 2, 0), (), (-1,), ('a', 'b'), ('ab',)]
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(np.int64(3), True) == derive_seed(3, 1)


def test_derived_seeds_refuse_what_has_no_exact_value():
    with pytest.raises(TypeError, match='0.5'):
        derive_seed(0.5)


def test_seeding_sets_all_generators_and_gives_them_back():
    seed_all(1)
    expected = draws(), draws()
    seed_all(1)
    with seeded(2**63 - 1):
        inside = draws()
    assert [draws(), draws()] == list(expected)
    assert inside not in expected
    with seeded(2**31 - 1):
        assert draws() != inside  # The high bits count, too.


@pytest.mark.parametrize('copier', [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_sample_index_is_a_number_that_keeps_its_seed(copier):
    index = copier(SampleIndex(7, seed=3, epoch=2, draw=1))
    assert index == 7 and [0] * 7 + ['x'][index - 7:] == [0] * 7 + ['x']
    assert (index.seed, index.epoch, index.draw) == (3, 2, 1)
    assert index.derived_seed() == SampleIndex(7, 3, 2, 1).derived_seed()


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    data = SeededDataset(Noise())
    first = data[SampleIndex(3, 0, 0)]
    torch.manual_seed(99)
    assert torch.equal(data[SampleIndex(3, 0, 0)], first)
    for other in (SampleIndex(3, 1, 0), SampleIndex(3, 0, 1), SampleIndex(3, 0, 0, 1)):
        assert not torch.equal(data[other][1:], first[1:])
    before = torch.get_rng_state()
    data[SampleIndex(3, 0, 0)]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('copier', [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_everything_else_is_the_wrapped_data_sets(copier):
    data = copier(SeededDataset(Noise()))
    assert len(data) == 20 and data.metainfo['classes'] == ('a', 'b') and data.get_cat_ids(3) == [1]
    data.pipeline = 'second'  # As hooks that switch the pipeline do.
    assert data.dataset.pipeline == 'second' and 'pipeline' not in vars(data)
    assert not hasattr(data, 'full_init') and not hasattr(data, '__getitems__')


def loader(workers: int, sampler: type = ResumableSampler, size: int = 20, **options) -> DataLoader:
    data = SeededDataset(Noise(size))
    return DataLoader(data, 4, sampler=sampler(data, seed=5), num_workers=workers, **options)


@pytest.mark.parametrize('sampler', [ResumableSampler, ResumableRepeatAugSampler])
@pytest.mark.parametrize('start', [0, 1, 3, 5])
def test_an_epoch_can_begin_anywhere(sampler, start):
    whole = list(begin_epoch(loader(0, sampler), epoch=1))
    for options in (dict(workers=0), dict(workers=2), dict(workers=2, persistent_workers=True)):
        batches = loader(sampler=sampler, **options)
        rest = list(begin_epoch(batches, 1, start))
        assert len(batches) == 5 and len(rest) == 5 - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
        again = list(begin_epoch(batches, 1))  # The start counts once.
        assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))


def test_epochs_differ_and_cover_the_data():
    first, second = (torch.cat(list(begin_epoch(loader(0), epoch))) for epoch in (0, 1))
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist()) == list(range(20))
    assert not torch.equal(first[:, 0], second[:, 0])
    assert not set(first[:, 1].tolist()) & set(second[:, 1].tolist())


def test_repeats_of_a_sample_are_augmented_differently():
    batches = torch.cat(list(loader(0, ResumableRepeatAugSampler)))
    assert len(set(batches[:, 0].tolist())) < 20
    assert len(set(batches[:, 1].tolist())) == 20


def test_the_order_is_that_of_the_sampler_it_replaces():
    from mmengine.dataset import DefaultSampler
    ours, stock = ResumableSampler(range(10), seed=3), DefaultSampler(range(10), seed=3)
    for epoch in (0, 4):
        ours.set_epoch(epoch)
        stock.set_epoch(epoch)
        assert list(ours) == list(stock)


@pytest.mark.parametrize('world', [1, 2, 3])
@pytest.mark.parametrize('start', [0, 1, 9, 1000])
def test_an_endless_sampler_jumps(world, start):
    def take(count, rank, start=0):
        sampler = ResumableInfiniteSampler(range(7), seed=1)
        sampler.rank, sampler.world_size = rank, world
        sampler.set_start(start)
        iterator = iter(sampler)
        return [(int(i), i.epoch) for i, _ in zip(iterator, range(count), strict=False)]

    for rank in range(world):
        assert take(10, rank, start) == take(start + 10, rank)[start:]
    merged = [index for step in zip(*(take(14, rank) for rank in range(world)), strict=True) for index, _ in step]
    assert sorted(merged[:7]) == sorted(merged[7:14]) == list(range(7))


@pytest.mark.parametrize('sampler', [ResumableSampler, ResumableInfiniteSampler])
@pytest.mark.parametrize('start', [0, 3, 5, 13])
def test_endless_batches_begin_anywhere(sampler, start):
    def batches(start):
        return EndlessBatches(loader(0, sampler), start)

    whole = [batch for batch, _ in zip(batches(0), range(18), strict=False)]
    rest = [batch for batch, _ in zip(batches(start), range(18 - start), strict=False)]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_a_sampler_without_a_start_is_read_through():
    from mmengine.dataset import DefaultSampler
    data = list(range(20))
    batches = DataLoader(data, 4, sampler=DefaultSampler(data, seed=5))
    whole = list(begin_epoch(batches, 0))
    assert torch.equal(torch.stack(list(begin_epoch(batches, 0, 2))), torch.stack(whole[2:]))


def test_no_batch_at_all_is_an_error():
    with pytest.raises(ValueError, match='no batch'):
        next(EndlessBatches(loader(0, size=3, drop_last=True)))
    with pytest.raises(ValueError, match='empty'):
        ResumableInfiniteSampler([], seed=0)
    with pytest.raises(ValueError, match='-1'):
        ResumableSampler(range(3), seed=0).set_start(-1)
