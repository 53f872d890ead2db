"""Glyphs: letters of many scripts, drawn on the fly from the fonts that matplotlib ships."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import MMLogger
from mmpretrain.datasets import BaseDataset

from mmlora.registry import DATASETS, register

from .few_shot_rules import SUBSETS, classes_of
from .glyph_fonts import font_sha256
from .glyph_render import Distortion, distort, glyph_bitmap
from .glyph_ways import way_of_writing
from .split_files import load_split

SPLITS = ('train', 'val', 'test')
COMBINATIONS = ('seen', 'val', 'test')
LABEL_SPACES = ('own', 'split')


def draw_glyph(code: int, fonts: Sequence[str], distortion: Distortion, seed: int, epoch: int, draw: int) -> np.ndarray:
    """Draw one image of a letter, a pure function of its arguments.

    Args:
        code: The letter's code point.
        fonts: Fonts to choose from.
        distortion: How far the image may be from the clean letter.
        seed: Seed of the data set, at least 0.
        epoch: Epoch of the training, at least 0; another epoch gives another image.
        draw: Number of the image among the images of this letter.

    Returns:
        uint8 ``(32, 32, 3)``, three equal channels.
    """
    rng = np.random.default_rng((seed, epoch, code, draw))
    font = fonts[rng.integers(len(fonts))]
    image = distort(glyph_bitmap(code, font), distortion, rng)
    return np.repeat(image[:, :, None], 3, axis=2)


@register(DATASETS)
class Glyphs(BaseDataset):
    """Letters as classes, their Unicode names as captions, their scripts as domains.

    The splits differ in their scripts; ``data_splits/glyphs/`` lists the letters of each, and
    ``data_splits/glyphs/protocol.json`` the distortion of the few-shot benchmark. An image depends on the seed, the
    epoch (read from an index that carries one, :class:`mmlora.datasets.SampleIndex`; else 0), the letter and the
    number of the draw, and on nothing else: not on workers, order or subsets.

    A few-shot set has ``samples_per_class`` fixed images of each letter, ``redraw=False``, and its test images are
    those of another ``first_draw``.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        samples_per_class: Images of each letter; letters alternate, so the first ``len(classes)`` images show each
            letter once.
        seed: Seed of all draws, at least 0.
        distortion: Fields of :class:`~mmlora.datasets.glyph_render.Distortion`, or the name of one in
            ``data_splits/glyphs/distortions.json``, ``'rough'``, or a way of writing, ``'way-17'``
            (:mod:`.glyph_ways`); None takes the benchmark's.
        scripts: Keep the letters of these scripts alone; None keeps all of the split.
        combinations: Of the split train keep the letters that pre-training on combinations sees, ``'seen'``, or those
            that it does not see, ``'val'`` and ``'test'``, which :mod:`.glyph_combinations` chose and
            ``data_splits/glyphs/combinations.json`` lists. None keeps all.
        subset: ``'all'`` letters that are kept, ``'base'``, the first half of them, or ``'new'``, the others.
        label_space: ``'own'``, or ``'split'``: the labels, and with them the names to choose from, are those of all
            letters of the split and the scripts, not only of those that are kept.
        first_draw: Number of the first image of each letter, at least 0. Sets of one seed share no image if they share
            no number.
        redraw: Whether another epoch gives other images.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode`` ...).

    Raises:
        ValueError: An unknown split, script, subset or distortion, a number that is out of range, or no letter is left.
        FileNotFoundError: matplotlib lacks one of the fonts.
    """

    def __init__(
        self,
        split: str = 'train',
        samples_per_class: int = 20,
        seed: int = 0,
        distortion: Mapping[str, float] | str | None = None,
        scripts: Sequence[str] | None = None,
        combinations: str | None = None,
        subset: str = 'all',
        label_space: str = 'own',
        first_draw: int = 0,
        redraw: bool = True,
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'Glyphs has the splits {", ".join(SPLITS)}, not {split!r}')
        for name, value, least in (('samples_per_class', samples_per_class, 1), ('seed', seed, 0),
                                   ('first_draw', first_draw, 0)):  # yapf: disable
            _check_number(name, value, least)
        for name, value, known in (('subset', subset, SUBSETS), ('label_space', label_space, LABEL_SPACES)):
            if value not in known:
                raise ValueError(f'Glyphs: {name}={value!r} must be one of {", ".join(map(repr, known))}'
                                 f'{_settle_first(value)}')
        document = load_split(f'glyphs/{split}.json')
        distortion = _find_distortion(distortion)
        unknown = set(distortion) - set(Distortion.__dataclass_fields__)
        if unknown:
            fields = ', '.join(Distortion.__dataclass_fields__)
            raise ValueError(f'unknown distortion {sorted(unknown)}; choose from {fields}')
        unknown = set(scripts or ()) - set(document['scripts'])
        if unknown:
            raise ValueError(f'split {split!r} has no script {sorted(unknown)}; choose from {document["scripts"]}')
        self.split, self.combinations, self.subset = split, combinations, subset
        self.samples_per_class, self.first_draw, self.redraw = samples_per_class, first_draw, redraw
        self.seed = seed
        self.distortion = Distortion(**distortion)
        whole = [row for row in document['classes'] if scripts is None or row['script'] in scripts]
        kept = self._keep(whole, combinations)
        kept = [kept[label] for label in classes_of(len(kept), subset)]
        if not kept:
            raise ValueError(f'Glyphs: split={split!r}, scripts={scripts!r}, combinations={combinations!r} and '
                             f'subset={subset!r} leave no letter')
        self.letters = kept if label_space == 'own' else whole
        codes = {row['code'] for row in kept}
        self.shown = [label for label, row in enumerate(self.letters) if row['code'] in codes]
        self.font_sets = [tuple(fonts) for fonts in document['font_sets']]
        self._check_fonts(document['fonts'])
        metainfo = dict(
            classes=tuple(row['name'] for row in self.letters),
            domains=tuple(row['script'] for row in self.letters),
            code_points=tuple(row['code'] for row in self.letters),
        )
        super().__init__(ann_file='', metainfo={**metainfo, **(kwargs.pop('metainfo', None) or {})}, **kwargs)

    def _check_fonts(self, sha256: Mapping[str, str]) -> None:
        changed = [font for font, digest in sha256.items() if font_sha256(font) != digest]
        if changed:
            MMLogger.get_current_instance().warning(
                f'matplotlib ships other versions of {", ".join(changed)} than the splits were made with; '
                'the images, and with them published accuracies, may differ slightly'
            )

    def _keep(self, rows: list[dict[str, Any]], combinations: str | None) -> list[dict[str, Any]]:
        if combinations is None:
            return rows
        if self.split != 'train' or combinations not in COMBINATIONS:
            raise ValueError(f"combinations={combinations!r} must be one of {', '.join(map(repr, COMBINATIONS))}, and "
                             f"split='train', got {self.split!r}")
        document = load_split('glyphs/combinations.json')
        unseen = {name for part in COMBINATIONS[1:] for name in document[part]}
        if combinations == COMBINATIONS[0]:
            return [row for row in rows if row['name'] not in unseen]
        return [row for row in rows if row['name'] in document[combinations]]

    def load_data_list(self) -> list[dict[str, Any]]:
        """List every image as label and draw number; letters alternate."""
        return [
            dict(gt_label=label, draw=draw)
            for draw in range(self.first_draw, self.first_draw + self.samples_per_class)
            for label in self.shown
        ]

    def prepare_data(self, idx: int) -> Any:
        """Draw the image and run the pipeline.

        Args:
            idx: Number of the image; an ``epoch`` attribute that it may carry selects other draws.

        Returns:
            What the pipeline makes of ``img`` (uint8 HWC), ``img_shape``, ``ori_shape``, ``gt_label``, ``domain``,
            ``draw`` and ``sample_idx``.
        """
        info = self.get_data_info(idx)
        row = self.letters[info['gt_label']]
        fonts = self.font_sets[row['fonts']]
        epoch = getattr(idx, 'epoch', 0) if self.redraw else 0
        image = draw_glyph(row['code'], fonts, self.distortion, self.seed, epoch, info['draw'])
        info.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2], domain=row['script'])
        info['sample_idx'] = int(info['sample_idx'])
        return self.pipeline(info)

    def extra_repr(self) -> list[str]:
        """Describe the split for ``repr``."""
        return [f'Split: \t{self.split}', f'Distortion: \t{self.distortion}']


def _find_distortion(given: Mapping[str, float] | str | None) -> Mapping[str, float]:
    if given is None:
        return load_split('glyphs/protocol.json')['distortion']
    if not isinstance(given, str):
        return given
    way = way_of_writing(given)
    if way is not None:
        return way
    named = {name: row['distortion'] for name, row in load_split('glyphs/distortions.json').items() if name != 'about'}
    if given not in named:
        raise ValueError(f'Glyphs: distortion={given!r} must be one of {", ".join(map(repr, named))}, a way of '
                         "writing such as 'way-17', or fields of Distortion")
    return named[given]


def _check_number(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'Glyphs: {name}={value!r} must be a whole number of at least {least}{_settle_first(value)}')


def _settle_first(value: Any) -> str:
    return ': call mmlora.apis.settle_variables(cfg) first' if str(value).startswith('{') else ''
