"""Ranks from batches of training data, before the model of the run is built.

A model without adapters is built beside the run, gets the frozen weights, sees a few batches and is thrown away. It
draws from generators of its own, so that the run draws what it would have drawn without it.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.registry import FUNCTIONS, DefaultScope
from mmpretrain.registry import DATASETS as PRETRAIN_DATASETS
from mmpretrain.registry import MODELS as PRETRAIN_MODELS
from torch import Tensor

from ..datasets.seeded import SampleIndex, SeededDataset
from ..io.checkpoint import load_checkpoint
from ..io.weights import unwrap
from ..models.backbones.adapt import slices_of
from ..models.backbones.load_guard import LoadGuard
from ..models.backbones.ranks import model_size
from ..randomness import derive_seed, seed_all, seeded
from ..ranks import RankTable, flatten_sites, pieces_of, resolve_criterion, table_of, weights_sha256
from ..ranks.allocate import check_total

BATCHES = 8


def data_ranks(
    cfg: Config,
    backbone: Mapping[str, Any],
    kind: Any,
    criterion: str,
    budget: Mapping[str, float] | None,
    load_from: str | None = None,
) -> RankTable:
    """Return the rank table of a criterion that reads data.

    ``cfg.rank_batches`` batches (default 8) of ``train_dataloader`` are read, chosen by the seed of
    ``cfg.randomness`` (0 where there is none) whatever the sampler, the workers and the number of processes. One
    process measures, the others receive its table. Images are augmented as in training; the model is in evaluation
    mode, without dropout.

    Args:
        cfg: A whole config.
        backbone: The adapted backbone inside ``cfg.model``.
        kind: What builds it.
        criterion: Name of the criterion.
        budget: As in :func:`mmlora.ranks.check_budget`, with a total.
        load_from: Checkpoint of the whole model, read after ``init_cfg``; None where that has the weights.

    Raises:
        ValueError: There are no data or no weights, or the criterion or budget is not valid; or the first process
            could not measure.
    """
    check_total(criterion, budget)
    tables: list[dict | None] = [None]
    try:
        if is_main_process():
            tables = [_measure(cfg, backbone, kind, criterion, budget, load_from).to_dict()]
    finally:
        broadcast_object_list(tables)  # after an error too: the others would wait for ever
    if tables[0] is None:
        raise ValueError(f'the first process could not compute the ranks by {criterion!r}; its own message says why')
    return RankTable.from_dict(tables[0], f'the table of {criterion}')


def _measure(
    cfg: Config,
    backbone: Mapping[str, Any],
    kind: Any,
    criterion: str,
    budget: Mapping[str, float] | None,
    load_from: str | None,
) -> RankTable:
    seed = int((cfg.get('randomness') or {}).get('seed') or 0)
    count = cfg.get('rank_batches', BATCHES)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f'rank_batches must be a whole number of at least 1, got {count!r}')
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    # mmengine sets the scope in which types are looked up when it builds the runner, which is later.
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain'))
    with scope, torch.random.fork_rng(cuda), seeded(derive_seed('rank model', seed)):
        model, bare = bare_model(cfg, backbone, kind, load_from)
        seed_all(derive_seed('rank criterion', seed))  # mixup draws the same, however the model was initialised
        model.to(torch.device('cuda', cuda[0]) if cuda else 'cpu').eval()
        modules = dict(bare.named_modules())
        layers = {name: modules[name] for name in flatten_sites(kind.adapter_sites(backbone))}
        weights = {name: layer.weight.detach() for name, layer in layers.items()}
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        pieces = pieces_of(shapes, slices_of(backbone, kind), backbone.get('rank_per', 'layer'))
        steps = (partial(_loss, model, batch) for batch in training_batches(cfg, seed, count))
        values = resolve_criterion(criterion).measure(pieces, layers, steps)
    source = f'up to {count} batches of {cfg.train_dataloader.batch_size}, seed {seed}'
    return table_of(pieces, values, criterion, budget, source, weights_sha256(weights), model_size(bare))


def bare_model(
    cfg: Config, backbone: Mapping[str, Any], kind: Any, load_from: str | None = None
) -> tuple[nn.Module, nn.Module]:
    """Build the model of a config with the backbone not adapted, and load its weights.

    Args:
        cfg: A whole config.
        backbone: The adapted backbone inside ``cfg.model``.
        kind: What builds it.
        load_from: Checkpoint of the whole model, read after ``init_cfg``; None where that has the weights.

    Returns:
        The model and the backbone inside it.

    Raises:
        ValueError: The weights do not fit the backbone.
    """
    built: list[nn.Module] = []

    def build() -> nn.Module:
        built.append(PRETRAIN_MODELS.build(kind.bare_config(backbone)))
        built[-1].register_load_state_dict_pre_hook(LoadGuard())
        return built[-1]

    whole = _replaced(cfg.model, backbone, {'type': build})
    if cfg.get('data_preprocessor') is not None:
        whole.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = PRETRAIN_MODELS.build(whole)
    model._dump_init_info = (
        _say_nothing  # mmengine logs the origin of every tensor, here of a model that is thrown away
    )
    model.init_weights()
    if load_from is not None:
        own = model.state_dict()
        place = next(name for name, module in model.named_modules() if module is built[0])
        state = unwrap(load_checkpoint(load_from), load_from)
        # As in training: the head is taken where it fits, the backbone must fit.
        fits = {k: v for k, v in state.items() if k.startswith(f'{place}.') or (k in own and own[k].shape == v.shape)}
        model.load_state_dict(fits, strict=False)
    return model, built[0]


def training_batches(cfg: Config, seed: int, count: int) -> Iterator[Any]:
    """Yield batches of the training data, collated as the config says.

    Args:
        cfg: A config with a ``train_dataloader`` that has a ``batch_size``.
        seed: Chooses the samples and their augmentation.
        count: Most batches; a small data set gives fewer.

    Raises:
        ValueError: There are no training data, or they have no batch size or no length.
    """
    loader = cfg.get('train_dataloader')
    if not isinstance(loader, Mapping) or 'dataset' not in loader or not loader.get('batch_size'):
        raise ValueError('a criterion that reads data needs a train_dataloader with a dataset and a batch_size')
    dataset = loader['dataset']
    if isinstance(dataset, Mapping):
        dataset = PRETRAIN_DATASETS.build(dict(dataset))
    if not isinstance(dataset, SeededDataset):
        dataset = SeededDataset(dataset)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if not hasattr(dataset.dataset, '__len__') or not len(dataset):
        raise ValueError(f'a criterion that reads data needs samples by index: {type(dataset.dataset)} has none')
    collate = _collate(loader.get('collate_fn') or {'type': 'pseudo_collate'})
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(derive_seed('rank batches', seed)))
    for chosen in order[: count * loader['batch_size']].split(loader['batch_size']):
        yield collate([dataset[SampleIndex(index, seed, 0)] for index in chosen.tolist()])


def _collate(cfg: Any) -> Callable:
    """Return what mmengine would make of a loader's ``collate_fn``: a config, or a function itself."""
    if not isinstance(cfg, Mapping):
        return cfg
    options = dict(cfg)
    kind = options.pop('type')
    return partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **options)


def _say_nothing() -> None:
    pass


def _loss(model: nn.Module, batch: Any) -> Tensor:
    data = model.data_preprocessor(batch, True)  # with mixup and the like, as in training
    losses = model(**data, mode='loss') if isinstance(data, Mapping) else model(*data, mode='loss')
    return model.parse_losses(losses)[0]


def _replaced(node: Any, old: Any, new: Mapping[str, Callable]) -> Any:
    """Return a copy of a config in which one node is another."""
    if node is old:
        return dict(new)
    if isinstance(node, Mapping):
        return {key: _replaced(value, old, new) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_replaced(value, old, new) for value in node]
    return node
