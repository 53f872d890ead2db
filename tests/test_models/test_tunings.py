"""Backbones adapted as a whole: methods x backbones x invariants."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.nn as nn
from mmcv.cnn.bricks.wrappers import Conv2d
from mmengine.model import ExponentialMovingAverage
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS

from mmlora.adapters import (
    SSF,
    VPT,
    AdaptFormer,
    BitFit,
    Houlsby,
    LayerNormTune,
    adapter_parameter_names,
    added_modules,
    find_tuning,
    look_up_kind,
    merge_adapters,
    merged_state_dict,
    parameter_report,
    to_plain,
    unmerge_adapters,
)
from mmlora.models.backbones.skeleton import Skeleton

ARCH = dict(embed_dims=16, num_layers=3, num_heads=4, feedforward_channels=32)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8)
BACKBONES = {
    'vit': VIT,
    'vit_maps': dict(VIT, out_type='avg_featmap', out_indices=[0, 2], layer_scale_init_value=0.5),
    'swin': dict(
        type='SwinTransformer', img_size=32, window_size=2, drop_path_rate=0.0,
        arch=dict(embed_dims=8, depths=[1, 2], num_heads=[1, 2]), out_indices=(0, 1),
    ),
    'convnext': dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[4, 8, 8, 16]), drop_path_rate=0.0),
    'resnet': dict(type='ResNet', depth=18, stem_channels=4, base_channels=4),
}  # fmt: skip
ALL = tuple(BACKBONES)
TRANSFORMERS, VITS = ALL[:3], ALL[:2]
KINDS = {
    'SSF': (dict(), ALL),
    'BitFit': (dict(), ALL),
    'LinearProbe': (dict(), ALL),
    'FullFineTune': (dict(), ALL),
    'LayerNormTune': (dict(), ALL[:-1]),
    'VPT': (dict(num_tokens=3), VITS),
    'VPT shallow': (dict(num_tokens=3, deep=False), VITS),
    'Houlsby': (dict(bottleneck=5, dropout=0.2), TRANSFORMERS),
    'Houlsby norms': (dict(bottleneck=5, norms=True), TRANSFORMERS),
    'AdaptFormer': (dict(bottleneck=5, scale=0.5), TRANSFORMERS),
}
CASES = [(kind, where) for kind, (_, fits) in KINDS.items() for where in fits]
ADDS = ('VPT', 'Houlsby', 'AdaptFormer')
"""Methods that add modules, which no plain model takes."""


def config(kind: str, where: str | dict, **options) -> dict:
    inner = BACKBONES[where] if isinstance(where, str) else where
    cfg = dict(type='mmlora.AdaptedBackbone', backbone=inner, kind=kind.split()[0], adapter_cfg=KINDS[kind][0])
    return copy.deepcopy(dict(cfg, **options))


def build(kind: str, where: str | dict, **options) -> nn.Module:
    torch.manual_seed(0)
    return evaluating(MODELS.build(config(kind, where, **options)).double())


def plain(where: str | dict) -> nn.Module:
    torch.manual_seed(7)
    return evaluating(MODELS.build(copy.deepcopy(BACKBONES[where] if isinstance(where, str) else where)).double())


def evaluating(model: nn.Module, mode: bool = True) -> nn.Module:
    model.train(not mode)  # Returns nothing for mmpretrain's backbones.
    return model


def stir(model: nn.Module, names: set[str] | None = None) -> nn.Module:
    """Move what learns, or the named parameters, by chance."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad if names is None else name in names:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def image(size: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def same_base(model: nn.Module, where: str | dict) -> nn.Module:
    """Return the plain backbone with the frozen weights of an adapted one."""
    other = plain(where)
    state = model.state_dict()
    other.load_state_dict({key: state[key] for key in other.state_dict()}, strict=True)
    return other


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def expected_names(model: nn.Module, kind: str) -> set[str]:
    """Return the names that are to learn, found by other means than the package's."""
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    norms = {f'{name}.{own}' for name in norms for own in ('weight', 'bias')}
    names = {name for name, _ in model.named_parameters()}
    return {
        'SSF': {name for name in names if name.endswith(('.ssf_scale', '.ssf_shift'))},
        'BitFit': {name for name in names if name.endswith('.bias')},
        'LinearProbe': set(),
        'FullFineTune': names,
        'LayerNormTune': norms,
        'VPT': {'vpt_prompts.tokens'},
        'VPT shallow': {'vpt_prompts.tokens'},
        'Houlsby': {name for name in names if '.houlsby_bottleneck.' in name},
        'Houlsby norms': {name for name in names if '.houlsby_bottleneck.' in name} | norms,
        'AdaptFormer': {name for name in names if '.adaptformer_bottleneck.' in name},
    }[kind]


def hooks(model: nn.Module) -> Iterator[int]:
    """Yield how many forward hooks each module has."""
    for module in model.modules():
        yield len(module._forward_hooks) + len(module._forward_pre_hooks)


@pytest.mark.parametrize('kind,where', CASES)
class TestInvariants:
    def test_the_start(self, kind, where):
        model = build(kind, where)
        before = model(image())
        same = same_base(model, where)(image())
        assert equal(before, same) == (kind not in ('SSF', 'VPT', 'VPT shallow'))
        stir(model)
        assert equal(model(image()), before) == (kind == 'LinearProbe')

    def test_what_learns(self, kind, where):
        model = evaluating(stir(build(kind, where)), False)
        names = expected_names(model, kind)
        assert names or kind == 'LinearProbe'
        assert {n for n, p in model.named_parameters() if p.requires_grad} == names == model.tuning.learned(model)
        total = sum(out.square().sum() for out in model(image()))
        if names:
            total.backward()
        flat = {n for n in names if model.get_parameter(n).grad is None or not model.get_parameter(n).grad.any()}
        assert not flat, f'no gradient for {sorted(flat)}'
        assert all(p.grad is None for n, p in model.named_parameters() if n not in names)

    def test_what_is_frozen_stays_bit_for_bit(self, kind, where):
        model = evaluating(build(kind, where), False)
        names = expected_names(model, kind)
        before = copy.deepcopy(model.state_dict())
        if names:
            optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1, weight_decay=0.1)
        for _ in range(2):
            loss = sum(out.square().mean() for out in model(image()))
            if names:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        # Batch normalisations whose biases learn are not frozen, and neither are their statistics.
        free = ('running_mean', 'running_var', 'num_batches_tracked') if kind in ('BitFit', 'FullFineTune') else ()
        changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        changed = {key for key in changed if not key.endswith(free)} if free else changed
        assert changed <= names and (changed or not names)

    def test_copies(self, kind, where):
        model = stir(build(kind, where))
        wanted = model(image())
        averaged = ExponentialMovingAverage(model, momentum=0.5).module
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), averaged):
            assert equal(twin(image()), wanted)
            if kind != 'LinearProbe':
                with torch.no_grad():
                    for name in expected_names(twin, kind):
                        twin.get_parameter(name).add_(0.5)
                assert not equal(twin(image()), wanted) and equal(model(image()), wanted)
            twin.tuning.detach(twin)
            assert find_tuning(twin) is None and find_tuning(model) is model.tuning

    def test_loading(self, kind, where):
        model, other = stir(build(kind, where)), build(kind, where)
        state = model.state_dict()
        assert not other.load_state_dict(state, strict=True).missing_keys and equal(other(image()), model(image()))
        added = adapter_parameter_names(model)
        bare = {key: value for key, value in state.items() if key not in added}
        assert set(other.load_state_dict(dict(bare), strict=False).missing_keys) == added
        gone = next(iter(bare))
        with pytest.raises(ValueError, match=f'lacks.*{gone}'):
            other.load_state_dict({key: value for key, value in state.items() if key != gone}, strict=False)
        with pytest.raises(ValueError, match='lacks'):
            other.load_state_dict({f'x.{key}': value for key, value in state.items()}, strict=False)
        if len(added) > 1:
            part = sorted(added)[0]
            with pytest.raises(ValueError, match='adapts other modules'):
                other.load_state_dict({key: value for key, value in state.items() if key != part}, strict=False)
        with pytest.raises(ValueError, match='adapts other modules'):
            other.load_state_dict(dict(bare, vpt_strange=torch.zeros(1)), strict=False)

    def test_detaching_leaves_no_trace(self, kind, where):
        reference = plain(where)
        tuning, twin = look_up_kind(kind.split()[0])(**KINDS[kind][0]), copy.deepcopy(reference)
        tuning.attach(twin)
        if kind != 'LinearProbe':
            stir(twin, adapter_parameter_names(twin))
        twin.train()
        twin(image())
        twin.eval()
        tuning.detach(twin)
        state = twin.state_dict()
        assert list(state) == list(reference.state_dict()) and str(twin) == str(reference)
        assert list(hooks(twin)) == list(hooks(reference)) and vars(twin).keys() == vars(reference).keys()
        assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in reference.parameters()]
        if where != 'resnet' or kind not in ('BitFit', 'FullFineTune'):
            assert all(torch.equal(value, reference.state_dict()[key]) for key, value in state.items())
            assert equal(twin(image()), reference(image()))
        tuning.attach(twin)
        assert {n for n, p in twin.named_parameters() if p.requires_grad} == expected_names(twin, kind)

    def test_merging(self, kind, where):
        model = stir(build(kind, where))
        if kind.startswith(ADDS):
            for merge in (merged_state_dict, merge_adapters, to_plain):
                with pytest.raises(ValueError, match=f'{kind.split()[0]} cannot be merged: its'):
                    merge(model)
            return
        wanted = model(image())
        inner = dict(BACKBONES[where])
        if (kind, where) == ('SSF', 'swin'):
            inner['stage_cfgs'] = dict(downsample_cfg=dict(bias=True))
        other = plain(inner)
        other.load_state_dict(merged_state_dict(model), strict=True)
        for own, merged in zip(wanted, other(image()), strict=True):
            torch.testing.assert_close(merged, own, rtol=0, atol=1e-10)
        before = copy.deepcopy(model.state_dict())
        merge_adapters(model)
        for own, merged in zip(wanted, model(image()), strict=True):
            torch.testing.assert_close(merged, own, rtol=0, atol=1e-10)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        unmerge_adapters(model)
        assert equal(model(image()), wanted)
        to_plain(model)
        assert find_tuning(model) is None and not adapter_parameter_names(model)
        for own, merged in zip(wanted, model(image()), strict=True):
            torch.testing.assert_close(merged, own, rtol=0, atol=1e-10)

    def test_initialisation_leaves_what_was_added(self, kind, where):
        model = stir(build(kind, where))
        names = adapter_parameter_names(model)
        before = {name: model.get_parameter(name).clone() for name in names}
        model.init_weights()
        assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())

    def test_the_report(self, kind, where):
        model = build(kind, where)
        report = parameter_report(model)
        names = expected_names(model, kind)
        assert report.trainable == sum(model.get_parameter(name).numel() for name in names)
        assert sum(row.trainable for row in report.rows) + sum(report.others.values()) == report.trainable
        assert set(report.others) == names - adapter_parameter_names(model)


FORMULAS = {
    # D = 768, M = 3072, 12 layers, patches of 16: biases (or outputs) of a layer are 2 D + 3 D + D + M + D.
    'SSF': 2 * (768 + 12 * (7 * 768 + 3072) + 768),
    'BitFit': 768 + 12 * (7 * 768 + 3072) + 768,
    'LinearProbe': 0,
    'FullFineTune': 85_798_656,
    'LayerNormTune': 2 * 768 * 25,
    'VPT': 12 * 10 * 768,
    'VPT shallow': 10 * 768,
    'Houlsby': 24 * (2 * 64 * 768 + 64 + 768),
    'Houlsby norms': 24 * (2 * 64 * 768 + 64 + 768) + 2 * 768 * 25,
    'AdaptFormer': 12 * (2 * 64 * 768 + 64 + 768),
}
KNOWN = {'SSF': 205_824, 'BitFit': 102_912, 'VPT': 92_160, 'Houlsby': 2_379_264, 'AdaptFormer': 1_189_632}


@pytest.mark.parametrize('kind', KINDS)
def test_counts_of_vit_base(kind):
    own = {k: v for k, v in KINDS[kind][0].items() if k in ('deep', 'norms')}
    with Skeleton():
        inner = dict(type='VisionTransformer', arch='base')
        model = MODELS.build(dict(type='AdaptedBackbone', backbone=inner, kind=kind.split()[0], adapter_cfg=own))
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == FORMULAS[kind] == KNOWN.get(kind, count)


def prompted(model: VisionTransformer, prompts: torch.Tensor, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
    """Return the outputs of VPT, written out from the equations on the stock blocks of a plain ViT."""
    n, first = prompts.shape[1], model.num_extra_tokens
    tokens, grid = model.patch_embed(x)
    if first:
        tokens = torch.cat([model.cls_token.expand(len(x), -1, -1), tokens], 1)
    tokens = model.pre_norm(tokens + model.pos_embed)
    head, own, rest = tokens[:, :first], prompts[0].expand(len(x), -1, -1), tokens[:, first:]
    outs = []
    for index, layer in enumerate(model.layers):
        if deep:
            own = prompts[index].expand(len(x), -1, -1)
        z = layer(torch.cat([head, own, rest], 1))
        head, own, rest = z[:, :first], z[:, first : first + n], z[:, first + n :]
        last = index == len(model.layers) - 1
        final = model.ln1 if last else nn.Identity()
        if index in model.out_indices:
            patches = final(rest)
            outs.append({
                'cls_token': lambda head=head, final=final: final(head)[:, 0],
                'raw': lambda head=head, patches=patches, final=final: torch.cat([final(head), patches], 1),
                'avg_featmap': lambda patches=patches: model.ln2(patches.mean(1)),
                'featmap': lambda patches=patches: patches.mT.reshape(len(x), -1, *grid),
            }[model.out_type]())
    return outs


@pytest.mark.parametrize('deep', [True, False])
@pytest.mark.parametrize(
    'inner',
    [
        dict(out_type='cls_token'),
        dict(out_type='raw', out_indices=[0, 1, 2]),
        dict(out_type='avg_featmap', out_indices=[1, 2]),
        dict(out_type='featmap', out_indices=[0, 2], with_cls_token=False),
        dict(out_type='cls_token', out_indices=[0, 2], pre_norm=True),
    ],
    ids=['class', 'raw', 'mean', 'map', 'pre-norm'],
)
def test_prompts_are_those_of_the_equations(inner, deep):
    cfg = dict(VIT, **inner)
    model = stir(build('VPT' if deep else 'VPT shallow', cfg))
    reference = same_base(model, cfg)
    prompts = model.vpt_prompts.tokens
    assert prompts.shape == (3 if deep else 1, 3, 16)
    for own, wanted in zip(model(image()), prompted(reference, prompts, image(), deep), strict=True):
        assert own.shape == wanted.shape
        torch.testing.assert_close(own, wanted, rtol=0, atol=1e-10)
    # Another size of image, with the position embedding resized: the grid is still that of the patches.
    wanted = [out.shape for out in reference(image(48))]
    assert [out.shape for out in model(image(48))] == wanted
    assert model.vpt_prompts._passing is None


def test_prompts_are_drawn_and_dropped_as_published():
    model = build('VPT', dict(VIT, arch=dict(ARCH, embed_dims=512)), adapter_cfg=dict(num_tokens=50, dropout=0.25))
    prompts, bound = model.vpt_prompts, (6 / (3 * 8 * 8 + 512)) ** 0.5
    assert prompts.tokens.abs().max() <= bound
    assert prompts.tokens.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    seen = []
    model.layers[1].register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    model.train()
    model(image())
    inside = seen[0][:, 1:51]
    dropped = inside == 0
    assert 0.2 < dropped.double().mean() < 0.3 and not torch.equal(dropped[0], dropped[1])
    kept = prompts.tokens[1].expand(2, -1, -1)[~dropped] / 0.75
    torch.testing.assert_close(inside[~dropped], kept, rtol=0, atol=1e-12)


def test_bottlenecks_are_those_of_the_equations():
    for kind, deep in (('Houlsby', True), ('AdaptFormer', False)):
        model = stir(build(kind, VIT))
        other = same_base(model, VIT)

        def branch(x, own):
            hidden = x @ own.down_weight.T + own.down_bias
            hidden = nn.functional.gelu(hidden) if kind == 'Houlsby' else hidden.clamp(min=0)  # noqa: B023
            return hidden @ own.up_weight.T + own.up_bias

        tokens, _ = other.patch_embed(image())
        x = torch.cat([other.cls_token.expand(2, -1, -1), tokens], 1) + other.pos_embed
        for mine, layer in zip(model.layers, other.layers, strict=True):
            y = layer.attn(layer.ln1(x))
            x = x + y + (branch(y, mine.attn.houlsby_bottleneck) if deep else 0)
            normed = layer.ln2(x)
            y = layer.ffn.layers(normed)
            if deep:
                x = x + y + branch(y, mine.ffn.houlsby_bottleneck)
            else:
                x = x + y + 0.5 * branch(normed, mine.ffn.adaptformer_bottleneck)
        torch.testing.assert_close(model(image())[-1], other.ln1(x)[:, 0], rtol=0, atol=1e-10)


@pytest.mark.parametrize('where', ALL)
def test_ssf_scales_and_shifts_every_output(where):
    model = stir(build('SSF', where))
    other = same_base(model, where)
    for name, module in other.named_modules():
        own = dict(model.named_modules())[name]
        if not hasattr(own, 'ssf_scale'):
            assert not isinstance(module, nn.Linear | nn.LayerNorm | nn.BatchNorm2d), name
            continue

        def scale(layer, args, kwargs, out, own=own):
            last = out.ndim < 4 or isinstance(layer, nn.Linear) or kwargs.get('data_format') == 'channel_last'
            shape = (-1,) if last else (-1, 1, 1)
            return out * own.ssf_scale.reshape(shape) + own.ssf_shift.reshape(shape)

        module.register_forward_hook(scale, with_kwargs=True)
    for own, wanted in zip(model(image()), other(image()), strict=True):
        torch.testing.assert_close(own, wanted, rtol=0, atol=1e-10)


def test_ssf_takes_the_convolutions_of_mmcv():
    model = nn.Sequential(Conv2d(3, 4, 3), nn.ReLU()).double()
    before = model(image())
    SSF().attach(model)
    with torch.no_grad():
        model[0].ssf_scale.fill_(2)
        model[0].ssf_shift.zero_()
    torch.testing.assert_close(model(image()), 2 * before, rtol=0, atol=1e-10)


def test_frozen_statistics_stay_in_evaluation():
    model = build('SSF', 'resnet')
    model.train()
    before = copy.deepcopy(model.state_dict())
    model(image())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    probed = build('LinearProbe', 'resnet')
    probed.train()
    probed(image())
    assert not any(m.training for m in probed.modules() if isinstance(m, nn.BatchNorm2d))


def test_half_precision_keeps_the_learned_tensors_in_full():
    for kind in ('SSF', *ADDS):
        model = plain('vit').to(torch.bfloat16)
        dict(SSF=SSF, VPT=VPT, Houlsby=Houlsby, AdaptFormer=AdaptFormer)[kind]().attach(model)
        assert {model.get_parameter(n).dtype for n in adapter_parameter_names(model)} == {torch.float32}
        assert model(image().to(torch.bfloat16))[-1].dtype == torch.bfloat16


def test_added_modules_follow_the_mode():
    model = build('AdaptFormer', VIT)
    parts = added_modules(model)
    assert len(parts) == 3 and not any(part.training for part in parts.values())
    model.train()
    assert all(part.training for part in parts.values())


def test_without_freezing_the_backbone_learns_too():
    model = build('VPT', VIT, frozen=False)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="BitFit chooses what learns.*kind='FullFineTune'"):
        build('BitFit', VIT, frozen=False)


def test_full_fine_tuning_keeps_what_the_backbone_fixes():
    model = build('FullFineTune', dict(BACKBONES['resnet'], frozen_stages=1))
    fixed = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert fixed and all(n.startswith(('conv1', 'bn1', 'layer1')) for n in fixed)


class TestErrors:
    @pytest.mark.parametrize(
        'options,match',
        [
            (dict(kind='VPT', adapter_cfg=dict(num_tokens=0)), 'num_tokens must be at least 1, got 0'),
            (dict(kind='VPT', adapter_cfg=dict(dropout=1.0)), r'dropout must lie in \[0, 1\), got 1.0'),
            (dict(kind='Houlsby', adapter_cfg=dict(bottleneck=-2)), 'bottleneck must be at least 1, got -2'),
            (dict(kind='AdaptFormer', adapter_cfg=dict(scale=0)), 'scale must be finite and not 0'),
            (dict(kind='AdaptFormer', adapter_cfg=dict(scale=float('nan'))), 'scale must be finite'),
            (dict(kind='VTP'), "unknown kind of adapter 'VTP': did you mean one of .'vpt'.*choose one of"),
            (dict(kind='VPT', targets=['qkv'], lora_ranks=4), r"'VPT'.*'targets': \['qkv'\], 'lora_ranks': 4"),
            (dict(kind='BitFit', lora_alpha=2.0), "'lora_alpha': 2.0"),
            (dict(kind='SSF', scale_shift=['ln1']), "'scale_shift'"),
            (dict(kind='lora'), 'adapts linear layers: name them'),
        ],
    )
    def test_values(self, options, match):
        with pytest.raises(ValueError, match=match):
            MODELS.build(copy.deepcopy(dict(type='AdaptedBackbone', backbone=VIT, **options)))

    @pytest.mark.parametrize(
        'options,match',
        [
            (dict(kind='VPT', adapter_cfg=dict(num_tokens=2.5)), 'num_tokens must be an integer, got 2.5'),
            (dict(kind='VPT', adapter_cfg=dict(tokens=2)), r"'VPT' has no \['tokens'\]: it takes \['num_tokens'"),
            (dict(kind='BitFit', adapter_cfg=dict(x=2)), 'takes no arguments'),
            (dict(kind='BitFit', adapter_cfg='x'), "adapter_cfg must be a mapping.*got 'x'"),
            (dict(kind='AdaptFormer', adapter_cfg=dict(scale='a')), "scale must be a number, got 'a'"),
            (dict(kind='Houlsby', adapter_cfg=dict(dropout=None)), 'dropout must be a number, got None'),
            (dict(kind='VPT', adapter_cfg=dict(deep='False')), "deep must be True or False, got 'False'"),
            (dict(kind='Houlsby', adapter_cfg=dict(norms='no')), "norms must be True or False, got 'no'"),
            (dict(kind=3), 'kind must be the name'),
        ],
    )
    def test_types(self, options, match):
        with pytest.raises(TypeError, match=match):
            MODELS.build(copy.deepcopy(dict(type='AdaptedBackbone', backbone=VIT, **options)))

    @pytest.mark.parametrize(
        'kind,where,match',
        [
            ('VPT', 'swin', 'VPT needs a backbone.*VisionTransformer; this SwinTransformer is none'),
            ('VPT', 'resnet', 'this ResNet is none'),
            ('Houlsby', 'convnext', 'Houlsby needs a transformer.*this ConvNeXt has 0'),
            ('AdaptFormer', 'resnet', 'AdaptFormer needs a transformer.*this ResNet has none'),
            ('LayerNormTune', 'resnet', 'LayerNormTune needs a backbone with nn.LayerNorm.*this ResNet'),
        ],
    )
    def test_backbones(self, kind, where, match):
        with pytest.raises(ValueError, match=match):
            build(kind, where)

    def test_layers_that_ssf_cannot_scale(self):
        beit = dict(type='BEiTViT', arch=dict(ARCH), img_size=32, patch_size=16)
        with pytest.raises(ValueError, match=r'SSF cannot scale the output of layers\.0\.attn\.qkv: its BEiTAttention'):
            build('SSF', beit)
        with pytest.raises(ValueError, match=r'SSF cannot scale the output of gn1, a GroupNorm'):
            build('SSF', dict(BACKBONES['resnet'], norm_cfg=dict(type='GN', num_groups=2)))

    def test_frozen_stages(self):
        with pytest.raises(ValueError, match='frozen_stages=1 switches .* tensors off that are to learn'):
            build('BitFit', dict(BACKBONES['resnet'], frozen_stages=1))

    def test_reversible_layers_without_a_gradient(self):
        arch = dict(ARCH, num_layers=2)
        reversible = dict(type='RevVisionTransformer', arch=arch, img_size=32, patch_size=8)
        for kind in ('LayerNormTune', 'Houlsby'):
            with pytest.raises(ValueError, match=r'RevVisionTransformer gives its \d+ .*no_custom_backward=True'):
                build(kind, reversible)
        for kind, inner in (('SSF', reversible), ('Houlsby', dict(reversible, no_custom_backward=True))):
            model = evaluating(build(kind, inner), False)
            sum(out.square().sum() for out in model(image())).backward()
            assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def test_a_list_of_initialisers(self):
        with pytest.raises(ValueError, match='init_cfg must be one dict'):
            build('VPT', dict(VIT, init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.02)]))

    def test_twice(self):
        model = build('VPT', VIT)
        with pytest.raises(ValueError, match=r'BitFit cannot be attached: detach the VPT\(num_tokens=3'):
            BitFit().attach(model)
        with pytest.raises(ValueError, match='LayerNormTune is not attached to this VisionTransformer'):
            LayerNormTune().detach(model)
        used = model.tuning
        with pytest.raises(ValueError, match='VPT cannot be attached'):
            used.attach(plain('vit'))

    def test_a_checkpoint_of_another_size(self):
        state = build('VPT', VIT).state_dict()
        other = build('VPT', VIT, adapter_cfg=dict(num_tokens=4))
        with pytest.raises(ValueError, match=r'rank or size: vpt_prompts.tokens .*VPT\(num_tokens=4, deep=True'):
            other.load_state_dict(state, strict=False)
