"""CLIP-LoRA: a classifier that compares images with the names of the classes.

Zanella, Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPR Workshops 2024, arXiv 2405.18541.
Both towers of CLIP are frozen. Chosen projections of chosen blocks learn a change of rank r, scaled by alpha / sqrt(r);
the loss is the cross-entropy of ``100 cos(image, text)``, with the features of all class names computed anew in every
step.

Deviations from the published code: normalisation, logits and loss are computed in float32; prompts are encoded up to
the longest end of a text, which changes nothing under the causal mask, and in chunks where memory is short; several
templates are averaged in training too; ``eval()`` does not merge.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS as PRETRAIN_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...adapters import adapter_parameter_names, freeze, inject_attention
from ...io.convert import Converted
from ...registry import MODELS, TOKENIZERS, register
from ..backbones.adapt import check_keywords
from ..backbones.load_guard import LoadGuard
from ..pretrained import fit_weights
from .arch import CLIPArch, find_arch
from .blocks import Layers, chosen_blocks
from .feature_cache import FeatureCache
from .logits import LogitScale, cosine_logits, ensemble
from .openai_keys import convert_openai_keys, is_openai, restore_aside
from .preprocessor import preprocessor_config
from .prompts import check_classes, check_templates, lengths, make_prompts, tokenize
from .text import TextTower
from .vision import LoRACLIPVision

TEMPLATE = 'a photo of a {}.'
ENCODERS = {'vision': ('vision',), 'text': ('text',), 'both': ('vision', 'text'), 'none': ()}


class CLIPProjection(nn.Module):
    """The projection of the vision tower to the space that both towers share."""

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.empty(width, embed_dim))
        nn.init.normal_(self.proj, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(B, width)``."""
        return x @ self.proj


@register(MODELS)
class LoRACLIPClassifier(BaseClassifier):
    """Both towers of CLIP with LoRA, as a classifier of mmpretrain.

    The parts are ``visual`` (mmpretrain's ``VisionTransformer``), ``visual_proj``, ``text`` and ``logit_scale``; what
    learns are the factors and, if asked for, the scale. Weights of OpenAI, open_clip and Hugging Face are understood.

    Args:
        arch: A name in :data:`mmlora.models.clip.arch.ARCHS`, or the fields of :class:`CLIPArch`.
        encoder: Which tower is adapted: ``'vision'``, ``'text'``, ``'both'``, or ``'none'`` for the plain model, which
            needs no training (zero-shot).
        params: The adapted projections among q, k, v and o; each draws a dropout mask of its own.
        layers: The adapted blocks, as in :func:`mmlora.models.clip.blocks.chosen_blocks`.
        lora_rank: Rank of each adapted projection.
        lora_alpha: Numerator of the scaling.
        lora_scaling: ``'alpha/sqrt(r)'`` as published, or as in :class:`mmlora.adapters.LoRALinear`.
        lora_dropout: Of the input of A, in [0, 1).
        classes: Names of the classes in the order of the labels. Without them ``ClassNamesHook`` takes them from the
            data set.
        templates: One prompt, or several whose features are averaged; ``{}`` stands for the name. Without them
            ``ClassNamesHook`` takes those of the data set, and where it has none it is ``'a photo of a {}.'``.
        tokenizer: Config of a tokenizer.
        logit_scale: A number, ``'pretrained'`` or ``'learned'``.
        text_chunk: How many prompts are encoded at once; None means all.
        text_checkpointing: Whether a chunk is encoded again in the backward pass instead of keeping its activations.
        head: Config of the head that takes the logits; its loss is the cross-entropy.
        vision: Further arguments of the vision tower, such as ``drop_path_rate``.
        image_size: Takes the place of that of the arch.
        data_preprocessor: As of mmpretrain's classifiers; by default with the statistics of CLIP.
        init_cfg: Where the weights come from.

    Raises:
        ValueError: An argument is out of range or unknown.
        TypeError: An argument is unknown.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] | CLIPArch = 'ViT-B/16',
        encoder: str = 'both',
        params: Sequence[str] = 'qkv',
        layers: Layers = 'all',
        lora_rank: int = 2,
        lora_alpha: float = 1.0,
        lora_scaling: str | float = 'alpha/sqrt(r)',
        lora_dropout: float = 0.25,
        classes: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        tokenizer: Mapping[str, Any] | None = None,
        logit_scale: float | str = 100.0,
        text_chunk: int | None = None,
        text_checkpointing: bool = False,
        head: Mapping[str, Any] | None = None,
        vision: Mapping[str, Any] | None = None,
        image_size: int | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        check_keywords(unknown, LoRACLIPClassifier.__init__)
        sizes = find_arch(arch, image_size)
        sizes.check_text()
        towers = adapted_towers(encoder)
        whole = isinstance(text_chunk, int) and not isinstance(text_chunk, bool)
        if text_chunk is not None and (not whole or text_chunk < 1):
            raise ValueError(f'text_chunk must be a number of prompts of at least 1, or None, got {text_chunk!r}')
        scale, self.templates_given = LogitScale(logit_scale), templates is not None
        self.templates = check_templates(TEMPLATE if templates is None else templates)
        super().__init__(init_cfg, preprocessor_config(data_preprocessor))
        self.arch, self.encoder, self.scale = sizes, encoder, scale
        self.vision_arguments = dict(vision or {})
        self.text_chunk, self.text_checkpointing = text_chunk, text_checkpointing
        lora = dict(lora_rank=lora_rank, lora_alpha=lora_alpha, lora_scaling=lora_scaling, lora_dropout=lora_dropout)
        own = params if 'vision' in towers else None
        self.visual = LoRACLIPVision(sizes, own, layers, **lora, **(vision or {}))
        self.visual_proj = CLIPProjection(sizes.vision_width, sizes.embed_dim)
        self.text = TextTower(sizes)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        if 'text' in towers:
            inject_attention(
                self.text,
                [f'transformer.resblocks.{i}.attn' for i in chosen_blocks(layers, sizes.text_layers, 'text')],
                rank=lora_rank,
                params=params,
                alpha=lora_alpha,
                scaling=lora_scaling,
                lora_dropout=lora_dropout,
            )
        freeze(self, adapter_parameter_names(self) | ({'logit_scale'} if scale.learned else set()))
        self.register_load_state_dict_pre_hook(_understand_openai)
        for part in (self.visual_proj, self.text):
            part.register_load_state_dict_pre_hook(LoadGuard())
        self.head = PRETRAIN_MODELS.build(dict(head or dict(type='ClsHead')))
        self.tokenizer = TOKENIZERS.build(dict(tokenizer or dict(type='CLIPTokenizer')))
        self._cache, self._classes = FeatureCache(), None
        self.register_buffer('_tokens', None, persistent=False)
        self._lengths: list[int] = []
        self.classes_given = classes is not None
        if classes is not None:
            self.set_classes(classes)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the labels, or None."""
        return self._classes

    def take_meta(self, meta: Mapping[str, Any]) -> None:
        """Take ``classes`` and ``templates`` of the meta data of a data set, where the config has not given its own.

        Raises:
            ValueError: There are no classes, neither given nor here; or as of :meth:`set_classes`.
        """
        classes = self._classes if self.classes_given else meta.get('classes')
        if not classes:
            raise ValueError('the data set does not name its classes: give the model classes=[...]')
        self.set_classes(classes, None if self.templates_given else meta.get('templates'))

    def set_classes(self, classes: Sequence[str], templates: str | Sequence[str] | None = None) -> None:
        """Compare images with these classes from now on. Prompts are turned into tokens here, once.

        Args:
            classes: Names in the order of the labels.
            templates: Takes the place of the templates.

        Raises:
            ValueError: A prompt is too long, or a name or template is empty.
            TypeError: The names are no list of texts.
        """
        classes = check_classes(classes)
        templates = self.templates if templates is None else check_templates(templates)
        prompts = make_prompts(classes, templates)
        tokens = tokenize(self.tokenizer, prompts, self.arch.context_length, self.arch.vocab_size)
        self._cache.clear()
        self._classes, self.templates, self._lengths = classes, templates, lengths(tokens)
        self._tokens = tokens.to(self.visual_proj.proj.device)

    def encode_image(self, inputs: Tensor) -> Tensor:
        """Return the features of images ``(B, 3, H, W)``, not normalised, ``(B, embed_dim)``.

        Raises:
            ValueError: They have another size than that of the model. The position embedding could be resized for
                them, but a forgotten step of a pipeline would then cost accuracy unnoticed.
        """
        height, width = self.visual.img_size
        if tuple(inputs.shape[-2:]) != (height, width):
            found = 'x'.join(map(str, tuple(inputs.shape[-2:])))
            raise ValueError(
                f'images are {found} (height x width), and the model is for {height}x{width}: resize and crop them to '
                f'{height}x{width} in the pipeline, or give the model image_size=... (a square) to have the position '
                'embedding resized once, when weights are loaded'
            )
        return self.visual_proj(self.visual(inputs)[-1])

    def encode_text(self, tokens: Tensor, token_counts: Sequence[int] | None = None) -> Tensor:
        """Return the features of prompts, not normalised.

        Args:
            tokens: ``(C, T)``, with the end of the text as the largest number of each.
            token_counts: How many tokens each prompt has, if that is known.

        Returns:
            ``(C, embed_dim)``.
        """
        counts = lengths(tokens) if token_counts is None else token_counts
        step, features = self.text_chunk or len(tokens), []
        for i in range(0, len(tokens), step):
            chunk = tokens[i : i + step, : max(counts[i : i + step])]
            if self.text_checkpointing and torch.is_grad_enabled():
                features.append(checkpoint(self.text, chunk, use_reentrant=False))
            else:
                features.append(self.text(chunk))
        return torch.cat(features)

    def class_features(self) -> Tensor:
        """Return the features of the classes, normalised, ``(C, embed_dim)``.

        They are kept as long as nothing that they depend on changes, where no gradient is asked for and no dropout is
        drawn: in evaluation, and in training too if the text tower has no adapters.

        Raises:
            RuntimeError: The classes have no names yet.
        """
        self._need_classes()
        learns = any(parameter.requires_grad for parameter in self.text.parameters())
        if learns and (self.training or torch.is_grad_enabled()):
            return self._class_features()
        device = self._tokens.device.type
        # A feature made in inference mode cannot take part in training. PyTorch's attention rounds otherwise in
        # evaluation, so that a step would depend on whether a validation came before it.
        mode = (self.text.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled(device),
                torch.get_autocast_dtype(device))
        return self._cache.get(self.text, mode, self._class_features)

    def _class_features(self) -> Tensor:
        features = self.encode_text(self._tokens, self._lengths)
        with torch.autocast(features.device.type, enabled=False):
            return ensemble(features, len(self.templates))

    def _need_classes(self) -> None:
        if self._classes is None:
            known = getattr(self, '_dataset_meta', None) or {}  # set by mmpretrain's get_model
            if not known.get('classes'):
                raise RuntimeError(
                    'LoRACLIP has no class names: give it classes=[...], list ClassNamesHook in custom_hooks to take '
                    'them from the data set, or call set_classes'
                )
            self.take_meta(known)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return the features of images, not normalised, ``(B, embed_dim)``.

        Args:
            inputs: Images ``(B, 3, H, W)``, which are encoded, or features ``(B, embed_dim)`` that :meth:`encode_image`
                gave before, which are returned as they are.

        Raises:
            ValueError: They are neither.
        """
        if inputs.ndim == 4:
            return self.encode_image(inputs)
        if inputs.ndim != 2 or inputs.shape[1] != self.arch.embed_dim:
            raise ValueError(
                f'inputs must be images (B, 3, H, W) or features of images (B, {self.arch.embed_dim}) of this arch, '
                f'got {tuple(inputs.shape)}'
            )
        return inputs

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor]:
        """Return the features of images or features, not normalised, ``((B, embed_dim),)``."""
        return (self.image_features(inputs),)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the scaled cosines of images (or their features) and classes, ``(B, C)``, at least in float32."""
        texts = self.class_features()  # the text tower draws its dropout first, as published
        return self.compare(self.image_features(inputs), texts)

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the scaled cosines of features of images ``(B, embed_dim)`` and of classes, ``(B, C)``."""
        return cosine_logits(images, texts, self.scale.value(self.logit_scale))

    def forward(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, mode: str = 'tensor'
    ) -> Tensor | list[DataSample] | dict[str, Tensor]:
        """Return logits (``'tensor'``), samples with predictions (``'predict'``) or losses (``'loss'``).

        Raises:
            RuntimeError: The mode is unknown, or the classes have no names yet.
        """
        if mode == 'tensor':
            return self.logits(inputs)
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        raise RuntimeError(f"mode must be 'tensor', 'predict' or 'loss', got {mode!r}")

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the losses of the head.

        Raises:
            ValueError: A label has no name.
        """
        self._need_classes()
        if 'gt_label' in data_samples[0]:
            labels = torch.cat([sample.gt_label for sample in data_samples])
            largest = int(labels.max()) if labels.numel() else -1  # Images of several labels may have none.
            if largest >= len(self._classes):
                raise ValueError(f'a sample has the label {largest}, and there are {len(self._classes)} class names')
        return self.head.loss((self.logits(inputs),), data_samples)

    def predict(self, inputs: Tensor, data_samples: list[DataSample] | None = None, **kwargs: Any) -> list[DataSample]:
        """Return the samples with ``pred_score`` and ``pred_label``."""
        return self.head.predict((self.logits(inputs),), data_samples, **kwargs)

    def fit_converted(
        self,
        converted: Converted,
        where: str,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        source_grid: Any = None,
    ) -> dict[str, Tensor]:
        """Return weights of another layout under the names of this model; as ``fit_weights`` does.

        Raises:
            ValueError: They are not those of both towers of a CLIP of these sizes.
        """
        tower = dataclasses.replace(converted, aside={})  # The rest is not left out, as the log would say.
        vision = fit_weights(tower, self.visual, where, allow_missing, allow_unexpected, source_grid)
        try:
            others = restore_aside(converted.aside)
        except ValueError as error:
            raise ValueError(f'{where} ({converted.layout.title}): {error}') from error
        print_log(f'{len(others)} weights of {where} taken for the text tower, projections and scale', 'current')
        return {f'visual.{key}': value for key, value in vision.items()} | others

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict, strict: bool, missing: list, *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, *args)
        if prefix + 'logit_scale' not in state_dict:
            raise ValueError(f'the checkpoint has no {prefix}logit_scale: it is none of a CLIP; its keys begin with '
                             f'{list(state_dict)[:3]}')


def adapted_towers(encoder: str) -> tuple[str, ...]:
    """Return the towers that an ``encoder`` means.

    Raises:
        ValueError: It is unknown.
    """
    if encoder not in ENCODERS:
        raise ValueError(f'unknown encoder {encoder!r}: choose one of {sorted(ENCODERS)}')
    return ENCODERS[encoder]


def _understand_openai(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    if not prefix and is_openai(state):
        ours = convert_openai_keys(state)
        state.clear()
        state.update(ours)
