"""tensorflow_datasets, behind one function and a small class, which is all that the package sees of it."""

from collections.abc import Iterable
from typing import Any, Protocol

from .._requirements import install_extra
from ..datasets.vtab_rules import Example


class Source(Protocol):
    """A data set of tensorflow_datasets, or what stands for it."""

    version: str

    def count(self, split: str) -> int:
        """Return the number of images of a split."""

    def read(self, slices: str) -> Iterable[Example]:
        """Give the examples of slices such as ``'train[:800]+validation[:200]'``, in their fixed order."""


class TFDSSource:
    """A builder of tensorflow_datasets.

    Args:
        builder: The builder, prepared.
    """

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self.version = str(builder.version)

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return self._builder.info.splits[split].num_examples

    def read(self, slices: str) -> Iterable[Example]:
        """Give the examples of slices, as numpy arrays."""
        import tensorflow_datasets as tfds

        return tfds.as_numpy(self._builder.as_dataset(split=slices, shuffle_files=False))


def open_tfds(name: str, version: str | None, data_dir: str | None) -> TFDSSource:
    """Open a data set of tensorflow_datasets, which downloads and prepares it where it is not there yet.

    Args:
        name: Its name, with its configuration.
        version: Its version; None for the newest that is known.
        data_dir: Where tensorflow_datasets keeps its data; by default its own folder.

    Raises:
        ImportError: tensorflow_datasets or tensorflow is not installed.
        ValueError: The version is not known, or images have to be downloaded by hand.
    """
    try:
        import tensorflow  # noqa: F401  (tensorflow_datasets can be imported without it, and fails later)
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError('VTAB-1k is made from tensorflow_datasets, which needs tensorflow; install both '
                          f'with: {install_extra("vtab")} ({error})') from error
    try:
        builder = tfds.builder(f'{name}:{version}' if version else name, data_dir=data_dir)
    except (AssertionError, ValueError) as error:
        raise ValueError(f'this tensorflow_datasets cannot open {name} at version {version}: {error}. An older one '
                         'may; --tfds-version any takes the version that there is') from error
    try:
        builder.download_and_prepare()
    except AssertionError as error:  # Its way to say that images must be fetched by hand.
        raise ValueError(f'{name} cannot be downloaded, or not without a step by hand: {error}') from error
    return TFDSSource(builder)
