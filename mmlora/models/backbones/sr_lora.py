"""SR-LoRA: what the backbones of the paper share.

Zhang, Wang, Gu, "Beyond Low-Rank Tuning: Model Prior-Guided Rank Allocation for Effective Transfer in Low-Data and
Large-Gap Regimes", ICCV 2025, arXiv 2507.00327: the stable rank of each frozen attention weight is the rank of its
LoRA.

Deviations from the published code: evaluation is at full rank and deterministic (there it draws a random rank),
weights are never merged by ``eval()`` (there a checkpoint saved in evaluation holds the change twice), and the change
of q and v is never formed as a dense matrix.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn as nn

from .adapt import adapt_backbone, check_keywords, check_slices, deploy, look_up_arch
from .ranks import pretrained_checkpoint, resolve_ranks
from .skeleton import build_skeleton


class SRLoRA:
    """A frozen backbone with LoRA on q and v of the fused qkv and on the projection of every block.

    Goes before the backbone's class among the bases.

    Args:
        arch: A name or a dict, as of the backbone.
        lora_ranks: Ranks nested as the blocks are, ``[qkv, proj]`` for each (with ``ffn``: ``[qkv, proj, fc1, fc2]``),
            the qkv rank applying to each adapted slice, unless it is a mapping from slice to rank; or one number, a
            mapping from module to rank, a criterion such as ``'stable_rank'``, a preset, a ``ranks.json``, or a
            checkpoint.
        rank_budget: As in :func:`mmlora.ranks.check_budget`, for ranks from a criterion.
        rank_per: ``'layer'`` values the merged qkv, as the published tables do; ``'slice'`` values q, k and v by their
            own rows, as the paper writes. For ranks from a criterion.
        lora_alpha: Numerator of the scaling; 1 as published.
        lora_scaling: ``'alpha/r'`` as published, ``'alpha/sqrt(r)'``, ``'constant'`` or a number.
        lora_dropout: Of the input of A, in [0, 1).
        lora_slices: Which of q, k and v are adapted; None adapts the fused qkv as one weight.
        ffn: Whether to adapt the two layers of the feed-forward network too.
        frozen: False lets the backbone learn beside the adapters.
        **kwargs: Of the backbone.

    Raises:
        ValueError: The ranks do not fit the blocks, or an argument is out of range.
        TypeError: An argument is unknown.
    """

    bare: ClassVar[type[nn.Module]]
    """The backbone without adapters."""

    attention: ClassVar[tuple[str, ...]]
    """Names of the adapted layers within a block."""

    def __init__(
        self,
        arch: str | dict = 'base',
        lora_ranks: Any = 'stable_rank',
        rank_budget: Mapping[str, float] | None = None,
        lora_alpha: float = 1.0,
        lora_scaling: str | float = 'alpha/r',
        lora_dropout: float = 0.0,
        lora_slices: Sequence[str] | None = 'qv',
        ffn: bool = False,
        frozen: bool = True,
        rank_per: str = 'layer',
        **kwargs: Any,
    ) -> None:
        check_keywords(kwargs, self.bare.__init__, SRLoRA.__init__)
        check_slices(lora_slices)
        sites = self.adapter_sites(dict(arch=arch, ffn=ffn))
        source = pretrained_checkpoint(kwargs.get('init_cfg'))
        cfg = dict(kwargs, arch=arch)
        table = resolve_ranks(
            lora_ranks, sites, source, rank_budget, lora_slices, rank_per, lambda: build_skeleton(self.bare_config(cfg))
        )
        super().__init__(arch=arch, **kwargs)
        self._prepare_loading()
        adapt_backbone(self, table, lora_alpha, lora_scaling, lora_dropout, lora_slices, frozen=frozen)

    @classmethod
    def adapter_sites(cls, cfg: Mapping[str, Any]) -> list:
        """Return the names of the adapted modules, nested as the blocks are, from the config of the backbone.

        Raises:
            ValueError: The architecture is unknown.
        """
        arch = look_up_arch(cls.arch_zoo, cfg.get('arch', 'base'))
        ends = cls.attention + (('ffn.layers.0.0', 'ffn.layers.1') if cfg.get('ffn') else ())
        return cls._sites(arch, ends)

    @classmethod
    def bare_config(cls, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of the backbone without adapters, from that of the adapted one."""
        own = set(inspect.signature(SRLoRA.__init__).parameters) - {'arch'}
        return {'arch': 'base', **{k: v for k, v in cfg.items() if k not in own}, 'type': cls.bare}

    @classmethod
    def _sites(cls, arch: Mapping[str, Any], ends: Sequence[str]) -> list:
        raise NotImplementedError

    def _prepare_loading(self) -> None:
        """Register load hooks that must come before the check of the keys."""

    def switch_to_deploy(self) -> None:
        """Put plain layers in the place of the adapted ones; the function stays the same.

        mmpretrain's ``tools/model_converters/reparameterize_model.py`` calls it.
        """
        deploy(self)

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode and return self; no weight changes."""
        super().train(mode)
        return self
