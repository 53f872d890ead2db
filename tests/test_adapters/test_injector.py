"""Injection, freezing, merging and the report on whole models."""

import copy

import pytest
import torch
import torch.nn as nn
from mmpretrain.models import BEiTViT, ResNet, VisionTransformer

from mmlora.adapters import (
    LoRALinear,
    SlicedLoRALinear,
    adapted_layers,
    adapter_parameter_names,
    freeze,
    inject,
    inject_exact,
    merge_adapters,
    merged_state_dict,
    parameter_report,
    unmerge_adapters,
)

ARCH = dict(embed_dims=16, num_layers=12, num_heads=2, feedforward_channels=32)


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(arch=ARCH, img_size=32, patch_size=16)


def fill(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if '.lora_' in name:
            nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize(
    ('targets', 'count'),
    [
        (['attn.qkv', 'attn.proj'], 24),
        ('qkv', 12),
        (r'layers\.[0-2]\.attn\..*', 6),
        (['layers.1.attn.qkv'], 1),  # not layers.11
        (['ffn.layers.0.0', r'.*\.ffn\.layers\.1'], 24),  # mmcv's subclass of nn.Linear
    ],
)
def test_patterns(vit, targets, count):
    assert len(inject(vit, targets, rank=2)) == count == len(adapted_layers(vit))


def test_a_fused_projection_gets_slices_and_others_do_not(vit):
    layers = inject(vit, ['qkv', 'proj'], rank=2)
    assert {type(layer) for name, layer in layers.items() if name.endswith('qkv')} == {SlicedLoRALinear}
    assert {type(layer) for name, layer in layers.items() if name.endswith('proj')} == {LoRALinear}


def test_slices_none_adapts_a_fused_projection_as_one_weight(vit):
    assert {type(layer) for layer in inject(vit, 'qkv', rank=2, slices=None).values()} == {LoRALinear}


def test_ranks_by_pattern_and_rank_zero(vit):
    layers = inject(vit, ['qkv', 'proj'], rank=2, ranks={'proj': 3, 'layers.0.attn.proj': 0, 'layers.1.attn.qkv': 5})
    assert 'layers.0.attn.proj' not in layers and isinstance(vit.layers[0].attn.proj, nn.Linear)
    assert layers['layers.1.attn.proj'].ranks == {'': 3}
    assert layers['layers.1.attn.qkv'].ranks == {'q': 5, 'v': 5}
    assert layers['layers.11.attn.qkv'].ranks == {'q': 2, 'v': 2}


def test_a_fresh_adapter_changes_nothing_and_a_filled_one_does(vit):
    x = torch.randn(2, 3, 32, 32)
    vit.eval()
    before = vit(x)[0]
    inject(vit, ['qkv', 'proj', 'ffn.layers.0.0'], rank=2)
    assert torch.equal(vit(x)[0], before)
    fill(vit)
    assert not torch.allclose(vit(x)[0], before)


def test_frozen_means_bit_equal_after_steps(vit):
    inject(vit, ['qkv', 'proj'], rank=2)
    names = adapter_parameter_names(vit)
    freeze(vit, names)
    state = copy.deepcopy(vit.state_dict())
    optimizer = torch.optim.AdamW([p for p in vit.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        vit(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
        for name in names:
            assert vit.get_parameter(name).grad is not None, f'no gradient for {name}'
        optimizer.step()
    for key, value in vit.state_dict().items():
        assert torch.equal(value, state[key]) == (key not in names), key


def test_freeze_takes_exact_names(vit):
    freeze(vit, ['ln1.weight'])
    assert [n for n, p in vit.named_parameters() if p.requires_grad] == ['ln1.weight']
    with pytest.raises(ValueError, match="'ln1'"):
        freeze(vit, ['ln1'])


def test_frozen_batch_norm_keeps_its_statistics():
    model = ResNet(18, stem_channels=8, base_channels=8)
    freeze(model)
    x = torch.randn(4, 3, 32, 32)
    model.eval()
    expected, state = model(x)[0], copy.deepcopy(model.state_dict())
    model.train()
    assert torch.equal(model(x)[0], expected)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    twin = copy.deepcopy(model)
    twin.train()
    assert torch.equal(twin(x)[0], expected)


def test_merging_a_model_and_its_plain_weights():
    torch.manual_seed(0)
    vit = VisionTransformer(arch=ARCH, img_size=32, patch_size=16).double()
    plain = copy.deepcopy(vit)
    inject(vit, ['qkv', 'proj', 'ffn.layers.0.0'], rank=2)
    fill(vit)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    vit.eval(), plain.eval()
    expected = vit(x)[0]
    assert not torch.allclose(plain(x)[0], expected)
    state = merged_state_dict(vit)
    plain.load_state_dict(state, strict=True)
    torch.testing.assert_close(plain(x)[0], expected, rtol=0, atol=1e-10)
    assert merge_adapters(vit) == 36
    torch.testing.assert_close(vit(x)[0], expected, rtol=0, atol=1e-10)
    assert all(torch.equal(value, state[key]) for key, value in merged_state_dict(vit).items())
    assert unmerge_adapters(vit) == 36
    assert torch.equal(vit(x)[0], expected)


def test_report(vit):
    inject(vit, ['qkv', 'proj'], rank=2)
    freeze(vit, {*adapter_parameter_names(vit), 'ln1.bias'})
    report = parameter_report(vit)
    assert report.trainable == 12 * (4 * 16 * 2 + 2 * 16 * 2) + 16
    assert report.total == sum(p.numel() for p in vit.parameters())
    assert report.others == {'ln1.bias': 16}
    assert report.rows[0].module == 'layers.0.attn.qkv' and report.rows[0].trainable == 4 * 16 * 2
    assert f'{report.trainable:,} of {report.total:,}' in str(report) and 'layers.11.attn.proj' in str(report)


def test_a_pattern_without_a_match_lists_near_misses(vit):
    with pytest.raises(ValueError, match=r"'attn.qvk' matches no linear layer.*attn.qkv"):
        inject(vit, ['attn.qvk'], rank=2)
    with pytest.raises(ValueError, match=r'layers.12.attn.qkv'):
        inject(vit, ['attn.qkv'], ranks={'layers.12.attn.qkv': 3})
    assert not adapted_layers(vit)


def test_a_rank_that_does_not_fit_names_the_layer_and_leaves_the_model(vit):
    with pytest.raises(ValueError, match=r'layers.0.attn.proj: rank must lie in 1..16 .*got 17'):
        inject(vit, ['attn.qkv', 'attn.proj'], ranks={'attn.proj': 17})
    assert not adapted_layers(vit)


def test_bad_kind_and_bad_pattern(vit):
    with pytest.raises(ValueError, match=r"'adalora'.*lora"):
        inject(vit, ['qkv'], kind='adalora')
    with pytest.raises(ValueError, match='regular expression'):
        inject(vit, ['qkv('])


def test_layers_that_are_never_called_are_refused():
    model = nn.Sequential(nn.MultiheadAttention(8, 2))
    with pytest.raises(ValueError, match='never calls it'):
        inject(model, ['out_proj'], rank=2)
    beit = BEiTViT(arch=ARCH, img_size=32, patch_size=16)
    with pytest.raises(ValueError, match='BEiTAttention'):
        inject(beit, ['attn.qkv'], rank=2)


class Block(nn.Module):
    """Stand-in for attention with fused projections."""

    def __init__(self):
        super().__init__()
        self.kv, self.fc = nn.Linear(8, 16), nn.Linear(8, 8)
        self.sub = nn.ModuleDict({'fc': nn.Linear(8, 8)})
        self.tied = self.fc


def test_a_fused_kv():
    layers = inject(Block(), ['kv'], rank=2)
    assert layers['kv'].ranks == {'v': 2}
    assert inject(Block(), ['kv'], rank=2, slices='qkv')['kv'].ranks == {'k': 2, 'v': 2}
    with pytest.raises(ValueError, match="none of which is among the slices 'q'"):
        inject(Block(), ['kv'], rank=2, slices='q')


@pytest.mark.parametrize('slices', ['qx', 'x'])
def test_unknown_slices(slices):
    with pytest.raises(ValueError, match=f'got {slices!r}'):
        inject(Block(), ['kv'], rank=2, slices=slices)


def test_exact_names_are_no_patterns():
    layers = inject_exact(Block(), {'sub.fc': 4, 'fc': 2})
    assert {name: layer.ranks for name, layer in layers.items()} == {'sub.fc': {'': 4}, 'fc': {'': 2}}


def test_a_shared_layer_is_adapted_under_all_its_names():
    model = Block()
    inject(model, [r'fc'], ranks={'sub.fc': 0})
    assert isinstance(model.fc, LoRALinear) and model.tied is model.fc


def test_a_layer_that_computes_something_else_is_refused():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(TypeError, match='a.*got a Doubled'):
        inject(nn.ModuleDict({'a': Doubled(4, 4)}), ['a'], rank=1)


def test_heads_beside_each_other_are_refused():
    from mmpretrain.models.utils.attention import LeAttention

    model = nn.ModuleDict({'attn': LeAttention(8, 4, 2)})
    with pytest.raises(ValueError, match='LeAttention.*slices=None'):
        inject(model, ['attn.qkv'], rank=1)
    assert type(inject(model, ['attn.qkv'], rank=1, slices=None)['attn.qkv']) is LoRALinear


def test_frozen_batch_norm_thaws_and_survives_conversion():
    x = torch.randn(4, 3, 32, 32)
    model = ResNet(18, stem_channels=8, base_channels=8)
    freeze(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    converted.train()
    state = copy.deepcopy(converted.state_dict())
    converted.eval()
    converted(x)
    converted.train()
    for module in converted.modules():
        module.training = True
    converted(x)
    assert all(torch.equal(value, state[key]) for key, value in converted.state_dict().items())
    model = ResNet(18, stem_channels=8, base_channels=8)
    freeze(model)
    freeze(model, [name for name, _ in model.named_parameters()])
    before = model.bn1.running_mean.clone()
    model.train()
    model(x)
    assert not torch.equal(model.bn1.running_mean, before)


def test_a_bare_linear_is_no_model():
    with pytest.raises(ValueError, match='from_linear'):
        inject(nn.Linear(4, 4), ['.*'], rank=1)
