"""Adapters of a model by name, their folders, and heads that peft saves; see also test_exchange."""

import copy
import json

import pytest
import torch
import torch.nn as nn
from exchange_models import ARCH, DEPTH, WIDTH, build, draw, hf_sizes, timm_vit, vit
from mmengine.config import Config

import mmlora
from mmlora.adapters import find_banks
from mmlora.adapters.lora_weights import Pair, adapt_with
from mmlora.io.convert import convert
from mmlora.io.kind_folder import TYPE
from mmlora.io.lora_folder import Head, read_lora_folder, write_lora_folder
from mmlora.io.lora_names import library_names, own_names


@pytest.mark.parametrize('library', ['timm', 'hf'])
def test_the_head_is_among_the_modules_that_peft_saves(library, tmp_path):
    peft = pytest.importorskip('peft')
    torch.manual_seed(0)
    if library == 'hf':
        transformers = pytest.importorskip('transformers', minversion='5')
        theirs = transformers.ViTForImageClassification(
            transformers.ViTConfig(**hf_sizes(layer_norm_eps=1e-6), num_labels=3))
    else:
        theirs = timm_vit()
    theirs.eval()
    ours = classifier(vit(DEPTH))
    state = convert(theirs.state_dict()).backbone
    ours.backbone.load_state_dict(state)
    plain, x = copy.deepcopy(ours), torch.randn(2, 3, 32, 32)
    adapt_with(ours.backbone, draw(lambda i, j: 2, lambda r: 1.0))
    nn.init.normal_(ours.head.fc.weight)
    mmlora.save_adapter(ours, tmp_path / 'a', library=library, classes=['a', 'b', 'c'])
    adapted = peft.PeftModel.from_pretrained(theirs, str(tmp_path / 'a')).eval()
    logits = adapted(x) if library == 'timm' else adapted(x).logits
    torch.testing.assert_close(logits, ours(x), atol=1e-5, rtol=1e-5)
    adapted.save_pretrained(str(tmp_path / 'b'))
    for name in 'ab':
        again = mmlora.load_adapter(copy.deepcopy(plain), tmp_path / name)
        torch.testing.assert_close(again(x), logits, atol=1e-5, rtol=1e-5)


def classifier(backbone=None, num_classes=3, **more):
    head = dict(type='LinearClsHead', in_channels=WIDTH, num_classes=num_classes)
    return build(dict(type='ImageClassifier', backbone=backbone or vit(), head=head, **more))


def test_names_of_a_library_come_back():
    weights = draw(lambda i, j: 1 + (5 * i + j) % 7, lambda r: 3 / r**0.5, 'kv', blocks=(1, 11))
    assert list(own_names(library_names(weights, 'timm'))) == list(weights)
    assert set(own_names(library_names(weights, 'hf', head=True))) == set(weights)
    swin = {('stages.1.blocks.0.attn.w_msa.qkv', 'q'): Pair(torch.ones(1, 4), torch.ones(4, 1), 1.0),
            ('stages.1.blocks.0.ffn.layers.1', ''): Pair(torch.ones(1, 8), torch.ones(4, 1), 1.0)}
    assert list(library_names(swin, 'timm')) == [('layers.1.blocks.0.attn.qkv', 'q'), ('layers.1.blocks.0.mlp.fc2', '')]
    for library in ('timm', 'hf'):
        assert set(own_names(library_names(swin, library))) == set(swin)
    joint = {('layers.0.attn.qkv', ''): Pair(torch.ones(1, 4), torch.ones(12, 1), 1.0)}
    with pytest.raises(ValueError, match='adapted as one weight: there is no such LoRA'):
        library_names(joint, 'hf')
    with pytest.raises(ValueError, match=r"'open_clip' has no known name for stages\.1"):
        library_names(swin, 'open_clip')
    with pytest.raises(ValueError, match='peft adds the change of the out_proj of an nn.MultiheadAttention twice'):
        library_names({('layers.0.attn.proj', ''): joint['layers.0.attn.qkv', '']}, 'open_clip')
    with pytest.raises(ValueError, match=r"library must be one of .*got 'keras'"):
        library_names(joint, 'keras')
    with pytest.raises(ValueError, match=r"layers \['encoder\.7\.dense'\] have no known .* leave other layers out"):
        own_names({('encoder.7.dense', ''): joint['layers.0.attn.qkv', '']})


@pytest.fixture(scope='module')
def pets(tmp_path_factory):
    """Folders of three LoRAs with heads of 2, 3 and 3 classes over one plain classifier, and its outputs with each."""
    folder, outputs = tmp_path_factory.mktemp('pets'), {}
    torch.manual_seed(1)
    plain, x = classifier(num_classes=4), torch.randn(4, 3, 32, 32)
    for number, (name, classes) in enumerate({'cats': 2, 'dogs': 3, 'mice': 3}.items()):
        model = copy.deepcopy(plain)
        model.head.fc = nn.Linear(WIDTH, classes)
        adapt_with(model.backbone, draw(lambda i, j, r=number: 3 - r, lambda r: 1.0, slices=('qv', 'q', 'kv')[number]))
        mmlora.save_adapter(model, folder / name, classes=list('abcd'[:classes]), base='weights.pth')
        outputs[name] = model(x).detach()
    return plain, x, folder, outputs


def test_adapters_by_name(pets, tmp_path):
    plain, x, folder, outputs = pets
    model, none = copy.deepcopy(plain), plain(x)
    for name in ('cats', 'dogs'):
        assert mmlora.load_adapter(model, folder / name, name) is model
    close = dict(atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model(x), outputs['cats'], **close)  # The first is in use, with its own two classes.
    mmlora.set_adapter(model, 'dogs')
    torch.testing.assert_close(model(x), outputs['dogs'], **close)
    with mmlora.disable_adapter(model):
        torch.testing.assert_close(model(x), none, **close)
        assert [info.active for info in mmlora.list_adapters(model)] == [False, False]
    torch.testing.assert_close(model(x), outputs['dogs'], **close)
    mmlora.set_adapter(model, ['dogs', None, 'cats', 'dogs'])
    mixed = model(x)
    assert mixed.shape == (4, 4) and mixed[2, 2:].isneginf().all() and mixed[0, 3].isneginf()
    torch.testing.assert_close(mixed[[0, 3], :3], outputs['dogs'][[0, 3]], **close)
    torch.testing.assert_close(mixed[1], none[1], **close)
    torch.testing.assert_close(mixed[2, :2], outputs['cats'][2], **close)
    mmlora.save_adapter(model, tmp_path / 'dogs', 'dogs')
    told = [read_lora_folder(path).record for path in (folder / 'dogs', tmp_path / 'dogs')]
    assert [(r['files'], r['classes'], r['base']) for r in told[:1]] == [
        (r['files'], r['classes'], r['base']) for r in told[1:]]
    mmlora.delete_adapter(model, 'cats')
    assert [info.name for info in mmlora.list_adapters(model)] == ['dogs']
    mmlora.set_adapter(model, 'dogs')
    torch.testing.assert_close(model(x), outputs['dogs'], **close)
    mmlora.delete_adapter(model, 'dogs')
    assert torch.equal(model(x), none) and set(model.state_dict()) == set(plain.state_dict())
    infos = mmlora.list_adapters(folder)
    assert [(info.name, info.rank, info.classes) for info in infos] == [
        ('cats', 3, ('a', 'b')), ('dogs', 2, ('a', 'b', 'c')), ('mice', 1, ('a', 'b', 'c'))]


class Layer(nn.Module):
    """The smallest model with a layer that an adapter may have, and a head."""

    def __init__(self):
        super().__init__()
        self.attn, self.head = nn.Module(), nn.Module()
        self.attn.qkv, self.head.fc = nn.Linear(8, 24), nn.Linear(24, 2)

    def forward(self, x):
        return self.head.fc(self.attn.qkv(x))


def test_a_swap_compiles_nothing_anew(tmp_path):
    torch.manual_seed(3)
    model, x, counted = Layer().eval(), torch.randn(4, 8), []
    for name, rank in (('a', 2), ('b', 1)):
        weights = {('attn.qkv', part): Pair(torch.randn(rank, 8), torch.randn(8, rank), 1.0) for part in 'qv'}
        write_lora_folder(tmp_path / name, weights, {}, Head(torch.randn(3, 24), torch.randn(3)))
    for name in ('pet', 'other'):
        mmlora.load_adapter(model, tmp_path / 'a', name)
    banks, expected = find_banks(model), copy.deepcopy(model)

    def backend(graph, inputs):
        counted.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        before, count = compiled(x), len(counted)
        mmlora.load_adapter(model, tmp_path / 'b', 'pet')
        after = compiled(x)
    torch._dynamo.reset()
    assert find_banks(model) == banks and len(counted) == count > 0
    mmlora.load_adapter(expected, tmp_path / 'b', 'new')
    mmlora.set_adapter(expected, 'new')
    torch.testing.assert_close(after, expected(x), atol=1e-6, rtol=1e-5)
    assert (after - before).abs().max() > 0.01


KINDS = {
    'rlrr': dict(targets=['qkv', 'proj'], scale_shift=[r'.*ln1']),
    'dora': dict(targets=['qkv', 'ffn.layers.1'], lora_ranks=3),
    'moslora': dict(targets=['proj'], lora_ranks=2, lora_alpha=3.0),
    'melora': dict(targets=['qkv'], lora_ranks=4, adapter_cfg=dict(num_groups=2)),
    'glora': dict(targets=['qkv'], lora_ranks=2),
    'pissa': dict(targets=['proj'], lora_ranks=2),
    'lora': dict(targets=['proj'], lora_ranks=2, scale_shift=[r'.*ln2']),
    'ssf': {}, 'bitfit': {}, 'layernormtune': {}, 'vpt': dict(adapter_cfg=dict(num_tokens=3)),
    'houlsby': dict(adapter_cfg=dict(bottleneck=2)), 'adaptformer': dict(adapter_cfg=dict(bottleneck=2)),
}  # fmt: skip


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp('base') / 'vit.pth'
    torch.save(build(vit()).state_dict(), path)
    return dict(type='Pretrained', checkpoint=str(path))


@pytest.mark.parametrize('kind', KINDS)
def test_other_kinds_come_back(kind, base, tmp_path):
    cfg = dict(type='AdaptedBackbone', kind=kind, backbone=vit(init_cfg=base), **KINDS[kind])
    model = build(cfg)
    model.init_weights()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        model.eval()
        before = model(x)[-1]
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 10)
        expected = model(x)[-1]
    assert (expected - before).abs().max() > 1e-3
    mmlora.save_adapter(model, tmp_path / 'a')
    config = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
    assert config['peft_type'] == TYPE + kind.upper()
    assert f'| kind of adapter | {model.adaptation["kind"]} |' in (tmp_path / 'a' / 'README.md').read_text()
    for given in (cfg, vit(init_cfg=base)):  # The adapted config means its plain backbone, too.
        again = mmlora.load_adapter(given, tmp_path / 'a', 'mine')
        assert torch.equal(again(x)[-1], expected)
    (info,) = mmlora.list_adapters(again)
    assert (info.name, info.kind.lower(), info.active) == ('mine', kind, True)
    mmlora.save_adapter(again, tmp_path / 'b')
    assert (tmp_path / 'b' / 'adapter_model.safetensors').read_bytes() == (
        tmp_path / 'a' / 'adapter_model.safetensors').read_bytes()
    other = build(vit())
    with pytest.raises(ValueError, match=r'stands on weights with the sha256 .*those of the model have'):
        mmlora.load_adapter(other, tmp_path / 'a')
    with pytest.raises(ValueError, match='cannot be switched.*delete_adapter'):
        mmlora.set_adapter(again, None)
    mmlora.delete_adapter(again, 'mine')  # The plain model, bit for bit, which takes the adapter again.
    plain = build(vit(init_cfg=base))
    plain.init_weights()
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in again.state_dict().items())
    assert set(again.state_dict()) == set(plain.state_dict()) and mmlora.list_adapters(again) == []
    assert {key for key, p in again.named_parameters() if p.requires_grad} == {
        key for key, p in plain.named_parameters() if p.requires_grad}
    plain.eval()
    assert torch.equal(again(x)[-1], plain(x)[-1])
    assert torch.equal(mmlora.load_adapter(again, tmp_path / 'a')(x)[-1], expected)


def test_a_kind_leaves_with_its_head_and_one_that_does_not_fit_changes_nothing(tmp_path):
    torch.manual_seed(4)
    plain, x = classifier(num_classes=4), torch.randn(2, 3, 32, 32)
    adapted = classifier(dict(type='AdaptedBackbone', kind='vpt', backbone=vit(), adapter_cfg=dict(num_tokens=3)), 2)
    with torch.no_grad():
        for key, value in plain.backbone.state_dict().items():
            adapted.backbone.state_dict()[key].copy_(value)
    mmlora.save_adapter(adapted, tmp_path / 'a')
    model, expected, calls = copy.deepcopy(plain), plain(x), []
    hook = model.backbone.layers[0].register_forward_hook(lambda *_: calls.append(1))
    mmlora.load_adapter(model, tmp_path / 'a', 'vpt')
    torch.testing.assert_close(model(x), adapted(x), atol=1e-6, rtol=1e-5)
    mmlora.delete_adapter(model, 'vpt')
    assert torch.equal(model(x), expected) and len(calls) == 2  # Hooks of others stay, and can be taken away.
    hook.remove()
    record = tmp_path / 'a' / 'mmlora.json'
    record.write_text(record.read_text().replace('"num_tokens": 3', '"num_tokens": 7'))
    with pytest.raises(ValueError, match=r'does not fit the model: 1 tensors .*vpt_prompts'):
        mmlora.load_adapter(model, tmp_path / 'a', 'vpt')
    assert torch.equal(model(x), expected) and set(model.state_dict()) == set(plain.state_dict()) and len(calls) == 2


def test_peft_has_none_of_our_types():
    peft = pytest.importorskip('peft')
    assert not {TYPE + kind.upper() for kind in KINDS} & {kind.value for kind in peft.PeftType}


def test_what_is_refused(pets, base, tmp_path):
    plain, x, folder, outputs = pets
    model = copy.deepcopy(plain)
    mmlora.load_adapter(model, folder / 'cats', 'cats')
    for act, error, message in (
        (lambda: mmlora.set_adapter(model, 'dog'), ValueError, r"no adapter 'dog': it has \['cats'\]"),
        (lambda: mmlora.set_adapter(model, 3), TypeError, 'give a name, a list with the name for each sample'),
        (lambda: mmlora.delete_adapter(model, 'dog'), ValueError, "no adapter 'dog'"),
        (lambda: mmlora.save_adapter(model, tmp_path / 'a', 'dog'), ValueError, "no adapter 'dog'"),
        (lambda: mmlora.save_adapter(plain, tmp_path / 'a'), ValueError, 'the VisionTransformer has no adapter'),
        (lambda: mmlora.load_adapter(plain, tmp_path / 'none'), FileNotFoundError, 'does not exist'),
        (lambda: mmlora.load_adapter(3, folder / 'cats'), TypeError, 'a model, a config or the path of one'),
        (lambda: mmlora.load_adapter(classifier(), folder / 'cats'), ValueError, 'stands on weights with the sha256'),
        (lambda: mmlora.load_adapter(model, folder / 'dogs', ''), ValueError, "an adapter has a name, got ''"),
        (lambda: mmlora.list_adapters(tmp_path / 'none'), FileNotFoundError, 'does not exist'),
    ):
        with pytest.raises(error, match=message):
            act()
    torch.testing.assert_close(model(x), outputs['cats'], atol=1e-6, rtol=1e-5)
    for frozen, kind, message in ((False, 'lora', 'let the backbone learn too'),
                                  (True, 'FullFineTune', 'learns all of the backbone'),
                                  (True, 'LinearProbe', 'learns nothing in the backbone')):
        more = dict(targets=['proj']) if kind == 'lora' else {}
        adapted = build(dict(type='AdaptedBackbone', kind=kind, backbone=vit(), frozen=frozen, **more))
        with pytest.raises(ValueError, match=message):
            mmlora.save_adapter(adapted, tmp_path / 'a')
    adapted = build(dict(type='VitSR_LoRA', lora_ranks=1, arch=dict(ARCH, num_layers=2), img_size=32, patch_size=16))
    with pytest.raises(ValueError, match='is adapted already: give its config'):
        mmlora.load_adapter(adapted, folder / 'cats')
    cfg = Config(dict(model=dict(type='ImageClassifier', backbone=vit(init_cfg=base), head=dict(
        type='LinearClsHead', in_channels=WIDTH, num_classes=4))))
    with pytest.raises(ValueError, match='stands on weights'):
        mmlora.load_adapter(cfg, folder / 'cats')
