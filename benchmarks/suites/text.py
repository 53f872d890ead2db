"""CLIP's text tower with LoRA: prompts cut at the longest end of a text, as the model does, against the whole context.

No position sees a later one, so that both give the same features and the same gradients.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmlora.models.clip import LoRACLIPClassifier

from ..core import Case, Comparison, Growth
from ..targets import Target
from .steps import frozen_tensors, step

ABOUT = """
CLIP's text tower with LoRA and 100 classes: prompts cut at the longest end of a text, as the model does, against the
whole context of 77 tokens. No position sees a later one, so that both give the same features and gradients.
The target, three times as fast, is an aim: the tokens that are left are less than a quarter.
"""

LONGEST = 18
"""Tokens of "a photo of a {}." with the longest of ImageNet's names."""

ARCH = dict(
    image_size=32, patch_size=16, vision_width=64, vision_layers=1, embed_dim=512, text_width=512, text_layers=12
)
QUICK = dict(ARCH, embed_dim=16, text_width=16, text_heads=2, text_layers=2, vocab_size=64)


def tower(quick: bool, device: torch.device) -> LoRACLIPClassifier:
    """Return the model, with factors that change the features; its vision tower is small and not used."""
    torch.manual_seed(0)
    tokenizer = dict(type='WordTokenizer', vocabulary=['word'])
    model = LoRACLIPClassifier(arch=QUICK if quick else ARCH, tokenizer=tokenizer, lora_dropout=0.0)
    with torch.no_grad():
        for name, parameter in model.text.named_parameters():
            if '.lora_B_' in name:
                parameter.normal_(std=0.02)
    return model.train().to(device)


def prompts(classes: int, context: int, vocabulary: int) -> Tensor:
    """Return tokens ``(classes, context)`` whose texts end at 8 to :data:`LONGEST`, with zeros behind."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, vocabulary - 2, (classes, context), generator=generator)
    ends = torch.randint(8, LONGEST + 1, (classes,), generator=generator) - 1
    ends[0] = LONGEST - 1
    places = torch.arange(context)
    tokens[places > ends[:, None]] = 0
    tokens[:, 0] = vocabulary - 2
    tokens[torch.arange(classes), ends] = vocabulary - 1
    return tokens


def cases(model: LoRACLIPClassifier, tokens: Tensor) -> tuple[Case, Case]:
    """Return a step with the whole context, and ours."""
    learned = {n: p for n, p in model.text.named_parameters() if p.requires_grad}

    def gradients() -> dict[str, Tensor]:
        return {name: parameter.grad for name, parameter in learned.items()}

    given = (tokens, list(learned.values()), frozen_tensors(model.text), gradients)
    return step('whole context', model.text, *given), step('trimmed (ours)', model.encode_text, *given)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare both, and let the number of classes grow."""
    model = tower(quick, device)
    context, vocabulary = model.arch.context_length, model.arch.vocab_size
    classes = 4 if quick else 100
    tokens = prompts(classes, context, vocabulary).to(device)
    title = f'CLIP text tower, {classes} classes: forward and backward, LoRA of rank 2 on q, k and v of each block'
    note = f'Texts end at token 8 to {LONGEST} of {context}.'
    # float32 through 12 blocks; the exact equality is a matter of the tests, in float64.
    goals = [Target('trimmed (ours)', 'whole context', 1 / 3)]
    yield Comparison(title, cases(model, tokens), 'whole context', 'whole context', 1e-5, note, 2, warm_up=0,
                     targets=goals)
    sizes = [2, 4, 8] if quick else [25, 50, 100]
    grown = {n: cases(model, prompts(n, context, vocabulary).to(device))[1] for n in sizes}
    named = {n: Case(str(n), case.run, None, case.forward, case.known) for n, case in grown.items()}
    yield Growth('CLIP text tower, trimmed: forward and backward', 'classes', named, 2)
