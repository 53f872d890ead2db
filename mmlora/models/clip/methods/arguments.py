"""What the ways to adapt CLIP that add no LoRA share: which arguments they take, and that there is nothing to merge."""

from collections.abc import Mapping
from typing import Any, NoReturn

LORA = ('encoder', 'params', 'layers', 'lora_rank', 'lora_alpha', 'lora_scaling', 'lora_dropout')
"""Arguments of ``LoRACLIPClassifier`` that say where its LoRA is."""


def check_no_lora(method: str, arguments: Mapping[str, Any], hint: str = 'leave it out') -> None:
    """Check that no argument asks for LoRA.

    Args:
        method: Name of the method.
        arguments: Those that it was given besides its own.
        hint: What to do instead.

    Raises:
        TypeError: One does.
    """
    given = [f'{name}={arguments[name]!r}' for name in LORA if name in arguments]
    if given:
        raise TypeError(f'{method} adds no LoRA, got {", ".join(given)}: {hint}')


def refuse_merging(why: str) -> staticmethod:
    """Return a ``plain_config`` for a method whose change no plain model holds, or which changes its weights itself.

    Args:
        why: What to say.
    """

    def plain_config(cfg: Mapping[str, Any]) -> NoReturn:
        """Refuse.

        Raises:
            ValueError: Always.
        """
        raise ValueError(why)

    return staticmethod(plain_config)
