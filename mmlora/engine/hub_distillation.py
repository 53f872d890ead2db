"""The LoRAs of a hub as teachers, on the frozen weights of the model that learns from them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..adapters import attach_bank, route
from ..adapters.twin import frozen_twin
from ..datasets import PoolImages
from ..io.hub import LoRAHub
from ..models.meta_classifier import sparse_forward
from ..ranks import weights_sha256


class HubTeachers(nn.Module):
    """All members of a hub at once over one backbone: each image is classified by the member that it is given.

    The frozen weights are those of the student, not copies; the adapters are a bank of their own.

    Args:
        hub: The hub.
        members: Names of the members that teach.
        backbone: Of the student; it is not changed.
        neck: Between backbone and heads; it must not learn.

    Attributes:
        digest: Hash of the frozen weights.

    Raises:
        ValueError: The hub stands on other weights, a member is unknown or has no head, the neck learns, or the
            backbone is adapted in another way than in linear layers.
    """

    def __init__(
        self, hub: LoRAHub, members: Sequence[str], backbone: nn.Module, neck: nn.Module | None = None
    ) -> None:
        super().__init__()
        unknown = sorted(set(members) - set(hub))
        if unknown:
            raise ValueError(f'{hub.folder} has no member {unknown[0]!r}, whose images the pool holds: name the hub '
                             'that the pool was made from')
        if neck is not None and any(p.requires_grad for p in neck.parameters()):
            raise ValueError('the neck learns, and the teachers were trained with it as it was: freeze it')
        self.backbone, self.neck = frozen_twin(backbone), neck
        state = {name: torch.atleast_1d(value.float()) for name, value in self.backbone.state_dict().items()}
        self.digest = weights_sha256(state)
        hub.check_base(self.digest, 'the backbone that learns')
        attach_bank(self.backbone, hub.adapters(list(members)))
        device = next(backbone.parameters()).device
        self.places = {name: place for place, name in enumerate(members)}
        self.heads = [tuple(part.to(device, torch.float32) for part in hub.head(name)) for name in members]

    def check_base(self, pool: PoolImages) -> None:
        """Check that images were made on these frozen weights, which a hub that was taken over may not know.

        Raises:
            ValueError: They were made on others; both hashes are quoted.
        """
        base = pool.pool.about.get('base')
        if base not in (None, self.digest):
            raise ValueError(f'the pool {pool.pool.folder} was made on weights with the sha256 {base}, those of the '
                             f'backbone that learns have {self.digest}: load the weights that the pool was made with')

    @torch.no_grad()
    def forward(self, images: Tensor, members: Sequence[str], keep: Tensor | None = None) -> list[Tensor]:
        """Return the logits ``(n,)`` of each image.

        Args:
            images: Normalised, ``(B, C, H, W)``.
            members: For each image the member that classifies it.
            keep: bool ``(B, P)``, the patches that are seen; None shows all.
        """
        places = [self.places[name] for name in members]
        with route(self.backbone, places), sparse_forward(self.backbone, keep) if keep is not None else nullcontext():
            out = self.backbone(images)
        features = (self.neck(out) if self.neck is not None else out)[-1].float()
        return [F.linear(feature, *self.heads[place]) for feature, place in zip(features, places, strict=True)]


def check_preparation(hub: LoRAHub, preprocessor: Any) -> None:
    """Check that a data preprocessor prepares images as those that the LoRAs were trained on.

    Raises:
        ValueError: It does not; both are quoted.
    """
    wanted, own = dict(hub.normalization), _preparation(preprocessor)
    if not all(_close(wanted[name], own[name]) for name in own):
        raise ValueError(f'the LoRAs of {hub.folder} were trained on images prepared by {wanted}, the model prepares '
                         f'them by {own}: give data_preprocessor the values of the hub')


def _preparation(preprocessor: Any) -> Mapping[str, Any]:
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    return dict(mean=[0.0] * 3 if mean is None else mean.flatten().tolist(),
                std=[1.0] * 3 if std is None else std.flatten().tolist(),
                to_rgb=bool(getattr(preprocessor, 'to_rgb', False)))


def _close(wanted: Any, own: Any) -> bool:
    if isinstance(own, bool):
        return wanted == own
    return len(wanted) == len(own) and all(abs(a - b) < 1e-3 for a, b in zip(wanted, own, strict=True))


def check_pool(hub: LoRAHub, pool: PoolImages) -> None:
    """Check that images were made from these LoRAs, as they are now.

    Raises:
        ValueError: A LoRA is not in the hub, or has other classes or weights.
    """
    for lora, label, name in _used(pool):
        known = hub.classes(lora) if lora in hub.records else []
        if not 0 <= label < len(known) or known[label] != name:
            own = f'is {known[label]!r}' if 0 <= label < len(known) else 'does not exist'
            raise ValueError(f'output {label} of the LoRA {lora!r} is {name!r} in the pool {pool.pool.folder}, and '
                             f'{own} in the hub {hub.folder}: name the hub that the pool was made from')
    then = pool.pool.about.get('weights') or {}
    for lora in dict.fromkeys(image.lora for image in pool.images):
        if lora in hub.records and then.get(lora) not in (None, hub.digest(lora)):
            raise ValueError(f'the LoRA {lora!r} of {hub.folder} has other weights than when the pool '
                             f'{pool.pool.folder} was made: make the pool again, or name the hub of then')


def _used(pool: PoolImages) -> Iterator[tuple[str, int, str]]:
    """Give each LoRA of a pool with each of its outputs and the name of the class, once."""
    seen = {(image.lora, image.lora_label): image.gt_label for image in pool.images}
    return ((lora, label, pool.pool.classes[gt_label]) for (lora, label), gt_label in seen.items())
