"""One block's attention with LoRA on q, k and v, in the ways that people compute it.

All take the same frozen weights and the same factors, rank 2 for each projection:

* frozen: one fused projection and PyTorch's fused attention, forward and input gradient. It is the floor: the fastest
  frozen form that is known here;
* frozen ``nn.MultiheadAttention``, what a block holds before it is adapted. With ``batch_first`` and frozen weights
  PyTorch multiplies its transposed input by one copy of the weight for each token, which on a CPU costs more than LoRA;
* ours on ``nn.MultiheadAttention`` (:class:`LoRAMultiheadAttention`) and ours on a fused qkv
  (:class:`SlicedLoRALinear`), as the text and the vision tower of CLIP have them;
* the dense form: ``W + s B A`` is formed in each forward pass, and under dropout ``B A`` is multiplied with the dropped
  input, as the published CLIP-LoRA does (Zanella and Ben Ayed, arXiv 2405.18541). Written here from the equations;
* peft on ``nn.MultiheadAttention``, which has no dropout and one pair of factors for q, k and v: at three times the
  rank, with our B beside each other in blocks, it computes the same. It adapts the output projection as well.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmlora.adapters import LoRAMultiheadAttention, SlicedLoRALinear

from ..core import Case, Comparison, Growth, absent
from ..targets import Target
from .steps import forward, frozen_tensors, step

ABOUT = """
One block's attention with LoRA of rank 2 on q, k and v, in the ways that people compute it.

* *frozen* is one fused projection and PyTorch's fused attention, forward and input gradient: the floor, the fastest
  frozen form that is known here.
* *frozen, nn.MultiheadAttention* is the layer as PyTorch has it, with `batch_first=True` as in CLIP's text tower here.
* *ours* is `LoRAMultiheadAttention`, which the text tower has; *ours, fused qkv* is `SlicedLoRALinear` with a dropout
  mask each for q, k and v, which the vision tower has.
* *dense change* forms `W + s B A` in each pass, and under dropout the product of `B A` and the dropped input, as the
  published CLIP-LoRA does (arXiv 2405.18541); written from its equations.
* *peft* adapts `nn.MultiheadAttention` with one pair of factors for q, k and v together, so that it runs at rank 6 with
  our factors in blocks, which is the same change. It adapts the output projection too, and knows no dropout there: it
  is missing where there is dropout.

The targets, 10 % over the floor and 30 % under dropout, are aims.
What made the difference: [performance](performance.md).
"""

RANK = 2
PEERS = absent(peft='peft')
REACH = {0.0: 1.10, 0.25: 1.30}
"""How much of the floor's time ours may take, by dropout."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the input: batch, tokens, width, and the number of heads."""

    name: str
    batch: int
    tokens: int
    width: int
    heads: int


VISION = Shape('ViT-B/16, 8 images', 8, 197, 768, 12)
TEXT = Shape('CLIP text, 100 prompts', 100, 18, 512, 8)
QUICK = Shape('tiny', 2, 5, 16, 2)


def heads_of(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split ``(N, L, 3E)`` into q, k and v ``(N, H, L, D)``."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (N, L, 3, H, D) -> 3 of (N, H, L, D)


class Fused(nn.Module):
    """Attention with a fused qkv, as ViTs have it.

    Args:
        qkv: From ``(N, L, E)`` to ``(N, L, 3E)``.
        attention: Gives the output projection and the number of heads.
    """

    def __init__(self, qkv: nn.Module, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.qkv, self.out_proj, self.heads = qkv, attention.out_proj, attention.num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Attend, ``(N, L, E) -> (N, L, E)``."""
        y = F.scaled_dot_product_attention(*heads_of(self.qkv(x), self.heads))
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Dense(nn.Module):
    """``W x + b + s (B A) dropout(x)`` of q, k and v with the product of the factors formed in each pass."""

    def __init__(self, attention: nn.MultiheadAttention, factors: Mapping, scaling: float, dropout: float) -> None:
        super().__init__()
        self.weight, self.bias = attention.in_proj_weight, attention.in_proj_bias
        self.scaling, self.dropout = scaling, nn.Dropout(dropout)
        for name, (a, b) in factors.items():
            setattr(self, f'lora_A_{name}', nn.Parameter(a.detach().clone()))
            setattr(self, f'lora_B_{name}', nn.Parameter(b.detach().clone()))

    def forward(self, x: Tensor) -> Tensor:
        """Project, ``(N, L, E) -> (N, L, 3E)``."""
        parts = []
        for name, w, bias in zip('qkv', self.weight.chunk(3), self.bias.chunk(3), strict=True):
            delta = self.scaling * getattr(self, f'lora_B_{name}') @ getattr(self, f'lora_A_{name}')  # (E, E)
            if self.training and self.dropout.p:
                parts.append(F.linear(x, w, bias) + F.linear(self.dropout(x), delta))
            else:
                parts.append(F.linear(x, w + delta, bias))
        return torch.cat(parts, dim=-1)


def layers(shape: Shape, device: torch.device, rank: int = RANK) -> tuple[nn.MultiheadAttention, Tensor]:
    """Return a frozen layer and its input."""
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(shape.width, shape.heads, batch_first=True).requires_grad_(False)
    x = torch.randn(shape.batch, shape.tokens, shape.width)
    return plain.to(device), x.to(device).requires_grad_()


def attend(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return self-attention of a layer as a function of one input."""
    return lambda x: layer(x, x, x, need_weights=False)[0]


def copied(plain: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """Return a layer of the same weights, uncopied, that can be adapted."""
    width = plain.embed_dim
    twin = nn.MultiheadAttention(width, plain.num_heads, batch_first=True, device='meta')
    twin.in_proj_weight, twin.in_proj_bias, twin.out_proj = plain.in_proj_weight, plain.in_proj_bias, plain.out_proj
    return twin


def ours(plain: nn.MultiheadAttention, dropout: float, rank: int = RANK) -> LoRAMultiheadAttention:
    """Return the adapted layer with factors that change the output."""
    layer = LoRAMultiheadAttention.from_attention(copied(plain), rank=rank, params='qkv', lora_dropout=dropout)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, b in layer.factors().values():
            b.copy_(torch.randn(b.shape, generator=generator) * 0.02)
    return layer


def ours_fused(plain: nn.MultiheadAttention, source: LoRAMultiheadAttention, dropout: float) -> Fused:
    """Return a fused qkv with the factors of the adapted layer, and a dropout mask for each of q, k and v."""
    width, ranks = plain.embed_dim, source.ranks
    linear = nn.Linear(width, 3 * width, device='meta')
    linear.weight, linear.bias = plain.in_proj_weight, plain.in_proj_bias
    qkv = SlicedLoRALinear.from_linear(linear, rank=ranks, scaling=source.scalings['q'], dropout=dropout)
    qkv.separate_dropout = True
    qkv.set_factors(source.factors())
    return Fused(qkv, plain)


def by_peft(plain: nn.MultiheadAttention, source: LoRAMultiheadAttention) -> tuple[nn.Module, Callable]:
    """Return peft's layer with the same change, and its gradients in our form."""
    from peft import LoraConfig, get_peft_model

    rank, width = sum(source.ranks.values()), plain.embed_dim
    config = LoraConfig(r=rank, lora_alpha=rank * source.scalings['q'], target_modules=['attn'])
    layer = get_peft_model(nn.ModuleDict({'attn': copied(plain)}), config).base_model.model['attn']
    a, b = layer.lora_A['default'].weight, layer.lora_B['default'].weight
    factors = source.factors()
    with torch.no_grad():
        a.copy_(torch.cat([pair[0] for pair in factors.values()]))
        b.copy_(torch.block_diag(*(pair[1] for pair in factors.values())))

    def gradients() -> dict[str, Tensor]:
        found, start = {}, 0
        for i, (name, r) in enumerate(source.ranks.items()):
            found[f'A of {name}'] = a.grad[start : start + r]
            found[f'B of {name}'] = b.grad[i * width : (i + 1) * width, start : start + r]
            start += r
        return found

    return layer.to(plain.out_proj.weight.device), gradients


def gradients_of(layer: nn.Module) -> Callable[[], dict[str, Tensor]]:
    """Return a function that gives the gradients of A and B of q, k and v."""
    return lambda: {f'{m} of {n}': getattr(layer, f'lora_{m}_{n}').grad for n in 'qkv' for m in 'AB'}


def in_evaluation(module: nn.Module, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function without the dropout of its module."""

    def call(x: Tensor) -> Tensor:
        module.eval()
        try:
            return function(x)
        finally:
            module.train()

    return call


def ways(shape: Shape, device: torch.device, dropout: float) -> dict[str, tuple]:
    """Return the ways by name: module, function, gradients (None for the frozen)."""
    plain, _ = layers(shape, device)
    adapted = ours(plain, dropout)
    fused = ours_fused(plain, adapted, dropout)
    qkv = nn.Linear(shape.width, 3 * shape.width, device='meta')
    qkv.weight, qkv.bias = plain.in_proj_weight, plain.in_proj_bias
    dense = Fused(Dense(plain, adapted.factors(), adapted.scalings['q'], dropout), plain)
    frozen = Fused(qkv, plain)
    found = {
        'frozen': (frozen, frozen, None),
        'frozen, nn.MultiheadAttention': (plain, attend(plain), None),
        'ours': (adapted, attend(adapted), gradients_of(adapted)),
        'ours, fused qkv': (fused, fused, gradients_of(fused.qkv)),
        'dense change': (dense, dense, gradients_of(dense.qkv)),
    }
    if not dropout and not PEERS:
        layer, gradients = by_peft(plain, adapted)
        found['peft'] = (layer, attend(layer), gradients)
    return found


def training(shape: Shape, device: torch.device, dropout: float, rounds: int) -> Comparison:
    """Return forward and backward side by side."""
    _, x = layers(shape, device)
    cases = []
    for name, (module, function, gradients) in ways(shape, device, dropout).items():
        learned = [p for p in module.parameters() if p.requires_grad]
        check = in_evaluation(module, function) if dropout else None
        cases.append(step(name, function, x, learned, frozen_tensors(module), gradients, check))
    note = 'Outputs and gradients are compared without dropout.' if dropout else ''
    title = f'{shape.name}: forward and backward, dropout {dropout:g}'
    missing = {} if dropout else PEERS
    goals = [Target(name, 'frozen', REACH[dropout]) for name in ('ours', 'ours, fused qkv')]
    return Comparison(title, cases, 'frozen', 'dense change', 1e-4, note, rounds, targets=goals, absent=missing)


def inference(shape: Shape, device: torch.device, rounds: int) -> Comparison:
    """Return forward passes in evaluation side by side."""
    _, x = layers(shape, device)
    x, cases = x.detach(), []
    for name, (module, function, gradients) in ways(shape, device, 0.0).items():
        module.eval()
        cases.append(forward(name, function, x, gradients is not None))
    plain, _ = layers(shape, device)
    merged = ours(plain, 0.0).eval().merge()
    cases.append(forward('ours, merged', attend(merged), x))
    title = f'{shape.name}: forward in evaluation'
    return Comparison(title, cases, 'frozen', 'dense change', 1e-4, rounds=rounds, absent=PEERS)


def growing(shape: Shape, device: torch.device, name: str, sizes: list[int], rounds: int) -> Growth:
    """Return a step of ours with growing rank, number of tokens, or batch."""
    cases: dict[int, Case] = {}
    for size in sizes:
        sized = shape if name == 'rank' else replace(shape, **{name: size})
        plain, x = layers(sized, device)
        layer = ours(plain, 0.0, size if name == 'rank' else RANK)
        learned = list(layer.adapter_parameters().values())
        cases[size] = step(str(size), attend(layer), x, learned, frozen_tensors(layer))
    what = shape.name.split(',')[0] if name == 'batch' else shape.name
    return Growth(f'{what}: ours, forward and backward, growing {name}', name, cases, rounds)


def suite(device: torch.device, quick: bool) -> Iterator[Comparison | Growth]:
    """Compare the ways on the vision and the text tower of CLIP, and let rank, tokens and batch grow."""
    for shape, rounds in ((QUICK, 2),) if quick else ((VISION, 5), (TEXT, 9)):
        for dropout in (0.0, 0.25):
            yield training(shape, device, dropout, rounds)
        yield inference(shape, device, rounds)
    shape, rounds = (QUICK, 2) if quick else (VISION, 5)
    yield growing(shape, device, 'rank', [1, 2, 4] if quick else [4, 16, 64, 128], rounds)
    yield growing(shape, device, 'tokens', [4, 8, 16] if quick else [50, 100, 197, 394], rounds)
    yield growing(shape, device, 'batch', [1, 2] if quick else [2, 4, 8, 16], rounds)
