"""What is known of data after a look at it, and how it is said."""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

SHOWN = 5
"""Names that a line lists."""


@dataclass
class LoaderReport:
    """What the data of one loader is.

    Args:
        loader: Name of the loader in the config.
        sources: Types of the data sets, with the lists or folders that they read.
        images: Number of samples, repeated ones included.
        files: The image files; empty where the data set draws or holds its images.
        repeated: How many samples repeat a file.
        per_class: Number of samples by class.
        num_classes: Number of classes that the data sets declare, else None.
        names: Names of the classes; may be empty.
        multi_label: Whether an image may have any number of classes.
        without_class: Images of a multi-label set that have no class.
        unlabelled: Samples that have no label.
        shape: Shape of the first prepared image, or None where none can be prepared.
        read: Number of images that were prepared.
        examples: Some images with their labels, in words.
    """

    loader: str
    sources: list[str]
    images: int = 0
    files: set[str] = field(default_factory=set)
    repeated: int = 0
    per_class: Counter = field(default_factory=Counter)
    num_classes: int | None = None
    names: tuple[str, ...] = ()
    multi_label: bool = False
    without_class: int = 0
    unlabelled: int = 0
    shape: tuple[int, ...] | None = None
    read: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def empty_classes(self) -> list[int]:
        """Classes without a sample."""
        return [label for label in range(self.num_classes or 0) if not self.per_class[label]]

    def lines(self) -> Iterator[str]:
        """Describe the loader, one line a fact."""
        yield f'{self.loader}: {", ".join(self.sources)}'
        yield f'  images: {self.images}' + (f', of which {self.repeated} repeat a file' if self.repeated else '')
        if self.unlabelled:
            yield f'  without a label: {self.unlabelled}'
        if self.per_class or self.without_class:
            yield from self._label_lines()
        if self.examples:
            yield f'  for example: {"; ".join(self.examples)}'
        if self.shape:
            images = 'one image was' if self.read == 1 else f'{self.read} images were'
            yield f'  prepared image: {sides(self.shape)} ({images} read)'

    def _label_lines(self) -> Iterator[str]:
        counts = [self.per_class[label] for label in range(self.num_classes)] if self.num_classes else list(
            self.per_class.values()) or [0]
        yield (f'  classes: {len(counts)}, images of each: at least {min(counts)}, median '
               f'{statistics.median(counts):g}, at most {max(counts)}')
        if self.multi_label:
            mean = sum(counts) / self.images
            yield f'  labels of an image: {mean:.2f} on average, none in {self.without_class} images'
        empty = self.empty_classes
        if empty:
            shown = ', '.join(self.names[label] if self.names else str(label) for label in empty[:SHOWN])
            yield f'  classes without an image: {len(empty)} ({shown}{", ..." if len(empty) > SHOWN else ""})'


@dataclass
class DataReport:
    """What data is, and what is wrong with it.

    Args:
        loaders: A report for each loader whose data can be read.
        problems: What has to be mended.
        notes: What has to be known.
    """

    loaders: list[LoaderReport]
    problems: list[str]
    notes: list[str]

    def __str__(self) -> str:
        lines = [line for report in self.loaders for line in report.lines()]
        lines += [f'note: {note}' for note in self.notes] + [f'problem: {problem}' for problem in self.problems]
        return '\n'.join(lines if self.problems else [*lines, 'no problem found'])


def sides(shape: tuple[int, ...]) -> str:
    """Write the size of an image."""
    return ' x '.join(map(str, shape))
