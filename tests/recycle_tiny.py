"""The tiny CLIP tower of the golden numbers of LoRA-Recycle: 32 px, 16 patches, width 32, 4 layers, float64."""

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from mmlora.adapters import adapter_modules
from mmlora.models import LoRACLIPVision

FOLDER = Path(__file__).resolve().parent / 'data' / 'golden' / 'lora_recycle'
ARCH = dict(embed_dim=16, image_size=32, vision_layers=4, vision_width=32, patch_size=8)


def arrays(name: str) -> dict[str, torch.Tensor]:
    """Return the arrays of a golden file."""
    with np.load(FOLDER / f'{name}.npz') as file:
        return {key: torch.as_tensor(file[key]) for key in file}


def base_weights(layers: int = 4) -> dict[str, torch.Tensor]:
    """Return the weights of the tower under mmpretrain's names."""
    old = arrays('tiny_clip_vision_weights')
    root, names = 'vision_model.', dict(layer_norm1='ln1', layer_norm2='ln2')
    new = dict(cls_token=old[root + 'embeddings.class_embedding'][None, None])
    new['pos_embed'] = old[root + 'embeddings.position_embedding.weight'][None]
    new['patch_embed.projection.weight'] = old[root + 'embeddings.patch_embedding.weight']
    for end in ('weight', 'bias'):
        new[f'pre_norm.{end}'], new[f'ln1.{end}'] = old[f'{root}pre_layrnorm.{end}'], old[f'{root}post_layernorm.{end}']
        for i in range(layers):
            layer = f'{root}encoder.layers.{i}.'
            qkv = [old[f'{layer}self_attn.{part}_proj.{end}'] for part in 'qkv']
            new[f'layers.{i}.attn.qkv.{end}'] = torch.cat(qkv)
            new[f'layers.{i}.attn.proj.{end}'] = old[f'{layer}self_attn.out_proj.{end}']
            new[f'layers.{i}.ffn.layers.0.0.{end}'] = old[f'{layer}mlp.fc1.{end}']
            new[f'layers.{i}.ffn.layers.1.{end}'] = old[f'{layer}mlp.fc2.{end}']
            for theirs, ours in names.items():
                new[f'layers.{i}.{ours}.{end}'] = old[f'{layer}{theirs}.{end}']
    return new


class Classifier(nn.Module):
    """Tower, projection and head."""

    def __init__(self, lora: str = 'teacher', layers: int = 4, **kwargs) -> None:
        super().__init__()
        arch = dict(
            embed_dim=16,
            image_size=32,
            vision_layers=layers,
            vision_width=32,
            vision_heads=4,
            patch_size=8,
            context_length=8,
            vocab_size=8,
            text_width=8,
            text_heads=2,
            text_layers=1,
        )
        self.backbone = LoRACLIPVision(arch, params='qv', lora_scaling='constant', **kwargs).double()
        self.backbone.load_state_dict(base_weights(layers), strict=False)
        factors = arrays(f'tiny_lora_{lora}')
        for i, layer in enumerate(list(adapter_modules(self.backbone).values())):
            layer.set_factors(
                {p: (factors[f'w_a_{2 * i + j:03}'], factors[f'w_b_{2 * i + j:03}']) for j, p in enumerate('qv')}
            )
        self.projection = nn.Linear(32, 16, bias=False).double()
        self.head = nn.Linear(16, 3).double()
        with torch.no_grad():
            self.projection.weight.copy_(arrays('tiny_clip_vision_weights')['visual_projection.weight'])
            self.head.weight.copy_(factors['head_weight'])
            self.head.bias.copy_(factors['head_bias'])
        self.eval()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return projected features ``(B, 16)``."""
        return self.projection(self.backbone(x)[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, 3)``."""
        return self.head(self.features(x))


class TinyPrior(nn.Module):
    """Two convolutions, each followed by BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.c2, self.b2 = nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.double().load_state_dict(arrays('tiny_prior_weights'))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(B, 8, H/4, W/4)``."""
        return self.b2(self.c2(self.b1(self.c1(x)).relu()))
