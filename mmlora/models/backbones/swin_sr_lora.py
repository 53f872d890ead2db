"""SR-LoRA on a Swin transformer (arXiv 2507.00327). See :mod:`.vit_sr_lora` for the method and the deviations."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn as nn
from mmpretrain.models import SwinTransformer

from ...registry import MODELS, register
from .adapt import adapt_backbone, check_slices
from .ranks import pretrained_checkpoint, resolve_ranks


@register(MODELS, 'SwinTransformerSR_LoRA', 'SwinSRLoRA')
class SwinSR_LoRA(SwinTransformer):
    """A frozen Swin transformer with LoRA on q and v of the fused qkv and on the projection of every block.

    Args:
        arch: A name or a dict, as of :class:`mmpretrain.models.SwinTransformer`.
        lora_ranks: ``[stage][block] = [qkv, proj]`` (with ``ffn``: ``[qkv, proj, fc1, fc2]``), or one of the other
            forms of :class:`VitSR_LoRA`.
        rank_budget: As in :func:`mmlora.ranks.allocate`, for ranks from a criterion.
        lora_alpha: Numerator of the scaling; 1 as published.
        lora_scaling: ``'alpha/r'`` as published, ``'alpha/sqrt(r)'``, ``'constant'`` or a number.
        lora_dropout: Of the input of A, in [0, 1).
        lora_slices: Which of q, k and v are adapted.
        ffn: Whether to adapt the two layers of the feed-forward network too.
        frozen: False lets the backbone learn beside the adapters.
        **kwargs: Of :class:`mmpretrain.models.SwinTransformer`.

    Raises:
        ValueError: The ranks do not fit the stages and blocks, or an argument is out of range.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        lora_ranks: Any = 'stable_rank',
        rank_budget: Mapping[str, float] | None = None,
        lora_alpha: float = 1.0,
        lora_scaling: str | float = 'alpha/r',
        lora_dropout: float = 0.0,
        lora_slices: Sequence[str] = 'qv',
        ffn: bool = False,
        frozen: bool = True,
        **kwargs: Any,
    ) -> None:
        check_slices(lora_slices)
        sites = self.adapter_sites(dict(arch=arch, ffn=ffn))
        source = pretrained_checkpoint(kwargs.get('init_cfg'))
        table = resolve_ranks(lora_ranks, sites, source, rank_budget, lora_slices)
        super().__init__(arch=arch, **kwargs)
        self._register_load_state_dict_pre_hook(self._rename_old_keys)
        adapt_backbone(self, table, lora_alpha, lora_scaling, lora_dropout, lora_slices, frozen=frozen)

    @classmethod
    def adapter_sites(cls, cfg: Mapping[str, Any]) -> list[list[list[str]]]:
        """Return the names of the adapted modules for each stage and block, from the config of the backbone.

        Raises:
            ValueError: The architecture is unknown.
        """
        arch = cfg.get('arch', 'base')
        if isinstance(arch, str):
            if arch.lower() not in cls.arch_zoo:
                raise ValueError(f'unknown arch {arch!r}: choose one of {sorted(cls.arch_zoo)} or give a dict')
            arch = cls.arch_zoo[arch.lower()]
        ends = ['attn.w_msa.qkv', 'attn.w_msa.proj', *(['ffn.layers.0.0', 'ffn.layers.1'] if cfg.get('ffn') else [])]
        return [
            [[f'stages.{stage}.blocks.{block}.{end}' for end in ends] for block in range(depth)]
            for stage, depth in enumerate(arch['depths'])
        ]

    def _rename_old_keys(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Read checkpoints of old versions, which mmpretrain does for its own class alone."""
        for key in [k for k in state_dict if k.startswith(prefix)]:
            end = key[len(prefix) :]
            if end.endswith('attn_mask'):
                del state_dict[key]
            elif end.startswith('norm.'):
                state_dict[f'{prefix}norm{len(self.stages) - 1}.{end[5:]}'] = state_dict.pop(key)

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode and return self; no weight changes."""
        super().train(mode)
        return self
