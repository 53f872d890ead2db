"""A backbone cut below its first block that learns: equal features and gradients, and nothing kept below the cut."""

import pytest
import torch
from mmpretrain.models import VisionTransformer

from mmlora.models import AdaptedBackbone, VitSR_LoRA, split_backbone

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
SIZES = dict(arch=ARCH, img_size=32, patch_size=16)


def backbone(*ranks, **more):
    model = VitSR_LoRA(**SIZES, lora_ranks=[[rank, 0] for rank in ranks], **more).double()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def learned(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('more', [
    {}, dict(out_type='raw', out_indices=[2, 3]), dict(out_type='featmap', final_norm=False), dict(pre_norm=True),
])  # fmt: skip
def test_both_parts_compute_what_the_backbone_does(more):
    model, images = backbone(0, 0, 2, 1, **more), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    prefix, rest = split_backbone(model)
    tokens = prefix.train()(images)
    assert not tokens.requires_grad and tokens.shape == (3, 5, 16)
    expected, found = model(images), rest(tokens)
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
    leaves = list(learned(model).values())
    assert {id(p) for p in learned(rest).values()} == {id(p) for p in leaves} and not learned(prefix)
    own, other = (torch.autograd.grad(sum(y.sin().sum() for y in ys), leaves) for ys in (found, expected))
    for one, two in zip(own, other, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    assert len(model.layers) == 4 and model.cls_token is not None  # as it was


@pytest.mark.parametrize('first', [0, 1, 3])
def test_nothing_below_the_first_adapted_block_is_kept_or_gets_a_gradient(first):
    model = backbone(*(2 if i >= first else 0 for i in range(4)))
    graphs = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, args, output: graphs.append(output.requires_grad))
    kept, own = [], {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(len(graphs))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(2, 3, 32, 32, dtype=torch.float64))[-1].sum().backward()
    assert graphs == [i >= first for i in range(4)]
    assert kept and min(kept) == first


@pytest.mark.parametrize('make, error, message', [
    (lambda: torch.nn.Linear(2, 2), TypeError, 'got a Linear'),
    (lambda: backbone(2, 0, 0, 0), ValueError, 'block 0 learns'),
    (lambda: backbone(0, 0, 2, 1, frozen=False), ValueError, 'cls_token learns'),
    (lambda: VisionTransformer(**SIZES).requires_grad_(False), ValueError, 'no block of this backbone learns'),
    (lambda: backbone(0, 0, 2, 2, drop_path_rate=0.1), ValueError, 'draw at random in training'),
    (lambda: backbone(0, 0, 2, 2, layer_cfgs=dict(attn_drop_rate=0.5)), ValueError, r"such as 'layers\.0\.attn'"),
    (lambda: backbone(0, 0, 2, 2, out_indices=[0, 3]), ValueError, r'out_indices \[0\] lie below block 2'),
])  # fmt: skip
def test_what_cannot_be_split(make, error, message):
    with pytest.raises(error, match=message):
        split_backbone(make())


def test_a_first_block_that_never_drops_is_split_off():
    model = backbone(0, 2, 2, 2, drop_path_rate=0.1).train()
    prefix, _ = split_backbone(model)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert model.training and torch.equal(prefix(images), prefix(images))


@pytest.mark.parametrize('out_type', ['cls_token', 'featmap'])
def test_images_of_another_size_are_refused(out_type):
    prefix, rest = split_backbone(backbone(0, 0, 2, 1, out_type=out_type))
    with pytest.raises(ValueError, match='built for 2 x 2 patches and 1 more tokens, got 17 tokens'):
        rest(prefix(torch.zeros(1, 3, 64, 64, dtype=torch.float64)))


def test_the_state_and_the_hooks_are_those_of_the_backbone():
    model = backbone(0, 0, 2, 1)
    prefix, rest = split_backbone(model)
    state, calls = model.state_dict(), []
    for part in (prefix, rest, torch.nn.Sequential(rest)):
        for call in (part.state_dict, lambda part=part: part.load_state_dict(state, strict=False)):
            with pytest.raises(RuntimeError, match='save and load that of the backbone'):
                call()
    rest.register_forward_hook(lambda *args: calls.append('rest'))
    rest.register_load_state_dict_pre_hook(lambda *args: calls.append('load'))
    rest.register_buffer('own', torch.zeros(1))
    images = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    model(images)
    model.load_state_dict(state)
    assert not calls and list(model.state_dict()) == list(state)
    rest(prefix(images))
    assert calls == ['rest']


def test_other_kinds_of_adapters():
    inner = dict(type='mmpretrain.VisionTransformer', **SIZES)
    model = AdaptedBackbone(inner, targets=[r'layers\.[23]\.attn\.qkv'], lora_ranks=1, kind='dora')
    prefix, rest = split_backbone(model)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(rest(prefix(images))[-1], model(images)[-1])


@pytest.mark.parametrize('dropout', [0.0, 0.25])
def test_an_adapted_backbone_compiles_without_a_break(dropout):
    model = VitSR_LoRA(**SIZES, lora_ranks=2, lora_dropout=dropout)
    torch._dynamo.reset()
    for name, parameter in learned(model).items():
        torch.nn.init.normal_(parameter, std=0.1 if 'lora_A' in name else 0.05)
    images, leaves = torch.randn(2, 3, 32, 32), list(learned(model).values())
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    first = torch.autograd.grad(compiled(images)[-1].sin().sum(), leaves)
    if dropout:
        assert not torch.equal(compiled(images)[-1], compiled(images)[-1])
        return
    for own, other in zip(first, torch.autograd.grad(model(images)[-1].sin().sum(), leaves), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
