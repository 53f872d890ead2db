"""Features of the images of a data loader, computed by a CLIP or read from a store."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import cv2
import mmcv
import mmpretrain
import PIL
import torch
import torch.nn as nn
from mmengine.runner.amp import autocast
from torch import Tensor
from torch.utils.data import DataLoader

from ..adapters import SubRankLinear
from ..datasets.feature_dataset import FeatureDataset
from ..io.feature_keys import describe, tensors_sha256
from ..models.clip import LoRACLIPClassifier
from ..models.clip.preprocessor import CLIPDataPreprocessor
from ..progress import progress_line
from ..version import __version__

LOG_SECONDS = 10
VERSIONS = dict(mmlora=__version__, **{
    package.__name__: package.__version__ for package in (torch, mmpretrain, mmcv, PIL, cv2)
})  # fmt: skip
"""Of what reads, prepares and encodes images."""


def describe_encoder(model: LoRACLIPClassifier, context: Callable[[], AbstractContextManager]) -> dict[str, Any]:
    """Return what all features that a model computes depend on: weights, structure, precision, statistics, software.

    Args:
        model: The model, unwrapped.
        context: Gives the context in which it computes, such as that of mixed precision.
    """
    towers = dict(visual=model.visual, visual_proj=model.visual_proj)
    device = model.visual_proj.proj.device.type
    with context():
        amp = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
    return dict(
        weights=tensors_sha256(_tensors(towers)),
        structure={name: _structure(tower) for name, tower in towers.items()},
        arch=describe(vars(model.arch)),
        preprocessor=dict(_structure(model.data_preprocessor),
                          buffers=tensors_sha256(_tensors(dict(own=model.data_preprocessor)))),
        autocast=amp,
        device=device,
        versions=VERSIONS,
    )


def check_encoder(model: nn.Module) -> LoRACLIPClassifier:
    """Check that the features of a model can be kept.

    Raises:
        TypeError: It is no ``LoRACLIP``, or encodes or prepares images in a way of its own.
    """
    if not isinstance(model, LoRACLIPClassifier):
        raise TypeError(f'features are kept for LoRACLIP and its kin, and the model is a {type(model).__name__}: leave '
                        'FeatureCacheHook out of custom_hooks')
    if type(model).encode_image is not LoRACLIPClassifier.encode_image:
        raise TypeError(f'{type(model).__name__} encodes images in a way of its own, which the keys of kept features '
                        'do not know: leave FeatureCacheHook out of custom_hooks')
    if not isinstance(model.data_preprocessor, CLIPDataPreprocessor):
        raise TypeError(f'the data_preprocessor is a {type(model.data_preprocessor).__name__}, which does not know '
                        "features: leave its type out, or set type='CLIPDataPreprocessor'")
    return model


def learning_image_parameters(model: LoRACLIPClassifier) -> list[str]:
    """Return the names of parameters of the image tower that learn."""
    return [name for name, parameter in model.named_parameters()
            if parameter.requires_grad and name.startswith(('visual.', 'visual_proj.'))]


def random_image_layers(model: LoRACLIPClassifier) -> list[str]:
    """Return the names of layers of the image tower that draw at random in training."""
    return [f'visual.{name}' for name, module in model.visual.named_modules()
            if any(isinstance(p, float) and p > 0 for p in (getattr(module, 'drop_prob', 0), getattr(module, 'p', 0)))]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while, without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def read_batches(loader: DataLoader, indices: Sequence[int]) -> Iterator[tuple[Sequence[int], dict[str, Any]]]:
    """Yield samples of the data set of a loader in batches of its size, in the order of the indices.

    Args:
        loader: Whose data set, batch size, workers and way to make batches are used; its sampler is not.
        indices: Numbers of the samples; ``SampleIndex`` chooses the draw.

    Yields:
        The indices of a batch, and the batch.
    """
    size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None) or 32
    batches = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
    held = isinstance(loader.dataset, FeatureDataset)
    reader = DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn,
                        num_workers=0 if held else loader.num_workers,
                        worker_init_fn=None if held else loader.worker_init_fn)
    return zip(batches, reader, strict=True)


def encode(
    model: LoRACLIPClassifier,
    loader: DataLoader,
    indices: Sequence[int],
    context: Callable[[], AbstractContextManager],
    tell: Callable[[str], None],
    check: Callable[[Sequence[int], Any], None] = lambda indices, samples: None,
) -> Iterator[tuple[Sequence[int], Tensor, list[Any]]]:
    """Yield the features of samples, batch by batch.

    Args:
        model: The model, unwrapped. It is put into evaluation mode for each batch.
        loader: As of :func:`read_batches`.
        indices: Numbers of the samples.
        context: Gives the context in which the model computes.
        tell: Called every few seconds with how far it is.
        check: Called with the indices and the data samples of each batch, as the loader gives them.

    Yields:
        The indices of a batch, their features ``(b, embed_dim)`` and their data samples.
    """
    begin = last = time.monotonic()
    done = 0
    with progress_line('encode images', len(indices)) as line:
        for batch, data in read_batches(loader, indices):
            check(batch, data.get('data_samples'))
            with evaluating(model):
                data = model.data_preprocessor(data, False)
                with context():
                    features = model.image_features(data['inputs'])
            yield batch, features, data['data_samples']
            done += len(batch)
            line.update(done)
            if time.monotonic() - last > LOG_SECONDS:
                last = time.monotonic()
                left = (last - begin) / done * (len(indices) - done)
                tell(f'{done} of {len(indices)} images, {_duration(left)} left')


def test_context(fp16: bool) -> Callable[[], AbstractContextManager]:
    """Return what gives the context of a validation or test loop."""
    return lambda: autocast(enabled=fp16)


test_context.__test__ = False  # Not a case for pytest, whatever its name.


def _tensors(modules: dict[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in modules.items():
        yield from (*module.named_parameters(prefix), *module.named_buffers(prefix))


def _structure(module: nn.Module) -> dict[str, Any]:
    """Return the classes of all parts of a module and their plain settings: eps, scalings, number of heads ..."""
    plain = (bool, int, float, str, type(None))
    about = {}
    for name, part in module.named_modules():
        settings = {key: value for key, value in vars(part).items() if key[0] != '_' and isinstance(value, plain)}
        settings.pop('training', None)
        if isinstance(part, SubRankLinear):
            factors, scalings = part.active()
            settings['active'] = [{key: list(a.shape) for key, (a, _) in factors.items()}, scalings]
        about[name] = [f'{type(part).__module__}.{type(part).__qualname__}', settings]
    return about


def _duration(seconds: float) -> str:
    return f'{seconds:.0f} s' if seconds < 120 else f'{seconds / 60:.0f} min'
