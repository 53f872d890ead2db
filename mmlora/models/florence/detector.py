"""Florence-2 with LoRA, as ICM-LoRA fine-tunes it for detection.

"In-Context Meta LoRA Generation", IJCAI 2025, arXiv 2501.17635. LoRA of rank 1, 2, 4 or 8 with alpha 8 and a scaling of
``alpha / sqrt(r)`` (rsLoRA), A drawn from N(0, 1/r^2), on q, k and v of all attentions of the language model, on the
second linear layer of every MLP of both towers, and on the head over the vocabulary.

Deviations from the published code: padding is left out of the loss; classes of transformers take the place of code from
the hub. Their vocabulary ends in a token for images and unused rows, so that B of the head has more rows than the
published 51,289.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor

from ...adapters import adapter_tensor_names, freeze, inject
from ...adapters.freeze import adapter_parameter_names
from ...adapters.shared_a import share_a
from ...ranks import weights_sha256
from ...registry import MODELS, register
from .confidence import CONFIDENCES, ones, token_log_probabilities
from .task_vector import decoder_states, mean_state
from .text import FlorenceText
from .weights import image_tokens, load_florence

TARGETS = ('q_proj', 'k_proj', 'v_proj', 'fc2', 'lm_head')
BASE = 'base_digest'


@register(MODELS)
class FlorenceDetector(BaseModel):
    """Florence-2 that learns to write the boxes of an image, through LoRA alone.

    Its state, and so each checkpoint, holds the factors and a hash of the frozen weights, which ``pretrained`` brings
    again; over other frozen weights a checkpoint is refused.

    Args:
        pretrained: Folder or name of Florence-2 in the layout of transformers' own classes, such as
            ``'florence-community/Florence-2-base-ft'``.
        lora_rank: Rank of each pair of factors.
        lora_alpha: Numerator of the scaling.
        lora_scaling: As for :class:`mmlora.adapters.LoRALinear`.
        lora_dropout: Probability of dropping an input of A in training.
        lora_targets: Which linear layers are adapted, as for :func:`mmlora.adapters.inject`.
        lora_shared_a: A seed from which A is drawn and then frozen, so that the LoRAs of a bank share it and B alone
            learns; None draws an own A, as published.
        num_beams: Beams of the search when boxes are generated.
        max_new_tokens: Longest answer in tokens.
        confidence: What the score of a box is: ``'one'``, as published; ``'tokens'``, the geometric mean of the
            probabilities of its tokens; or ``'sequence'``, that of all tokens of the image.
        data_preprocessor: Config, of a ``ClsDataPreprocessor`` by default.
        init_cfg: None; weights come from ``pretrained``.

    Raises:
        ImportError: transformers is missing or too old.
        FileNotFoundError: There are no such weights.
        ValueError: They are no Florence-2, a pattern means no layer, or an argument is out of range.
    """

    def __init__(
        self,
        pretrained: str,
        lora_rank: int = 8,
        lora_alpha: float = 8,
        lora_scaling: str | float = 'alpha/sqrt(r)',
        lora_dropout: float = 0.05,
        lora_targets: Sequence[str] = TARGETS,
        lora_shared_a: int | None = None,
        num_beams: int = 3,
        max_new_tokens: int = 1024,
        confidence: str = 'one',
        data_preprocessor: Any = None,
        init_cfg: None = None,
    ) -> None:
        if init_cfg is not None:
            raise ValueError(f'init_cfg={init_cfg!r}: the weights of a FlorenceDetector are given by pretrained')
        if confidence not in CONFIDENCES:
            raise ValueError(f'confidence must be one of {list(CONFIDENCES)}, got {confidence!r}')
        if min(num_beams, max_new_tokens) < 1:
            raise ValueError(f'num_beams={num_beams} and max_new_tokens={max_new_tokens} must be at least 1')
        if data_preprocessor is None or isinstance(data_preprocessor, dict):
            data_preprocessor = {'type': 'mmpretrain.ClsDataPreprocessor', **(data_preprocessor or {})}
        super().__init__(data_preprocessor)
        self.backbone, tokenizer = load_florence(pretrained)
        self.text = FlorenceText(tokenizer, self.backbone.config.image_token_id)
        self.backbone.init_weights = _already_read  # mmengine would call that of transformers
        digest = weights_sha256({name: torch.atleast_1d(value.float())
                                 for name, value in self.backbone.state_dict().items()})
        self.register_buffer(BASE, torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))
        layers = inject(self.backbone, lora_targets, lora_rank, slices=None, alpha=lora_alpha, scaling=lora_scaling,
                        dropout=lora_dropout)
        for layer in layers.values():
            nn.init.normal_(layer.lora_A, std=1 / layer.rank)
        freeze(self, adapter_parameter_names(self))
        if lora_shared_a is not None:
            share_a(self.backbone, lora_shared_a)
        self.num_beams, self.max_new_tokens, self.confidence = num_beams, max_new_tokens, confidence
        self.register_state_dict_post_hook(_keep_factors)
        self.register_load_state_dict_pre_hook(_check_base)
        self.register_load_state_dict_post_hook(_expect_factors)

    @property
    def base_sha256(self) -> str:
        """Hash of the frozen weights, in hexadecimal digits."""
        return bytes(self.get_buffer(BASE).tolist()).hex()

    def forward(
        self, inputs: Tensor, data_samples: Sequence[DataSample] | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[DataSample] | Tensor:
        """Return losses, data samples with boxes, or the logits of the annotated text.

        Args:
            inputs: Images, ``(B, 3, H, W)``, normalised.
            data_samples: With ``prefix``, and except for ``'predict'`` with ``suffix``.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.

        Raises:
            ValueError: The mode is unknown, data samples lack text, or a text is longer than the model can write.
        """
        samples = list(data_samples or ())
        if mode == 'predict':
            return self.predict(inputs, samples)
        if mode not in ('loss', 'tensor'):
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")
        output = self.backbone(**self._prompts(inputs, samples), labels=self._labels(samples).to(inputs.device))
        return dict(loss=output.loss) if mode == 'loss' else output.logits

    def predict(self, inputs: Tensor, data_samples: Sequence[DataSample]) -> list[DataSample]:
        """Return the data samples with ``pred_names``, ``pred_bins``, ``pred_scores`` and the tokens of the answer."""
        given = self._prompts(inputs, data_samples)
        sequences = self._generate(given)
        score = CONFIDENCES[self.confidence]
        known = sequences.new_zeros(sequences[:, 1:].shape, dtype=torch.float32)
        if score is not ones:
            logits = self.backbone(**given, decoder_input_ids=sequences[:, :-1]).logits
            known = token_log_probabilities(logits, sequences[:, 1:])
        for sample, row, values in zip(data_samples, sequences[:, 1:].tolist(), known.cpu(), strict=True):
            tokens = self._answer(row)
            boxes = self.text.find_boxes(tokens)
            sample.set_field([box.name for box in boxes], 'pred_names')
            sample.set_field([list(box.bins) for box in boxes], 'pred_bins')
            sample.set_field(score(values[: len(tokens)], [box.places for box in boxes]), 'pred_scores')
            sample.set_field(tokens, 'pred_tokens')
        return list(data_samples)

    @torch.no_grad()
    def task_vector(self, batches: Sequence[dict[str, Any]]) -> Tensor:
        """Return the task vector of a tuned model, ``(D,)``; see :mod:`.task_vector`.

        Args:
            batches: As a data loader gives them, of one image each.

        Raises:
            ValueError: There is no image, or a batch has several, whose answers would be padded to one length.
        """
        was_training, states = self.training, []
        self.eval()
        try:
            with decoder_states(self.backbone.model.language_model.decoder.layers[-1]) as states:
                for batch in batches:
                    if len(batch['inputs']) != 1:
                        raise ValueError(f'a batch of {len(batch["inputs"])} images, where each must have one')
                    data = self.data_preprocessor(batch, False)
                    self._generate(self._prompts(data['inputs'], data['data_samples']))
        finally:
            self.train(was_training)
        return mean_state(states)

    def _generate(self, given: dict[str, Tensor]) -> Tensor:
        return self.backbone.generate(
            **given, num_beams=self.num_beams, max_new_tokens=self.max_new_tokens, do_sample=False)

    def _prompts(self, inputs: Tensor, samples: Sequence[DataSample]) -> dict[str, Tensor]:
        tasks = _texts(samples, 'prefix')
        tokens = image_tokens(self.backbone.config.vision_config, *inputs.shape[-2:])
        ids, mask = self.text.prompts(tasks, tokens)
        return dict(input_ids=ids.to(inputs.device), attention_mask=mask.to(inputs.device), pixel_values=inputs)

    def _labels(self, samples: Sequence[DataSample]) -> Tensor:
        labels = self.text.labels(_texts(samples, 'suffix'))
        longest = self.backbone.config.text_config.max_position_embeddings
        if labels.shape[1] > longest:
            paths = [sample.get('img_path') for sample in samples]
            raise ValueError(f'an annotation has {labels.shape[1]} tokens, where the model can write {longest}: it is '
                             f'of one of {paths}; split it, or leave out boxes')
        return labels

    def _answer(self, row: Sequence[int]) -> list[int]:
        """Return generated tokens up to the end of the answer."""
        end = self.text.tokenizer.eos_token_id
        return list(row[: row.index(end) + 1]) if end in row else list(row)


def _already_read() -> None:
    """Take the place of ``init_weights`` of transformers, which would draw the weights of adapted layers anew."""


def _texts(samples: Sequence[DataSample], field: str) -> list[str]:
    if not samples or any(field not in sample for sample in samples):
        raise ValueError(f'data samples have no {field}: train and test on FlorenceDetection, with {field!r} among the '
                         'algorithm_keys of PackInputs')
    return [sample.get(field) for sample in samples]


def _learned(module: nn.Module) -> set[str]:
    return adapter_tensor_names(module) | {BASE}


def _keep_factors(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    kept = {prefix + name for name in _learned(module)}
    for key in [key for key in state if key.startswith(prefix) and key not in kept]:
        del state[key]


def _check_base(module: FlorenceDetector, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """Compare the frozen weights that factors were learned over.

    Raises:
        ValueError: They are others.
    """
    own = module.get_buffer(BASE)
    given = state.get(prefix + BASE)
    if given is None:
        MMLogger.get_current_instance().warning(
            f'The factors do not say over which weights they were learned; here these have the sha256 '
            f'{module.base_sha256}.')
        state[prefix + BASE] = own.clone()
    elif not torch.equal(given.cpu(), own.cpu()):
        raise ValueError(f'the checkpoint was trained over weights with the sha256 {bytes(given.tolist()).hex()}, '
                         f'pretrained has {module.base_sha256}: give the model the pretrained of its training')


def _expect_factors(module: nn.Module, keys: Any) -> None:
    """Let a state without frozen weights be complete."""
    learned = _learned(module)
    keys.missing_keys[:] = [key for key in keys.missing_keys if key in learned or not key.startswith('backbone.')]
