"""A generator of LoRAs that learns through the frozen backbone: from what its LoRAs do, not from trained ones.

Of each episode the support images are described, a LoRA is generated for them, and all images of the episode go through
the backbone with it; the cross entropy of the queries against the class means teaches the generator. Episodes of tasks
of a bank come with a trained LoRA, which is learned as well. Text-to-LoRA (ICML 2025, arXiv 2506.06105) calls the first
SFT and the second reconstruction.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor

from ...adapters import draw_lora, freeze
from ...adapters.lora_spec import LoRASpec, lora_tensors
from ...adapters.targets import linear_names, select
from ...registry import MODELS, register
from ..meta_classifier import split_episodes
from .functional import FrozenFeatures

VECTOR = 'lora_vector'
"""Field of data samples: a trained LoRA of the task, ``(L,)``; see ``BankEpisodes``."""


def fresh_lora(
    backbone: torch.nn.Module,
    targets: Sequence[str],
    rank: int,
    slices: Sequence[str] | None = 'qv',
    scaling: float = 1.0,
    seed: int = 0,
) -> tuple[LoRASpec, dict[str, Tensor]]:
    """Return the spec of a LoRA for layers of a backbone, and the A that all LoRAs share, drawn from the seed.

    Raises:
        ValueError: A target means no layer, or the rank or slices do not fit.
    """
    sites = select(targets, linear_names(backbone))
    drawn = draw_lora(backbone, sites, rank, slices, scaling, torch.Generator().manual_seed(seed))
    spec, tensors = LoRASpec.of_weights(drawn), lora_tensors(drawn)
    return spec, {key: tensors[key] for key in spec.only('A').keys}


@register(MODELS)
class EpisodicGenerator(BaseModel):
    """Trains a generator end to end; see the head of this file.

    Args:
        backbone: Config of the plain backbone, frozen; its weights come by ``init_cfg``.
        generator: Config of a :class:`LoRAGenerator` that learns by steps. Its ``description_dim`` must be given.
        lora: Where there is no bank: ``dict(targets=..., rank=..., slices='qv', scaling=1.0, seed=0)``, LoRAs over one
            shared A that is drawn from the seed; the generator makes B.
        neck: Config of a neck, or None; frozen.
        head: Config of a ``PrototypeHead``.
        query_weight: Weight of the cross entropy of queries.
        recon_weight: Weight of the losses of the generator on LoRAs of a bank.
        init_std: Standard deviation of B that a code of 1 means, where there is no bank to measure it.
        data_preprocessor: Of the images; a ``ClsDataPreprocessor`` unless it has a type.
        init_cfg: As in mmengine.

    Raises:
        ValueError: The generator is of closed form, or neither a bank nor ``lora`` says what a LoRA is.
    """

    def __init__(
        self,
        backbone: Any,
        generator: Mapping[str, Any],
        lora: Mapping[str, Any] | None = None,
        neck: Any = None,
        head: Any = None,
        query_weight: float = 1.0,
        recon_weight: float = 1.0,
        init_std: float = 0.02,
        data_preprocessor: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__({'type': 'mmpretrain.ClsDataPreprocessor', **(data_preprocessor or {})}, init_cfg)
        for name, value in dict(query_weight=query_weight, recon_weight=recon_weight, init_std=init_std).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f'{name} must be a number of at least 0, got {value!r}')
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck else None
        self.head = MODELS.build(head or dict(type='PrototypeHead'))
        config = dict(generator)
        self._shared: dict[str, Tensor] | None = None
        if config.get('spec') is None:
            if lora is None:
                raise ValueError("EpisodicGenerator needs a bank (train on dataset=dict(type='BankEpisodes', "
                                 "banks=...)) or lora=dict(targets=['attn.qkv'], rank=4): it must know what to make")
            config['spec'], self._shared = fresh_lora(self.backbone, **lora)
            config['codec'] = dict(config.get('codec') or {}, factors='B')
        self.generator = MODELS.build(config)
        if self.generator.closed_form:
            raise ValueError(f'{self.generator.about} does not learn by steps, so not end to end: train it on a bank '
                             'with LoRABankDataset and TrainingFreeLoop')
        for part in (self.backbone, self.neck):
            if part is not None:
                freeze(part)
        self.query_weight, self.recon_weight = float(query_weight), float(recon_weight)
        self.init_std = float(init_std)

    def train(self, mode: bool = True) -> 'EpisodicGenerator':
        """Set the mode; backbone and neck stay in evaluation mode."""
        super().train(mode)
        for part in (self.backbone, self.neck):
            if part is not None:
                part.eval()
        return self

    @property
    def frozen(self) -> FrozenFeatures:
        """The features of the backbone."""
        return FrozenFeatures(self.backbone, self.neck)

    def describe(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the description of a support set; see :class:`TaskEncoder`."""
        return self.generator.task_encoder.describe(self.frozen, self.generator.codec, images, labels)

    @torch.no_grad()
    def fit_bank(self, vectors: Tensor | None = None, shared: Mapping[str, Tensor] | None = None) -> None:
        """Take in the statistics of LoRAs: of a bank ``(n, L)``, else of B drawn with ``init_std``.

        Raises:
            ValueError: The LoRAs do not fit, or are missing.
        """
        codec = self.generator.codec
        if vectors is None:
            if self._shared is None:
                raise ValueError('the generator was built for a bank, and the training data have none: train on '
                                 "dataset=dict(type='BankEpisodes', banks=...)")
            draw = torch.Generator().manual_seed(0)
            vectors = self.init_std * torch.randn(64, codec.spec.length, generator=draw)
            shared = self._shared
        device = codec.mean.device
        shared = {key: value.to(device) for key, value in (shared or {}).items()}
        codec.fit(vectors.to(device), shared if codec.factors == 'B' else None)

    @torch.no_grad()
    def fit_conditions(self, supports: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take in the statistics of descriptions, of support sets ``(images, labels)``.

        Raises:
            ValueError: There are fewer than two.
        """
        self.generator.scaler.fit(torch.stack([self.describe(*support) for support in supports]))

    def loss(self, inputs: Tensor, data_samples: Sequence[DataSample]) -> dict[str, Tensor]:
        """Return ``loss_query``, the losses of the generator on LoRAs of a bank, and the accuracy in percent.

        Args:
            inputs: ``(B, C, H, W)``, of whole episodes of equal size.
            data_samples: Of an ``EpisodicDataset`` or ``BankEpisodes``.

        Raises:
            ValueError: The batch holds no whole episodes of equal size, or the generator was not fitted.
        """
        episodes = split_episodes(data_samples)
        labels = torch.tensor([int(sample.gt_label) for sample in data_samples], device=inputs.device)
        described = torch.stack([self.describe(inputs[own], labels[own]) for own, _ in episodes])
        vectors = self.generator.generate(described)[:, 0]
        codec = self.generator.codec
        features = self.frozen(inputs, codec.full_spec, codec.tensors(vectors))
        losses, right = [], []
        for support, query in episodes:
            scores = self.head.scores(features[support], labels[support], features[query])
            losses.append(self.head.episode_loss(scores, labels[query]))
            right.append((scores.argmax(-1) == labels[query]).float().mean())
        found = dict(
            loss_query=self.query_weight * torch.stack(losses).mean(), accuracy=100 * torch.stack(right).mean())
        known = [number for number, (support, _) in enumerate(episodes) if VECTOR in data_samples[support[0]]]
        if known and self.recon_weight:
            trained = torch.stack([data_samples[episodes[number][0][0]].get(VECTOR) for number in known])
            terms = self.generator.loss(trained.to(inputs.device), described[known])
            found |= {name: self.recon_weight * value if 'loss' in name else value for name, value in terms.items()}
        return found

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Return losses with ``mode='loss'``, else features without a LoRA, as a tuple.

        Raises:
            ValueError: The mode is unknown.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode in ('tensor', 'predict'):
            return (self.frozen(inputs),)
        raise ValueError(f"mode={mode!r} must be 'loss', 'predict' or 'tensor'")
