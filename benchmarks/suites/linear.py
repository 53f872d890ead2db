"""One training step of a projection of a vision transformer: frozen, with LoRA of several packages, and trained.

And how ours grows with the rank, the tokens of an image and the images of a batch.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmlora.adapters import LoRALinear, SlicedLoRALinear

from ..core import Case, Comparison, Growth, absent
from ..targets import Target
from .steps import frozen_tensors, step

ABOUT = """
One training step, forward and backward, of a projection 768 -> 2304, the fused qkv of ViT-B/16: frozen (the floor: the
output and the gradient of the input), with LoRA, and fully trained. First LoRA of the whole weight, ours beside peft,
loralib and mmpretrain; then LoRA on q and v alone, beside loralib's `MergedLinear`. *dense change* forms `W + s B A`
in each step. Then ours with growing rank, tokens and images. The targets are aims: 8 % over the floor on a CPU, and no
slower than the others. See also [performance](performance.md).
"""

FROZEN, OURS, DENSE, TRAINED = 'frozen', 'mmlora', 'dense change', 'fully trained'
PEFT, LORALIB, MMPRETRAIN = 'peft', 'loralib', 'mmpretrain'
PEERS = absent(**{PEFT: 'peft', LORALIB: 'loralib'})
GROWING = {'rank': (4, 16, 64, 128), 'tokens': (50, 100, 197, 394), 'images': (2, 4, 8, 16)}
QUICK = {'rank': (2, 4), 'tokens': (4, 8), 'images': (2, 4)}

Factors = Mapping[str, tuple[Tensor, Tensor]]
Way = tuple[nn.Module, Callable[[], dict[str, Tensor]]]


class Dense(nn.Module):
    """``x (W + delta)^T + b`` with the change formed as a matrix in each step."""

    def __init__(self, layer: LoRALinear | SlicedLoRALinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply ``W + delta``."""
        return F.linear(x, self.layer.weight + self.layer.delta(), self.layer.bias)


def gradients(named: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Return a function that gives the gradients of tensors by these names."""
    return lambda: {name: tensor.grad for name, tensor in named.items()}


def named_factors(layer: LoRALinear | SlicedLoRALinear) -> dict[str, Tensor]:
    """Return A and B of each part by name."""
    return {f'{m} {name}': pair[i] for name, pair in layer.factors().items() for i, m in enumerate('AB')}


def plain(width: int) -> nn.Linear:
    """Return the projection, always of the same weights."""
    torch.manual_seed(0)
    return nn.Linear(width, 3 * width).requires_grad_(False)


def adapted(cls: type, width: int, **kwargs: object) -> LoRALinear | SlicedLoRALinear:
    """Return the projection with LoRA whose factors change the output, always the same."""
    layer = cls.from_linear(plain(width), **kwargs)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for a, b in layer.factors().values():
            a.uniform_(-(width**-0.5), width**-0.5, generator=generator)
            b.normal_(std=0.02, generator=generator)
    return layer


def by_peft(width: int, rank: int, factors: Factors) -> Way:
    """Return peft's layer."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=['qkv'])
    layer = get_peft_model(nn.ModuleDict({'qkv': plain(width)}), config).base_model.model['qkv']
    return filled(layer, factors, layer.lora_A['default'].weight, layer.lora_B['default'].weight)


def by_loralib(width: int, rank: int, factors: Factors) -> Way:
    """Return loralib's layer."""
    import loralib

    frozen, layer = plain(width), loralib.Linear(width, 3 * width, r=rank, lora_alpha=rank)
    layer.weight, layer.bias = frozen.weight, frozen.bias
    return filled(layer, factors, layer.lora_A, layer.lora_B)


def by_mmpretrain(width: int, rank: int, factors: Factors) -> Way:
    """Return mmpretrain's layer, which ``LoRAModel`` puts in the place of linear ones."""
    from mmpretrain.models.peft.lora import LoRALinear as Theirs

    layer = Theirs(plain(width), alpha=rank, rank=rank)
    return filled(layer, factors, layer.lora_down.weight, layer.lora_up.weight)


def filled(layer: nn.Module, factors: Factors, a: Tensor, b: Tensor) -> Way:
    """Return a layer with factors of the whole weight copied into its A and B, and what gives their gradients."""
    with torch.no_grad():
        for own, given in zip((a, b), factors[''], strict=True):
            own.copy_(given)
    return layer, gradients({'A ': a, 'B ': b})


def by_merged_linear(width: int, rank: int, factors: Factors) -> Way:
    """Return loralib's layer for a fused qkv, with q and v adapted, whose factors lie above each other."""
    import loralib

    frozen = plain(width)
    layer = loralib.MergedLinear(width, 3 * width, r=rank, lora_alpha=rank, enable_lora=[True, False, True])
    layer.weight, layer.bias = frozen.weight, frozen.bias
    stacks = {'A': layer.lora_A, 'B': layer.lora_B}
    with torch.no_grad():
        for i, own in enumerate(stacks.values()):
            own.copy_(torch.cat([factors[name][i] for name in 'qv']))
    return layer, lambda: {f'{m} {n}': own.grad.chunk(2)[i] for m, own in stacks.items() for i, n in enumerate('qv')}


WHOLE = {PEFT: by_peft, LORALIB: by_loralib, MMPRETRAIN: by_mmpretrain}
SLICED = {LORALIB: by_merged_linear}


def side_by_side(sliced: bool, device: torch.device, quick: bool) -> Comparison:
    """Return the ways side by side at rank 8, width 768, 8 images of 197 tokens."""
    width, rank, tokens = (16, 2, 5) if quick else (768, 8, 197)
    cls, peers = (SlicedLoRALinear, SLICED) if sliced else (LoRALinear, WHOLE)
    layers = {name: adapted(cls, width, rank=rank, scaling=1.0) for name in (OURS, DENSE)}
    ways: dict[str, tuple] = {FROZEN: (plain(width), None)}
    ways[OURS] = (layers[OURS], gradients(named_factors(layers[OURS])))
    for name, make in peers.items():
        if name not in PEERS:
            ways[name] = make(width, rank, layers[OURS].factors())
    ways[DENSE] = (Dense(layers[DENSE]), gradients(named_factors(layers[DENSE])))
    ways[TRAINED] = (plain(width).requires_grad_(), None)
    x = torch.randn(8, tokens, width, generator=torch.Generator().manual_seed(2)).to(device).requires_grad_()
    cases = []
    for name, (layer, given) in ways.items():
        layer.to(device)
        learned = [p for p in layer.parameters() if p.requires_grad]
        cases.append(step(name, layer, x, learned, frozen_tensors(layer), given))
    what = 'q and v' if sliced else 'the whole weight'
    title = f'LoRA of rank {rank} on {what} of {width} -> {3 * width}, 8 images of {tokens} tokens'
    goals = [Target(OURS, FROZEN, 1.08)] if device.type == 'cpu' else []
    goals += [Target(OURS, peer, 1.0) for peer in peers]
    lacking = {name: package for name, package in PEERS.items() if name in peers}
    return Comparison(
        title, cases, FROZEN, DENSE, 1e-4, rounds=2 if quick else 11, targets=goals, absent=lacking
    )


def growing(parameter: str, quick: bool, device: torch.device) -> Growth:
    """Return ours while one size grows and the others stay at rank 8, 197 tokens and 8 images."""
    width, usual = (16, dict(rank=2, tokens=5, images=2)) if quick else (768, dict(rank=8, tokens=197, images=8))

    def case(size: int) -> Case:
        sizes = {**usual, parameter: size}
        layer = SlicedLoRALinear.from_linear(plain(width), rank=sizes['rank']).to(device)
        x = torch.randn(sizes['images'], sizes['tokens'], width).to(device).requires_grad_()
        learned = [p for p in layer.parameters() if p.requires_grad]
        return step(f'{parameter} {size}', layer, x, learned, frozen_tensors(layer))

    cases = {size: case(size) for size in (QUICK if quick else GROWING)[parameter]}
    others = ', '.join(f'{name} {size}' for name, size in usual.items() if name != parameter)
    title = f'Fused qkv, width {width}, {others}: ours, forward and backward, growing {parameter}'
    return Growth(title, parameter, cases, 2 if quick else 5)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare the ways on the whole weight and on q and v, and let each size grow."""
    for sliced in (False, True):
        yield side_by_side(sliced, device, quick)
    for parameter in GROWING:
        yield growing(parameter, quick, device)
