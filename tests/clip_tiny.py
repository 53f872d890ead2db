"""The tiny CLIP of the golden numbers, and a smaller one for invariants."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlora.adapters import adapter_modules, adapter_parameter_names
from mmlora.models import LoRACLIPClassifier

FOLDER = Path(__file__).resolve().parent / 'data' / 'golden' / 'clip_lora'
WORDS = ['a', 'photo', 'of', 'painting', 'the', 'red', 'green', 'blue', 'big', 'dog', 'cat', '.']
CLASSES = ['red_dog', 'cat', 'the big green cat', 'blue dog']
ARCH = dict(
    image_size=16, patch_size=8, vision_width=16, vision_layers=3, vision_heads=2, embed_dim=12, text_width=8,
    text_layers=4, text_heads=2, context_length=14, vocab_size=len(WORDS) + 3,
)  # fmt: skip
SMALL = dict(arch=ARCH, tokenizer=dict(type='WordTokenizer', vocabulary=WORDS), classes=CLASSES, lora_dropout=0.0)


def arrays(name: str) -> dict[str, Tensor]:
    """Return the tensors of a golden file."""
    data = dict(np.load(FOLDER / f'{name}.npz'))
    return {key: torch.from_numpy(value) for key, value in data.items() if value.dtype.kind != 'U'}


def golden_arch() -> dict[str, Any]:
    """Return the sizes of the golden model."""
    cfg = json.loads((FOLDER / 'tiny_clip_config.json').read_text())
    return dict(
        image_size=cfg['image_resolution'], patch_size=cfg['vision_patch_size'], vision_width=cfg['vision_width'],
        vision_layers=cfg['vision_layers'], vision_heads=cfg['vision_heads'], embed_dim=cfg['embed_dim'],
        text_width=cfg['transformer_width'], text_layers=cfg['transformer_layers'],
        text_heads=cfg['transformer_heads'], context_length=cfg['context_length'], vocab_size=cfg['vocab_size'],
    )  # fmt: skip


class GoldenTokens:
    """A tokenizer that gives the golden tokens, whatever it is asked."""

    vocab_size = 64

    def __call__(self, prompts: list[str], context_length: int) -> Tensor:
        assert len(prompts) == 5 and context_length == 16
        return arrays('tiny_clip_inputs')['tokens']


def golden_model(**kwargs: Any) -> LoRACLIPClassifier:
    """Return the golden model with the golden weights under their published names."""
    model = LoRACLIPClassifier(
        golden_arch(), tokenizer=dict(type='WordTokenizer', vocabulary=['a']), **{'lora_dropout': 0.0, **kwargs}
    )
    keys = model.load_state_dict(arrays('tiny_clip_state_dict'), strict=False)
    assert not keys.unexpected_keys and set(keys.missing_keys) == adapter_parameter_names(model)
    model.tokenizer = GoldenTokens()
    model.set_classes([f'class {i}' for i in range(5)])
    return model


def small_model(seed: int = 0, **kwargs: Any) -> LoRACLIPClassifier:
    """Return the smaller model in float64, with factors that are not zero."""
    torch.manual_seed(seed)
    model = LoRACLIPClassifier(**{**SMALL, **kwargs})
    model.init_weights()
    return fill(model.double())


def fill(model: torch.nn.Module, std: float = 0.3) -> torch.nn.Module:
    """Draw the factors."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in sorted(adapter_parameter_names(model)):
            parameter = model.get_parameter(name)
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model


def images(count: int = 3, size: int = 16) -> Tensor:
    """Return images that are always the same."""
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def set_published(model: LoRACLIPClassifier, tensors: dict[str, Tensor], prefix: str = '') -> int:
    """Copy factors under their published names into a model, and return how many tensors there were."""
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    count = 0
    for key, value in tensors.items():
        if not key.startswith(prefix) or 'w_lora_' not in key:
            continue
        *path, projection, factor = key.removeprefix(prefix).split('.')
        letter = factor[-1]
        vision, number = path[0] == 'visual', path[-2]
        if not vision:
            module, part = f'text.transformer.resblocks.{number}.attn', projection[0]
            part = 'o' if projection == 'proj' else part
        elif projection == 'proj':
            module, part = f'visual.layers.{number}.attn.proj', ''
        else:
            module, part = f'visual.layers.{number}.attn.qkv', projection[0]
        found.setdefault(module, {}).setdefault(part, {})[letter] = value
        count += 1
    layers = adapter_modules(model)
    assert set(found) == set(layers)
    for module, parts in found.items():
        layers[module].set_factors({part: (pair['A'], pair['B']) for part, pair in parts.items()})
    return count


def published(model: LoRACLIPClassifier) -> dict[str, Tensor]:
    """Return the factors of a model under their published names."""
    result = {}
    for module, layer in adapter_modules(model).items():
        number, vision = next(p for p in module.split('.') if p.isdigit()), module.startswith('visual.')
        for part, pair in layer.factors().items():
            projection = 'proj' if part in ('', 'o') else f'{part}_proj'
            for letter, value in zip('AB', pair, strict=True):
                stem = 'visual.' if vision else ''
                result[f'{stem}transformer.resblocks.{number}.attn.{projection}.w_lora_{letter}'] = value
    return result
