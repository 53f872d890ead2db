"""What every tokenizer of a CLIP shares."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Tokenizer:
    """Text to numbers. The end-of-text token has the largest number, where CLIP's text tower looks for it.

    Attributes:
        vocab_size: Number of tokens; the last two are the start and the end of a text.
    """

    vocab_size: int

    @property
    def start(self) -> int:
        """Number of the start-of-text token."""
        return self.vocab_size - 2

    @property
    def end(self) -> int:
        """Number of the end-of-text token."""
        return self.vocab_size - 1

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without start and end."""
        raise NotImplementedError

    def __call__(self, texts: str | Sequence[str], context_length: int = 77) -> Tensor:
        """Return the tokens of texts with start and end.

        Args:
            texts: One or several.
            context_length: Largest number of tokens of a text.

        Returns:
            ``(number of texts, longest)``, int64, zeros behind the end.

        Raises:
            ValueError: A text is longer than the context. Nothing is ever cut.
        """
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            tokens = [self.start, *self.encode(text), self.end]
            if len(tokens) > context_length:
                raise ValueError(
                    f'the prompt {text!r} has {len(tokens)} tokens, start and end included, and the context '
                    f'{context_length}: shorten the class name or the template'
                )
            rows.append(tokens)
        longest = max(map(len, rows), default=0)
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)
