"""What data sets whose classes have names share: few-shot draws, halves of the classes, prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .coop_files import SPLITS, NamedSplits
from .few_shot_rules import SAMPLINGS, SUBSETS, classes_of
from .index_files import chosen_images, read_index_file
from .list_files import ListedImage
from .listed import ListedDataset, check_shot


class NamedDataset(ListedDataset):
    """Images of named classes, of which some may be drawn; it is not a data set of its own.

    Its ``metainfo`` has ``classes``, the names with blanks for underscores, and ``templates``, the prompts.

    Args:
        title: What messages call the set.
        files: Its splits and classes.
        templates: Its prompts.
        split: ``'train'``, ``'val'`` or ``'test'``.
        n_shot: Images per class of train; val has ``min(n_shot, 4)``. None for all images. Test ignores it.
        sampling: ``'coop'`` or ``'clip_lora'``; see :mod:`.few_shot_rules`.
        seed: Seed of the draw.
        subset: ``'all'`` classes, ``'base'``, the first half, or ``'new'``, the others, with labels from 0. Images are
            drawn before classes are left out.
        index_file: A file that says which images to take instead of a draw; see :mod:`.index_files`.
        metainfo: Further meta information.
        classes: Other names for all classes of the set, in the order of the labels.
        **kwargs: Arguments of :class:`.listed.ListedDataset`.

    Raises:
        ValueError: An argument is unknown or out of range, or a file cannot be used.
        FileNotFoundError: The split, the index file or images do not exist.
    """

    def __init__(
        self,
        title: str,
        files: NamedSplits,
        templates: Sequence[str],
        split: str,
        n_shot: int | None,
        sampling: str,
        seed: int,
        subset: str,
        index_file: Path | None,
        metainfo: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.split, self.n_shot, self.sampling, self.seed = split, n_shot, sampling, seed
        self.subset, self.index_file, self._files, self._title = subset, index_file, files, title
        self._labels = classes_of(len(files.classes), subset)
        if not self._labels:
            raise ValueError(f'{title}: subset={subset!r} of {len(files.classes)} classes has none: there must be at '
                             f'least {2 if files.classes else 1}')
        metainfo = dict(metainfo or {})
        names = classes or metainfo.pop('classes', None) or [name.replace('_', ' ') for name in files.classes]
        if isinstance(names, str) or len(names) != len(files.classes):
            raise ValueError(f'{title} has {len(files.classes)} classes, which classes={names!r} does not name')
        metainfo.update(classes=tuple(names[label] for label in self._labels), templates=tuple(templates))
        source = files.sources.get('val' if split == 'val' and 'val' in files.splits else split)
        super().__init__(
            ann_file=source or files.sources['train'],
            num_classes=len(self._labels),
            metainfo=metainfo,
            data_prefix=str(files.place),
            **kwargs,
        )

    def read_images(self, path: str) -> list[ListedImage]:
        """Return the images of the split: all, drawn or chosen, of the classes of the subset."""
        images = self._chosen() if self.index_file else self._drawn()
        if self.subset == 'all':
            return images
        first = self._labels[0]
        return [replace(image, label=image.label - first) for image in images if image.label in self._labels]

    def _drawn(self) -> list[ListedImage]:
        if self.n_shot is None or self.split == 'test':
            return self._whole(self.split)
        val = self._files.splits['val']() if 'val' in self._files.splits else None
        try:
            train, val = SAMPLINGS[self.sampling](self._whole('train'), val, self.n_shot, self.seed)
        except ValueError as error:
            raise ValueError(f'{self._title}: {error}') from error
        if self.split == 'train':
            return train
        return self._whole('val') if val is None else val

    def _chosen(self) -> list[ListedImage]:
        content = read_index_file(self.index_file)
        said = content.get('n_shot')
        if self.n_shot is not None and said not in (None, self.n_shot):
            raise ValueError(f'{self.index_file}: has {said} images of each class, where n_shot={self.n_shot} is asked '
                             'for')
        of = 'train' if self.split == 'val' and 'val' not in self._files.splits else self.split
        return chosen_images(content, self.split, self._whole(of), self.index_file)

    def _whole(self, split: str) -> list[ListedImage]:
        split = self._files.without_val if split == 'val' and 'val' not in self._files.splits else split
        if split not in self._files.splits:
            has = ', '.join(self._files.splits)
            place = self._files.sources.get(split or 'val')
            needs = f' needs {place!r}, which is not there' if place else ' is none of its splits'
            raise FileNotFoundError(f'{self._title}: split={self.split!r}{needs}; there is {has}')
        return self._files.splits[split]()


def check_draw(
    title: str, split: str, n_shot: Any, sampling: str, seed: Any, subset: str, index_file: str | None
) -> None:
    """Check the arguments that choose images.

    Raises:
        ValueError: One is unknown or out of range; a reference to a variable that was not settled is explained.
    """
    check_shot(n_shot, 1)
    choices = (('split', split, SPLITS), ('sampling', sampling, SAMPLINGS), ('subset', subset, SUBSETS))
    for name, value, known in choices:
        if value not in known:
            settle = ': call mmlora.apis.settle_variables(cfg) first' if str(value).startswith('{') else ''
            raise ValueError(f'{title}: {name}={value!r} must be one of {", ".join(map(repr, known))}{settle}')
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        settle = ': call mmlora.apis.settle_variables(cfg) first' if str(seed).startswith('{') else ''
        raise ValueError(f'{title}: seed={seed!r} must be a whole number of at least 0{settle}')
    if index_file and split == 'test':
        raise ValueError(f'{title}: index_file={index_file!r} chooses images of train and val; test has all')
