"""A fresh LoRA and a linear head for each episode: "LoRA + Linear" of LoRA-Recycle (Hu et al., CVPR 2025).

Several episodes learn at once, each with an adapter of a bank (:class:`mmlora.adapters.LoRABank`), and each learns what
it would learn alone. The default, SGD with the rate 0.1 and 50 steps, is that of the paper's table 2; in its table 1
Adam with the rate 0.001 is better. LoRAs are of rank 4 on q and v, scaling 1, as those of the hub.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...adapters import adapter_parameter_names, draw_lora, freeze, route
from ...adapters.freeze import release_norms
from ...adapters.targets import linear_names, select
from ...registry import TUNERS, register
from .feature_tuner import SGD
from .heads import LinearHeads, check_optimizer, episode_loss, fit
from .hub_factors import with_adapters
from .test_images import TestImages
from .tuner import EpisodeTuner, NumberedEpisode, support_labels, whole


@register(TUNERS, bare=False)
class LoRATuner(EpisodeTuner):
    """Fits a fresh LoRA and a linear head to the support; see the head of this file.

    Args:
        targets: Patterns of the adapted layers.
        rank: Rank of each pair of factors.
        slices: Adapted slices of a fused projection; None adapts it as one weight.
        scaling: Factor of the change.
        steps: Steps of the optimizer.
        optimizer: Config of the optimizer.
        together: Episodes that are learned at once.

    Raises:
        ValueError: A number is out of range, or the optimizer mixes episodes.
    """

    needs_images = True

    def __init__(
        self,
        targets: Sequence[str] = ('attn.qkv',),
        rank: int = 4,
        slices: str | Sequence[str] | None = 'qv',
        scaling: float = 1.0,
        steps: int = 50,
        optimizer: Mapping[str, Any] = SGD,
        together: int = 8,
    ) -> None:
        super().__init__(together)
        self.targets, self.rank, self.slices, self.scaling = targets, whole('rank', rank, 1), slices, float(scaling)
        self.steps, self.optimizer = whole('steps', steps, 0), check_optimizer(optimizer)
        self._images: TestImages
        self._sites: list[str]

    def start(self, images: TestImages) -> None:
        """Find the layers.

        Raises:
            ValueError: A pattern matches no layer.
        """
        self._images, self._sites = images.check_gradients(), select(self.targets, linear_names(images.backbone))

    def scores(self, episodes: Sequence[NumberedEpisode], images: Tensor) -> Tensor:
        """See :class:`EpisodeTuner`."""
        backbone, labels = self._images.backbone, support_labels(episodes[0].episode)
        fresh = [draw_lora(backbone, self._sites, self.rank, self.slices, self.scaling, e.generator('lora'))
                 for e in episodes]
        support, query = images[:, : len(labels)], images[:, len(labels) :]
        with with_adapters(backbone, fresh):
            freeze(backbone, adapter_parameter_names(backbone))
            try:
                return self._learn(episodes, support.flatten(0, 1), query, labels)
            finally:
                release_norms(backbone)

    def _learn(self, episodes: Sequence[NumberedEpisode], support: Tensor, query: Tensor, labels: Tensor) -> Tensor:
        count, backbone = len(episodes), self._images.backbone
        adapters = [p for p in backbone.parameters() if p.requires_grad]
        with route(backbone, torch.arange(count).repeat_interleave(len(labels))):
            with torch.no_grad():
                like = self._images.features(support[:1].expand(len(support), -1, -1, -1))
            heads = LinearHeads(episodes, like.shape[-1], like)

            def loss() -> Tensor:
                features = self._images.features(support).unflatten(0, (count, -1))
                return episode_loss(heads.scores(features, features), labels)

            fit([*adapters, *heads.parameters], loss, self.optimizer, self.steps)
        found = []
        with torch.no_grad():
            for place, own in enumerate(query):
                with route(backbone, place):
                    found.append(self._images.features(own))
            features = torch.stack(found)
            return heads.scores(features, features)
