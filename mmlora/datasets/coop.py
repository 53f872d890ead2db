"""The sets on which CLIP is adapted with few images, as CoOp and CLIP-LoRA split, draw and name them."""

from collections.abc import Sequence
from typing import Any

from mmlora.registry import DATASETS, register

from .coop_files import SPLITS, read_coop
from .coop_sets import find_coop_folder, find_coop_set, find_templates
from .named_dataset import NamedDataset, check_draw


@register(DATASETS)
class CoOpDataset(NamedDataset):
    """A set of CoOp, or one of the sets with ImageNet's classes, which have ``'test'`` alone.

    Args:
        name: A key of ``COOP_SETS`` or ``IMAGENET_SHIFTS``, such as ``'dtd'`` or ``'imagenet_a'``, or another spelling.
        split: ``'train'``, ``'val'`` or ``'test'``. ImageNet has no val: with CLIP-LoRA's draw it comes from train, and
            else it is test, as in CoOp.
        n_shot: Images per class of train; val has ``min(n_shot, 4)``. None for all images. Test ignores it.
        sampling: Whose draw: ``'coop'`` or ``'clip_lora'``, which differ for one seed.
        seed: Seed of the draw.
        subset: ``'all'`` classes, ``'base'``, the first half, or ``'new'``, the others, with labels from 0.
        data_root: Folder of the sets, or of this set.
        index_file: A file below the folder of the set that says which images to take, instead of a draw.
        templates: Prompts: ``'set'``, CoOp's for the set; ``'photo'``, CLIP-LoRA's for all; ``'ensemble'``; or texts
            with ``{}``.
        label_space: ``'own'``, or for sets with some of ImageNet's classes ``'imagenet'``: labels among all 1000.
        check_images: Whether to check at construction that all images exist.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``classes`` ...).

    Raises:
        ValueError: An argument is unknown or out of range, or a file cannot be used; the message quotes it.
        FileNotFoundError: The folder, a file or images do not exist; the message says where to get them.
    """

    def __init__(
        self,
        name: str,
        split: str = 'train',
        n_shot: int | None = None,
        sampling: str = 'coop',
        seed: int = 1,
        subset: str = 'all',
        data_root: str = 'data/coop',
        index_file: str | None = None,
        templates: str | Sequence[str] = 'set',
        label_space: str = 'own',
        check_images: bool = True,
        **kwargs: Any,
    ) -> None:
        self.coop_set = find_coop_set(name)
        title = f'{type(self).__name__} {self.coop_set.name}'
        check_draw(title, split, n_shot, sampling, seed, subset, index_file)
        splits = tuple(self.coop_set.images) if self.coop_set.reader == 'shift' else SPLITS
        if split not in splits:
            raise ValueError(f'{title}: split={split!r}, but it is for tests alone and has the split '
                             f'{", ".join(map(repr, splits))}')
        prompts = find_templates(templates, self.coop_set.template)
        self.folder = find_coop_folder(data_root, self.coop_set)
        files = read_coop(self.folder, self.coop_set, label_space)
        super().__init__(
            title, files, prompts, split, n_shot, sampling, seed, subset,
            self.folder / index_file if index_file else None,
            # Images in folders have just been listed.
            check_images=check_images and self.coop_set.reader not in ('imagenet', 'shift'),
            **kwargs,
        )  # yapf: disable
        # Not given to the parent, which takes text in the meta information for the name of a file.
        self._metainfo.update(dataset=self.coop_set.name)
