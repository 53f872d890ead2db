"""Tells a classifier that compares images with the names of classes what the classes of the data are called."""

from collections.abc import Iterator, Mapping
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

    They are ``classes`` of its ``metainfo``, and ``templates`` if it has some. Names and templates in the config of the
    model win; they must be as many as those of the data set, and not the same in another order.
    """

    priority = 'HIGH'  # Before EMAHook copies the model, whose buffers hold the tokens of the names.

    def before_run(self, runner: Runner) -> None:
        """Set the names.

        Raises:
            TypeError: The model is no ``LoRACLIP``.
            ValueError: No data set has names, two of them have other names, or the model has another number of
                names or another order.
        """
        model = unwrap_model(runner.model)
        if not isinstance(model, LoRACLIPClassifier):
            raise TypeError(
                f'ClassNamesHook gives LoRACLIP its class names, and the model is a {type(model).__name__}: leave it '
                'out of custom_hooks'
            )
        metas = dict(_metas(runner))
        found = {loader: tuple(map(str, meta['classes'])) for loader, meta in metas.items() if meta.get('classes')}
        if model.classes_given:
            for loader, names in found.items():
                if len(names) != len(model.classes):
                    raise ValueError(
                        f'the model has {len(model.classes)} classes, the data set of {loader} {len(names)}: give the '
                        'model one name for each label, or leave classes out'
                    )
                if sorted(names) == sorted(model.classes) and names != model.classes:
                    raise ValueError(
                        f'the model has the classes of the data set of {loader} in another order, '
                        f'{list(model.classes)[:5]} and {list(names)[:5]}: labels are the numbers of the data set, so '
                        'leave classes out or give them in its order'
                    )
        else:
            _check_equal(found)
        model.take_meta(next(iter(metas.values()), {}))
        print_log(
            f'{len(model.classes)} classes, the first: {list(model.classes)[:5]}; prompts: {list(model.templates)}',
            'current',
        )


def _check_equal(found: Mapping[str, tuple[str, ...]]) -> None:
    if not found:
        raise ValueError('no data set of the run names its classes: give the model classes=[...]')
    loader, names = next(iter(found.items()))
    for other, others in found.items():
        if others != names:
            raise ValueError(
                f'the data sets of {loader} and {other} name their classes differently, {list(names)[:5]} and '
                f'{list(others)[:5]}: labels would not mean the same'
            )


def _metas(runner: Runner) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each loader of the run and the meta data of its data set, those with class names first."""
    metas = {}
    for kind in ('train', 'val', 'test'):
        loader: Any = getattr(getattr(runner, f'_{kind}_loop'), 'dataloader', None)
        meta = getattr(getattr(loader, 'dataset', None), 'metainfo', None)
        if meta:
            metas[f'{kind}_dataloader'] = meta
    yield from sorted(metas.items(), key=lambda item: not item[1].get('classes'))
