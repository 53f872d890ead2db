"""VTAB-1k as files, made from tensorflow_datasets: what ``tools/prepare_vtab.py`` calls.

A set becomes ``<out>/<set>/`` with four lists and their images, as the published script writes it. A killed run loses
nothing: images and lists are written atomically, a list after its images, and ``prepared.json`` says what was begun and
what is done.
"""

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from ..datasets.vtab_rules import TRAIN, VAL, VTAB_RULES, Example, VTABRule, other_sizes, vtab_slices
from ..datasets.vtab_sets import VTAB_SETS, VTABSet, find_vtab_set
from ..io.atomic import write_bytes, write_text
from ..plain_json import parse_json
from .tfds_source import Source, open_tfds

LISTS = ('train800', 'val200', 'train800val200', 'test')
MARKER = 'prepared.json'
FORMATS: Mapping[str, dict[str, Any]] = {'jpg': dict(format='JPEG', quality=75), 'png': dict(format='PNG')}
"""How images are saved: what Pillow is told. 75 is its default, with which the images in use were saved."""
VERSIONS = ('published', 'any')
CHUNK = 256
SAMPLE = 32
BLOCK = 4096  # Bytes in which file systems count.


def _log(text: str) -> None:
    print_log(text, logger='current')


def prepare_vtab(
    out: str | Path,
    names: Sequence[str] | None = None,
    *,
    image_format: str = 'jpg',
    tfds_dir: str | None = None,
    tfds_version: str = 'published',
    workers: int = 8,
    open_source: Callable[[str, str | None, str | None], Source] = open_tfds,
    say: Callable[[str], None] = _log,
) -> dict[str, str]:
    """Write sets of VTAB-1k. A set that is whole is left alone, one that was begun is completed.

    Args:
        out: Folder of the sets, such as ``data/vtab-1k``.
        names: The sets, under any of their names; by default all 19.
        image_format: ``'jpg'``, of quality 75 as published, or ``'png'``, without loss.
        tfds_dir: Where tensorflow_datasets keeps its data.
        tfds_version: ``'published'`` asks for the versions of :data:`~mmlora.datasets.vtab_rules.VTAB_RULES` and for
            their numbers of images, ``'any'`` takes what there is and says how it differs.
        workers: Threads that encode and write images.
        open_source: Opens a data set by name, version (or None) and folder.
        say: Called with each line about the progress.

    Returns:
        What went wrong, by set; empty where all is well. One set that fails does not stop the others.

    Raises:
        ValueError: An argument is unknown or out of range.
        ImportError: tensorflow_datasets is not installed.
    """
    for name, value, known in (('image_format', image_format, FORMATS), ('tfds_version', tfds_version, VERSIONS)):
        if value not in known:
            raise ValueError(f'unknown {name} {value!r}: choose from {", ".join(known)}')
    if workers < 1:
        raise ValueError(f'workers must be at least 1, got {workers}')
    sets = list(dict.fromkeys(find_vtab_set(name) for name in names or VTAB_SETS))
    files = sum(TRAIN + VAL + TRAIN + VAL + one.test_images for one in sets)
    say(f'{len(sets)} sets of {files} images in all go to {out}. What each set takes is said before it is written; the '
        'downloads of tensorflow_datasets come on top')
    failed = {}
    for one in sets:
        rule = VTAB_RULES[one.name]
        try:
            job = _Job(Path(out).expanduser(), one, rule, image_format, tfds_version == 'any', workers, say)
            if job.is_done():
                say(f'{one.name}: was prepared before')
                continue
            say(f'{one.name}: opening {rule.source}')
            job.run(open_source(rule.source, None if tfds_version == 'any' else rule.version, tfds_dir))
        except (ValueError, OSError) as error:
            failed[one.name] = str(error)
            say(f'{one.name}: FAILED: {error}')
    return failed


class _Job:
    """One set on its way to files."""

    def __init__(
        self, out: Path, vtab_set: VTABSet, rule: VTABRule, image_format: str, any_version: bool, workers: int,
        say: Callable[[str], None],
    ) -> None:
        self.vtab_set, self.rule, self.image_format = vtab_set, rule, image_format
        self.any_version, self.workers, self.say = any_version, workers, say
        self.begun_with: str | None = None
        self.differs: list[str] = []
        self.folder = out / vtab_set.name
        others = [name for name in vtab_set.spellings if (out / name).is_dir()]
        if others:
            raise ValueError(f'{out} has a folder {others[0]}, which is another name of {vtab_set.name}: it can be '
                             'used as it is; to make the set anew, remove it or choose another folder')
        self.sizes = dict(train800=TRAIN, val200=VAL, train800val200=TRAIN + VAL, test=vtab_set.test_images)

    def is_done(self) -> bool:
        """Return whether the set is whole.

        Raises:
            ValueError: The folder holds something else than what was asked for.
        """
        path = self.folder / MARKER
        if not path.exists():
            lists = [name for name in LISTS if self._list(name).exists()]
            if lists:
                raise ValueError(f'{self.folder} holds {lists[0]}.txt and no {MARKER}, so it was not made here: it can '
                                 'be used as it is; to make the set anew, remove it or choose another folder')
            return False
        try:
            found = parse_json(path.read_text(encoding='utf-8'))
            self.begun_with, image_format, done = found['version'], found['image_format'], bool(found['complete'])
            self.differs = list(found['differs'])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path} cannot be read ({error!r}): remove {self.folder}') from error
        wanted = self.begun_with if self.any_version else self.rule.version
        if (image_format, self.begun_with) != (self.image_format, wanted):
            raise ValueError(f'{self.folder} was begun with {image_format} images of {self.rule.source} '
                             f'{self.begun_with}, not {self.image_format} of {wanted}: go on with these, or remove it')
        return done

    def run(self, source: Source) -> None:
        """Write what is missing.

        Raises:
            ValueError: The source has other numbers of images, labels or images than VTAB-1k.
            OSError: The disk is too small.
        """
        if self.begun_with not in (None, source.version):
            raise ValueError(f'{self.folder} was begun with version {self.begun_with} of {self.rule.source}, and this '
                             f'is {source.version}: remove it')
        if source.version != self.rule.version:
            self._differ(f'it is version {source.version}, and results in use are on {self.rule.version}')
        counts = {split: source.count(split) for split in self.rule.splits}
        if other := other_sizes(self.rule, counts):
            self._differ(other)
        slices = vtab_slices(self.rule, counts)
        left = [name for name in LISTS if not self._list(name).exists()]
        self._check_space(source, slices, left)
        self._mark(source, slices, complete=False)
        for name in left:
            self._write_split(source, name, slices[name])
        self._compare()
        self._mark(source, slices, complete=True)
        self.say(f'{self.vtab_set.name}: done')

    def _differ(self, how: str) -> None:
        """Say how the source differs from the published one, or refuse it."""
        if not self.any_version:
            raise ValueError(f'{self.rule.source} is not what VTAB-1k was made of: {how}. --tfds-version any takes it '
                             'as it is')
        self.differs += [] if how in self.differs else [how]
        self.say(f'{self.vtab_set.name}: NOTE: {self.rule.source}: {how}; images and results may differ')

    def _list(self, name: str) -> Path:
        return self.folder / f'{name}.txt'

    def _mark(self, source: Source, slices: Mapping[str, str], complete: bool) -> None:
        about = dict(
            set=self.vtab_set.name, source=self.rule.source, version=source.version, image_format=self.image_format,
            saved_with=FORMATS[self.image_format], slices=slices, differs=self.differs, complete=complete,
        )
        write_text(self.folder / MARKER, json.dumps(about, indent=2) + '\n')

    def _check_space(self, source: Source, slices: Mapping[str, str], left: Sequence[str]) -> None:
        if not left:
            return
        sample = [self._encode(example) for example in islice(source.read(slices[left[-1]]), SAMPLE)]
        if not sample:
            raise ValueError(f'{self.rule.source} {source.version} gives no image for {slices[left[-1]]!r}')
        mean = sum(-(-len(data) // BLOCK) * BLOCK for data in sample) / len(sample)
        needed = mean * sum(self.sizes[name] for name in left)
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        self.say(f'{self.vtab_set.name}: {", ".join(left)} take about {needed / 2**20:.0f} MiB, {free / 2**30:.1f} GiB '
                 'are free')
        if needed > free:
            raise OSError(f'{self.folder} needs about {needed / 2**20:.0f} MiB and has {free / 2**20:.0f}: make room')

    def _write_split(self, source: Source, name: str, slices: str) -> None:
        place = self.folder / 'images' / name
        place.mkdir(parents=True, exist_ok=True)
        for path in place.glob('.*.tmp'):  # Of a run that was killed while it wrote.
            path.unlink()
        lines, size = [], self.sizes[name]
        with ThreadPoolExecutor(self.workers) as pool:
            for chunk in _chunks(source.read(slices), CHUNK):
                first = len(lines)
                images = [f'images/{name}/{first + i:06d}.{self.image_format}' for i in range(len(chunk))]
                lines += [f'{image} {self._label(example)}' for image, example in zip(images, chunk, strict=True)]
                list(pool.map(self._write_image, images, chunk))
                if len(lines) // 5120 > first // 5120:
                    self.say(f'{self.vtab_set.name}: {name} {len(lines)} of {size}')
        if len(lines) != size and name != 'test':
            raise ValueError(f'{slices!r} of {self.rule.source} {source.version} gives {len(lines)} images instead of '
                             f'{size}')
        if len(lines) != size:
            self._differ(f'it gives {len(lines)} test images, and VTAB-1k has {size}')
        write_text(self._list(name), ''.join(f'{line}\n' for line in lines))

    def _label(self, example: Example) -> int:
        label = self.rule.label(example)
        if not 0 <= label < self.vtab_set.num_classes:
            raise ValueError(f'an example of {self.rule.source} has the label {label}, outside of '
                             f'0..{self.vtab_set.num_classes - 1}')
        return label

    def _encode(self, example: Example) -> bytes:
        image = self.rule.image(example)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'an image of {self.rule.source} is {image.dtype} of the shape {image.shape}, where bytes '
                             '(H, W, 3) are expected')
        file = io.BytesIO()
        Image.fromarray(image).save(file, **FORMATS[self.image_format])
        return file.getvalue()

    def _write_image(self, name: str, example: Example) -> None:
        path, data = self.folder / name, self._encode(example)
        if not path.is_file() or path.read_bytes() != data:
            write_bytes(path, data)

    def _compare(self) -> None:
        """Check that the list of 1000 holds the images and labels of the other two, in whatever order.

        Raises:
            ValueError: It does not.
        """
        parts = [self._contents(name) for name in ('train800', 'val200', 'train800val200')]
        if parts[0] + parts[1] != parts[2]:
            raise ValueError(f'{self._list("train800val200")} has other images or labels than train800.txt and '
                             f'val200.txt together: files were changed; remove {self.folder}')

    def _contents(self, name: str) -> Counter:
        pairs = (line.rsplit(' ', 1) for line in self._list(name).read_text(encoding='utf-8').splitlines())
        return Counter((hashlib.sha256((self.folder / image).read_bytes()).digest(), label) for image, label in pairs)


def _chunks(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    iterator = iter(examples)
    while chunk := list(islice(iterator, size)):
        yield chunk
