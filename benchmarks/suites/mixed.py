"""One batch whose images each use an adapter of their own, against one adapter, a loop, and merging one by one."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn as nn
from mmpretrain.registry import MODELS
from torch import Tensor

from mmlora.adapters import LoRAWeights, adapt_with, attach_bank, draw_lora, freeze, route
from mmlora.adapters.lora_weights import Pair
from mmlora.adapters.targets import linear_names, select

from ..core import Case, Comparison, Growth, absent
from ..targets import Target
from .steps import forward

ABOUT = """
Inference of a batch in which every image has another LoRA, on q, k and v (as one weight) and on the output projection
of a ViT-B/16 with rank 8: one bank with batched products (`attach_bank`, `route`), against all images on one adapter
(the floor), peft's `adapter_names=`, which runs a loop over the adapters in each layer, and merging each adapter into
the weights, one after the other. The batch products of a bank do no more work than one adapter does; what is added is
that small factors are read for every image. The targets are aims: 5 % over the floor, and no slower than peft.
"""

ONE, OURS, LOOP, MERGED = 'one adapter for all (ours)', 'a bank (ours)', 'peft, adapter_names', 'merged one by one'
PEERS = absent(**{LOOP: 'peft'})
TARGETS = ('attn.qkv', 'attn.proj')
RANK = 8
BASE = dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072)
QUICK = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32)
CPU_LAYERS = 1
"""Of the 12, on a CPU: each layer does the same again."""


def tower(quick: bool, device: torch.device, layers: int = CPU_LAYERS) -> nn.Module:
    """Return a frozen vision transformer, of so many layers on a CPU."""
    torch.manual_seed(0)
    arch = QUICK if quick else BASE if device.type == 'cuda' else dict(BASE, num_layers=layers)
    model = MODELS.build(dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=32 if quick else 224))
    model.eval()  # mmpretrain's own returns None
    freeze(model, ())
    return model.to(device)


def drawn(model: nn.Module, count: int, rank: int = RANK) -> list[LoRAWeights]:
    """Return LoRAs that change the features."""
    sites, generator = select(TARGETS, linear_names(model)), torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        lora = draw_lora(model, sites, rank, None, 1.0, generator)
        found.append({key: Pair(pair.a, 0.02 * torch.randn(pair.b.shape, generator=generator), pair.scaling)
                      for key, pair in lora.items()})
    return found


def features(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the features of images as a function."""
    return lambda images: model(images)[-1]


def by_bank(model: nn.Module, loras: Sequence[LoRAWeights], indices: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return ours: all LoRAs in one bank, and a route."""
    banked = copy.deepcopy(model)
    attach_bank(banked, loras)

    def call(images: Tensor) -> Tensor:
        with route(banked, indices):
            return banked(images)[-1]

    return call


def merged_one_by_one(model: nn.Module, loras: Sequence[LoRAWeights]) -> Callable[[Tensor], Tensor]:
    """Return images one after the other, each through weights that its LoRA is merged into, and taken out again."""
    plain = copy.deepcopy(model)
    layers = {key[0]: plain.get_submodule(key[0]) for key in loras[0]}
    kept = {site: layer.weight.clone() for site, layer in layers.items()}

    def call(images: Tensor) -> Tensor:
        found = []
        for image, lora in zip(images, loras, strict=True):
            for (site, _), pair in lora.items():
                torch.addmm(kept[site], pair.b, pair.a, alpha=pair.scaling, out=layers[site].weight.data)
            found.append(plain(image[None])[-1])
        for site, layer in layers.items():
            layer.weight.data.copy_(kept[site])
        return torch.cat(found)

    return call


def by_peft(model: nn.Module, loras: Sequence[LoRAWeights]) -> Callable[[Tensor], Tensor]:
    """Return peft's form for a batch of several adapters."""
    from peft import LoraConfig, get_peft_model

    names = [f'adapter{number}' for number in range(len(loras))]
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[site for site, _ in loras[0]])
    adapted = get_peft_model(copy.deepcopy(model), config, names[0])
    for name in names[1:]:
        adapted.add_adapter(name, config)
    for name, lora in zip(names, loras, strict=True):
        for (site, _), pair in lora.items():
            layer = adapted.base_model.model.get_submodule(site)
            with torch.no_grad():
                layer.lora_A[name].weight.copy_(pair.a)
                layer.lora_B[name].weight.copy_(pair.b)
    adapted.eval()
    return lambda images: adapted(images, adapter_names=names)[-1]


def side_by_side(model: nn.Module, count: int, quick: bool, rounds: int) -> Comparison:
    """Return the ways for a batch of ``count`` images, each with another LoRA."""
    device = next(model.parameters()).device
    size = model.img_size[0]
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2)).to(device)
    loras = [{key: Pair(pair.a.to(device), pair.b.to(device), pair.scaling) for key, pair in one.items()}
             for one in drawn(model, count)]
    single = copy.deepcopy(model)
    adapt_with(single, loras[0])
    single.eval()
    cases = [
        forward(ONE, features(single), images, compare=False),
        forward(OURS, by_bank(model, loras, range(count)), images),
        *([] if PEERS else [forward(LOOP, by_peft(model, loras), images)]),
        forward(MERGED, merged_one_by_one(model, loras), images),
    ]
    title = f'{count} images, {count} LoRAs, a ViT of {len(model.layers)} layers, {size} px: forward in evaluation'
    goals = [Target(OURS, ONE, 1.05)] if device.type == 'cpu' else []
    goals.append(Target(OURS, LOOP, 1.0))
    return Comparison(title, cases, ONE, MERGED, 1e-4, rounds=rounds, targets=goals, absent=PEERS)


def growing(model: nn.Module, name: str, sizes: Sequence[int], count: int, rounds: int) -> Growth:
    """Return a bank with more adapters, each used by its share of the images, or of larger ranks."""
    device, size = next(model.parameters()).device, model.img_size[0]
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2)).to(device)
    cases: dict[int, Case] = {}
    for one in sizes:
        adapters, rank = (one, RANK) if name == 'adapters' else (count, one)
        indices = [number % adapters for number in range(count)]
        cases[one] = forward(f'{name} {one}', by_bank(model, drawn(model, adapters, rank), indices), images)
    other = f'rank {RANK}' if name == 'adapters' else f'{count} adapters'
    return Growth(f'A bank, {count} images, {other}, growing {name}', name, cases, rounds)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare batches of 8 and 32, and let adapters and ranks grow."""
    model = tower(quick, device)
    for count in (2, 3) if quick else (8, 32):
        yield side_by_side(model, count, quick, 2 if quick else 7 if count == 8 else 3)
    few, rounds = (2, 2) if quick else (8, 3)
    yield growing(model, 'adapters', (1, 2) if quick else (1, 2, 4, 8, 32), few, rounds)
    yield growing(model, 'rank', (1, 2) if quick else (4, 16, 64, 128), few, rounds)
