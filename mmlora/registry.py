"""The registries of mmlora: children of mmengine's roots under the scope ``mmlora``.

A class that :func:`register` decorates is found under two names: ``'mmlora.VitSR_LoRA'`` from any scope, and the bare
``'VitSR_LoRA'`` wherever mmpretrain's registries are searched, which is what users write in a config.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from mmengine import registry as root
from mmengine.registry import Registry
from mmpretrain import registry as pretrain

T = TypeVar('T', bound=Callable[..., Any])

MODELS = Registry('model', parent=root.MODELS, scope='mmlora', locations=['mmlora.models'])
DATASETS = Registry('dataset', parent=root.DATASETS, scope='mmlora', locations=['mmlora.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=root.DATA_SAMPLERS, scope='mmlora', locations=['mmlora.datasets'])
BATCH_AUGMENTS = Registry(
    'batch augment', parent=pretrain.BATCH_AUGMENTS, scope='mmlora', locations=['mmlora.models']
)
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope='mmlora', locations=['mmlora.datasets'])
METRICS = Registry('metric', parent=root.METRICS, scope='mmlora', locations=['mmlora.evaluation'])
HOOKS = Registry('hook', parent=root.HOOKS, scope='mmlora', locations=['mmlora.engine'])
OPTIMIZERS = Registry('optimizer', parent=root.OPTIMIZERS, scope='mmlora', locations=['mmlora.engine'])
PARAM_SCHEDULERS = Registry(
    'parameter scheduler', parent=root.PARAM_SCHEDULERS, scope='mmlora', locations=['mmlora.engine']
)
LOOPS = Registry('loop', parent=root.LOOPS, scope='mmlora', locations=['mmlora.engine'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=root.OPTIM_WRAPPERS, scope='mmlora', locations=['mmlora.engine'])
MODEL_WRAPPERS = Registry('model_wrapper', parent=root.MODEL_WRAPPERS, scope='mmlora', locations=['mmlora.engine'])
TOKENIZERS = Registry('tokenizer', parent=pretrain.TOKENIZER, scope='mmlora', locations=['mmlora.models'])
TUNERS = Registry('episode tuner', scope='mmlora', locations=['mmlora.engine'])
"""Ways to learn from a test episode; mmpretrain has none, so that these have names of this package alone."""

_TWINS = {
    id(MODELS): pretrain.MODELS,
    id(DATASETS): pretrain.DATASETS,
    id(DATA_SAMPLERS): pretrain.DATA_SAMPLERS,
    id(BATCH_AUGMENTS): pretrain.BATCH_AUGMENTS,
    id(TRANSFORMS): pretrain.TRANSFORMS,
    id(METRICS): pretrain.METRICS,
    id(HOOKS): pretrain.HOOKS,
    id(OPTIMIZERS): pretrain.OPTIMIZERS,
    id(PARAM_SCHEDULERS): pretrain.PARAM_SCHEDULERS,
    id(LOOPS): pretrain.LOOPS,
    id(OPTIM_WRAPPERS): pretrain.OPTIM_WRAPPERS,
    id(MODEL_WRAPPERS): pretrain.MODEL_WRAPPERS,
    id(TOKENIZERS): pretrain.TOKENIZER,
}


def register(registry: Registry, *aliases: str, bare: bool = True) -> Callable[[T], T]:
    """Register a class or function in mmlora's scope and, by its bare name, in mmpretrain's twin of that registry.

    Args:
        registry: One of the registries of this module.
        *aliases: Further names for the same object, such as the name of a publication.
        bare: False keeps the name out of mmpretrain's registry. Needed where it would shadow a name that other
            packages own (``CheckpointHook``).

    Returns:
        The decorator; it returns the object unchanged.

    Raises:
        KeyError: A name is taken already in either registry.
    """

    def decorate(obj: T) -> T:
        names = [obj.__name__, *aliases]
        registry.register_module(name=names, module=obj)
        if bare:
            _TWINS[id(registry)].register_module(name=names, module=obj)
        return obj

    return decorate
