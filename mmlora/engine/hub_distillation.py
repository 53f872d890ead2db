"""The LoRAs of a hub as teachers, on the frozen weights of the model that learns from them."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..adapters import attach_bank, route
from ..adapters.twin import frozen_twin
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
        hub.check_base(weights_sha256(state), 'the backbone that learns')
        attach_bank(self.backbone, hub.adapters(list(members)))
        device = next(backbone.parameters()).device
        self.places = {name: place for place, name in enumerate(members)}
        self.heads = [tuple(part.to(device, torch.float32) for part in hub.head(name)) for name in members]

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
