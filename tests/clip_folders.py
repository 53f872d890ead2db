"""A tiny CLIP in three libraries, and a run of seconds that leaves an adapter folder behind."""

from pathlib import Path

import clip_tiny
import pytest
import tiny
import torch
from safetensors.torch import save_file

from mmlora.apis.merge import clip_in_layout
from mmlora.models import LoRACLIPClassifier

CONFIG = tiny.ROOT / 'tests' / 'data' / 'configs' / 'tiny_clip.py'


def plain_model(arch=None, seed=0) -> LoRACLIPClassifier:
    """Return a plain model with random weights, biases and normalisation included."""
    torch.manual_seed(seed)
    model = LoRACLIPClassifier(arch or clip_tiny.ARCH, 'none', tokenizer=clip_tiny.SMALL['tokenizer'])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * (name != 'logit_scale'))
    return model


def write_base(path: Path, model, layout='openai') -> Path:
    """Write the weights of a plain model under the names of another library."""
    save_file({k: v.contiguous() for k, v in clip_in_layout(model.state_dict(), layout).items()}, str(path))
    return path


def hf_model(arch):
    """Return transformers' CLIPModel of these sizes."""
    transformers = pytest.importorskip('transformers')
    vision = dict(
        hidden_size=arch['vision_width'], intermediate_size=4 * arch['vision_width'],
        num_hidden_layers=arch['vision_layers'], num_attention_heads=arch['vision_heads'],
        image_size=arch['image_size'], patch_size=arch['patch_size'], projection_dim=arch['embed_dim'])  # fmt: skip
    text = dict(
        hidden_size=arch['text_width'], intermediate_size=4 * arch['text_width'],
        num_hidden_layers=arch['text_layers'], num_attention_heads=arch['text_heads'],
        vocab_size=arch['vocab_size'], max_position_embeddings=arch['context_length'],
        projection_dim=arch['embed_dim'], bos_token_id=arch['vocab_size'] - 2,
        eos_token_id=arch['vocab_size'] - 1)  # fmt: skip
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=arch['embed_dim'])
    return transformers.CLIPModel(config).eval()


def hf_features(model, images, tokens):
    """Return the features of images and prompts in transformers, whatever its version wraps them in."""
    with torch.no_grad():
        found = (model.get_image_features(pixel_values=images), model.get_text_features(input_ids=tokens))
    return [getattr(each, 'pooler_output', each) for each in found]


def own_features(model, images, tokens):
    """Return the features of images and prompts here."""
    with torch.no_grad():
        return [model.encode_image(images), model.encode_text(tokens)]


def options(images, base, *more):
    """Return the options with which the tools run the tiny config on given weights."""
    return ['--cfg-options', *(f'{key}={value}' for key, value in tiny.data_options(images).items()),
            'model.init_cfg.type=Pretrained', f'model.init_cfg.checkpoint={base}', *more]


def base_of_config(path: Path, seed=0) -> Path:
    """Write weights for the tiny config."""
    from mmengine.config import Config

    return write_base(path, plain_model(dict(Config.fromfile(CONFIG).model.arch), seed))
