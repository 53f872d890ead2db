"""CLIP's vision tower with LoRA: mmpretrain's ``VisionTransformer``, set up as OpenAI's.

Zanella, Ben Ayed, CVPR Workshops 2024, arXiv 2405.18541; see :mod:`.classifier` for the whole model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch.nn as nn
from mmpretrain.models import VisionTransformer

from ...adapters import SlicedLoRALinear
from ...adapters.multihead import check_params
from ...registry import MODELS, register
from ..backbones.adapt import adapt_backbone, check_keywords
from ..backbones.ranks import resolve_ranks
from .arch import CLIPArch, find_arch
from .blocks import Layers, chosen_blocks
from .openai_keys import VISION_PREFIX, convert_openai_keys

_ACTIVATIONS = {'quick_gelu': 'mmpretrain.QuickGELU', 'gelu': 'GELU'}


@register(MODELS)
class LoRACLIPVision(VisionTransformer):
    """The vision tower: a backbone for any head. Its feature is the class token before the projection.

    Normalisation has an eps of 1e-5 and the activation is that of CLIP. Everything is frozen but the factors. Each of
    q, k and v draws a dropout mask of its own. Weights under OpenAI's names are understood.

    Args:
        arch: A name in :data:`mmlora.models.clip.arch.ARCHS`, or the fields of :class:`CLIPArch`.
        params: The adapted projections among q, k, v and o. None leaves the tower without adapters.
        layers: The adapted blocks, as in :func:`mmlora.models.clip.blocks.chosen_blocks`.
        lora_rank: Rank of each adapted projection.
        lora_alpha: Numerator of the scaling.
        lora_scaling: ``'alpha/sqrt(r)'`` as published, or as in :class:`mmlora.adapters.LoRALinear`.
        lora_dropout: Of the input of A, in [0, 1).
        image_size: Takes the place of that of the arch.
        **kwargs: Of ``VisionTransformer``, such as ``out_type``, ``drop_path_rate`` and ``init_cfg``.

    Raises:
        ValueError: An argument is out of range or unknown.
        TypeError: An argument is unknown.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] | CLIPArch = 'ViT-B/16',
        params: Sequence[str] | None = 'qkv',
        layers: Layers = 'all',
        lora_rank: int = 2,
        lora_alpha: float = 1.0,
        lora_scaling: str | float = 'alpha/sqrt(r)',
        lora_dropout: float = 0.25,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_keywords(kwargs, VisionTransformer.__init__, LoRACLIPVision.__init__)
        sizes = find_arch(arch, image_size)
        given = dict(
            arch=sizes.vision_arch,
            img_size=sizes.image_size,
            patch_size=sizes.patch_size,
            pre_norm=True,
            norm_cfg=dict(type='LN', eps=1e-5),
            layer_cfgs=dict(act_cfg=dict(type=_ACTIVATIONS[sizes.activation])),
        )
        taken = sorted(set(given) & set(kwargs))
        if taken:
            raise TypeError(f'{taken} follow from arch: give arch=dict(...) with other fields')
        super().__init__(**given, **kwargs)
        self.register_load_state_dict_pre_hook(_understand_openai)
        sites = [f'layers.{i}.attn.{end}' for i in range(sizes.vision_layers) for end in ('qkv', 'proj')]
        ranks = dict.fromkeys(sites, 0)
        slices = 'qkv'
        if params is not None:
            chosen = check_params(params)
            slices = tuple(name for name in chosen if name != 'o') or 'qkv'
            for i in chosen_blocks(layers, sizes.vision_layers, 'vision'):
                ranks[f'layers.{i}.attn.qkv'] = lora_rank if chosen != ('o',) else 0
                ranks[f'layers.{i}.attn.proj'] = lora_rank if 'o' in chosen else 0
        table = resolve_ranks(ranks, sites, slices=slices)
        adapt_backbone(
            self, table, lora_alpha, lora_scaling, lora_dropout, slices, announce=params is not None
        )
        for module in self.modules():
            if isinstance(module, SlicedLoRALinear):
                module.separate_dropout = True

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode and return self; no weight changes."""
        super().train(mode)
        return self

    def train_step(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a runner has been given the tower for a classifier.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            'this is the vision tower of CLIP alone, which has no loss. For the classifier give the model an argument '
            "that only the classifier has, such as encoder='both' or tokenizer=dict(type='CLIPTokenizer'); for the "
            "tower write model=dict(type='ImageClassifier', backbone=dict(type='LoRACLIP', ...), head=...)"
        )

    val_step = test_step = train_step


def _understand_openai(module: nn.Module, state: dict, prefix: str, *args: Any) -> None:
    if not prefix and any(key.startswith(VISION_PREFIX + 'transformer.') for key in state):
        ours = convert_openai_keys(state)
        state.clear()
        state.update({k.removeprefix(VISION_PREFIX): v for k, v in ours.items() if k.startswith(VISION_PREFIX)})
