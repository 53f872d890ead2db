"""SR-LoRA on a Swin transformer; see :mod:`.sr_lora`."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmpretrain.models import SwinTransformer

from ...registry import MODELS, register
from .sr_lora import SRLoRA


@register(MODELS, 'SwinTransformerSR_LoRA', 'SwinSRLoRA')
class SwinSR_LoRA(SRLoRA, SwinTransformer):
    """mmpretrain's ``SwinTransformer`` with the arguments of :class:`SRLoRA`; ranks are ``[stage][block]``."""

    bare = SwinTransformer
    attention = ('attn.w_msa.qkv', 'attn.w_msa.proj')

    @classmethod
    def _sites(cls, arch: Mapping[str, Any], ends: Sequence[str]) -> list:
        return [
            [[f'stages.{stage}.blocks.{block}.{end}' for end in ends] for block in range(depth)]
            for stage, depth in enumerate(arch['depths'])
        ]

    def _prepare_loading(self) -> None:
        self._register_load_state_dict_pre_hook(self._rename_old_keys)

    def _rename_old_keys(self, state_dict: dict, prefix: str, *args: object) -> None:
        """Read checkpoints of old versions, which mmpretrain does for its own class alone."""
        for key in [k for k in state_dict if k.startswith(prefix)]:
            end = key[len(prefix) :]
            if end.endswith('attn_mask'):
                del state_dict[key]
            elif end.startswith('norm.'):
                state_dict[f'{prefix}norm{len(self.stages) - 1}.{end[5:]}'] = state_dict.pop(key)
