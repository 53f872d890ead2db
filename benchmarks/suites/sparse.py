"""Sparse tokens: a step of meta-training on images that keep all, three quarters, half or a quarter of their patches.

Support and query of a 5-way episode go through a ViT-B/16 with LoRA, queries are compared with prototypes, and the
gradients of the factors are formed. What LoRA-Recycle (CVPR 2025, table 5) publishes, for 100 images on a GPU, stands
beside it: 3.9 times as fast in 26 % of the memory at 75 %.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
import torch.nn as nn
from mmpretrain.registry import MODELS
from torch import Tensor

from mmlora.adapters import SparseTokens

from ..core import Case, Comparison, Growth, Spread, kept_bytes
from ..targets import Target
from .steps import frozen_tensors, step

ABOUT = """
A step of meta-training of LoRA-Recycle (support and queries forward, prototypes, backward to the LoRAs) by the part of
the patches that is left out. The published numbers (CVPR 2025, table 5: 12 layers, 100 images, a GPU) stand beside it:
3.9 times as fast in 26 % of the memory at 75 %. A quarter of the tokens is a quarter of the work of each layer, and a
sixteenth of the attention, so that a ratio of 4 and a bit is the floor. The target is an aim below what is published:
3.5 on a GPU, and 3.2 with the 3 layers of a CPU.
"""

WAY = 5
PUBLISHED = {0.0: (1.76, 12.86), 0.25: (2.34, 9.40), 0.5: (3.63, 6.23), 0.75: (6.83, 3.31)}
"""Part that is left out -> iterations a second and GB."""
BASE = dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072)
QUICK = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32)
CPU_LAYERS = 3
"""Of the 12, on a CPU: ratios hardly depend on the depth."""


def tower(quick: bool, device: torch.device) -> nn.Module:
    """Return a vision transformer with LoRA of rank 4 on q and v, and factors that change the features."""
    torch.manual_seed(0)
    arch = QUICK if quick else BASE if device.type == 'cuda' else dict(BASE, num_layers=CPU_LAYERS)
    vit = dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=64 if quick else 224)
    model = MODELS.build(dict(type='mmlora.AdaptedBackbone', backbone=vit, targets=['attn.qkv'], lora_ranks=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if '.lora_B_' in name:
                parameter.normal_(std=0.02)
    return model.to(device)


def scores(model: nn.Module, tokens: SparseTokens, images: Tensor, keep: Tensor | None, shot: int) -> Tensor:
    """Return the negative squared distances ``(queries, WAY)`` of queries to prototypes.

    Args:
        model: The backbone.
        tokens: Attached to it.
        images: Support, shot by shot, and queries.
        keep: bool ``(images, patches)``; None for all patches.
        shot: Support images of a class.
    """
    count, found = shot * WAY, []
    for part in (slice(None, count), slice(count, None)):
        with nullcontext() if keep is None else tokens.only(keep[part]):
            found.append(model(images[part])[-1])
    support, query = found
    return -torch.cdist(query, support.reshape(shot, WAY, -1).mean(0)).square()


def beside(case: Case, dense: Case, ratio: float, time: Spread) -> dict[str, str]:
    """Return the part of the memory that a case keeps, and what is published of the same ratio."""
    kept = [kept_bytes(one.forward, one.known()) for one in (case, dense)]
    (speed, memory), (full_speed, full_memory) = PUBLISHED[ratio], PUBLISHED[0.0]
    return {
        'kept, part': f'{kept[0] / kept[1]:.0%}',
        'published: steps per second': f'{speed:.2f}',
        'published: ratio': f'{full_speed / speed:.2f}',
        'published: GB': f'{memory:.2f} ({memory / full_memory:.0%})',
    }


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare the ratios with the backbone as it is."""
    model, tokens = tower(quick, device), SparseTokens()
    tokens.attach(model)
    shot, query = (5, 15) if device.type == 'cuda' and not quick else (1, 1)
    size, count = model.img_size[0], WAY * (shot + query)
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    patches = model.patch_resolution[0] * model.patch_resolution[1]
    order = torch.rand(count, patches, generator=torch.Generator().manual_seed(2)).argsort(1).to(device)
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    given = (images, list(learned.values()), frozen_tensors(model))

    def gradients() -> dict[str, Tensor]:
        return {name: parameter.grad for name, parameter in learned.items()}

    def case(ratio: float) -> Case:
        keep = order >= int(patches * ratio)
        function = partial(scores, model, tokens, keep=keep, shot=shot)
        case = step(f'{ratio:.0%} left out', function, *given, gradients if ratio == 0 else None)
        return replace(case, facts=partial(beside, case, dense, ratio))

    dense = step('all tokens', partial(scores, model, tokens, keep=None, shot=shot), *given, gradients)
    layers = len(model.layers)
    title = f'{WAY}-way {shot}-shot step of a ViT of {layers} layers, {count} images of {size} px, LoRA on q and v'
    note = 'Published: 12 layers, 100 images, a GPU; the memory is that of the whole step.'
    cases = [dense, *map(case, PUBLISHED)]
    rounds, faster = 2 if quick else 3, 3.5 if device.type == 'cuda' else 3.2
    yield Comparison(title, cases, dense.name, dense.name, 1e-4, note, rounds, rate=('steps per second', 1.0),
                     targets=[Target('75% left out', dense.name, 1 / faster)])
    yield growing(model, tokens, quick, device)


def growing(model: nn.Module, tokens: SparseTokens, quick: bool, device: torch.device) -> Growth:
    """Return a step with half of the tokens and more and more images."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    cases, size = {}, model.img_size[0]
    patches = model.patch_resolution[0] * model.patch_resolution[1]
    for shot in (1, 2) if quick else (1, 2, 4):
        images = torch.randn(2 * WAY * shot, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
        order = torch.rand(len(images), patches, generator=torch.Generator().manual_seed(2)).argsort(1).to(device)
        function = partial(scores, model, tokens, keep=order >= patches // 2, shot=shot)
        cases[len(images)] = step(f'{len(images)} images', function, images, learned, frozen_tensors(model))
    return Growth('The same step, 50% left out', 'images', cases, 2)
