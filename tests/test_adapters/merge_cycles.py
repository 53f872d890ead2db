"""Merging into the base and back, a hundred times: cases for each kind of adapted layer, and for whole backbones."""

import copy
from collections.abc import Iterator

import torch
import torch.nn as nn
from merge_cases import Case
from mmengine.registry import DefaultScope
from mmpretrain.models.utils.norm import LayerNorm2d

from mmlora.adapters import (
    DoRALinear,
    GLoRALinear,
    LoRABank,
    LoRALinear,
    LoRAMultiheadAttention,
    MELoRALinear,
    MoSLoRALinear,
    PiSSALinear,
    PlainMultiheadAttentionLoRA,
    RLRRConv2d,
    RLRRLinear,
    ScaleShiftConv2d,
    ScaleShiftLayerNorm,
    SlicedLoRALinear,
    adapter_modules,
    merge_adapters,
    unmerge_adapters,
)
from mmlora.adapters.route import Route
from mmlora.adapters.scale_shift_layers import ScaleShiftBatchNorm2d, ScaleShiftLayerNorm2d, ScaleShiftLinear
from mmlora.registry import MODELS

CYCLES = 100
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TOKENS, IMAGES = (2, 5, 8), (2, 4, 5, 5)


def linear(cls, fused=False, **own):
    return lambda bias: (cls.from_linear(nn.Linear(8, 24 if fused else 12, bias=bias), **own), TOKENS)


def attention(**own):
    def build(bias):
        plain = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True, **own)
        return LoRAMultiheadAttention.from_attention(plain, rank=dict(q=2, v=1, o=3)), TOKENS
    return build


def another(layer):
    """Return an adapted layer of other factors over the Parameters of a layer."""
    twin, own = copy.deepcopy(layer), dict(layer.named_parameters())
    for name, parameter in list(twin.named_parameters()):
        if name in twin.adapter_parameters():
            parameter.data.normal_(std=0.3)
        else:
            owner, _, last = name.rpartition('.')
            setattr(twin.get_submodule(owner), last, own[name])
    return twin


def bank(fused):
    def build(bias):
        plain = nn.Linear(8, 24, bias=bias)
        layer = LoRABank.from_linear(plain, 3, dict(q=2, v=3) if fused else 2, slices='qv' if fused else None)
        layer.route = Route(1, 3)
        return layer, TOKENS
    return build


def conv(make):
    return lambda bias: (make(nn.Conv2d(4, 6, 3, bias=bias)), IMAGES)


def norm(make, shape):
    return lambda bias: (make(bias), shape)


def batch_norm(bias):
    plain = nn.BatchNorm2d(4).eval()
    plain.running_mean.normal_()
    return ScaleShiftBatchNorm2d.from_layer(plain)


LAYERS = {
    'LoRA': linear(LoRALinear, rank=3, scaling='alpha/sqrt(r)'),
    'LoRA of slices': linear(SlicedLoRALinear, True, rank=dict(q=2, v=3)),
    'MoSLoRA': linear(MoSLoRALinear, rank=3),
    'MELoRA': linear(MELoRALinear, rank=4, num_groups=2),
    'GLoRA': linear(GLoRALinear, rank=2),
    'GLoRA of slices': linear(GLoRALinear, True, rank=2, slices='qv'),
    'PiSSA': linear(PiSSALinear, rank=2),
    'PiSSA of slices': linear(PiSSALinear, True, rank=2, slices='qk'),
    'DoRA': linear(DoRALinear, rank=2),
    'DoRA of slices': linear(DoRALinear, True, rank=2, slices='kv'),
    'LoRA of a bank': bank(False),
    'LoRA of a bank of slices': bank(True),
    'RLRR': linear(RLRRLinear, rank=2),
    'RLRR of slices': linear(RLRRLinear, True, rank=1, slices='qkv'),
    'RLRR of a convolution': conv(RLRRConv2d.from_conv),
    'LoRA of an attention': attention(),
    'LoRA of an attention of other widths': attention(kdim=6, vdim=4),
    'LoRA of an attention by its published name': lambda bias: (
        PlainMultiheadAttentionLoRA(nn.MultiheadAttention(8, 2, bias=bias, batch_first=True), r=2), TOKENS),
    'SSF of a linear layer': lambda bias: (ScaleShiftLinear.from_layer(nn.Linear(8, 12, bias=bias)), TOKENS),
    'SSF of a convolution': conv(ScaleShiftConv2d.from_layer),
    'SSF of a LayerNorm': norm(lambda bias: ScaleShiftLayerNorm.from_layer(nn.LayerNorm(8, bias=bias)), TOKENS),
    'SSF of a LayerNorm2d': norm(lambda bias: ScaleShiftLayerNorm2d.from_layer(LayerNorm2d(4)), IMAGES),
    'SSF of a BatchNorm2d': norm(batch_norm, IMAGES),
}  # fmt: skip
BIASED = ('SSF of a LayerNorm2d', 'SSF of a BatchNorm2d')
"""Whose layers have a bias always."""

KINDS = {
    'lora': dict(targets=['qkv', 'proj'], lora_ranks=2, scale_shift=[r'.*ln2']), 'rlrr': dict(targets=['qkv', 'proj']),
    'dora': dict(targets=['qkv'], lora_ranks=2), 'moslora': dict(targets=['proj'], lora_ranks=2),
    'melora': dict(targets=['qkv'], lora_ranks=2, adapter_cfg=dict(num_groups=2)),
    'glora': dict(targets=['qkv'], lora_ranks=2), 'pissa': dict(targets=['proj'], lora_ranks=2), 'ssf': {},
}  # fmt: skip
"""All kinds of the registry that merge; of the others tests/test_models/test_tunings.py shows that they refuse."""


def layers() -> Iterator[Case]:
    for name, build in LAYERS.items():
        for bias, dtype in [(True, dtype) for dtype in DTYPES] + [(False, DTYPES[0])]:
            if bias or name not in BIASED:
                yield Case(f'{CYCLES} merges and unmerges restore every bit, layers',
                           f'{name}, {"with" if bias else "without"} bias, {dtype}',
                           lambda make=build, b=bias, d=dtype: check_layer(make, b, d))


def backbones() -> Iterator[Case]:
    for kind in KINDS:
        for dtype in DTYPES:
            yield Case(f'{CYCLES} merges and unmerges restore every bit, backbones', f'{kind}, {dtype}',
                       lambda k=kind, d=dtype: check_backbone(k, d))


def shared() -> Iterator[Case]:
    for name, build in LAYERS.items():
        for dtype in DTYPES:
            yield Case('layers that share a frozen weight merge alone', f'{name}, {dtype}',
                       lambda make=build, d=dtype: check_shared(make, d))


def moved() -> Iterator[Case]:
    for name, build in LAYERS.items():
        for dtype in DTYPES:
            yield Case('a merged layer that changes its type is restored to what it would be', f'{name}, {dtype}',
                       lambda make=build, d=dtype: check_moved(make, d))


@torch.no_grad()
def check_shared(make, dtype):
    torch.manual_seed(0)
    one, shape = make(True)
    one, x = one.to(dtype).eval(), torch.randn(shape).to(dtype)
    other = another(one)
    state, held = bits(one), {id(p) for p in one.parameters()}
    alone, before = output(one, x), output(other, x)
    assert not torch.equal(alone, before)
    for first, last in ((one, other), (other, one)):
        for _ in range(3):
            one.merge()
            assert torch.equal(output(other, x), before), 'one that is not merged'
            other.merge()
            scale = before.abs().max()
            assert (output(other, x) - before).abs().max() <= 0.1 * scale
            first.unmerge()
            last.unmerge()
    same_bits(bits(one), state)
    assert torch.equal(output(one, x), alone) and torch.equal(output(other, x), before)
    assert {id(p) for p in one.parameters()} == held, 'optimizers hold the very Parameters'


@torch.no_grad()
def check_moved(make, dtype):
    torch.manual_seed(0)
    layer, _ = make(True)
    for parameter in layer.adapter_parameters().values():
        parameter.add_(torch.randn_like(parameter) / 4)
    wanted = bits(copy.deepcopy(layer).to(dtype))
    layer.eval().merge().to(dtype)
    assert all(p.dtype == dtype for p in layer.parameters())
    same_bits(layer.state_dict(), wanted)
    same_bits(bits(layer.unmerge()), wanted)


def check_layer(make, bias, dtype):
    torch.manual_seed(0)
    layer, shape = make(bias)
    cycle(layer.to(dtype), torch.randn(shape).to(dtype), lambda: layer.merge(), lambda: layer.unmerge())


def check_backbone(kind, dtype):
    torch.manual_seed(0)
    arch = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=12)
    plain = dict(type='VisionTransformer', arch=arch, img_size=16, patch_size=8)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(type='AdaptedBackbone', kind=kind, backbone=plain, **KINDS[kind]))
    model.to(dtype)
    assert adapter_modules(model)
    cycle(model, torch.randn(2, 3, 16, 16).to(dtype), lambda: merge_adapters(model), lambda: unmerge_adapters(model))


def cycle(model, x, merge, unmerge):
    """Merge and unmerge, with what users do in between."""
    with torch.no_grad():
        model.eval()
        output(model, x)
        for layer in adapter_modules(model).values():
            for parameter in layer.adapter_parameters().values():
                parameter.add_(torch.randn_like(parameter) / 4)
        before, state, types = output(model, x), bits(model), {n: p.dtype for n, p in model.named_parameters()}
        for number in range(CYCLES):
            merge()
            if number in (0, 50):
                merged = output(model, x)
                assert any(not torch.equal(value, state[name]) for name, value in model.named_parameters()
                           if name in state)
                assert all(layer.merged for layer in adapter_modules(model).values())
                same_bits(model.state_dict(), state)
                model.train()
                model.eval()
                model.to(next(model.parameters()).dtype)
                merge()  # Twice is once.
                assert torch.equal(output(model, x), merged)
                assert (merged - before).abs().max() <= 0.1 * before.abs().max() + 1e-3
                twin = copy.deepcopy(model)
                assert torch.equal(output(twin, x), merged)
                for layer in adapter_modules(twin).values():
                    layer.unmerge()
                same_bits(bits(twin), state)
            unmerge()
            if number in (0, 50):
                model.load_state_dict(copy.deepcopy(model.state_dict()))
            if number % 7 == 0:
                same_bits(bits(model), state)
    same_bits(bits(model), state)
    assert torch.equal(output(model, x), before)
    assert {n: p.dtype for n, p in model.named_parameters()} == types


def output(model, x):
    if isinstance(model, nn.MultiheadAttention):
        return model(x, x[..., : model.kdim], x[..., : model.vdim])[0].detach().clone()
    found = model(x)
    return (found[-1] if isinstance(found, tuple) else found).detach().clone()


def bits(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
