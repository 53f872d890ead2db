"""Tells a classifier that compares images with the names of classes what the classes of the data are called."""

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ...models.clip import LoRACLIPClassifier
from ...registry import HOOKS, register
from ..adaptation import unwrap_model


@register(HOOKS)
class ClassNamesHook(Hook):
    """Give ``LoRACLIP`` the class names of the data set before a run, in training, validation and testing.

    Names in the config of the model win; their number must be that of the data set.
    """

    def before_run(self, runner: Runner) -> None:
        """Set the names.

        Raises:
            TypeError: The model is no ``LoRACLIP``.
            ValueError: No data set has names, or two of them have other names, or another number than the model.
        """
        model = unwrap_model(runner.model)
        if not isinstance(model, LoRACLIPClassifier):
            raise TypeError(
                f'ClassNamesHook gives LoRACLIP its class names, and the model is a {type(model).__name__}: leave it '
                'out of custom_hooks'
            )
        found = dict(_named_sets(runner))
        if model.classes_given:
            for loader, names in found.items():
                if len(names) != len(model.classes):
                    raise ValueError(
                        f'the model has {len(model.classes)} classes, the data set of {loader} {len(names)}: give the '
                        'model one name for each label, or leave classes out'
                    )
            return
        if not found:
            raise ValueError('no data set of the run names its classes: give the model classes=[...]')
        loader, names = next(iter(found.items()))
        for other, others in found.items():
            if others != names:
                raise ValueError(
                    f'the data sets of {loader} and {other} name their classes differently, {list(names)[:5]} and '
                    f'{list(others)[:5]}: labels would not mean the same'
                )
        model.set_classes(names)
        print_log(f'{len(names)} classes from the data set of {loader}, the first: {list(names)[:5]}', 'current')


def _named_sets(runner: Runner) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name of each loader of the run and the class names of its data set, where it has some."""
    for kind in ('train', 'val', 'test'):
        loader: Any = getattr(getattr(runner, f'_{kind}_loop'), 'dataloader', None)
        names = (getattr(getattr(loader, 'dataset', None), 'metainfo', None) or {}).get('classes')
        if names:
            yield f'{kind}_dataloader', tuple(map(str, names))
