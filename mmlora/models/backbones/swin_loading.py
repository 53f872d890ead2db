"""What the adapted Swin transformers share."""

from collections.abc import Mapping, Sequence
from typing import Any


def block_sites(arch: Mapping[str, Any], ends: Sequence[str]) -> list[list[list[str]]]:
    """Return the names of layers by ``[stage][block]``, from their names within a block."""
    return [
        [[f'stages.{stage}.blocks.{block}.{end}' for end in ends] for block in range(depth)]
        for stage, depth in enumerate(arch['depths'])
    ]


class SwinLoading:
    """Reads checkpoints of old versions, which mmpretrain does for its own class alone."""

    def _prepare_loading(self) -> None:
        self._register_load_state_dict_pre_hook(self._rename_old_keys)

    def _rename_old_keys(self, state_dict: dict, prefix: str, *args: object) -> None:
        for key in [k for k in state_dict if k.startswith(prefix)]:
            end = key[len(prefix) :]
            if end.endswith('attn_mask'):
                del state_dict[key]
            elif end.startswith('norm.'):
                state_dict[f'{prefix}norm{len(self.stages) - 1}.{end[5:]}'] = state_dict.pop(key)
