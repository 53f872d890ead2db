"""Loading is loud: an adapted backbone refuses a checkpoint that does not fit it.

mmengine only logs missing and misshapen keys, so that a typing error in a prefix would train or test a random network.
The guard is a load hook of the backbone itself and so works for ``init_cfg``, ``load_from``, resume and test alike.
"""

import re
from collections.abc import Sequence

import torch.nn as nn
from torch import Tensor

from ...adapters import KINDS, Tuning, adapter_tensor_names, find_tuning
from ...io.published import convert_published

DERIVED = ('relative_position_index', 'relative_coords_table', 'num_batches_tracked')
"""Buffers that follow from the architecture; a checkpoint may lack them."""

PREFIXES = sorted({'ssf_', *(kind.prefix for kind in KINDS.values() if kind.prefix)})

LEARNED = re.compile(rf'(^|\.)({"|".join(PREFIXES)})')
"""Begins the names of learned tensors, of whatever kind of adapter, and of the modules in which others hold them."""


class LoadGuard:
    """Load hook of an adapted backbone.

    A checkpoint must hold every frozen weight in the right shape, and either no factors (pre-trained weights) or all
    of them in the ranks of the model. Ranks are never adopted while loading, because the optimizer would miss the new
    tensors.
    """

    def __call__(self, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Check the keys of ``state_dict`` that begin with ``prefix``.

        Raises:
            ValueError: Keys are missing, misshapen or of other ranks; each is named with both shapes.
        """
        own = module.state_dict()
        convert_published(state_dict, own, prefix)
        factors = adapter_tensor_names(module)
        given = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        base = [key for key in own if key not in factors and not key.endswith(DERIVED)]
        self._check_base(own, base, given, prefix, state_dict)
        self._check_factors(own, factors, given, find_tuning(module))

    def _check_base(
        self, own: dict, base: list[str], given: dict, prefix: str, state_dict: dict[str, Tensor]
    ) -> None:
        missing = [key for key in base if key not in given]
        if missing:
            hint = ''
            if not any(key in given for key in base):
                hint = (
                    f'. None of its keys fit; they begin with {list(state_dict)[:3]}. Weights of a bare backbone '
                    "belong in init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone; those of a whole "
                    "model need prefix='backbone.' there"
                )
            raise ValueError(f'the checkpoint lacks {_listed(missing, len(base))} weights of the backbone{hint}')
        misshapen = [key for key in base if given[key].shape != own[key].shape]
        if misshapen:
            key = misshapen[0]
            raise ValueError(
                f'the checkpoint holds {_listed(misshapen, len(base))} weights of the backbone in another shape: {key} '
                f'is {tuple(given[key].shape)}, the model has {tuple(own[key].shape)}; is it another architecture?'
            )

    def _check_factors(self, own: dict, factors: set[str], given: dict, tuning: Tuning | None) -> None:
        found = {key for key in given if LEARNED.search(key)}
        if not found:
            return
        missing, extra = sorted(factors - found), sorted(found - factors)
        if missing or extra:
            raise ValueError(
                'the checkpoint adapts other modules than the model: it lacks '
                f'{_listed(missing, len(factors))} and has {_listed(extra, len(found))} that the model has not'
            )
        other = sorted(key for key in factors if given[key].shape != own[key].shape)
        if other:
            key = other[0]
            hint = (
                'Build the model with the ranks of the checkpoint: lora_ranks=<path of the checkpoint>, or '
                'mmlora.apis.settle_ranks(cfg, checkpoint)'
            )
            if tuning is not None:
                hint = f'Build the model as in training: {tuning!r} comes from kind and adapter_cfg of the backbone'
            raise ValueError(
                f'{_listed(other, len(factors))} factors of the checkpoint have another rank or size: {key} is '
                f'{tuple(given[key].shape)}, the model has {tuple(own[key].shape)}. {hint}'
            )


def _listed(keys: Sequence[str], total: int) -> str:
    names = ', '.join(keys[:5]) + (' ...' if len(keys) > 5 else '')
    return f'{len(keys)} of {total} ({names})' if keys else f'0 of {total}'
