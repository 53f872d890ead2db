"""CoOp: learned vectors in the place of the words around the name of a class.

Zhou, Yang, Loy, Liu, "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv 2109.01134. Both towers are
frozen; the embeddings of a prompt are ``[V]_1 ... [V]_M name .`` (equation 2), or with the name in the middle or in
front, and the vectors V learn by the cross-entropy of the scaled cosines. They are one context for all classes, or one
for each class.

Deviations from the published code: prompts are encoded up to the longest end of a text, which changes nothing under
the causal mask, and in chunks where memory is short; normalisation, logits and loss are in float32; words to start
from may be given together with a context for each class.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....adapters import freeze
from ....registry import MODELS, register
from ..classifier import LoRACLIPClassifier
from ..logits import ensemble
from ..prompts import check_classes, lengths, tokenize
from .arguments import check_no_lora, refuse_merging
from .context import POSITIONS, Context, insert_context, lay_out
from .known_classes import KnownClasses, check_class_count


@register(MODELS, 'CoOp')
class CoOpCLIP(LoRACLIPClassifier):
    """CLIP with a learned context; ``n_ctx * text_width`` numbers learn, for each class if it has its own.

    The vectors are ``text.context.vectors``. Images may be given as features of the vision tower, ``(B, embed_dim)``.
    A shared context serves any classes, so that :meth:`set_classes` may name others after training.

    Args:
        n_ctx: Number of vectors M; with ``ctx_init`` that of its tokens.
        ctx_init: Words whose embeddings the vectors start from, such as ``'a photo of a'``. None draws them from
            N(0, 0.02^2).
        position: Where the name stands: ``'end'``, ``'middle'`` or ``'front'``.
        class_specific: Whether each class has a context of its own.
        num_classes: Number of classes, which a context for each of them needs. :func:`mmlora.apis.train` takes it
            from the data.
        ending: Closes a prompt. A tokenizer without a full stop needs ``''``.
        **kwargs: Of :class:`LoRACLIPClassifier`, but for those of LoRA, and ``templates``.

    Raises:
        ValueError: An argument is out of range or unknown, or the number of classes is missing.
        TypeError: An argument is unknown, about LoRA, or gives templates.
    """

    plain_config = refuse_merging('the context of CoOp is no part of a plain CLIP, so nothing can be merged')

    def __init__(
        self,
        n_ctx: int = 16,
        ctx_init: str | None = None,
        position: str = 'end',
        class_specific: bool = False,
        num_classes: int | None = None,
        ending: str = '.',
        classes: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_no_lora('CoOpCLIP', kwargs)
        if kwargs.get('templates') is not None:
            raise TypeError(f'CoOp learns what stands around the name of a class: leave out templates='
                            f'{kwargs["templates"]!r}, or let its words be the start, ctx_init=...')
        if position not in POSITIONS:
            raise ValueError(f'unknown position {position!r}: choose one of {list(POSITIONS)}')
        if isinstance(n_ctx, bool) or not isinstance(n_ctx, int) or n_ctx < 1:
            raise ValueError(f'n_ctx must be a whole number of at least 1, got {n_ctx!r}')
        count = check_class_count(num_classes) or len(classes or ())
        if class_specific and not count:
            raise ValueError('class_specific=True needs the number of classes: give num_classes or classes. '
                             'mmlora.apis.train, which tools/train.py calls, takes it from the data')
        super().__init__(encoder='none', **kwargs)
        self.templates_given = True  # Those of a data set are not used.
        self._ctx_tokens = None if ctx_init is None else self._tokens_of(ctx_init)
        self.n_ctx = n_ctx if ctx_init is None else len(self._ctx_tokens)
        if not self.n_ctx:
            raise ValueError(f'ctx_init={ctx_init!r} has no words: leave it out to draw the context')
        self.position, self.ending, self.class_specific = position, ending, class_specific
        self.templates = (self._describe(),)
        # Within the text tower, so that features are computed anew whenever a vector changes.
        self.text.context = Context(self.n_ctx, self.arch.text_width, count if class_specific else 0)
        if class_specific:
            self.head.add_module('known', KnownClasses(count))  # Part of the task, not of the pre-trained weights.
        if ctx_init is not None:
            self._start_from_words(self.text.token_embedding.weight)
        freeze(self, {'text.context.vectors'} | ({'logit_scale'} if self.scale.learned else set()))
        self.register_buffer('_slots', None, persistent=False)
        self.classes_given = classes is not None
        if classes is not None:
            self.set_classes(classes)

    @staticmethod
    def rows_per_class(cfg: dict[str, Any]) -> str | None:
        """Return the name of the tensor with a row for each class that the model of a config has, or None."""
        return 'text.context.vectors' if cfg.get('class_specific') else None

    def set_classes(self, classes: Sequence[str], templates: None = None) -> None:
        """Compare images with these classes from now on.

        Args:
            classes: Names in the order of the labels. Where each class has a context of its own they must be those
                that were trained.
            templates: None, since the context takes their place.

        Raises:
            ValueError: A prompt is too long, a name is empty, or each class has a context of its own and there are
                others.
            TypeError: The names are no list of texts, or there are templates.
        """
        if templates is not None:
            raise TypeError(f'CoOp has learned its context, templates={templates!r} cannot take its place')
        classes = check_classes(classes)
        if self.class_specific and self.head.known.empty and len(classes) == len(self.head.known):
            self.head.known.learn(classes)
        self._check_trained_classes(classes)
        tokens, slots = self._lay_out(classes)
        device = self.visual_proj.proj.device
        self._cache.clear()
        self._classes, self._lengths = classes, lengths(tokens)
        self._tokens, self._slots = tokens.to(device), slots.to(device)

    def class_features(self) -> Tensor:
        """Return the features of the classes, normalised, ``(C, embed_dim)``; see the parent.

        Raises:
            RuntimeError: The classes have no names yet.
            ValueError: Each class has a context of its own, and others were trained.
        """
        self._need_classes()
        self._check_trained_classes(self._classes)  # A checkpoint may have been loaded after the names were set.
        return super().class_features()

    def _class_features(self) -> Tensor:
        step, features = self.text_chunk or len(self._tokens), []
        for i in range(0, len(self._tokens), step):
            part = slice(i, i + step)
            if self.text_checkpointing and torch.is_grad_enabled():
                features.append(checkpoint(self._encode_prompts, part, use_reentrant=False))
            else:
                features.append(self._encode_prompts(part))
        features = torch.cat(features)
        with torch.autocast(features.device.type, enabled=False):
            return ensemble(features, 1)

    def _encode_prompts(self, part: slice) -> Tensor:
        counts, vectors = self._lengths[part], self.text.context.vectors
        tokens, slots = (x[part, : max(counts)] for x in (self._tokens, self._slots))
        vectors = vectors[part] if self.class_specific else vectors
        embedded = insert_context(self.text.token_embedding(tokens), vectors, slots)
        return self.text.encode(embedded, tokens.argmax(dim=-1))

    def _lay_out(self, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return tokens and slots of the prompts, both ``(C, T)``; tokens are 0 where a vector stands."""
        tokens, slots = [], []
        for name in classes:
            words = name.replace('_', ' ')
            whole, own = self._tokens_of(words + self.ending), len(self._tokens_of(words))
            inner = lay_out(whole[:own], whole[own:], self.n_ctx, POSITIONS[self.position](self.n_ctx))
            row = [self.tokenizer.start, *inner, self.tokenizer.end]
            if len(row) > self.arch.context_length:
                raise ValueError(
                    f'the prompt of {name!r} has {len(row)} tokens, {self.n_ctx} of them learned and start and end '
                    f'included, and the context {self.arch.context_length}: shorten the name, or lower n_ctx'
                )
            tokens.append([max(token, 0) for token in row])
            slots.append([max(-1 - token, -1) for token in row])
        longest = max(map(len, tokens))
        return (torch.tensor([row + [0] * (longest - len(row)) for row in tokens]),
                torch.tensor([row + [-1] * (longest - len(row)) for row in slots]))

    def _tokens_of(self, text: str) -> list[int]:
        """Return the tokens of a text without start and end."""
        [row] = tokenize(self.tokenizer, [text], self.arch.context_length, self.arch.vocab_size).tolist()
        return row[1:-1]

    def _describe(self) -> str:
        before = POSITIONS[self.position](self.n_ctx)
        parts = [f'[{before} learned]'] * bool(before) + ['{}'] + [f'[{self.n_ctx - before} learned]'] * (
            before < self.n_ctx)
        return ' '.join(parts) + self.ending

    def _check_trained_classes(self, classes: Sequence[str]) -> None:
        if self.class_specific and self.head.known.rows_of(classes) != list(range(len(self.head.known))):
            raise ValueError(
                f'class_specific=True has a context for each of the {len(self.head.known)} classes that are trained, '
                f'and {list(classes)[:5]} ({len(classes)} in all) are others or in another order: for new '
                'classes train with class_specific=False, whose context all classes share'
            )

    def _start_from_words(self, embedding: Tensor) -> None:
        self.text.context.start_from(embedding[torch.tensor(self._ctx_tokens, device=embedding.device)])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        embedding = state_dict.get(f'{prefix}text.token_embedding.weight')
        fits = embedding is not None and embedding.shape == self.text.token_embedding.weight.shape
        if self._ctx_tokens and fits and f'{prefix}text.context.vectors' not in state_dict:
            self._start_from_words(embedding)  # Pre-trained weights: the words mean something from now on.
