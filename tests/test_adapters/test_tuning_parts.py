"""What tuned backbones are made of: names of kinds, scaled layers, bottlenecks and prompts alone."""

import copy

import pytest
import torch
import torch.nn as nn

from mmlora.adapters import KINDS, SSF, BitFit, LowRankLinear, Tuning, freeze, inject, look_up_kind
from mmlora.adapters.bottleneck import Bottleneck, bottleneck
from mmlora.adapters.freeze import release_norms
from mmlora.adapters.kinds import look_up_linear_kind
from mmlora.adapters.scale_shift_layers import ScaleShiftBatchNorm2d, ScaleShiftLayerNorm2d, ScaleShiftLinear
from mmlora.adapters.vpt import insert_prompts, split_prompts


class TestKinds:
    def test_every_spelling(self):
        for name in ('LinearProbe', 'linear_probe', 'LINEAR-PROBE', 'linearprobe'):
            assert look_up_kind(name) is KINDS['linearprobe']

    def test_keys_are_lower_case_letters_and_classes_are_of_two_sorts(self):
        for key, kind in KINDS.items():
            assert key.isalpha() and key.islower()
            assert issubclass(kind, LowRankLinear) != issubclass(kind, Tuning)
            assert look_up_kind(kind.__name__.removesuffix('Linear')) is kind

    def test_unknown_names(self):
        with pytest.raises(ValueError, match=r"'Adapt-Forma': did you mean one of \['adaptformer'\]"):
            look_up_kind('Adapt-Forma')
        with pytest.raises(ValueError, match="'zzz': choose one of"):
            look_up_kind('zzz')
        with pytest.raises(TypeError, match='kind must be the name of a kind of adapter, got None'):
            look_up_kind(None)

    def test_the_injector_takes_linear_kinds_alone(self):
        assert look_up_linear_kind('LoRA') is KINDS['lora']
        with pytest.raises(ValueError, match=r"'VPT' adapts a whole backbone.*VPT\(...\).attach\(backbone\)"):
            inject(nn.Sequential(nn.Linear(4, 4)), ['0'], 1, kind='VPT')


def batch_norm() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(3, dtype=torch.float64)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer.eval()


class LayerNorm2d(nn.LayerNorm):
    """A layer normalisation over channels, as mmpretrain has one."""

    def __init__(self, num_channels, **kwargs):
        super().__init__(num_channels, **kwargs)

    def forward(self, x, data_format='channel_first'):
        if data_format == 'channel_last':
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


LayerNorm2d.__module__ = 'mmpretrain.models.utils.norm'
LAYERS = {
    'linear': (lambda: nn.Linear(3, 5, dtype=torch.float64), ScaleShiftLinear, (2, 4, 3), (-1,)),
    'without a bias': (lambda: nn.Linear(3, 5, bias=False, dtype=torch.float64), ScaleShiftLinear, (2, 3), (-1,)),
    'batch norm': (batch_norm, ScaleShiftBatchNorm2d, (2, 3, 4, 4), (-1, 1, 1)),
    'layer norm of images': (
        lambda: LayerNorm2d(3, eps=1e-3, dtype=torch.float64), ScaleShiftLayerNorm2d, (2, 3, 4, 4), (-1, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', LAYERS)
class TestLayers:
    def build(self, case):
        torch.manual_seed(0)
        make, kind, shape, column = LAYERS[case]
        layer = make().eval()
        assert kind.takes(layer)
        adapted = kind.from_layer(copy.deepcopy(layer))
        x = torch.randn(shape, dtype=torch.float64)
        wanted = layer(x) * adapted.ssf_scale.reshape(column) + adapted.ssf_shift.reshape(column)
        return layer, adapted, x, wanted

    def test_the_output_is_scaled_and_shifted(self, case):
        layer, adapted, x, wanted = self.build(case)
        assert not torch.allclose(layer(x), wanted)
        torch.testing.assert_close(adapted(x), wanted, rtol=0, atol=1e-10)
        if case == 'layer norm of images':
            last = adapted(x.permute(0, 2, 3, 1), data_format='channel_last').permute(0, 3, 1, 2)
            torch.testing.assert_close(last, wanted, rtol=0, atol=1e-10)
            with pytest.raises(ValueError, match="got 'first'"):
                adapted(x, data_format='first')

    def test_merging(self, case):
        layer, adapted, x, wanted = self.build(case)
        before = copy.deepcopy(adapted.state_dict())
        plain = adapted.to_plain()
        assert type(plain) is type(layer)
        adapted.merge()
        for other in (plain, adapted):
            torch.testing.assert_close(other(x), wanted, rtol=0, atol=1e-10)
        adapted.train()
        with pytest.raises(RuntimeError, match='cannot be trained'):
            adapted(x)
        assert {k: v.tolist() for k, v in adapted.state_dict().items()} == {k: v.tolist() for k, v in before.items()}
        adapted.unmerge().eval()
        torch.testing.assert_close(adapted(x), wanted, rtol=0, atol=1e-10)

    def test_gradients(self, case):
        layer, adapted, x, wanted = self.build(case)
        adapted.train()
        scale, shift = adapted.ssf_scale, adapted.ssf_shift
        own = torch.autograd.grad(adapted(x).square().sum(), (scale, shift))
        for mine, other in zip(own, torch.autograd.grad(wanted.square().sum(), (scale, shift)), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
        assert {n for n, p in adapted.named_parameters() if p.requires_grad} == {'ssf_scale', 'ssf_shift'}


def test_layers_that_cannot_be_scaled():
    with pytest.raises(ValueError, match='without running statistics'):
        ScaleShiftBatchNorm2d.from_layer(nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match='without a weight'):
        ScaleShiftBatchNorm2d.from_layer(nn.BatchNorm2d(3, affine=False))
    with pytest.raises(TypeError, match='a Linear only, got a Conv2d'):
        ScaleShiftLinear.from_layer(nn.Conv2d(3, 3, 1))


def test_ssf_leaves_out_convolutions_that_a_batch_norm_covers():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    tuning = SSF()
    tuning.attach(model)
    assert [name for name, m in model.named_modules() if hasattr(m, 'ssf_scale')] == ['1', '2', '3']
    tuning.detach(model)
    assert [type(m) for m in model] == [nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.Conv2d]
    last = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1, bias=False))
    SSF().attach(last)
    assert hasattr(last[1], 'ssf_shift')


def test_ssf_detaches_after_moves_and_merges():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    x, tuning = torch.randn(2, 3), SSF()
    wanted = model(x)
    tuning.attach(model)
    model.double().float()
    model[0].merge()
    tuning.detach(model)
    assert torch.equal(model(x), wanted) and all(p.requires_grad for p in model.parameters())


def test_a_bottleneck():
    torch.manual_seed(0)
    like = torch.zeros(1, dtype=torch.float64)
    own = Bottleneck(4, 2, 0.5, like, torch.relu, nn.init.normal_, scaling=0.3)
    x = torch.randn(64, 4, dtype=torch.float64)
    assert not own(x).any() and not own.down_bias.any()
    for parameter in own.parameters():
        nn.init.normal_(parameter)
    hidden = (x @ own.down_weight.T + own.down_bias).clamp(min=0)
    wanted = 0.3 * (hidden @ own.up_weight.T + own.up_bias)
    assert not torch.allclose(own(x), wanted)  # Dropout.
    own.eval()
    torch.testing.assert_close(own(x), wanted, rtol=0, atol=1e-12)
    down, up = (own.down_weight, own.down_bias), (own.up_weight, own.up_bias)
    whole = bottleneck(x, down, torch.relu, up, 0.0) * 0.3
    assert torch.equal(own(x), whole) and torch.equal(own.add_to(own, (x,), x), x + whole)
    assert 'bottleneck=2' in repr(own)
    own.reset_adapter()
    assert not own(x).any()


def test_prompts_go_in_and_come_out():
    x, prompts = torch.arange(10.0).reshape(1, 5, 2), torch.full((1, 2, 2), 7.0)
    for at in (0, 1, 2):
        whole = insert_prompts(x, prompts, at)
        assert torch.equal(whole[:, at : at + 2], prompts)
        tokens, own = split_prompts(whole, 2, at)
        assert torch.equal(tokens, x) and torch.equal(own, prompts)


def test_biases_are_found_by_whole_names():
    model = nn.Module()
    model.attn = nn.MultiheadAttention(4, 2)
    model.bias_table = nn.Parameter(torch.zeros(3))
    model.unbiased = nn.Linear(2, 2, bias=False)
    model.relative_position_bias = nn.Parameter(torch.zeros(3))
    tuning = BitFit()
    tuning.attach(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {'attn.in_proj_bias', 'attn.out_proj.bias'}
    with pytest.raises(ValueError, match='this Linear has none'):
        BitFit().attach(nn.Linear(2, 2, bias=False))


def test_norms_are_released():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    freeze(model, {'1.weight'})
    model.train()
    model(torch.randn(2, 3, 4, 4))
    assert not model[0].training
    release_norms(model)
    assert model[0].training and not model._forward_pre_hooks
    model(torch.randn(2, 3, 4, 4))
    assert model[0].training
    release_norms(model)
