"""Florence-2 as transformers has it, from a folder or a model hub, without running code of either."""

from pathlib import Path
from typing import Any

import torch

from ..._requirements import install_extra

CONVERTED = 'florence-community/Florence-2-base-ft'
"""The base weights in the layout of transformers' own classes."""

MODEL_TYPE = 'florence2'


def load_florence(source: str) -> tuple[Any, Any]:
    """Read a ``Florence2ForConditionalGeneration`` and its tokenizer.

    Args:
        source: A folder that ``save_pretrained`` has written, or a name such as :data:`CONVERTED`. Weights are read
            from safetensors alone, and no code is taken from there.

    Returns:
        The model in float32, and the tokenizer.

    Raises:
        ImportError: transformers is missing or has no Florence-2.
        FileNotFoundError: There are no such files.
        ValueError: They are of another model, or in the layout of the original code.
    """
    transformers = _transformers()
    plain = dict(trust_remote_code=False)
    place = str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source
    try:
        config = transformers.AutoConfig.from_pretrained(place, **plain)
        _check_config(config, source)
        model, report = transformers.Florence2ForConditionalGeneration.from_pretrained(
            place, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **plain)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **plain)
    except OSError as error:
        raise FileNotFoundError(f'pretrained={source!r} is no folder of a Florence-2 and no name on a hub that can be '
                                f'reached: {error}') from error
    wrong = {name: sorted(map(str, keys)) for name, keys in report.items() if keys and name.endswith('_keys')}
    if wrong:
        first = {name: keys[:3] for name, keys in wrong.items()}
        raise ValueError(f'pretrained={source!r} does not hold the weights of its own config: {first}. {_ADVICE}')
    return model, tokenizer


_ADVICE = f'Take weights in the layout of transformers, such as {CONVERTED!r}; those that need remote code are not read'


def _check_config(config: Any, source: str) -> None:
    if config.model_type != MODEL_TYPE:
        raise ValueError(f'pretrained={source!r} is a {config.model_type!r}, where a {MODEL_TYPE!r} belongs')
    if getattr(config, 'auto_map', None) or config.image_token_id >= config.text_config.vocab_size:
        raise ValueError(f'pretrained={source!r} is in the layout of the original code: it has no token for images '
                         f'among its {config.text_config.vocab_size} tokens, or needs remote code. {_ADVICE}')


def _transformers() -> Any:
    try:
        import transformers
        from transformers import Florence2ForConditionalGeneration  # noqa: F401
    except ImportError as error:
        raise ImportError(f'Florence-2 needs transformers 5 or newer: {install_extra("florence")} '
                          f'({error})') from error
    return transformers


def image_tokens(config: Any, height: int, width: int) -> int:
    """Return the number of tokens of an image: one for each place of the last stage, and one for their mean.

    Args:
        config: Of the vision tower.
        height: In pixels, as the model sees it.
        width: In pixels.
    """
    for size, stride, padding in zip(config.patch_size, config.patch_stride, config.patch_padding, strict=True):
        height, width = ((length + 2 * padding - size) // stride + 1 for length in (height, width))
    return height * width + 1
