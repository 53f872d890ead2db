"""The tool that converts weights: what it writes is what the other library loads."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import call_tool
from weight_sources import SIZE, SOURCES, google, timm_vit

from mmlora.apis import convert_weights
from mmlora.io.convert import convert
from mmlora.io.nests import unwrap


@pytest.fixture
def timm_file(tmp_path):
    model, feature = timm_vit()
    path = tmp_path / 'timm.safetensors'
    save_file(model.state_dict(), path)
    return path, model, feature


TARGETS = {  # source of weights: the layouts to write, and the source whose model loads them
    'timm': {'hf': 'hf', 'hf4': 'hf4', 'google': 'google', 'timm': 'timm'},
    'hf4': {'timm': 'timm', 'google': 'google', 'hf': 'hf'},
    'timm swin': {'hf': 'hf swin', 'hf4': 'hf4 swin', 'swin-official': 'official swin'},
    'hf swin': {'timm': 'timm swin'},
    'open_clip': {'hf-clip': 'hf clip', 'openai': 'open_clip', 'open_clip-text': 'open_clip custom text'},
    'hf clip': {'openai': 'open_clip'},
}
CASES = [(name, to, other) for name, targets in TARGETS.items() for to, other in targets.items()]


@pytest.mark.parametrize('name, to, other', CASES)
def test_other_libraries_take_what_is_written(tmp_path, capsys, name, to, other):
    """The names and shapes are those of the other library's file, and back come the same weights."""
    source = SOURCES[name]
    content = source.rename(dict(source.build()[0].state_dict()))
    torch.save(content, tmp_path / 'source.pth')
    out = tmp_path / f'out.{"npz" if to == "google" else "safetensors"}'
    assert call_tool('convert_checkpoint', tmp_path / 'source.pth', out, '--to', to, '--num-heads', 3) == 0
    assert str(out) in capsys.readouterr().out
    written = {k: torch.from_numpy(v) for k, v in np.load(out).items()} if to == 'google' else load_file(out)
    target = SOURCES[other]
    expected = unwrap(target.rename(dict(target.build()[0].state_dict())))
    ignored = ('head.', 'head/', 'classifier.', 'pooler.', 'swin.pooler.')
    shapes = {k: tuple(v.shape) for k, v in written.items() if not k.startswith(ignored)}
    known = set(convert(expected).dropped)
    names = {k.removeprefix('swin.'): tuple(v.shape) for k, v in expected.items() if k not in known}
    assert shapes == {k: shape for k, shape in names.items() if not k.startswith(ignored)}
    first, second = convert(unwrap(content)).backbone, convert(written).backbone
    assert set(first) == set(second) and all(torch.equal(first[key], second[key]) for key in first)


def test_features_of_another_library(timm_file, tmp_path):
    """timm's features come out of transformers."""
    transformers = pytest.importorskip('transformers')
    path, model, feature = timm_file
    convert_weights(str(path), tmp_path / 'hf.pth', to='hf')
    config = SOURCES['hf'].build()[0].config
    config.layer_norm_eps = 1e-6
    other = transformers.ViTModel(config, add_pooling_layer=False).eval()
    state = torch.load(tmp_path / 'hf.pth', weights_only=True)
    other.load_state_dict({k: v for k, v in state.items() if not k.startswith('classifier.')})
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(other(x).last_hidden_state[:, 0], feature(x), rtol=0, atol=2e-5)


def test_google_takes_the_classifier(timm_file, tmp_path):
    path, model, _ = timm_file
    convert_weights(str(path), tmp_path / 'out.npz', to='google', num_heads=3)
    written, expected = np.load(tmp_path / 'out.npz'), google(model.state_dict())
    assert set(written) == set(expected)
    assert all(np.array_equal(written[key], expected[key]) for key in expected)


ASIDE = {None: ('backbone', False), '--no-aside': ('none', False), '--aside': ('all', True)}


@pytest.mark.parametrize('option', ASIDE)
def test_what_is_kept_aside(timm_file, tmp_path, capsys, option):
    options = [option] if option else []
    call_tool('convert_checkpoint', timm_file[0], tmp_path / 'out.pth', *options)
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert ('head.weight' in written) == ASIDE[option][1] and 'layers.1.attn.qkv.weight' in written
    assert ('head beside the backbone (2)' in capsys.readouterr().out) != ASIDE[option][1]


def test_image_size(timm_file, tmp_path):
    resample = pytest.importorskip('timm.layers').resample_abs_pos_embed
    path, model, _ = timm_file
    call_tool('convert_checkpoint', path, tmp_path / 'out.pth', '--image-size', 56, 40)
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    torch.testing.assert_close(written['pos_embed'], resample(model.pos_embed.data, [7, 5]), rtol=0, atol=1e-6)


BAD = {
    'ending': (dict(out='out.bin'), r"must end in .pth or .safetensors for the layout 'mmpretrain'"),
    'npz': (dict(out='out.pth', to='google'), "must end in .npz for the layout 'google'"),
    'no heads': (dict(out='out.npz', to='google'), 'whose number is not in the weights: give num_heads'),
    'no such heads': (dict(out='out.npz', to='google', num_heads=-3), 'give num_heads'),
    'odd heads': (dict(out='out.npz', to='google', num_heads=5), 'a width of 48 does not divide into 5'),
    'layout': (dict(to='tim'), "there is no layout 'tim'; did you mean timm"),
    'reading only': (dict(to='mae'), 'MAE can be read, not written; write one of mmpretrain,'),
    'swin': (dict(to='hf-swin'), 'timm ViT cannot be written as Hugging Face Swin'),
    'arch': (dict(arch='deit-tiny'), r"not of arch='deit-tiny': .*qkv.weight is \(144, 48\), .* has \(576, 192\)"),
    'arch name': (dict(arch='tiny'), "arch='tiny' is none of VisionTransformer"),
    'size': (dict(image_size=(4, 4)), 'less than one patch'),
    'itself': (dict(out='timm.safetensors'), 'is the file to read'),
    'wrong layout': (dict(layout='hf'), 'looks like Hugging Face ViT .* 32 of its tensors have no place'),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_refused(timm_file, tmp_path, case):
    options, message = BAD[case]
    options = dict(options)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        convert_weights(str(timm_file[0]), tmp_path / options.pop('out', 'out.pth'), **options)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_weights_that_are_cut_off(timm_file, tmp_path):
    state = timm_file[1].state_dict()
    save_file({**state, 'blocks.0.attn.qkv.weight': torch.ones(100, 48)}, tmp_path / 'cut.safetensors')
    with pytest.raises(ValueError, match=r'\(100, 48\) cannot be split into 3'):
        convert_weights(str(tmp_path / 'cut.safetensors'), tmp_path / 'out.pth', to='hf')
    source = SOURCES['hf4']
    state = unwrap(source.rename(dict(source.build()[0].state_dict())))
    torch.save({k: v for k, v in state.items() if 'position' not in k}, tmp_path / 'bare.pth')
    with pytest.raises(ValueError, match='of which these weights have none'):
        convert_weights(str(tmp_path / 'bare.pth'), tmp_path / 'out.pth', image_size=(56, 56))
    assert not (tmp_path / 'out.pth').exists()


def test_errors_of_the_tool_and_allowed_names(timm_file, tmp_path, capsys):
    path, model, _ = timm_file
    save_file({**model.state_dict(), 'strange': torch.ones(1)}, tmp_path / 'strange.safetensors')
    args = 'convert_checkpoint', tmp_path / 'strange.safetensors', tmp_path / 'out.pth'
    assert call_tool(*args) == 2
    assert 'have no place in that layout: strange' in capsys.readouterr().err
    assert call_tool(*args, '--allow', 'strange') == 0
    assert 'allowed by name (1)' in capsys.readouterr().out


def test_published_architectures_fit_their_names(tmp_path):
    """Real shapes, one block deep enough to tell: DeiT-tiny of timm is deit-tiny of mmpretrain."""
    model, _ = timm_vit(img_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3)
    save_file(model.state_dict(), tmp_path / 'deit.safetensors')
    done = convert_weights(str(tmp_path / 'deit.safetensors'), tmp_path / 'out.safetensors', arch='deit-tiny')
    assert done.count == 150 and done.source == 'timm ViT'
    with pytest.raises(ValueError, match=r"deit-small' has \(1152, 384\)"):
        convert_weights(str(tmp_path / 'deit.safetensors'), tmp_path / 'out.safetensors', arch='deit-small')
