"""A rank table as a configuration of peft: each module gets the rank and scaling of the table there."""

import json

import pytest
import torch

from mmlora.adapters import adapted_layers
from mmlora.io.peft_config import peft_config
from mmlora.models import VitSR_LoRA
from mmlora.ranks import RankRow, RankTable

peft = pytest.importorskip('peft')

DEPTH = 12
ENDS = ('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1')
LAYERS = RankTable(
    tuple(RankRow(f'layers.{i}.{end}', 1 + (5 * i + j) % 8) for i in range(DEPTH) for j, end in enumerate(ENDS))
)
SLICES = RankTable(
    tuple(
        row
        for i in range(DEPTH)
        for row in (
            RankRow(f'layers.{i}.attn.qkv', 1 + i % 5, slice='q'),
            RankRow(f'layers.{i}.attn.qkv', 1 + i % 7, slice='v'),
            RankRow(f'layers.{i}.attn.proj', i % 3),
        )
    )
)


def timm_vit():
    timm = pytest.importorskip('timm')
    return timm.create_model('vit_tiny_patch16_224', img_size=32, embed_dim=24, num_heads=2, depth=DEPTH)


def hf_vit():
    transformers = pytest.importorskip('transformers', minversion='5')
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=24, num_hidden_layers=DEPTH, num_attention_heads=2, intermediate_size=48, image_size=32
        )
    )


def adapted(model, table, **kwargs) -> dict[str, tuple[int, float]]:
    """Return rank and scaling of the modules that peft adapts, by name, after a trip through JSON."""
    config = json.loads(json.dumps(peft_config(table, **kwargs)[0]))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**config))
    return {
        name.removeprefix('base_model.model.').removeprefix('vit.'): (m.r['default'], m.scaling['default'])
        for name, m in wrapped.named_modules()
        if hasattr(m, 'lora_A') and isinstance(m.lora_A, torch.nn.ModuleDict)
    }


def close(own: dict, expected: dict) -> bool:
    return own == {name: (r, pytest.approx(s, rel=1e-12)) for name, (r, s) in expected.items()}


SCALINGS = [
    (1.0, 'alpha/r', lambda r: 1 / r),
    (16.0, 'alpha/sqrt(r)', lambda r: 16 / r**0.5),
    (2.0, 'constant', lambda r: 2.0),
    (1.0, 0.25, lambda r: 0.25),
]


@pytest.mark.parametrize(('alpha', 'scaling', 'rule'), SCALINGS)
def test_timm(alpha, scaling, rule):
    names = {'attn.qkv': 'attn.qkv', 'attn.proj': 'attn.proj', 'ffn.layers.0.0': 'mlp.fc1', 'ffn.layers.1': 'mlp.fc2'}
    expected = {}
    for row in LAYERS.rows:
        _, block, end = row.module.split('.', 2)
        rank = row.rank * (2 if end == 'attn.qkv' else 1)  # q and v, block-stacked
        expected[f'blocks.{block}.{names[end]}'] = (rank, rule(row.rank))
    assert len(expected) == 4 * DEPTH
    assert close(adapted(timm_vit(), LAYERS, names='timm', alpha=alpha, scaling=scaling), expected)


@pytest.mark.parametrize(('alpha', 'scaling', 'rule'), SCALINGS)
def test_hf_has_layers_of_their_own_for_slices(alpha, scaling, rule):
    expected = {}
    for row in SLICES.rows:
        if row.rank:
            block = row.module.split('.')[1]
            expected[f'layers.{block}.attention.{row.slice or "o"}_proj'] = (row.rank, rule(row.rank))
    assert len(expected) == 2 * DEPTH + 8, 'a projection of rank 0 is left out'
    assert close(adapted(hf_vit(), SLICES, names='hf', alpha=alpha, scaling=scaling), expected)
    assert peft_config(SLICES, 'hf', alpha, scaling)[1] == []


def test_hf_with_one_rank_for_a_layer():
    own = adapted(hf_vit(), LAYERS, names='hf', slices='qkv')
    rows = {row.module: row.rank for row in LAYERS.rows}
    for i in range(DEPTH):
        assert {own[f'layers.{i}.attention.{p}_proj'][0] for p in 'qkv'} == {rows[f'layers.{i}.attn.qkv']}
        assert own[f'layers.{i}.mlp.fc2'][0] == rows[f'layers.{i}.ffn.layers.1']
    assert len(own) == 6 * DEPTH


def test_a_fused_projection_can_hold_what_the_slices_learn():
    """Factors of ours, stacked by blocks, have the rank and scaling that is written and give the same change."""
    torch.manual_seed(0)
    arch = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48)
    ours = VitSR_LoRA(arch=arch, img_size=32, patch_size=16, lora_ranks=[[3, 2]], lora_alpha=4).double()
    layer = adapted_layers(ours)['layers.0.attn.qkv']
    for parameter in layer.adapter_parameters().values():
        torch.nn.init.normal_(parameter)
    config, notes = peft_config(ours.rank_table, 'mmpretrain', alpha=4)
    rank = config['rank_pattern'][r'layers\.0\.attn\.qkv']
    scaling = config['alpha_pattern'][r'layers\.0\.attn\.qkv'] / rank
    a = torch.cat([layer.lora_A_q, layer.lora_A_v])
    b = torch.zeros(72, rank, dtype=torch.float64)
    b[:24, :3], b[48:, 3:] = layer.lora_B_q, layer.lora_B_v
    assert rank == 6 and torch.allclose(scaling * b @ a, layer.delta(), rtol=1e-12, atol=1e-12)
    assert len(notes) == 1 and 'sum of the ranks' in notes[0] and 'layers.0.attn.qkv' in notes[0]


def test_what_peft_cannot_do_is_said():
    config, notes = peft_config(SLICES, 'timm')
    assert len(notes) == 2 and '12 modules' in notes[0] and 'mean, weighted by rank' in notes[1]
    assert config['rank_pattern'][r'blocks\.6\.attn\.qkv'] == 2 + 7
    assert config['alpha_pattern'][r'blocks\.6\.attn\.qkv'] == pytest.approx(2)  # 2 * 1/2 + 7 * 1/7
    assert len(peft_config(SLICES, 'timm', scaling='constant')[1]) == 1
    assert peft_config(LAYERS, 'timm', slices=None)[1] == []


@pytest.mark.parametrize('kind', ['LoRA', 'PiSSA', 'DoRA'])
def test_kinds_that_peft_has(kind):
    config, notes = peft_config(LAYERS, 'timm', slices=None, kind=kind)
    assert notes == []
    torch.manual_seed(0)
    plain = timm_vit()
    weight = plain.blocks[0].attn.proj.weight.detach().clone()
    theirs = peft.get_peft_model(plain, peft.LoraConfig(**config)).base_model.model.blocks[0].attn.proj
    assert bool(theirs.use_dora.get('default')) == (kind == 'DoRA')
    changed = not torch.equal(theirs.base_layer.weight, weight)
    assert changed == (kind == 'PiSSA'), 'PiSSA of peft takes its principal part out of the weight'


def test_kinds_that_peft_has_not_are_said():
    for kind in ('MoSLoRA', 'MELoRA', 'GLoRA', 'RLRR'):
        config, [note] = peft_config(LAYERS, 'timm', slices=None, kind=kind)
        assert repr(kind) in note and config == peft_config(LAYERS, 'timm', slices=None)[0]


@pytest.mark.parametrize('names', ['timm', 'hf'])
def test_swin(names):
    rows = tuple(
        RankRow(f'stages.{s}.blocks.{b}.attn.w_msa.{end}', 1 + s + b)
        for s, b in [(0, 0), (1, 0), (1, 1)]
        for end in ('qkv', 'proj')
    )
    if names == 'timm':
        timm = pytest.importorskip('timm')
        model = timm.create_model('swin_tiny_patch4_window7_224', depths=[1, 2], num_heads=[1, 2], embed_dim=8)
        expected = {f'layers.{s}.blocks.{b}.attn.qkv': 2 * (1 + s + b) for s, b in [(0, 0), (1, 0), (1, 1)]}
        expected |= {f'layers.{s}.blocks.{b}.attn.proj': 1 + s + b for s, b in [(0, 0), (1, 0), (1, 1)]}
    else:
        transformers = pytest.importorskip('transformers', minversion='5')
        config = transformers.SwinConfig(image_size=32, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=4)
        model = transformers.SwinModel(config)
        expected = {
            f'encoder.layers.{s}.blocks.{b}.attention.{p}_proj': 1 + s + b
            for s, b in [(0, 0), (1, 0), (1, 1)]
            for p in 'qvo'
        }
    assert {name: r for name, (r, _) in adapted(model, RankTable(rows), names=names).items()} == expected


def test_names_of_transformers_4():
    config, _ = peft_config(LAYERS, 'hf4')
    assert config['rank_pattern'][r'encoder\.layer\.1\.attention\.attention\.query'] == LAYERS.rows[4].rank
    assert config['rank_pattern'][r'encoder\.layer\.11\.output\.dense'] == LAYERS.rows[-1].rank
    assert len(config['rank_pattern']) == 5 * DEPTH


@pytest.mark.parametrize(
    ('table', 'kwargs', 'match'),
    [
        (LAYERS, dict(names='keras'), "'keras'"),
        (LAYERS, dict(names='hf', slices=None), 'layers.0.attn.qkv is adapted as one weight'),
        (RankTable((RankRow('visual.layers.0.attn.qkv', 2),)), dict(names='timm'), 'visual.layers.0.attn.qkv'),
        (RankTable((RankRow('stages.0.blocks.0.attn.w_msa.qkv', 2),)), dict(names='hf4'), 'no known name'),
        (RankTable((RankRow('layers.0.attn.proj', 0),)), {}, 'all ranks are 0'),
        (LAYERS, dict(scaling='r'), "'r'"),
    ],
)
def test_errors(table, kwargs, match):
    with pytest.raises(ValueError, match=match):
        peft_config(table, **kwargs)
