"""From class names to tokens, once."""

from collections.abc import Sequence

from torch import Tensor

from .tokenizers import Tokenizer


def check_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Return the templates as a tuple.

    Raises:
        ValueError: There is none, or one has not just one place ``{}`` for the name.
        TypeError: One is no text.
    """
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    if not all(isinstance(template, str) for template in templates):
        raise TypeError(f'templates must be texts, got {list(templates)}')
    wrong = [template for template in templates if template.count('{}') != 1]
    if not templates or wrong:
        raise ValueError(f'templates must each have one {{}} for the name of the class, got {wrong or templates}')
    return templates


PUBLISHED_TWICE = ('missile', 'sunglasses')
"""Names that two classes have in the published list of ImageNet: 657 and 744, 836 and 837."""

_SHOWN = 5


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return class names as a tuple.

    Two classes of one name have the same prompts, so that no image can tell them apart. Names are compared as prompts
    have them, with spaces for underscores and without case. Those of :data:`PUBLISHED_TWICE` are let through.

    Raises:
        ValueError: There are none, or one is empty, or two are the same.
        TypeError: They are one text, or one is no text.
    """
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError(f'classes must be a list of names, got {classes!r}')
    if not classes or not all(name.strip() for name in classes):
        raise ValueError(f'classes must be names that are not empty, got {list(classes)}')
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(classes):
        labels.setdefault(' '.join(name.replace('_', ' ').lower().split()), []).append(label)
    twice = {name: own for name, own in labels.items() if len(own) > 1 and name not in PUBLISHED_TWICE}
    if twice:
        listed = '; '.join(f'{[classes[label] for label in own]} at {own}' for own in list(twice.values())[:_SHOWN])
        raise ValueError(f'{len(twice)} names of classes occur more than once: {listed}. Their prompts are the same, '
                         'so that images cannot be told apart by them: give each class a name of its own')
    return tuple(classes)


def make_prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return the prompts, those of a class beside each other; underscores of names become spaces."""
    return [template.replace('{}', name.replace('_', ' ')) for name in classes for template in templates]


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], context_length: int, vocab_size: int) -> Tensor:
    """Return the tokens of prompts, ``(len(prompts), longest)``.

    Raises:
        ValueError: A prompt is longer than the context, or the text tower does not know the tokens.
    """
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f'{type(tokenizer).__name__} has {tokenizer.vocab_size} tokens, the text tower {vocab_size}: give the arch '
            'another vocab_size'
        )
    return tokenizer(prompts, context_length)


def lengths(tokens: Tensor) -> list[int]:
    """Return how many tokens each prompt has, up to and with the end of the text, which has the largest number."""
    return (tokens.argmax(dim=-1) + 1).tolist()
