"""Reading images through the pipelines of data sets, to see whether they can be read and what becomes of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2

# What the steps of pipelines raise for an image that cannot be read, or that does not fit them. Pillow raises
# SyntaxError for a broken PNG.
ERRORS = (OSError, EOFError, SyntaxError, ValueError, AssertionError, AttributeError, LookupError, RuntimeError,
          TypeError, cv2.error)


@dataclass
class Prepared:
    """What became of images.

    Args:
        read: Number of images that were prepared.
        shapes: Their shapes ``(C, H, W)``, each once.
        failed: The name of each other image, with the error.
    """

    read: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def prepare_images(datasets: Iterable[Any], every: bool = False) -> Prepared:
    """Prepare images as training and testing do.

    Args:
        datasets: Data sets without wrappers.
        every: Prepare all images, each file once; otherwise the first image alone.
    """
    found, seen = Prepared(), set()
    for dataset in datasets:
        for index in range(len(dataset)):
            path = _path(dataset, index)
            if path in seen:
                continue
            seen |= {path} if path else set()
            try:
                sample = _prepare(dataset, index)
            except ERRORS as error:
                text = ' '.join(str(error).split())
                found.failed[path or f'image {index} of {type(dataset).__name__}'] = f'{type(error).__name__}: {text}'
            else:
                found.read += 1
                shape = _shape(sample)
                if shape and shape not in found.shapes:
                    found.shapes.append(shape)
            if not every:
                return found
    return found


def _prepare(dataset: Any, index: int) -> Any:
    if not hasattr(dataset, 'prepare_data'):
        return dataset[index]
    # `dataset[index]` would replace an image that the pipeline rejects by another one.
    sample = dataset.prepare_data(index)
    if sample is None:
        raise ValueError('the pipeline returns None')
    return sample


def _path(dataset: Any, index: int) -> str | None:
    info = dataset.get_data_info(index) if hasattr(dataset, 'get_data_info') else {}
    path = info.get('img_path')
    return path if isinstance(path, str) else None


def _shape(sample: Any) -> tuple[int, ...] | None:
    image = sample.get('inputs') if isinstance(sample, Mapping) else None
    return tuple(image.shape) if hasattr(image, 'shape') else None
