"""A Florence-2 of a few thousand weights with a tokenizer of bytes, and pictures with annotations of two classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SPECIAL = ['<s>', '<pad>', '</s>', '<unk>', '<image>']
BASE = dict(d_model=768, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=3072, decoder_ffn_dim=3072,
            encoder_attention_heads=12, decoder_attention_heads=12)  # fmt: skip
SIZE = 32


def make_tokenizer() -> Any:
    """Return a tokenizer in which each byte is a token, and each location."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate([*SPECIAL, *letters])}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = dict(zip(('bos_token', 'pad_token', 'eos_token', 'unk_token'), SPECIAL, strict=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    tokenizer.add_tokens([f'<loc_{place}>' for place in range(1000)])
    return tokenizer


def write_florence(folder: Path, seed: int = 0) -> Path:
    """Write a randomly drawn model and its tokenizer as transformers does."""
    from transformers import Florence2Config, Florence2ForConditionalGeneration

    tokenizer = make_tokenizer()
    vision = dict(depths=(1, 1, 1, 1), embed_dim=(8, 8, 8, 16), num_heads=(2,) * 4, num_groups=(2,) * 4, window_size=2,
                  projection_dim=16)
    text = dict(model_type='bart', vocab_size=len(tokenizer), d_model=16, encoder_layers=2, decoder_layers=2,
                encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
                max_position_embeddings=128, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
                forced_eos_token_id=None)
    torch.manual_seed(seed)
    model = Florence2ForConditionalGeneration(Florence2Config(
        vision_config=vision, text_config=text, image_token_id=SPECIAL.index('<image>'), bos_token_id=0,
        pad_token_id=1, eos_token_id=2, decoder_start_token_id=2))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_pictures(root: Path, split: str, lines: list[dict[str, Any]], name: str = 'annotations.jsonl') -> Path:
    """Write the images that lines of annotations name, and the lines."""
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.RandomState(0)
    for line in lines:
        pixels = draw.randint(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / (line.get('image') or line['image_path']))
    path = folder / name
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines), encoding='utf-8')
    return path
