"""AdaptedBackbone with each relative of LoRA: where it starts from, training, saving, loading and merging."""

import copy

import pytest
import torch
import torch.nn as nn
from mmengine.runner import load_checkpoint
from mmpretrain.models import SwinTransformer, VisionTransformer
from mmpretrain.registry import MODELS

from mmlora.adapters import (
    adapted_layers,
    adapter_modules,
    adapter_parameter_names,
    adapter_tensor_names,
    merge_adapters,
    merged_state_dict,
    parameter_report,
    to_plain,
    unmerge_adapters,
)
from mmlora.models.backbones.skeleton import Skeleton

VIT = dict(arch=dict(embed_dims=16, num_layers=2, num_heads=4, feedforward_channels=32), img_size=32, patch_size=16)
SWIN = dict(
    arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]), img_size=64, window_size=2, drop_path_rate=0.0
)
TARGETS = ['qkv', 'proj', 'ffn.layers.0.0']
KINDS = ['MoSLoRA', 'MELoRA', 'GLoRA', 'PiSSA', 'DoRA']
CASES = {
    **{kind: dict(kind=kind) for kind in KINDS},
    'MoSLoRA-kaiming': dict(kind='MoSLoRA', adapter_cfg=dict(init='kaiming'), lora_alpha=8, lora_dropout=0.0),
    'MELoRA-4': dict(kind='me-lora', adapter_cfg=dict(num_groups=4), lora_ranks=4, lora_slices='qkv'),
    'GLoRA-vectors': dict(kind='GLoRA', adapter_cfg=dict(supports=dict(A='vector', B='none', C='lora'))),
    'PiSSA-whole': dict(kind='PiSSA', lora_slices=None, lora_scaling='constant'),
    'DoRA-ranks': dict(
        kind='DoRA', lora_ranks={'layers.0.attn.proj': 3, 'layers.1.attn.proj': 0}, targets=['attn.proj']
    ),
}
IMAGE = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def config(case: str, **backbone) -> dict:
    cfg = dict(type='AdaptedBackbone', targets=TARGETS, lora_ranks=2) | CASES[case]
    return copy.deepcopy(dict(cfg, backbone=dict(type='VisionTransformer', **VIT, **backbone)))


def train(model: nn.Module, steps: int = 2) -> None:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(IMAGE)[-1] - 1).square().mean().backward()
        optimizer.step()
    model.eval()


@pytest.fixture(scope='module')
def plain(tmp_path_factory) -> tuple[nn.Module, str]:
    torch.manual_seed(11)
    model = VisionTransformer(**VIT)
    model.init_weights()
    path = tmp_path_factory.mktemp('weights') / 'vit.pth'
    torch.save(model.state_dict(), path)
    model.double()
    model.eval()
    return model, str(path)


@pytest.mark.parametrize('case', CASES)
def test_load_train_save_load_merge(case, plain, tmp_path):
    base, path = plain
    torch.manual_seed(0)
    model = MODELS.build(config(case, init_cfg=dict(type='Pretrained', checkpoint=path)))
    model.init_weights()
    model.double()
    model.eval()
    assert torch.equal(model(IMAGE)[-1], base(IMAGE)[-1]), 'it starts from the function of the loaded weights'

    before = {k: v.clone() for k, v in model.state_dict().items()}
    train(model)
    learned = adapter_parameter_names(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != (key in learned), key
    for key, value in base.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), f'{key} must be that of the checkpoint'
    expected = model(IMAGE)[-1]
    assert not torch.allclose(expected, base(IMAGE)[-1])

    torch.save({'state_dict': model.state_dict()}, tmp_path / 'trained.pth')
    torch.manual_seed(5)
    twin = MODELS.build(config(case)).double()
    twin.init_weights()
    load_checkpoint(twin, str(tmp_path / 'trained.pth'))
    twin.eval()
    assert torch.equal(twin(IMAGE)[-1], expected)
    state = {f'backbone.{k}': v for k, v in model.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'whole.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth'), prefix='backbone.')
    other = MODELS.build(config(case, init_cfg=init_cfg)).double()
    other.init_weights()
    other.eval()
    assert torch.equal(other(IMAGE)[-1], expected)

    bare = VisionTransformer(**VIT).double()
    bare.load_state_dict(merged_state_dict(model), strict=True)
    bare.eval()
    torch.testing.assert_close(bare(IMAGE)[-1], expected, rtol=0, atol=1e-10)
    merge_adapters(model)
    torch.testing.assert_close(model(IMAGE)[-1], expected, rtol=0, atol=1e-10)
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())
    unmerge_adapters(model)
    assert torch.equal(model(IMAGE)[-1], expected)
    to_plain(model)
    torch.testing.assert_close(model(IMAGE)[-1], expected, rtol=0, atol=1e-10)
    bare.load_state_dict(model.state_dict(), strict=True)


def principal(weight: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(weight.detach())
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def check_principal(model: nn.Module) -> None:
    for name, layer in adapted_layers(model).items():
        for part, (a, b) in layer.factors().items():
            product = layer.scalings[part] * (b @ a).detach()
            wanted = principal(layer.weight[layer.rows(part)], layer.ranks[part])
            torch.testing.assert_close(product, wanted, rtol=0, atol=1e-5, msg=lambda m, n=name: f'{n}: {m}')


class TestStartOfPiSSA:
    def test_loaded_by_init_cfg(self, plain):
        model = MODELS.build(config('PiSSA', init_cfg=dict(type='Pretrained', checkpoint=plain[1])))
        model.init_weights()
        check_principal(model)

    def test_loaded_by_the_runner(self, plain, tmp_path):
        state = {f'backbone.{k}': v for k, v in torch.load(plain[1], weights_only=True).items()}
        torch.save({'state_dict': state}, tmp_path / 'whole.pth')
        model = MODELS.build(dict(type='ImageClassifier', backbone=config('PiSSA')))
        model.init_weights()
        load_checkpoint(model, str(tmp_path / 'whole.pth'), strict=False)
        check_principal(model.backbone)

    @pytest.mark.parametrize('init_cfg', [None, dict(type='Normal', layer='Linear', std=0.3)])
    @pytest.mark.parametrize('first', ['forward', 'state_dict'])
    def test_drawn_anew_by_init_weights(self, init_cfg, first):
        model = MODELS.build(config('PiSSA', init_cfg=init_cfg))
        before = model.layers[0].ffn.layers[0][0].weight.clone()
        model.init_weights()
        assert not torch.equal(model.layers[0].ffn.layers[0][0].weight, before), 'the weights must be drawn anew here'
        model.state_dict() if first == 'state_dict' else model(IMAGE.float())
        check_principal(model)

    def test_averaged_copies_are_left_alone(self, plain):
        """An averaged model is a copy from before loading, whose tensors are written behind its back."""
        model = MODELS.build(config('PiSSA', init_cfg=dict(type='Pretrained', checkpoint=plain[1])))
        average = copy.deepcopy(model)
        model.init_weights()
        model.double()
        train(model)
        for own, other in zip(
            [*average.parameters(), *average.buffers()], [*model.parameters(), *model.buffers()], strict=True
        ):
            own.data = other.data.clone()
        average.eval()
        assert torch.equal(average(IMAGE)[-1], model(IMAGE)[-1])


@pytest.mark.parametrize('kind', KINDS)
class TestGuard:
    def test_some_but_not_all_tensors_are_refused(self, kind):
        model = MODELS.build(config(kind))
        state = model.state_dict()
        name = sorted(adapter_tensor_names(model))[-1]
        state.pop(name)
        with pytest.raises(ValueError, match=f'other modules.*{name}'):
            model.load_state_dict(state, strict=False)

    def test_tensors_of_lora_are_refused(self, kind):
        lora = MODELS.build(dict(config(kind), kind='LoRA'))
        with pytest.raises(ValueError, match='adapts other modules|another rank'):
            MODELS.build(config(kind)).load_state_dict(lora.state_dict(), strict=False)
        with pytest.raises(ValueError, match='adapts other modules|another rank'):
            lora.load_state_dict(MODELS.build(config(kind)).state_dict(), strict=False)

    def test_another_rank_is_refused(self, kind):
        model = MODELS.build(dict(config(kind), lora_ranks=4))
        with pytest.raises(ValueError, match='another rank'):
            MODELS.build(config(kind)).load_state_dict(model.state_dict(), strict=False)


@pytest.mark.parametrize('kind', KINDS)
def test_swin(kind):
    torch.manual_seed(0)
    cfg = dict(type='AdaptedBackbone', targets=['w_msa.qkv', 'w_msa.proj'], lora_ranks=2, kind=kind)
    model = MODELS.build(dict(cfg, backbone=dict(type='SwinTransformer', **SWIN))).double()
    model.init_weights()
    with torch.no_grad():
        for name in adapter_parameter_names(model):
            model.get_parameter(name).add_(0.2 * torch.randn(model.get_parameter(name).shape, dtype=torch.float64))
    model.eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    bare = SwinTransformer(**SWIN).double()
    bare.load_state_dict(merged_state_dict(model), strict=True)
    bare.eval()
    torch.testing.assert_close(bare(x)[-1], model(x)[-1], rtol=0, atol=1e-10)


# ViT-B/16: q and v of 12 fused qkv and 12 proj, of 768 inputs and outputs each, with rank 8.
SITES, WIDTH, RANK = 36, 768, 8
COUNTS = {
    'MoSLoRA': (dict(), 2 * WIDTH * RANK + RANK**2),
    'MELoRA': (dict(adapter_cfg=dict(num_groups=4)), 2 * WIDTH * RANK // 4),
    'GLoRA': (dict(), 2 * 2 * WIDTH * RANK + 3 * WIDTH),
    'PiSSA': (dict(), 2 * WIDTH * RANK),
    'DoRA': (dict(), 2 * WIDTH * RANK + WIDTH),
}


@pytest.mark.parametrize('kind', COUNTS)
def test_parameter_counts(kind):
    own, each = COUNTS[kind]
    with Skeleton():
        model = MODELS.build(
            dict(type='AdaptedBackbone', targets=['qkv', 'proj'], lora_ranks=RANK, kind=kind, **own,
                 backbone=dict(type='VisionTransformer', arch='base'))
        )  # fmt: skip
    assert parameter_report(model).trainable == SITES * each


def test_arguments_that_a_kind_has_not_are_refused():
    with pytest.raises(ValueError, match="'GLoRA' have no alpha"):
        MODELS.build(dict(config('GLoRA'), lora_alpha=4))
    with pytest.raises(TypeError, match=r"'DoRA' has no \['num_groups'\]: it takes \['lora_dtype'\]"):
        MODELS.build(dict(config('DoRA'), adapter_cfg=dict(num_groups=2)))
    with pytest.raises(TypeError, match=r"no \['alpha', 'layout'\]: it takes \['num_groups', 'lora_dtype'\]"):
        MODELS.build(dict(config('MELoRA'), adapter_cfg=dict(layout='vkq', alpha=8)))


def test_the_start_of_a_kind_is_not_that_of_what_is_scaled_beside_it():
    model = MODELS.build(dict(
        type='AdaptedBackbone', kind='MoSLoRA', targets=['proj'], lora_ranks=2, scale_shift=['ln1'],
        adapter_cfg=dict(init='kaiming'),
        backbone=dict(type='VisionTransformer', img_size=16, patch_size=8, arch=dict(
            embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8))))  # fmt: skip
    starts = {type(layer).__name__: layer.init for layer in adapter_modules(model).values()}
    assert starts == {'MoSLoRALinear': 'kaiming', 'ScaleShiftLayerNorm': 'published'}
