"""Settle what a generator of LoRAs is built for: the LoRAs of a bank, and the width of the descriptions of its tasks.

mmengine builds the model before it reads any data, so both are put into the config first.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from torch import Tensor

from ..io.lora_banks import LoRABanks
from ..io.task_vectors import TaskVectors
from ..models.generators.codec import read_document
from .prepare import stock_name
from .settle import adapted_backbones

DOCUMENT, WIDTH = 'codec.document', 'scaler.mean'
BANK_DATA = ('LoRABankDataset', 'BankEpisodes')


def settle_generator(cfg: Config, state: Mapping[str, Tensor] | None = None) -> bool:
    """Write ``spec``, ``codec.factors``, ``description_dim`` and, where needed, ``num_tasks`` into a config, in place.

    Args:
        cfg: A whole config, whose variables are settled.
        state: Of a trained generator, which says all that; without it, the bank of the training data does.

    Returns:
        Whether the config has a generator that is made for a bank.

    Raises:
        ValueError: The file has no statistics, or the task vectors are of another encoder.
        FileNotFoundError: There is no bank or no file of task vectors.
    """
    found = False
    for node, kind in adapted_backbones(cfg.get('model') or {}, 'closed_form'):
        known = _of_state(state) if state is not None else _of_data(cfg, node)
        if not known:
            continue
        found = True
        node['codec'] = {**known.pop('codec'), **(node.get('codec') or {})}
        for name, value in known.items():
            if value is not None and name in parameters_of(kind):
                node.setdefault(name, value)
    return found


def parameters_of(kind: type) -> set[str]:
    """Return the names of the arguments of a class and of those that it is made of."""
    return {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}


def generator_prefix(state: Mapping[str, Tensor]) -> str:
    """Return what the names of a generator begin with in a checkpoint.

    Raises:
        ValueError: It holds no generator with its statistics.
    """
    for prefix in ('', 'generator.'):
        if prefix + DOCUMENT in state and prefix + WIDTH in state:
            return prefix
    missing = WIDTH if any(name.endswith(DOCUMENT) for name in state) else DOCUMENT
    raise ValueError(f'the checkpoint has no {missing!r}: it holds no generator of LoRAs, or one without its '
                     'statistics, which cannot generate. Give a checkpoint that tools/train.py wrote; it has '
                     f'{sorted(state)[:3]} ...')


def _of_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    prefix = generator_prefix(state)
    document = read_document(state[prefix + DOCUMENT])
    bank = state.get(f'{prefix}bank')
    return dict(spec=document.pop('spec'), codec=document, description_dim=len(state[prefix + WIDTH]),
                num_tasks=None if bank is None else len(bank))


def _of_data(cfg: Config, node: Mapping[str, Any]) -> dict[str, Any]:
    data = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while stock_name(data) == 'SeededDataset':
        data = data['dataset']
    if stock_name(data) not in BANK_DATA:
        return {}
    banks, width = LoRABanks.open(data['banks']), None
    if data.get('task_vectors'):
        described = TaskVectors.open(data['task_vectors'])
        encoder = (node.get('task_encoder') or dict(type='MeanFeature'))['type'].rpartition('.')[2]
        given = described.encoder
        if given != encoder:
            raise ValueError(f'the task vectors of {data["task_vectors"]} were made by {given}, the generator has '
                             f'task_encoder {encoder}: extract them with the config of the generator')
        width = next(iter(described.vectors.values())).shape[-1]
    return dict(spec=banks.full_spec.to_document(), codec=dict(factors=banks.factors), description_dim=width,
                num_tasks=len(banks))
