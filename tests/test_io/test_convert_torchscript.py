"""OpenAI's CLIP comes as a TorchScript archive: its tensors are read, its program is not."""

import pickle
import zipfile

import pytest
import torch
import torch.nn as nn
from weight_sources import CLIP, HEADS, PATCH, SIZE, WIDTH, randomise

from mmlora.io.checkpoint import load_checkpoint
from mmlora.io.convert import CONVERTED
from mmlora.io.torchscript import is_torchscript
from mmlora.models.pretrained import PretrainedWeights


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module('c_fc', nn.Linear(width, 4 * width))
        self.mlp.add_module('gelu', QuickGELU())
        self.mlp.add_module('c_proj', nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))

    def forward(self, x):
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Tower(WIDTH, HEADS, 2)
        self.ln_post = nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.zeros(WIDTH, 16))

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, WIDTH), x], 1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x).transpose(0, 1)).transpose(0, 1)
        return self.ln_post(x[:, 0])


class Model(nn.Module):
    """A CLIP under OpenAI's names, as its archive has them."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Visual()
        self.transformer = Tower(32, 2, 1)
        self.token_embedding = nn.Embedding(64, 32)
        self.positional_embedding = nn.Parameter(torch.zeros(16, 32))
        self.ln_final = nn.LayerNorm(32)
        self.text_projection = nn.Parameter(torch.zeros(32, 16))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer('input_resolution', torch.tensor(SIZE))
        self.register_buffer('context_length', torch.tensor(16))
        self.register_buffer('vocab_size', torch.tensor(64))

    def forward(self, images, tokens):
        text = self.token_embedding(tokens) + self.positional_embedding
        text = self.ln_final(self.transformer(text)) @ self.text_projection
        return self.visual(images), text, self.logit_scale


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    """The archive in half precision, and the model that it is of, in single."""
    model = randomise(Model()).half().float()
    images, tokens = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(16, 16, dtype=torch.long)
    path = tmp_path_factory.mktemp('openai') / 'ViT.pt'
    torch.jit.trace(model, (images, tokens)).half().save(path)
    return path, model


def test_every_tensor_is_read(archive):
    path, model = archive
    assert is_torchscript(path)
    raw = load_checkpoint(path, convert=False)
    own = model.state_dict()
    assert set(raw) == set(own)
    for key, value in own.items():
        assert torch.equal(raw[key].to(value.dtype), value), key
    assert raw['visual.proj'].dtype == torch.float16 and int(raw['context_length']) == 16


def test_features(archive):
    path, model = archive
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.build(dict(CLIP))
    PretrainedWeights(str(path))(backbone)
    backbone.eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(backbone.double()(x.double())[-1], model.visual.double()(x.double()),
                                   rtol=1e-9, atol=1e-9)  # fmt: skip
        model.float()
    converted = load_checkpoint(path)[CONVERTED]
    assert set(converted.dropped) == {'input_resolution', 'context_length', 'vocab_size'}
    assert converted.aside['visual_proj'].shape == (WIDTH, 16) and 'text.layers.0.attn.qkv.weight' in converted.aside


def test_the_program_is_never_run(archive, tmp_path):
    """The same archive whose code would leave a trace."""
    path, _ = archive
    spoiled = tmp_path / 'spoiled.pt'
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(spoiled, 'w') as new:
        for name in old.namelist():
            new.writestr(name, b'not a program' if '/code/' in name else old.read(name))
    with pytest.raises(RuntimeError):
        torch.jit.load(spoiled)
    assert set(load_checkpoint(spoiled, convert=False)) == set(load_checkpoint(path, convert=False))


def test_a_description_that_is_cut_is_refused(tmp_path):
    """Those that want to run code are in tests/test_security."""
    with zipfile.ZipFile(tmp_path / 'bad.pt', 'w') as archive:
        archive.writestr('net/data.pkl', pickle.dumps({'a': 1}, protocol=2)[:-3])
        archive.writestr('net/data/0', bytes(8))
        archive.writestr('net/code/net.py', 'raise SystemExit')
    with pytest.raises(ValueError, match='damaged or cut off'):
        load_checkpoint(tmp_path / 'bad.pt')
