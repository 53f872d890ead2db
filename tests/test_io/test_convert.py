"""Weights from anywhere compute in mmpretrain what they compute in the library that they are from."""

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from weight_sources import SIZE, SOURCES, VIT, prefixed, randomise, timm_vit

from mmlora.io.checkpoint import load_checkpoint
from mmlora.io.convert import CONVERTED, convert, detect_layout, explain_unknown, invert
from mmlora.io.layouts import LAYOUTS, OWN
from mmlora.io.nests import unwrap


@pytest.fixture(scope='module', autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def write(content: dict, folder, name: str = 'weights'):
    """Write what a source's file holds, in its own format."""
    if any(isinstance(value, np.ndarray) for value in content.values()):
        path = folder / f'{name}.npz'
        np.savez(path, **content)
    else:
        path = folder / f'{name}.pth'
        torch.save(content, path)
    return str(path)


def build(config: dict, path: str | None = None, **options):
    init_cfg = dict(type='Pretrained', checkpoint=path, **options) if path else None
    model = MODELS.build(dict(config, init_cfg=init_cfg))
    model.init_weights()
    model.eval()
    return model


@pytest.fixture(scope='module')
def made():
    """The models of sources, built once."""
    return {}


def source_of(made, name):
    if name not in made:
        source = SOURCES[name]
        model, feature = source.build()
        made[name] = source, model, feature, source.rename(dict(model.state_dict()))
    return made[name]


@pytest.mark.parametrize('name', SOURCES)
def test_features_through_init_cfg(made, tmp_path, name):
    source, model, feature, content = source_of(made, name)
    backbone = build(source.config, write(content, tmp_path))
    x = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = feature(x)
        found = backbone(x)[-1]
        if found.ndim == 4:  # Swin gives maps.
            found = found.mean((2, 3))
        assert expected.std() > 0.05
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
        model.double()
        torch.testing.assert_close(wide(backbone, x), feature(x.double()), rtol=1e-9, atol=1e-9)
        model.float()


def wide(backbone, x):
    found = backbone.double()(x.double())[-1]
    return found.mean((2, 3)) if found.ndim == 4 else found


@pytest.mark.parametrize('name', SOURCES)
def test_round_trip(made, name):
    """To mmpretrain and back gives every tensor that was taken, bit for bit; and from there forward again."""
    source, _, _, content = source_of(made, name)
    state = unwrap(content)
    converted = convert(state)
    assert converted.layout.name == source.layout and not converted.unknown
    assert len(converted.dropped) == source.dropped, converted.dropped
    weights = {**converted.backbone, **converted.aside}
    row = LAYOUTS[source.layout]
    if not row.writable:
        with pytest.raises(ValueError, match='can be read, not written'):
            invert(weights, row.name)
        row = LAYOUTS['timm']
    back = invert(weights, row.name, num_heads=3)
    prefix = detect_layout(state)[1]
    taken = {key.removeprefix(prefix): value for key, value in state.items() if key not in converted.dropped}
    assert set(back) == set(taken)
    assert all(torch.equal(back[key], taken[key]) for key in taken)
    again = convert(back)
    assert all(torch.equal({**again.backbone, **again.aside}[key], weights[key]) for key in weights)


@pytest.mark.parametrize('name', ['timm', 'timm swin', 'hf4', 'google', 'open_clip'])
def test_what_mmpretrain_wrote_passes_untouched(made, tmp_path, name):
    """A bare backbone, a whole classifier and a network of no known layout come as they are."""
    source, *_ = source_of(made, name)
    own = build(source.config).state_dict()
    whole = {'state_dict': prefixed('backbone.', own), 'meta': {'epoch': 1}}
    for state in (own, whole, {'conv1.weight': torch.ones(3)}):
        torch.save(state, tmp_path / 'own.pth')
        loaded = load_checkpoint(tmp_path / 'own.pth')
        assert CONVERTED not in loaded and set(loaded) == set(state)
    found = detect_layout(own)
    assert found is None or found[0].name in OWN


@pytest.mark.parametrize('name', SOURCES)
def test_own_names_are_a_layout_too(made, name):
    """mmpretrain's names, bare or whole, convert to themselves."""
    source, *_ = source_of(made, name)
    own = {k: v for k, v in build(source.config).state_dict().items() if not k.endswith('position_index')}
    for state in (own, prefixed('backbone.', own)):
        converted = convert(state)
        assert converted.layout.name in OWN and set(converted.backbone) == set(own) and not converted.unknown


@pytest.mark.parametrize('name', SOURCES)
def test_the_first_layout_that_claims_a_file_is_its_own(made, name):
    source, _, _, content = source_of(made, name)
    assert detect_layout(unwrap(content))[0].name == source.layout


def test_a_clip_keeps_projection_and_text_tower_aside(made):
    _, model, _, content = source_of(made, 'open_clip')
    converted = convert(unwrap(content))
    aside = {key.split('.')[0] for key in converted.aside}
    assert aside == {'visual_proj', 'text', 'logit_scale'}
    assert torch.equal(converted.aside['visual_proj'], model.visual.proj)
    assert torch.equal(converted.aside['text.proj'], model.text_projection)
    # The same under the names of Hugging Face, where projections are transposed.
    hf = invert({**converted.backbone, **converted.aside}, 'hf-clip')
    assert torch.equal(hf['visual_projection.weight'], model.visual.proj.T)
    assert hf['vision_model.encoder.layers.1.self_attn.k_proj.weight'].shape == (48, 48)
    loaded = convert(hf)
    assert all(torch.equal(loaded.aside[key], value) for key, value in converted.aside.items())


REFUSED = {
    'registers': (lambda s: {**s, 'reg_token': torch.ones(1, 4, 48)}, 'reg_token: register tokens.*without registers'),
    'register_tokens': (lambda s: {**s, 'register_tokens': torch.ones(1, 4, 48)}, 'register tokens'),
    'unknown': (
        lambda s: {**s, 'blocks.0.attn.q_norm.weight': torch.ones(16)},
        r'looks like timm ViT, but 1 of its tensors have no place.*blocks.0.attn.q_norm.weight',
    ),
    'missing': (
        lambda s: {k: v for k, v in s.items() if k != 'norm.bias'},
        r'\(timm ViT\) lacks 1 of the \d+ weights of the backbone: ln1.bias',
    ),
    'deeper': (
        lambda s: {**s, 'blocks.2.norm1.weight': torch.ones(48)},
        'holds 1 weights that the backbone has no place for: layers.2.ln1.weight',
    ),
    'wider': (
        lambda s: {**s, 'blocks.0.mlp.fc1.weight': torch.ones(96, 48)},
        r'layers.0.ffn.layers.0.0.weight is \(96, 48\), the model has \(192, 48\)',
    ),
    'another width': (
        lambda s: {**s, 'pos_embed': torch.ones(1, 17, 96)}, r'pos_embed is \(1, 17, 96\).*\(1, 17, 48\)'
    ),
    'odd grid': (lambda s: {**s, 'pos_embed': torch.ones(1, 13, 48)}, 'Give the grid of the file: source_grid='),
}


@pytest.mark.parametrize('case', REFUSED)
def test_nothing_is_left_at_random(made, tmp_path, case):
    change, message = REFUSED[case]
    path = write(change(dict(source_of(made, 'timm')[3])), tmp_path)
    with pytest.raises(ValueError, match=message):
        build(VIT, path)


def test_names_may_be_allowed(made, tmp_path):
    state = dict(source_of(made, 'timm')[3])
    state.pop('norm.bias')
    state['blocks.0.attn.q_norm.weight'] = torch.ones(16)
    path = write(state, tmp_path)
    allowed = dict(allow_missing=['ln1.bias'], allow_unexpected=['blocks.0.attn.q_norm.weight'])
    model = build(VIT, path, **allowed)
    assert torch.equal(model.ln1.bias, torch.zeros(48)) and torch.equal(model.ln1.weight, state['norm.weight'])
    with pytest.raises(TypeError, match='list of names'):
        build(VIT, path, allow_missing='ln1.bias')


OWN_FAULTS = {
    'missing': (lambda s: {k: v for k, v in s.items() if k != 'layers.1.ln2.bias'}, 'lacks 1 of .*layers.1.ln2.bias'),
    'another shape': (
        lambda s: {**s, 'layers.0.ffn.layers.1.bias': torch.ones(9)},
        r'layers.0.ffn.layers.1.bias is \(9,\), the model has \(48,\)',
    ),
    'adapters': (lambda s: {**s, 'layers.0.attn.proj.lora_A': torch.ones(2, 48)}, 'adapts other modules'),
}


@pytest.mark.parametrize('nest', [None, 'state_dict', 'model'])
@pytest.mark.parametrize('case', OWN_FAULTS)
def test_nothing_of_a_plain_backbone_is_left_at_random_by_its_own_files(tmp_path, case, nest):
    change, message = OWN_FAULTS[case]
    torch.manual_seed(0)
    state = {k: torch.randn_like(v) for k, v in build(VIT).state_dict().items()}
    whole = {f'backbone.{k}': v for k, v in state.items()} | {'head.layers.head.weight': torch.ones(2, 48)}
    for number, (content, options) in enumerate([(state, {}), (whole, dict(prefix='backbone.'))]):
        prefix = options.get('prefix', '')
        path = write({nest: content} if nest else content, tmp_path, f'right{number}')
        assert torch.equal(build(VIT, path, **options).layers[1].ln2.bias, state['layers.1.ln2.bias'])
        wrong = {prefix + k: v for k, v in change(state).items()}
        path = write({nest: wrong} if nest else wrong, tmp_path, f'wrong{number}')
        with pytest.raises(ValueError, match=message):
            build(VIT, path, **options)
        if case == 'missing':
            model = build(VIT, path, allow_missing=['layers.1.ln2.bias'], **options)
            assert torch.equal(model.layers[1].ln2.bias, torch.zeros(48))


def test_a_missing_part_of_a_fused_weight(made):
    state = dict(source_of(made, 'hf4')[3])
    state.pop('encoder.layer.1.attention.attention.key.weight')
    with pytest.raises(ValueError, match=r'lacks a part of layers.1.attn.qkv.weight: .*attention.key.weight'):
        convert(state)


@pytest.mark.parametrize('name, twice, message', [
    ('dino', 'norm.weight', 'twice, as backbone.norm.weight and as norm.weight'),
    ('timm', 'blocks.00.norm1.weight', 'twice, as blocks.0.norm1.weight and as blocks.00.norm1.weight'),
])
def test_one_weight_under_two_names(made, name, twice, message):
    state = unwrap(source_of(made, name)[3])
    with pytest.raises(ValueError, match=message):
        convert({**state, twice: torch.ones(48)})


def test_heads_that_differ_are_told_where_the_file_tells_them(made, tmp_path):
    path = write(source_of(made, 'google')[3], tmp_path)
    with pytest.raises(ValueError, match=r'has 3 attention heads, the model \[6\]'):
        build(dict(VIT, arch=dict(VIT['arch'], num_heads=6)), path)


def test_an_unknown_layout_names_the_closest(made, tmp_path):
    state = {key.replace('norm1', 'first_norm'): value for key, value in source_of(made, 'timm')[3].items()}
    message = r"closest is timm ViT \('timm'\), which knows 28 of its 32 keys. It differs in blocks.0.first_norm.weight"
    with pytest.raises(ValueError, match=message):
        convert(state)
    with pytest.raises(ValueError, match='None of its 1 keys is known'):
        convert({'conv1.weight': torch.ones(1)})
    with pytest.raises(ValueError, match='nothing of .* fits VisionTransformer. .*None of its 1 keys'):
        build(VIT, write({'conv1.weight': torch.ones(1)}, tmp_path))
    assert 'lacks blocks.0.norm1.weight' in explain_unknown(state)


def test_prefix_of_init_cfg(made, tmp_path):
    path = write(source_of(made, 'timm')[3], tmp_path)
    plain, prefixed_one = build(VIT, path).state_dict(), build(VIT, path, prefix='backbone.').state_dict()
    assert all(torch.equal(plain[key], prefixed_one[key]) for key in plain)
    with pytest.raises(ValueError, match="prefix='neck.': .*timm ViT"):
        build(VIT, path, prefix='neck.')
    with pytest.raises(ValueError, match="nothing of .* a whole model.*prefix='backbone.'"):
        build(VIT, write(prefixed('backbone.', plain), tmp_path, 'whole'))
    bare = write(plain, tmp_path, 'bare')
    with pytest.raises(ValueError, match="prefix='backbone.': no key .* need no prefix"):
        build(VIT, bare, prefix='backbone.')


def test_distillation_tokens(tmp_path):
    """DeiT has two tokens before the patches, in a larger image too; a plain ViT has no place for the second."""
    deit = pytest.importorskip('timm.models.deit')
    model = randomise(deit.VisionTransformerDistilled(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3))
    path = write(model.state_dict(), tmp_path)
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        tokens = model.forward_features(x)
        backbone = build(dict(VIT, type='DistilledVisionTransformer'), path)
        for found, expected in zip(backbone(x)[-1], (tokens[:, 0], tokens[:, 1]), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    larger = build(dict(VIT, type='DistilledVisionTransformer', img_size=48), path).pos_embed
    assert larger.shape == (1, 38, 48) and torch.equal(larger[:, :2], model.pos_embed[:, :2])
    with pytest.raises(ValueError, match='no place for: dist_token'):
        build(VIT, path)


def test_a_backbone_without_class_token(made, tmp_path):
    """The mean of patches without a class token: its row and its vector are left out knowingly."""
    config = dict(VIT, with_cls_token=False, out_type='avg_featmap', final_norm=False)
    model, feature = timm_vit(class_token=False, global_pool='avg')
    x = torch.randn(2, 3, SIZE, SIZE)
    backbone = build(config, write(model.state_dict(), tmp_path))
    torch.testing.assert_close(backbone(x)[-1], feature(x), rtol=0, atol=2e-5)
    state = dict(source_of(made, 'timm')[3])
    state = {key.replace('norm.', 'fc_norm.') if key.startswith('norm.') else key: v for key, v in state.items()}
    backbone = build(config, write(state, tmp_path))
    assert torch.equal(backbone.pos_embed, state['pos_embed'][:, 1:]) and backbone.cls_token is None
    with pytest.raises(ValueError, match='lacks 1 of .*: cls_token'):
        state.pop('cls_token')
        state['pos_embed'] = state['pos_embed'][:, 1:]
        build(dict(VIT, out_type='avg_featmap', final_norm=False), write(state, tmp_path))
