"""A pool of synthetic images: a folder of PNG files and one index that says all about them.

::

    POOL/
        index.json                          what the images were made with, the classes, and an entry for each image
        images/0003-<class>/<lora>_2_0007.png

An image belongs to a class of the whole pool, which several LoRAs may share. Masks of patches stand in the index, one
for each ratio, as text (:mod:`mmlora.adapters.token_masks`), and never in the pixels: the same files serve with and
without masks. The index is replaced in one step after the files that it names were written.
"""

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..adapters.token_masks import decode_mask
from ..plain_json import parse_json
from .atomic import write_bytes, write_text

INDEX = 'index.json'
FORMAT = 'mmlora-pool-1'
_TYPES = {'file': str, 'gt_label': int, 'lora': str, 'lora_label': int, 'masks': dict}  # Of what is used unasked.


@dataclass(frozen=True)
class PoolImage:
    """An image of a pool.

    Attributes:
        file: Path within the pool, with forward slashes.
        gt_label: Position of its class among those of the pool.
        lora: Name of the LoRA that it was made from.
        lora_label: Label of the class in the head of that LoRA.
        loss: Cross entropy of the image as it is.
        correct: Whether the classifier takes it for its class.
        seed: Of the inversion that made it.
        step: The iteration at which it was kept.
        masks: By ratio as text, such as ``'0.75'``, the mask as text. ``'0'`` is what pruning alone left.
    """

    file: str
    gt_label: int
    lora: str
    lora_label: int
    loss: float
    correct: bool
    seed: int
    step: int
    masks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """A pool of synthetic images.

    Attributes:
        folder: Where it lies.
        about: What the images were made with, as plain data.
        classes: Names of the classes.
        class_ids: Their numbers in the hub that the images were made from.
        images: All images.
    """

    folder: Path
    about: Mapping[str, Any]
    classes: Sequence[str]
    class_ids: Sequence[int]
    images: Sequence[PoolImage]

    @classmethod
    def open(cls, folder: str | os.PathLike) -> 'Pool':
        """Read the index of a pool.

        Raises:
            FileNotFoundError: The folder has no index.
            ValueError: The index is damaged or no index of a pool.
        """
        path = Path(folder) / INDEX
        if not path.is_file():
            raise FileNotFoundError(f'{path} does not exist: {os.fspath(folder)!r} is no pool of images')
        try:
            content = parse_json(path.read_text(encoding='utf-8'))
            if content.get('format') != FORMAT:
                raise ValueError(f'its format is {content.get("format")!r}, not {FORMAT!r}')
            images = [PoolImage(**image) for image in content['images']]
            pool = cls(Path(folder), content['about'], content['classes'], content['class_ids'], images)
            pool._check()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f'{path} is no index of a pool: {error}') from error
        return pool

    def save(self) -> Path:
        """Write the index in one step and return its path."""
        images = ',\n'.join(json.dumps(asdict(image), ensure_ascii=False) for image in self.images)
        head = dict(format=FORMAT, about=self.about, classes=list(self.classes), class_ids=list(self.class_ids))
        text = json.dumps(head, ensure_ascii=False, indent=1)
        return write_text(self.folder / INDEX, f'{text[:-2]},\n "images": [\n{images}\n]}}\n')

    def mask(self, image: PoolImage, ratio: float) -> Tensor:
        """Return the mask ``(P,)`` of an image; True where a patch is kept.

        Raises:
            ValueError: The image has no mask of this ratio, or it is damaged or keeps no patch.
        """
        key = mask_key(ratio)
        if key not in image.masks:
            raise ValueError(
                f'{image.file} has no mask of ratio {key}: this pool has {", ".join(image.masks) or "no masks"}; name '
                'the ratio when the pool is made'
            )
        height, width = self.about['grid']
        try:
            return decode_mask(image.masks[key], height * width)
        except ValueError as error:
            raise ValueError(f'{image.file}, ratio {key}: {error}; make the pool again') from error

    def pixels(self, image: PoolImage) -> np.ndarray:
        """Return an image as uint8 ``(H, W, 3)``, RGB.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: It is damaged or of another size than the pool's.
        """
        with self._open(image) as opened:
            self._check_size(image, opened.size[::-1])  # Before the pixels: a small file can claim any number of them.
            try:
                return np.asarray(opened.convert('RGB'))
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f'{self.folder / image.file} cannot be read ({error}): make the pool again') from error

    def check_files(self) -> None:
        """Check that all images are there and have the size of the pool; only the heads of the files are read.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: It is damaged or of another size than the pool's.
        """
        for image in self.images:
            with self._open(image) as opened:
                self._check_size(image, opened.size[::-1])

    def check_finished(self) -> None:
        """Refuse a pool of which images are still missing.

        Raises:
            ValueError: A LoRA or a class of one has fewer images than the pool was to have.
        """
        wanted, counts = self.about.get('per_class'), Counter((image.lora, image.lora_label) for image in self.images)
        made = {lora for lora, _ in counts}
        few = [f'the LoRA {lora!r} has no image yet' for lora in self.about.get('loras', ()) if lora not in made]
        few += [f'label {label} of the LoRA {lora!r} has {count} of {wanted} images'
                for (lora, label), count in counts.items() if wanted is not None and count < wanted]
        if few:
            raise ValueError(f'{self.folder} is not finished: {few[0]}; the command that was making it goes on with it')

    def require(self, per_class: int) -> None:
        """Refuse a pool with fewer images of a class than are needed, such as support and query of an episode.

        Raises:
            ValueError: The message names the smallest class.
        """
        counts = Counter(image.gt_label for image in self.images)
        smallest = min(range(len(self.classes)), key=lambda label: counts[label])
        if counts[smallest] < per_class:
            raise ValueError(
                f'{per_class} images of each class are needed, but {self.folder} has {counts[smallest]} of class '
                f'{self.classes[smallest]!r}: make more, or ask for fewer'
            )

    def _open(self, image: PoolImage) -> Image.Image:
        path = self.folder / image.file
        if not path.is_file():
            raise FileNotFoundError(f'{path} is in the index of the pool but not on the disk: make the pool again')
        try:
            return Image.open(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f'{path} cannot be read ({error}): make the pool again') from error

    def _check_size(self, image: PoolImage, size: Sequence[int]) -> None:
        if list(size) != list(self.about['image_size']):
            raise ValueError(f'{self.folder / image.file} has {tuple(size)} pixels, but the pool '
                             f'{self.about["image_size"]}: make the pool again')

    def _check(self) -> None:
        for name, own, kind in (('about', self.about, dict), ('classes', self.classes, list),
                                ('class_ids', self.class_ids, list)):
            if not isinstance(own, kind):
                raise ValueError(f'its {name} are no {kind.__name__}')
        if len(self.classes) != len(self.class_ids):
            raise ValueError(f'it has {len(self.classes)} classes and {len(self.class_ids)} of their numbers')
        size, grid = self.about['image_size'], self.about['grid']
        for name, pair in (('image_size', size), *([('grid', grid)] if grid is not None else [])):
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
                raise ValueError(f'{name}={pair!r} must be two whole numbers above 0')
        if grid is not None and (size[0] % grid[0] or size[1] % grid[1]):
            raise ValueError(f'grid={grid!r} does not divide image_size={size!r}')
        for image in self.images:
            for name, kind in _TYPES.items():
                if not isinstance(getattr(image, name), kind):
                    raise ValueError(f'{str(image)[:200]} has a {name} that is no {kind.__name__}')
            path = PurePosixPath(image.file)
            if grid is None and image.masks:
                raise ValueError(f'{image.file!r} has masks, but grid=None does not say of which patches')
            if path.is_absolute() or '..' in path.parts:
                raise ValueError(f'{image.file!r} lies outside of the pool')
            if not 0 <= image.gt_label < len(self.classes):
                raise ValueError(f'{image.file!r} is of class {image.gt_label}, but there are {len(self.classes)}')


def mask_key(ratio: float) -> str:
    """Return the name of a ratio in an index, such as ``'0.75'``."""
    return f'{float(ratio):g}'


def image_name(gt_label: int, class_name: str, lora: str, label: int, number: int) -> str:
    """Return the path of an image within its pool."""
    return f'images/{gt_label:04d}-{_plain(class_name)}/{_plain(lora)}_{label}_{number:04d}.png'


def write_image(folder: Path, name: str, pixels: Tensor) -> None:
    """Write an image ``(3, H, W)`` with pixels in [0, 1] as PNG, rounded to 8 bits, in one step."""
    content = io.BytesIO()
    array = (pixels.double() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)
    Image.fromarray(array).save(content, 'PNG')
    write_bytes(folder / name, content.getvalue())


def check_names(names: Iterable[str]) -> None:
    """Refuse names of LoRAs that would write to the same files.

    Raises:
        ValueError: Two names are the same as parts of a path.
    """
    twice = sorted(name for name, count in Counter(map(_plain, names)).items() if count > 1)
    if twice:
        raise ValueError(f'several LoRAs are named {twice[0]!r} as a part of a path: rename them')


def _plain(name: str) -> str:
    return re.sub(r'[^\w.-]+', '-', name).strip('-.')[:80] or 'unnamed'
