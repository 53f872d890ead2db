"""Few-shot tasks on letters that pre-training has not seen."""

from collections.abc import Sequence
from typing import Any

from mmlora.registry import DATASETS, register

from .glyphs import Glyphs
from .listed import check_shot

HELD_OUT = ('scripts', 'combinations')
LETTERS = ('val', 'test')
IMAGES = ('train', 'test')
FIRST_TEST_DRAW = 1000
"""Numbers of the training images are smaller, so that no image is in both."""


@register(DATASETS)
class FewShotGlyphs(Glyphs):
    """A few fixed images of each letter to learn from, and others to test on.

    Test images are the same for all seeds.

    Args:
        split: Which images: ``'train'`` or ``'test'``.
        n_shot: Training images of each letter, 1 to 1000.
        seed: Seed of the training images, at least 0.
        letters: Which letters: ``'test'``, or ``'val'`` for choosing hyper-parameters.
        held_out: What pre-training has not seen: ``'scripts'``, those of the split ``letters``; or
            ``'combinations'`` of a letter and a mark that were seen apart, see :mod:`.glyph_combinations`.
        n_test: Test images of each letter.
        **kwargs: Of :class:`Glyphs`: ``scripts``, ``subset``, ``label_space``, ``distortion``, ``pipeline`` ...

    Raises:
        ValueError: An argument is unknown or out of range.
        FileNotFoundError: matplotlib lacks one of the fonts.
    """

    def __init__(
        self,
        split: str = 'train',
        n_shot: int = 16,
        seed: int = 0,
        letters: str = 'test',
        held_out: str = 'scripts',
        n_test: int = 10,
        **kwargs: Any,
    ) -> None:
        check_shot(n_shot, 1)
        _check_choices(split=(split, IMAGES), letters=(letters, LETTERS), held_out=(held_out, HELD_OUT))
        if n_shot is None or n_shot > FIRST_TEST_DRAW:
            raise ValueError(f'FewShotGlyphs: n_shot={n_shot!r} must be a whole number from 1 to {FIRST_TEST_DRAW}: '
                             'letters are drawn, and there is no such thing as all images')
        which = dict(split=letters) if held_out == 'scripts' else dict(split='train', combinations=letters)
        train = split == 'train'
        images = dict(samples_per_class=n_shot, seed=seed) if train else dict(samples_per_class=n_test, seed=0)
        self.n_shot, self.held_out = n_shot, held_out
        super().__init__(**which, **images, first_draw=0 if train else FIRST_TEST_DRAW, redraw=False, **kwargs)
        self.split = split


def _check_choices(**choices: tuple[Any, Sequence[str]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            settle = ': call mmlora.apis.settle_variables(cfg) first' if str(value).startswith('{') else ''
            raise ValueError(f'FewShotGlyphs: {name}={value!r} must be one of {", ".join(map(repr, known))}{settle}')
