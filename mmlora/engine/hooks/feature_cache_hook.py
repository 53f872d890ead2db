"""Features of images that are encoded once, where the image tower does not change."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from ...datasets.feature_dataset import FeatureDataset, ImageKeys, check_samples, random_transforms
from ...datasets.samplers import ResumableInfiniteSampler, ResumableRepeatAugSampler, ResumableSampler
from ...datasets.seeded import SampleIndex
from ...io.feature_store import FeatureStore
from ...models.clip import LoRACLIPClassifier
from ...models.clip.feature_cache import fingerprint
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..feature_encoding import (
    check_encoder,
    describe_encoder,
    encode,
    learning_image_parameters,
    random_image_layers,
    test_context,
)

PARTS = ('train', 'val', 'test')


@register(HOOKS)
class FeatureCacheHook(Hook):
    """Give a CLIP features of its images, encoded once and kept on disk, in the place of images.

    Before a loop begins, what is not on disk yet is encoded; see :class:`mmlora.io.feature_store.FeatureStore`. Keys
    follow from the weights of the image tower, the pipeline, the file (path, size, time of change) or what stands for
    it, and the versions of the software, so that nothing has to be thrown away by hand. Several processes encode a
    share each; they need one folder.

    In training the image tower must neither learn nor draw dropout. A training pipeline that draws at random needs
    ``num_views``: epoch e then shows the images as epoch ``e % num_views`` of a run of the same seed does. As long as a
    run has no more epochs than views, it is the one that it would be without this hook.

    Args:
        parts: Which loops get features: any of ``'train'``, ``'val'`` and ``'test'``.
        num_views: Number of draws of each training image; None where the training pipeline draws nothing.
        folder: Where features are kept; by default ``features`` in ``$MMLORA_CACHE``.
        shard_size: Images whose features go to disk at once; a kill loses less than that.
        deterministic: Names of transforms of your own that draw nothing at random. Keys know their public attributes:
            what they do must follow from these.

    Raises:
        ValueError: An argument is out of range or unknown.
        TypeError: Names are one text.
    """

    priority = 'VERY_LOW'  # After an averaged model has taken its place, and after hooks that look at the data.

    def __init__(
        self,
        parts: Sequence[str] = PARTS,
        num_views: int | None = None,
        folder: str | os.PathLike | None = None,
        shard_size: int = 1024,
        deterministic: Sequence[str] = (),
    ) -> None:
        for name, value in dict(parts=parts, deterministic=deterministic).items():
            if isinstance(value, str):
                raise TypeError(f'{name} is a list of names, got the text {value!r}: write [{value!r}]')
        if not parts or set(parts) - set(PARTS):
            raise ValueError(f'parts must be some of {PARTS}, got {list(parts)}')
        if num_views is not None and (isinstance(num_views, bool) or not isinstance(num_views, int) or num_views < 1):
            raise ValueError(f'num_views must be a number of at least 1, or None, got {num_views!r}')
        FeatureStore.check_shard_size(shard_size)
        self.parts, self.num_views, self.folder, self.shard_size = tuple(parts), num_views, folder, shard_size
        self.deterministic = frozenset(deterministic)
        self._originals: dict[str, DataLoader] = {}
        self._held: dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Let the training loop read features.

        Raises:
            ValueError: The image tower learns or draws dropout, or the images are drawn at random.
            TypeError: Features cannot be kept for this model or data set.
            FileNotFoundError: An image is no local file.
        """
        if 'train' in self.parts:
            model = check_encoder(unwrap_model(runner.model))
            self._check_training(model)
            wrapper = runner.optim_wrapper
            self._swap(runner, 'train', runner.train_loop, lambda: wrapper.optim_context(model))

    def before_val_epoch(self, runner: Runner) -> None:
        """Let the validation loop read features; raises as :meth:`before_train`."""
        if 'val' in self.parts:
            self._swap(runner, 'val', runner.val_loop, test_context(runner.val_loop.fp16))

    def before_test_epoch(self, runner: Runner) -> None:
        """Let the test loop read features; raises as :meth:`before_train`."""
        if 'test' in self.parts:
            self._swap(runner, 'test', runner.test_loop, test_context(runner.test_loop.fp16))

    def _check_training(self, model: LoRACLIPClassifier) -> None:
        learning, drawing = learning_image_parameters(model), random_image_layers(model)
        advice = "; to keep features for validation and testing alone, give FeatureCacheHook parts=['val', 'test']"
        if learning:
            raise ValueError(f'{len(learning)} parameters of the image tower learn, the first {learning[0]!r}: its '
                             f'features change in every step and cannot be kept for training{advice}')
        if drawing:
            raise ValueError(f'{drawing[0]!r} drops at random in training, which kept features would not show: set its '
                             f'rate to 0{advice}')
        if model.data_preprocessor.batch_augments is not None:
            raise ValueError('batch_augments of the data_preprocessor mix images, not features: leave them out'
                             f'{advice}')

    def _swap(self, runner: Runner, part: str, loop: Any, context: Callable[[], AbstractContextManager]) -> None:
        model = check_encoder(unwrap_model(runner.model))
        if not isinstance(loop.dataloader.dataset, FeatureDataset):
            self._originals[part] = loop.dataloader
        loader = self._originals[part]
        state = (id(loader), fingerprint(model.visual), fingerprint(model.visual_proj))
        if self._held.get(part) == state:
            return
        draws = self._draws(runner, part, loader)
        features = self._features(runner, part, model, loader, draws, context)
        seed = draws[0][0].seed if isinstance(draws[0][0], SampleIndex) else None
        loop.dataloader = _replace(loader, FeatureDataset(loader.dataset, features, seed))
        if hasattr(loop, 'dataloader_iterator'):  # made by the loop's constructor, and remade when ours begins
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
        loader._iterator = None
        self._held[part] = state

    def _draws(self, runner: Runner, part: str, loader: DataLoader) -> list[list[int]]:
        """Return the indices of all samples, for each view."""
        name, numbers = f'{part}_dataloader', range(len(loader.dataset))
        if not numbers:
            raise ValueError(f'the data set of {name} is empty')
        batches = loader.batch_sampler
        sampler = loader.sampler if type(batches) is BatchSampler else getattr(batches, 'sampler', batches)
        random = random_transforms(loader.dataset, self.deterministic)
        seeded = isinstance(sampler, (ResumableSampler, ResumableInfiniteSampler))
        if part == 'train' and self.num_views is not None:
            if not seeded:
                raise ValueError(f'num_views={self.num_views} needs a sampler that says seed and epoch, such as '
                                 f'ResumableSampler; {name} has a {type(sampler).__name__}')
            wanted = getattr(unwrap_model(runner.model), 'num_views', 1)
            if self.num_views < wanted:
                raise ValueError(f'the model averages {wanted} views of an image, and FeatureCacheHook keeps '
                                 f'num_views={self.num_views}, so that some would count twice: give the hook {wanted} '
                                 'or more, or the model fewer')
            return [[SampleIndex(i, sampler.seed, view) for i in numbers] for view in range(self.num_views)]
        if random:
            advice = f'leave {part!r} out of parts'
            if part == 'train':
                advice = ('give FeatureCacheHook num_views=10 to keep 10 draws of each image, give training the '
                          "pipeline of the test data, or keep features for parts=['val', 'test'] alone")
            raise ValueError(f'{name} may draw at random in {", ".join(random)}, so that features of its images cannot '
                             f'be kept: {advice}. Transforms of your own that draw nothing go into deterministic=[...]')
        if seeded or isinstance(sampler, ResumableRepeatAugSampler):
            first, second = (loader.dataset[SampleIndex(0, sampler.seed, epoch)]['inputs'] for epoch in (0, 1))
            if not torch.equal(first, second):
                raise ValueError(f'the data set of {name} draws other images in each epoch, so that their features '
                                 'cannot be kept: give FeatureCacheHook num_views=10, or a data set of fixed images')
        return [list(numbers)]

    def _features(
        self, runner: Runner, part: str, model: LoRACLIPClassifier, loader: DataLoader, draws: list[list[int]],
        context: Callable[[], AbstractContextManager],
    ) -> Tensor:
        name = f'{part}_dataloader'
        store = FeatureStore(describe_encoder(model, context), self.folder, self.shard_size)
        images = ImageKeys(loader.dataset)
        keys = [[_key(images, index) for index in view] for view in draws]
        pairs = list({key: index for view, own in zip(draws, keys, strict=True)
                      for index, key in zip(view, own, strict=True)}.items())  # a key that occurs twice is one image
        missing = [pair for pair in pairs if pair[0] not in store]
        runner.logger.info(f'{name}: features of {len(pairs) - len(missing)} of {len(pairs)} images are in '
                           f'{store.folder}')
        rank, processes = get_dist_info()
        share = missing[rank * len(missing) // processes : (rank + 1) * len(missing) // processes]
        barrier()  # All have looked before anybody writes.
        self._encode(runner, name, store, model, loader, share, context)
        barrier()
        store.refresh()
        left = [pair for pair in pairs if pair[0] not in store]
        if left:
            runner.logger.warning(f'{name}: {len(left)} features that other processes should have encoded are not in '
                                  f'{store.folder}, so this one encodes them too. All processes should see one folder, '
                                  'FeatureCacheHook(folder=...)')
            self._encode(runner, name, store, model, loader, left, context)
        if missing:
            runner.logger.info(f'{name}: features of {len(missing)} images are encoded')
        return torch.stack([store.get(view) for view in keys])

    def _encode(
        self, runner: Runner, name: str, store: FeatureStore, model: LoRACLIPClassifier, loader: DataLoader,
        pairs: Sequence[tuple[str, int]], context: Callable[[], AbstractContextManager],
    ) -> None:
        keys = {_identity(index): key for key, index in pairs}

        def tell(text: str) -> None:
            runner.logger.info(f'{name}: features of {text}')

        def check(batch: Sequence[int], samples: Any) -> None:
            if samples is None:
                raise ValueError(f'the batches of {name} have no data_samples, so that features would have no labels')
            for index, sample in zip(batch, samples, strict=True):
                check_samples(loader.dataset, index, sample)

        for batch, features, _ in encode(model, loader, [index for _, index in pairs], context, tell, check):
            store.add([keys[_identity(index)] for index in batch], features)
        store.flush()


def _key(images: ImageKeys, index: int) -> str:
    return images.key(index, index.seed, index.epoch) if isinstance(index, SampleIndex) else images.key(index)


def _identity(index: int) -> tuple[int, int]:
    return int(index), getattr(index, 'epoch', 0)


def _replace(loader: DataLoader, dataset: FeatureDataset) -> DataLoader:
    """Return a loader of another data set that gives the same samples in the same batches; it needs no workers."""
    options = dict(dataset=dataset, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory)
    if type(loader.batch_sampler) is BatchSampler:
        return DataLoader(
            batch_size=loader.batch_size, sampler=loader.sampler, drop_last=loader.drop_last, **options
        )
    return DataLoader(batch_sampler=loader.batch_sampler, **options)
