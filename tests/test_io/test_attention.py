"""Every layout of attention weights gives the same modules and the same weights."""

import pytest
import torch

from mmlora.io.attention import find_linear_weights
from mmlora.io.published import convert_published
from mmlora.io.site_weights import select_weights
from mmlora.io.spectrum_cache import SpectrumCache
from mmlora.io.weights import load_state_dict, unwrap

D, DEPTH = 4, 12
VIT = [f'layers.{i}.attn.{end}' for i in range(DEPTH) for end in ('qkv', 'proj')]


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn((3 if name.endswith('qkv') else 1) * D, D) for name in VIT}


def split(weights, form: str, names=('query', 'key', 'value'), out: str = '', extra=None) -> dict:
    """Return separate q, k, v and output weights of each block, in an order that is not that of depth."""
    state = {}
    for i in (11, 2, 10, 0, 1, *range(3, 10)):
        for name, part in zip(names, weights[f'layers.{i}.attn.qkv'].chunk(3), strict=True):
            state[form.format(i, name)] = part
        state[out.format(i)] = weights[f'layers.{i}.attn.proj']
    return state | (extra or {})


def google(weights) -> dict:
    state = {}
    for i in range(DEPTH):
        stem = f'Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1'
        for name, part in zip(('query', 'key', 'value'), weights[f'layers.{i}.attn.qkv'].chunk(3), strict=True):
            state[f'{stem}/{name}/kernel'] = part.T.reshape(D, 2, D // 2)
        state[f'{stem}/out/kernel'] = weights[f'layers.{i}.attn.proj'].T.reshape(2, D // 2, D)
        state[f'Transformer/encoderblock_{i}/MlpBlock_3/Dense_0/kernel'] = torch.randn(D, 8)
    return state


def renamed(weights, form: str, names: dict) -> dict:
    return {
        form.format(name.split('.')[1]) + names[name.rpartition('.')[2]]: weight for name, weight in weights.items()
    }


PLAIN = {'qkv': 'qkv.weight', 'proj': 'proj.weight'}
LAYOUTS = {
    'mmpretrain': lambda w: renamed(w, 'layers.{}.attn.', PLAIN),
    'mmpretrain_whole': lambda w: renamed(w, 'backbone.layers.{}.attn.', PLAIN) | {'head.fc.weight': torch.ones(2, D)},
    'momentum': lambda w: renamed(w, 'backbone.layers.{}.attn.', PLAIN)
    | renamed({k: v + 1 for k, v in w.items()}, 'momentum_encoder.module.0.layers.{}.attn.', PLAIN),
    'timm': lambda w: renamed(w, 'blocks.{}.attn.', PLAIN),
    'openai': lambda w: renamed(
        w, 'transformer.resblocks.{}.attn.', {'qkv': 'in_proj_weight', 'proj': 'out_proj.weight'}
    ),
    'hf4': lambda w: split(
        w, 'vit.encoder.layer.{}.attention.attention.{}.weight',
        out='vit.encoder.layer.{}.attention.output.dense.weight',
    ),
    'hf5': lambda w: split(
        w, 'layers.{}.attention.{}_proj.weight', ('q', 'k', 'v'), out='layers.{}.attention.o_proj.weight'
    ),
    'hf_clip': lambda w: split(
        w, 'encoder.layers.{}.self_attn.{}_proj.weight', ('q', 'k', 'v'),
        out='encoder.layers.{}.self_attn.out_proj.weight',
    ),
    'google': google,
}  # fmt: skip


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout, weights):
    found, layouts = find_linear_weights(LAYOUTS[layout](weights))
    assert list(found) == VIT, 'in the order of depth, not of text'
    assert len(layouts) == 1
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)


def test_two_towers_keep_apart(weights):
    state = {f'visual.{key}': weight for key, weight in LAYOUTS['openai'](weights).items()}
    state |= {k.removeprefix('visual.'): v + 1 for k, v in state.items()}
    found, _ = find_linear_weights(state)
    assert list(found) == [f'visual.{name}' for name in VIT] + [f'text.{name}' for name in VIT]
    torch.testing.assert_close(found['text.layers.0.attn.qkv'], weights['layers.0.attn.qkv'] + 1)


def test_feed_forward_layers_on_request():
    state = {f'blocks.0.{n}.weight': torch.ones(2, 2) for n in ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')}
    assert list(find_linear_weights(state, ffn=True)[0]) == [
        'layers.0.attn.qkv', 'layers.0.attn.proj', 'layers.0.ffn.layers.0.0', 'layers.0.ffn.layers.1',
    ]  # fmt: skip
    assert len(find_linear_weights(state)[0]) == 2


def test_swin_is_not_taken_for_a_vit():
    torch.manual_seed(0)
    ends = [(s, b, e) for s, b in [(0, 0), (0, 1), (1, 0)] for e in ('qkv', 'proj')]
    timm = {f'layers.{s}.blocks.{b}.attn.{e}.weight': torch.randn(2, 2) for s, b, e in ends}
    found, layouts = find_linear_weights(timm)
    assert layouts == {'timm Swin'}
    assert list(found) == [f'stages.{s}.blocks.{b}.attn.w_msa.{e}' for s, b, e in ends]


def test_a_missing_part_is_an_error(weights):
    state = LAYOUTS['hf5'](weights)
    del state['layers.3.attention.k_proj.weight']
    with pytest.raises(ValueError, match=r"layers.3.attn.qkv: the weights of \['k'\]"):
        find_linear_weights(state)


def test_nothing_is_found_in_other_nets():
    assert find_linear_weights({'conv1.weight': torch.ones(3, 3), 'fc.weight': torch.ones(3, 3)}) == ({}, set())


def test_select_weights(weights):
    state = {'backbone.' + k: v for k, v in LAYOUTS['mmpretrain'](weights).items()}
    assert torch.equal(select_weights(state, VIT)['layers.3.attn.proj'], weights['layers.3.attn.proj'])
    assert list(select_weights(LAYOUTS['timm'](weights), VIT[:4])) == VIT[:4]
    with pytest.raises(ValueError, match=r'x.pth lacks the weights of 1 of the 1 .*layers.12.attn.qkv.*mmpretrain ViT'):
        select_weights(state, ['layers.12.attn.qkv'], 'x.pth')
    with pytest.raises(ValueError, match='unknown'):
        select_weights({'a.weight': torch.ones(2, 2)}, ['b'])


@pytest.mark.parametrize(
    'nested',
    [
        lambda s: s,
        lambda s: {'state_dict': s, 'meta': {}},
        lambda s: {'model': s, 'epoch': 3},
        lambda s: {'model': {'state_dict': s}},
        lambda s: {'state_dict': {f'module.{k}': v for k, v in s.items()}},
        lambda s: {'student': {}, 'teacher': s},
        lambda s: {k: v.numpy() for k, v in s.items()},
    ],
)
def test_unwrap(nested):
    state = {'a.weight': torch.ones(2), 'b': torch.zeros(1)}
    out = unwrap(nested(state))
    assert set(out) == set(state) and all(torch.equal(out[k], v) for k, v in state.items())


def test_unwrap_without_tensors():
    with pytest.raises(ValueError, match=r"here holds no tensors.*'epoch'"):
        unwrap({'epoch': 3}, 'here')


def test_safetensors_and_npz(tmp_path, weights):
    import numpy as np
    from safetensors.torch import save_file

    save_file(LAYOUTS['timm'](weights), tmp_path / 'm.safetensors')
    np.savez(tmp_path / 'm.npz', **{k: v.numpy() for k, v in LAYOUTS['google'](weights).items()})
    for name in ('m.safetensors', 'm.npz'):
        found, _ = find_linear_weights(load_state_dict(str(tmp_path / name)))
        assert torch.equal(found['layers.11.attn.qkv'], weights['layers.11.attn.qkv'])


def test_published_factors():
    state = {
        'backbone.layers.0.attn.qkv.lora_A': torch.arange(8.0).view(4, 2),
        'backbone.layers.0.attn.qkv.lora_B': torch.arange(8.0).view(4, 2),
        'backbone.layers.0.attn.proj.lora_A': torch.ones(2, 2),
        'backbone.stages.0.blocks.0.attn.qkv.weight': torch.ones(2, 2),
        'head.qkv.lora_A': torch.ones(2, 2),
    }
    own = {f'layers.0.attn.qkv.lora_{f}_{s}' for f in 'AB' for s in 'qv'} | {'layers.0.attn.proj.lora_A'}
    assert convert_published(state, own, 'backbone.') == 1
    assert torch.equal(state['backbone.layers.0.attn.qkv.lora_A_v'], torch.tensor([[4.0, 5.0], [6.0, 7.0]]))
    assert torch.equal(state['backbone.layers.0.attn.qkv.lora_B_q'], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert 'backbone.layers.0.attn.proj.lora_A' in state and 'head.qkv.lora_A' in state
    assert 'backbone.stages.0.blocks.0.attn.qkv.weight' not in state
    assert convert_published(state, own, 'backbone.') == 0
    with pytest.raises(ValueError, match='3 rows'):
        convert_published({'layers.0.attn.qkv.lora_A': torch.ones(3, 2)}, own)


def test_what_the_model_knows_is_not_converted():
    state = {'layers.0.attn.qkv.lora_A': torch.ones(2, 2), 'stages.1.blocks.0.attn.qkv.weight': torch.ones(2, 2)}
    assert convert_published(state, set(state)) == 0 and len(state) == 2


def test_towers_of_one_kind_keep_their_names():
    state = {f'{tower}blocks.0.attn.{e}.weight': torch.ones(2, 2)
             for tower in ('visual_encoder.', 'visual_encoder_m.') for e in ('qkv', 'proj')}  # fmt: skip
    assert len(find_linear_weights(state)[0]) == 4


def test_weights_under_an_unknown_name_are_named():
    with pytest.raises(ValueError, match=r"under \['student'\]"):
        unwrap({'student': {'a': torch.ones(1)}, 'epoch': 3})


class TestCache:
    def test_round_trip(self, tmp_path):
        cache = SpectrumCache(tmp_path / 'deep' / 'spectra.json')
        cache['a'] = [1.0, 2.0]
        cache.save()
        assert dict(SpectrumCache(tmp_path / 'deep' / 'spectra.json')) == {'a': [1.0, 2.0]}

    @pytest.mark.parametrize('text', ['', '[]', '{"a": [1.0]}', '{"a": [0.0, 1.0]}', '{"a": [1.0, NaN]}', '\x00'])
    def test_damage_costs_time_not_results(self, tmp_path, text):
        path = tmp_path / 'spectra.json'
        path.write_text(text)
        assert dict(SpectrumCache(path)) == {}

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / 'file').write_text('')
        cache = SpectrumCache(tmp_path / 'file' / 'spectra.json')
        cache['a'] = [1.0, 2.0]
        cache.save()
        assert cache['a'] == [1.0, 2.0]
        assert (tmp_path / 'file').read_text() == ''


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224'])
def test_timm_models(name):
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        model = timm.create_model(name)
    found, layouts = find_linear_weights(model.state_dict())
    assert len(found) == 24 and layouts == {'timm ViT' if 'vit' in name else 'timm Swin'}
    assert {tuple(w.shape)[0] // w.shape[1] for k, w in found.items() if k.endswith('qkv')} == {3}


@pytest.mark.parametrize('kind', ['ViT', 'Swin', 'CLIP'])
def test_transformers_models(kind):
    transformers = pytest.importorskip('transformers')
    small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    if kind == 'ViT':
        model, count = transformers.ViTModel(transformers.ViTConfig(**small, image_size=32)), 4
    elif kind == 'Swin':
        config = transformers.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=32, window_size=2)
        model, count = transformers.SwinModel(config), 4
    else:
        config = transformers.CLIPConfig(
            text_config={**small, 'vocab_size': 50}, vision_config={**small, 'image_size': 32, 'patch_size': 16}
        )
        model, count = transformers.CLIPModel(config), 8
    found, layouts = find_linear_weights(model.state_dict())
    assert len(found) == count, (layouts, list(model.state_dict())[:20])
    assert {w.shape[0] // w.shape[1] for k, w in found.items() if k.endswith('qkv')} == {3}
    if kind == 'CLIP':
        assert {name.split('.')[0] for name in found} == {'visual', 'text'}
