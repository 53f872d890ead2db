"""RLRR: what the backbones of the paper share.

Dong et al., "Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design Approach", CVPR 2024, arXiv
2403.19067: every frozen weight of a block is rescaled by rows and columns and gets a shift of its bias; normalisation
and patch embedding are scaled and shifted. The maths is in :mod:`mmlora.adapters.rlrr`.

The published ViT drops single elements of its residual branches where it says drop path; ``drop_mode='dropout'``, the
default there, does the same, and ``'path'`` drops whole branches of a sample.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch.nn as nn
from mmcv.cnn.bricks import DropPath

from .adapt import adapt_backbone, check_keywords, deploy, look_up_arch
from .ranks import pretrained_checkpoint, resolve_ranks
from .skeleton import build_skeleton

DROP_MODES: dict[str, Callable[[float], nn.Module]] = {'dropout': nn.Dropout, 'path': DropPath}
"""What ``drop_path_rate`` does to a residual branch: drop its elements, or the whole branch of a sample."""


class RLRR:
    """A frozen backbone with RLRR on every linear layer of its blocks.

    Goes before the backbone's class among the bases.

    Args:
        arch: A name or a dict, as of the backbone.
        lora_ranks: Ranks of the masks, 1 as published: one number, nested lists of the shape of the blocks, a mapping
            from module to rank, a criterion such as ``'stable_rank'``, a ``ranks.json``, or a checkpoint.
        rank_budget: As in :func:`mmlora.ranks.check_budget`, for ranks from a criterion.
        rank_per: ``'layer'`` or ``'slice'``, for ranks from a criterion.
        rlrr_init: ``'published'`` starts near the frozen function, ``'identity'`` at it.
        drop_mode: What ``drop_path_rate`` of the backbone does, a name in :data:`DROP_MODES`; as published by default.
        frozen: False lets what is not adapted learn too, such as the position embedding.
        **kwargs: Of the backbone.

    Raises:
        ValueError: The ranks do not fit the blocks, or an argument is out of range or unknown.
        TypeError: An argument is unknown.
    """

    bare: ClassVar[type[nn.Module]]
    """The backbone without adapters."""

    linears: ClassVar[tuple[str, ...]]
    """Names of the adapted layers within a block."""

    scale_shift: ClassVar[tuple[str, ...]]
    """Patterns of the layers that are scaled and shifted."""

    default_slices: ClassVar[Sequence[str] | None]
    """The slices of the fused qkv that have scales of their own."""

    default_kind: ClassVar[str] = 'rlrr'
    """The kind of adapter."""

    default_drop_mode: ClassVar[str]

    def __init__(
        self,
        arch: str | dict = 'base',
        lora_ranks: Any = 1,
        rank_budget: Mapping[str, float] | None = None,
        rank_per: str = 'layer',
        rlrr_init: str = 'published',
        drop_mode: str | None = None,
        frozen: bool = True,
        **kwargs: Any,
    ) -> None:
        check_keywords(kwargs, self.bare.__init__, RLRR.__init__)
        drop_mode = self.default_drop_mode if drop_mode is None else drop_mode
        if drop_mode not in DROP_MODES:
            raise ValueError(f'unknown drop_mode {drop_mode!r}: choose one of {sorted(DROP_MODES)}')
        cfg = dict(kwargs, arch=arch)
        table = resolve_ranks(
            lora_ranks,
            self.adapter_sites(cfg),
            pretrained_checkpoint(kwargs.get('init_cfg')),
            rank_budget,
            self.default_slices,
            rank_per,
            lambda: build_skeleton(self.bare_config(cfg)),
        )
        super().__init__(arch=arch, **kwargs)
        self._prepare_loading()
        replace_drops(self, drop_mode)
        adapt_backbone(
            self,
            table,
            slices=self.default_slices,
            kind=self.default_kind,
            frozen=frozen,
            scale_shift=self.scale_shift,
            init=rlrr_init,
        )

    @classmethod
    def adapter_sites(cls, cfg: Mapping[str, Any]) -> list:
        """Return the names of the adapted modules, nested as the blocks are, from the config of the backbone.

        Raises:
            ValueError: The architecture is unknown.
        """
        return cls._sites(look_up_arch(cls.arch_zoo, cfg.get('arch', 'base')))

    @classmethod
    def bare_config(cls, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of the backbone without adapters, from that of the adapted one."""
        own = set(inspect.signature(RLRR.__init__).parameters) - {'arch'}
        return {'arch': 'base', **{k: v for k, v in cfg.items() if k not in own}, 'type': cls.bare}

    @classmethod
    def merged_config(cls, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of the backbone without adapters that takes the merged weights."""
        return cls.bare_config(cfg)

    @classmethod
    def _sites(cls, arch: Mapping[str, Any]) -> list:
        raise NotImplementedError

    def _prepare_loading(self) -> None:
        """Register load hooks that must come before the check of the keys."""

    def switch_to_deploy(self) -> None:
        """Put plain layers in the place of the adapted ones; the function stays the same.

        ``state_dict()`` then loads strictly into the backbone without adapters (:meth:`merged_config`).
        mmpretrain's ``tools/model_converters/reparameterize_model.py`` calls it.
        """
        deploy(self)

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode and return self; no weight changes."""
        super().train(mode)
        return self


def replace_drops(backbone: nn.Module, mode: str) -> None:
    """Let every stochastic depth of a backbone drop in another way, at the rate that it has.

    Args:
        backbone: Changed in place.
        mode: A name in :data:`DROP_MODES`.
    """
    for parent in list(backbone.modules()):
        for name, child in parent.named_children():
            if isinstance(child, DropPath):
                setattr(parent, name, DROP_MODES[mode](float(child.drop_prob)))
