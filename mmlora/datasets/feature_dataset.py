"""A data set that gives features of images in the place of images, and what must be known of a data set for that."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmpretrain.datasets.transforms import PackInputs
from torch import Tensor

from ..io.feature_keys import describe, file_state, key_of
from ..version import __version__
from .seeded import SampleIndex, SeededDataset

DETERMINISTIC = frozenset({
    'CenterCrop', 'EfficientNetCenterCrop', 'ImageToTensor', 'LoadImageFromFile', 'Normalize', 'NumpyToPIL',
    'PILToNumpy', 'PackInputs', 'Pad', 'Resize', 'ResizeEdge', 'ToTensor', 'Transpose',
})  # fmt: skip
"""Transforms that draw nothing at random."""

GEOMETRY = frozenset({'ori_shape', 'img_shape', 'pad_shape', 'scale', 'scale_factor', 'keep_ratio', 'flip',
                      'flip_direction'})  # fmt: skip
"""What transforms add to a sample about the image; no metric asks for it."""

_LABELS = ('gt_label', 'gt_score', 'sample_idx')
_PARTS = ('pipeline', 'data_list', 'data_bytes', 'data_address', 'ann_file', 'data_root')


def locate(dataset: Any, index: int) -> tuple[BaseDataset, int]:
    """Return the data set without wrappers that holds a sample, and the number that it has there.

    Raises:
        TypeError: A wrapper is unknown.
    """
    while not isinstance(dataset, BaseDataset):
        if isinstance(dataset, (SeededDataset, FeatureDataset)):
            dataset = dataset.dataset
        elif hasattr(dataset, 'datasets') and hasattr(dataset, '_get_ori_dataset_idx'):
            number, index = dataset._get_ori_dataset_idx(int(index))
            dataset = dataset.datasets[number]
        elif type(dataset).__name__ == 'KFoldDataset':
            dataset = dataset.dataset  # a subset, in whose numbers the wrapper speaks
        elif hasattr(dataset, 'dataset') and hasattr(dataset, '_get_ori_dataset_idx'):
            dataset, index = dataset.dataset, dataset._get_ori_dataset_idx(int(index))
        else:
            raise TypeError(f'features are kept for data sets of mmengine and their wrappers, got {type(dataset)}')
    return dataset, int(index)


def plain_parts(dataset: Any) -> Iterator[BaseDataset]:
    """Yield the data sets without wrappers, each once."""
    if isinstance(dataset, BaseDataset):
        yield dataset
    elif hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from plain_parts(part)
    elif hasattr(dataset, 'dataset'):
        yield from plain_parts(dataset.dataset)
    else:
        raise TypeError(f'features are kept for data sets of mmengine and their wrappers, got {type(dataset)}')


def random_transforms(dataset: Any, deterministic: frozenset[str] = frozenset()) -> list[str]:
    """Return the names of transforms that may draw at random, of all pipelines of a data set.

    Args:
        dataset: A data set; wrappers hold others inside.
        deterministic: Names besides :data:`DETERMINISTIC` of transforms that draw nothing.
    """
    known = DETERMINISTIC | deterministic
    names = []
    for part in plain_parts(dataset):
        for transform in part.pipeline.transforms:
            inner = getattr(transform, 't', transform)  # torchvision's, wrapped by mmpretrain
            if type(inner).__name__ not in known:
                names.append(type(inner).__name__)
    return list(dict.fromkeys(names))


class ImageKeys:
    """The keys of the images of a data set: file (or what stands for it) and pipeline.

    The file is path, size and time of change. Where there is none, the class of the data set, its arguments, the number
    of the sample and what the data set knows of it stand for it; where the pixels are in memory, their content.

    Args:
        dataset: A data set; wrappers hold others inside.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._about: dict[int, tuple[str, Any]] = {}

    def key(self, index: int, *draw: int) -> str:
        """Return the key of a sample.

        Args:
            index: Its number.
            *draw: Seed and epoch of the draw, where its image is drawn at random.

        Raises:
            FileNotFoundError: Its file does not exist on this machine.
        """
        part, own = locate(self.dataset, index)
        transform, about = self._describe(part)
        info = {name: value for name, value in part.get_data_info(own).items() if name not in _LABELS}
        if info.get('img_path') is not None:
            source = [file_state(info.pop('img_path')), info]
        elif info.get('img') is not None:
            source = [info]
        else:
            whole = part.get_data_info(own)
            source = [about, own, {name: whole[name] for name in whole if name != 'sample_idx'}]
        return key_of(transform, source, [*draw, int(index)] if draw else [])

    def _describe(self, part: BaseDataset) -> tuple[str, Any]:
        if id(part) not in self._about:
            about = {name: value for name, value in vars(part).items() if name[0] != '_' and name not in _PARTS}
            kind = f'{type(part).__module__}.{type(part).__qualname__}'
            source = [kind, __version__, about, getattr(part, '_indices', None)]
            self._about[id(part)] = key_of(part.pipeline.transforms), key_of(describe(source))
        return self._about[id(part)]


class FeatureDataset:
    """The samples of a data set with features in the place of images; nothing is read from disk.

    Everything else (``metainfo``, ``get_data_info`` ...) is the data set's.

    Args:
        dataset: The data set, whose pipelines end with ``PackInputs``.
        features: ``(V, n, D)``, those of each view of each sample.
        seed: Seed of the views where there is a choice of them: epoch e gets view ``e % V``. None means that every
            epoch shows the same.

    Raises:
        ValueError: The features are not as many as the samples, or a sample cannot be made without its image.
    """

    def __init__(self, dataset: Any, features: Tensor, seed: int | None = None) -> None:
        if features.ndim != 3 or features.shape[1] != len(dataset):
            raise ValueError(f'{len(dataset)} samples need features (V, {len(dataset)}, D), got '
                             f'{tuple(features.shape)}')
        self.dataset, self.features, self.seed = dataset, features, seed

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return features and data sample.

        Raises:
            ValueError: There are several views, and the index does not say which, or asks for none of them.
        """
        view = 0
        if self.seed is not None:
            if not isinstance(index, SampleIndex) or index.draw or index.seed != self.seed:
                asked = vars(index) if isinstance(index, SampleIndex) else 'no seed'
                raise ValueError(f'kept views are those of the seed {self.seed}, one for each epoch, and the sampler '
                                 f'asks for image {int(index)} of {asked}')
            view = index.epoch % len(self.features)
        return dict(inputs=self.features[view, int(index)], data_samples=pack_sample(self.dataset, index))

    def __getattr__(self, name: str) -> Any:
        if name in ('dataset', 'features', 'seed') or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)


def pack_sample(dataset: Any, index: int) -> Any:
    """Return the data sample of an image, with all that is known of it before it is read.

    Raises:
        ValueError: The pipeline does not end with ``PackInputs``.
    """
    part, own = locate(dataset, index)
    pack = part.pipeline.transforms[-1] if part.pipeline.transforms else None
    if not isinstance(pack, PackInputs):
        raise ValueError(f'the pipeline of {type(part).__name__} must end with PackInputs, which makes the samples '
                         f'that features are given with; it ends with {type(pack).__name__}')
    info = part.get_data_info(own)
    return pack.transform({name: value for name, value in info.items() if name != pack.input_key})['data_samples']


def check_samples(dataset: Any, index: int, sample: Any) -> None:
    """Check that a sample made without its image says what the whole pipeline says.

    Args:
        dataset: The data set.
        index: Number of the sample.
        sample: The data sample of the whole pipeline.

    Raises:
        ValueError: Something is missing or differs; it is named.
    """
    own = _fields(pack_sample(dataset, index))
    for name, value in _fields(sample).items():
        other = own.get(name)
        tensors = isinstance(value, Tensor) and isinstance(other, Tensor)
        if name not in GEOMETRY and not (torch.equal(value, other) if tensors else value == other):
            raise ValueError(f'{name!r} of a sample comes from its pipeline ({value!r}) and not from the list of the '
                             f'data set ({other!r}), so that features alone cannot give it: leave it out of '
                             'PackInputs, or do without kept features')


def _fields(sample: Any) -> Mapping[str, Any]:
    return {**dict(sample.metainfo_items()), **dict(sample.items())}
