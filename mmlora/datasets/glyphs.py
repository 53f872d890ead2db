"""Glyphs: letters of many scripts, drawn on the fly from the fonts that matplotlib ships."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import MMLogger
from mmpretrain.datasets import BaseDataset

from mmlora.registry import DATASETS, register

from .glyph_fonts import font_sha256
from .glyph_render import Distortion, distort, glyph_bitmap
from .split_files import load_split

SPLITS = ('train', 'val', 'test')


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

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        samples_per_class: Images of each letter; letters alternate, so the first ``len(classes)`` images show each
            letter once.
        seed: Seed of all draws, at least 0.
        distortion: Fields of :class:`~mmlora.datasets.glyph_render.Distortion`; None takes the benchmark's.
        scripts: Keep the letters of these scripts alone; None keeps all of the split.
        **kwargs: Arguments of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode`` ...).

    Raises:
        ValueError: An unknown split, script or distortion, or a number that is out of range.
        FileNotFoundError: matplotlib lacks one of the fonts.
    """

    def __init__(
        self,
        split: str = 'train',
        samples_per_class: int = 20,
        seed: int = 0,
        distortion: Mapping[str, float] | None = None,
        scripts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'Glyphs has the splits {", ".join(SPLITS)}, not {split!r}')
        if samples_per_class < 1 or seed < 0:
            raise ValueError(f'samples_per_class={samples_per_class} must be at least 1 and seed={seed} at least 0')
        document = load_split(f'glyphs/{split}.json')
        if distortion is None:
            distortion = load_split('glyphs/protocol.json')['distortion']
        unknown = set(distortion) - set(Distortion.__dataclass_fields__)
        if unknown:
            fields = ', '.join(Distortion.__dataclass_fields__)
            raise ValueError(f'unknown distortion {sorted(unknown)}; choose from {fields}')
        unknown = set(scripts or ()) - set(document['scripts'])
        if unknown:
            raise ValueError(f'split {split!r} has no script {sorted(unknown)}; choose from {document["scripts"]}')
        self.split = split
        self.samples_per_class = samples_per_class
        self.seed = seed
        self.distortion = Distortion(**distortion)
        self.letters = [row for row in document['classes'] if scripts is None or row['script'] in scripts]
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

    def load_data_list(self) -> list[dict[str, Any]]:
        """List every image as label and draw number; letters alternate."""
        return [
            dict(gt_label=label, draw=draw)
            for draw in range(self.samples_per_class)
            for label in range(len(self.letters))
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
        image = draw_glyph(row['code'], fonts, self.distortion, self.seed, getattr(idx, 'epoch', 0), info['draw'])
        info.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2], domain=row['script'])
        info['sample_idx'] = int(info['sample_idx'])
        return self.pipeline(info)

    def extra_repr(self) -> list[str]:
        """Describe the split for ``repr``."""
        return [f'Split: \t{self.split}', f'Distortion: \t{self.distortion}']
