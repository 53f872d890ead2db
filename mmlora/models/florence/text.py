"""Between the text of annotations and the tokens of Florence-2."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...io.location_tokens import BINS, location_token

PROMPTS = {'<OD>': 'Locate the objects with category name in the image.'}
"""What Florence-2 was trained to read for a task."""

IGNORED = -100
"""Label of padding, which the loss leaves out."""


class FoundBox(NamedTuple):
    """A box in generated tokens.

    Attributes:
        name: Its class.
        bins: Left, top, right, bottom; nothing promises their order.
        places: Places in the sequence of its four location tokens and of the name.
    """

    name: str
    bins: tuple[int, ...]
    places: tuple[int, ...]


class FlorenceText:
    """Makes inputs and labels, and reads generated tokens.

    Args:
        tokenizer: Of transformers, with the tokens ``<loc_0>`` to ``<loc_999>``.
        image_token: Number of the token that stands for a part of an image.

    Raises:
        ValueError: The tokenizer lacks a token.
    """

    def __init__(self, tokenizer: Any, image_token: int) -> None:
        self.tokenizer, self.image_token = tokenizer, image_token
        numbers = tokenizer.convert_tokens_to_ids([location_token(place) for place in range(BINS)])
        self._bins = {number: place for place, number in enumerate(numbers)}
        ends = {name: getattr(tokenizer, name) for name in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
        lacking = [name for name, number in ends.items() if number is None]
        if lacking or len(self._bins) != BINS or tokenizer.unk_token_id in self._bins or None in self._bins:
            raise ValueError(f'the tokenizer is not that of a Florence-2: it lacks {lacking or "location tokens"}')
        self._ends = set(ends.values())

    def prompts(self, tasks: Sequence[str], tokens: int) -> tuple[Tensor, Tensor]:
        """Return the tokens of prompts and their attention mask, each ``(B, T)``, padded behind.

        Args:
            tasks: ``'<OD>'``, or a question in plain words.
            tokens: Number of tokens of an image, which stand first.

        Raises:
            ValueError: A task is unknown.
        """
        images = [self.image_token] * tokens
        rows = [[*images, *self._wrapped(prompt_of(task))] for task in tasks]
        ids = _padded(rows, self.tokenizer.pad_token_id)
        return ids, _padded([[1] * len(row) for row in rows], 0)

    def labels(self, texts: Iterable[str]) -> Tensor:
        """Return the tokens that are to be generated, ``(B, T)``; padding is :data:`IGNORED`."""
        return _padded([self._wrapped(text) for text in texts], IGNORED)

    def _wrapped(self, text: str) -> list[int]:
        own = self.tokenizer(text, add_special_tokens=False)['input_ids']
        return [self.tokenizer.bos_token_id, *own, self.tokenizer.eos_token_id]

    def find_boxes(self, tokens: Sequence[int]) -> list[FoundBox]:
        """Return the boxes in generated tokens, in their order.

        What is no box is passed over, as generated text may be: tokens without a name before them, and less than four
        of them at the end of a run.
        """
        boxes: list[FoundBox] = []
        name: list[int] = []  # places of the tokens of the name
        run: list[int] = []  # places of the location tokens behind it
        for place, token in enumerate(tokens):
            if token in self._bins:
                run.append(place)
                text = self._text(tokens, name) if len(run) % 4 == 0 else ''
                if text:
                    boxes.append(FoundBox(text, tuple(self._bins[tokens[p]] for p in run[-4:]), (*name, *run[-4:])))
                continue
            if run or token in self._ends:
                name, run = [], []
            if token not in self._ends:
                name.append(place)
        return boxes

    def _text(self, tokens: Sequence[int], places: Sequence[int]) -> str:
        return self.tokenizer.decode([tokens[place] for place in places]).strip() if places else ''


def prompt_of(task: str) -> str:
    """Return what the model reads for a task.

    Raises:
        ValueError: The task is a token of Florence-2 that detection has no use for.
    """
    if task in PROMPTS:
        return PROMPTS[task]
    if '<' in task:
        raise ValueError(f'prefix={task!r} is no task of detection: take one of {list(PROMPTS)}, or plain words')
    return task


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
