"""A few-shot set decoded once into memory, against decoding every image in each epoch."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmlora.datasets import ListDataset, SampleIndex, SeededDataset

from ..core import Case, Comparison, Growth

ABOUT = """
An epoch over a few-shot set of JPEG photographs of 500 x 375 px (drawn, with the detail of photographs), through the
pipeline that trains at 224 px: a random crop, resized, flipped. With `in_memory` the images are decoded once, when
the data set is built ([data sets](datasets.md#images-in-memory)); otherwise in each epoch. The inputs of a whole
epoch must be equal bit for bit. *Built, and one epoch* has the building of the data set in the time, and so the
decoding into memory; further epochs take what the first two rows say. *Nothing but the transforms* is the floor: one
image that is in memory, as often.
"""

EACH, ONCE, FLOOR = 'decoded in each epoch', 'in_memory (ours)', 'nothing but the transforms'
BUILT = 'built, and one epoch'
INPUTS = 'the inputs of an epoch'
CROP = dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic')
REST = [CROP, dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='PackInputs')]


def photographs(folder: Path, count: int) -> str:
    """Write images and their list, and return its path."""
    draw, lines = np.random.default_rng(0), []
    for number in range(count):
        octaves = [np.kron(draw.normal(size=(-(-375 // n), -(-500 // n), 3)), np.ones((n, n, 1)))[:375, :500] * n**0.7
                   for n in (1, 4, 16, 64)]
        picture = (128 + 8 * sum(octaves)).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f'{number}.jpg', quality=90)
        lines.append(f'{number}.jpg {number % 10}\n')
    (folder / 'list.txt').write_text(''.join(lines))
    return str(folder / 'list.txt')


def epoch(dataset: SeededDataset, number: int = 1) -> list[Tensor]:
    """Return the inputs of an epoch."""
    return [dataset[SampleIndex(place, 0, number)]['inputs'] for place in range(len(dataset))]


def always(dataset: SeededDataset) -> Callable[[], SeededDataset]:
    """Return what gives this data set, built once."""
    return lambda: dataset


def case(name: str, given: Callable[[], SeededDataset], compare: bool = True) -> Case:
    """Return an epoch over what is given as a case."""
    return Case(name, lambda: epoch(given()), (lambda: {INPUTS: torch.stack(epoch(given()))}) if compare else None)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare both; the device does not matter."""
    count, sizes = (4, (2, 4)) if quick else (100, (25, 50, 100))
    with tempfile.TemporaryDirectory() as name:
        given = dict(ann_file=photographs(Path(name), count), data_prefix=name, num_classes=10)

        def built(**kwargs: object) -> SeededDataset:
            pipeline = [dict(type='LoadImageFromFile'), *REST]
            return SeededDataset(ListDataset(**given, pipeline=pipeline, **kwargs))

        bare = built(in_memory=1.0)
        image = bare.dataset.pipeline.transforms.pop(0)(bare.dataset.get_data_info(0))
        bare.dataset.get_data_info = lambda place: dict(image)

        ways = {EACH: built, ONCE: partial(built, in_memory=1.0)}
        cases = [case(name, always(make())) for name, make in ways.items()]
        cases += [case(f'{name}: {BUILT}', make) for name, make in ways.items()]
        cases.append(case(FLOOR, always(bare), compare=False))
        yield Comparison(f'An epoch of {count} images', cases, ONCE, EACH, 0.0, rounds=2 if quick else 5, warm_up=1,
                         rate=('images per second', count))
        grown = {n: case(f'{n} images', always(built(in_memory=1.0, indices=n))) for n in sizes}
        yield Growth('An epoch with in_memory', 'images', grown, 2 if quick else 3)
