"""Weights of timm in whole runs: load_from, test, resume, and ranks from them."""

import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from safetensors.torch import save_file
from tiny import images, quick  # noqa: F401
from weight_sources import SIZE, SOURCES, SWIN, VIT, google, timm_vit

from mmlora.apis import ranks_from_checkpoint, settle_ranks, train
from mmlora.apis import test as run_test
from mmlora.io.convert import convert
from mmlora.ranks import RankTable

SMALL = dict(patch_size=16, embed_dim=16, num_heads=2, mlp_ratio=2, num_classes=3)
STILL = dict(optim_wrapper__optimizer__lr=0.0, train_cfg__max_epochs=1)  # A run that changes nothing.


@pytest.fixture
def timm_file(tmp_path):
    """A classifier of timm that fits the tiny config, and the model itself."""
    model, _ = timm_vit(**SMALL)
    path = tmp_path / 'timm.safetensors'
    save_file(model.state_dict(), path)
    return str(path), model


def own_file(model, folder) -> str:
    """Write the same weights as mmpretrain does."""
    converted = convert(model.state_dict())
    state = {f'backbone.{key}': value for key, value in converted.backbone.items()}
    state |= {f'head.layers.{key}': value for key, value in converted.aside.items()}
    torch.save({'state_dict': state, 'meta': {}}, folder / 'own.pth')
    return str(folder / 'own.pth')


def test_load_from(tmp_path, images, timm_file):  # noqa: F811
    path, model = timm_file
    runner = train(tiny.tiny_config(images, tmp_path, load_from=path, **STILL))
    runner.model.eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        features = runner.model.extract_feat(x, stage='backbone')[-1]
        torch.testing.assert_close(features, model.forward_features(x)[:, 0], rtol=0, atol=1e-5)
        assert torch.equal(runner.model.head.layers.head.weight, model.head.weight), 'the same classes, the same head'


def test_testing_a_classifier_of_timm(tmp_path, images, timm_file):  # noqa: F811
    path, model = timm_file
    found = run_test(tiny.tiny_config(images, tmp_path / 'a'), path)
    assert found == run_test(tiny.tiny_config(images, tmp_path / 'b'), own_file(model, tmp_path))


def test_another_classifier_stays_out(tmp_path, images):  # noqa: F811
    model, _ = timm_vit(**{**SMALL, 'num_classes': 5})
    save_file(model.state_dict(), tmp_path / 'five.safetensors')
    runner = train(tiny.tiny_config(images, tmp_path, load_from=str(tmp_path / 'five.safetensors'), **STILL))
    assert runner.model.head.layers.head.weight.shape == (3, 16)
    with pytest.raises(ValueError, match='2 missing: head.layers.head.weight, head.layers.head.bias'):
        run_test(tiny.tiny_config(images, tmp_path), str(tmp_path / 'five.safetensors'))


def test_resuming_needs_a_run(tmp_path, images, timm_file):  # noqa: F811
    with pytest.raises(ValueError, match='holds weights but not the whole state of a training run'):
        train(tiny.tiny_config(images, tmp_path), resume=timm_file[0])
    hook = dict(type='StrictLoadHook')
    cfg = tiny.tiny_config(images, tmp_path, custom_hooks=[hook], load_from=timm_file[0], resume=True)
    with pytest.raises(ValueError, match='cannot be resumed from weights of timm ViT.*load_from'):
        Runner.from_cfg(cfg).load_or_resume()


def test_load_from_refuses_what_does_not_fit(tmp_path, images, timm_file):  # noqa: F811
    _, model = timm_file
    state = {**model.state_dict(), 'strange': torch.ones(1)}
    state.pop('norm.bias')
    save_file(state, tmp_path / 'strange.safetensors')
    options = dict(load_from=str(tmp_path / 'strange.safetensors'), **STILL)
    with pytest.raises(ValueError, match='no place in that layout: strange'):
        train(tiny.tiny_config(images, tmp_path, **options))
    hook = dict(type='StrictLoadHook', fine_tune=True, allow_unexpected=['strange'])
    with pytest.raises(ValueError, match='lacks 1 of .*: ln1.bias'):
        train(tiny.tiny_config(images, tmp_path, custom_hooks=[hook], **options))
    hook['allow_missing'] = ['backbone.ln1.bias']
    train(tiny.tiny_config(images, tmp_path, custom_hooks=[hook], **options))


def test_a_bare_backbone_of_mmpretrain_as_load_from(tmp_path, images, timm_file):  # noqa: F811
    _, model = timm_file
    bare = convert(model.state_dict()).backbone
    for name, content in (('flat', bare), ('nested', {'state_dict': bare, 'meta': {}})):
        torch.save(content, tmp_path / f'{name}.pth')
        runner = train(tiny.tiny_config(images, tmp_path, load_from=str(tmp_path / f'{name}.pth'), **STILL))
        own = runner.model.backbone.state_dict()
        assert all(torch.equal(own[key], bare[key]) for key in bare)


def test_ranks_and_weights_of_an_adapted_backbone(tmp_path, images, timm_file):  # noqa: F811
    path, model = timm_file
    options = dict(model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks='stable_rank',
                   model__backbone__init_cfg=dict(type='Pretrained', checkpoint=path))  # fmt: skip
    runner = train(tiny.tiny_config(images, tmp_path, **options, **STILL))
    backbone = runner.model.backbone
    assert torch.equal(backbone.layers[1].attn.qkv.weight, model.blocks[1].attn.qkv.weight)
    table = ranks_from_checkpoint(path)
    assert RankTable.from_dict(runner.cfg.rank_table, 'the config').ranks == table.ranks and len(table.ranks) == 4
    own = Config(dict(model=tiny.tiny_config(images, tmp_path, **options).model, default_scope='mmpretrain'))
    assert settle_ranks(own).ranks == table.ranks


ADAPTED = {  # source: backbone, adapted layers
    'google': (VIT, ['qkv', 'proj']),
    'hf4': (VIT, ['qkv', 'ffn.layers.1']),
    'timm swin': (SWIN, ['qkv', 'reduction']),
    'hf4 swin': (SWIN, ['reduction']),
    'open_clip': (SOURCES['open_clip'].config, ['qkv', 'proj']),
}


@pytest.mark.parametrize('name', ADAPTED)
def test_stable_ranks_of_any_layout(tmp_path, name):
    """A reduction of a merge too, which is reordered: the ranks are those of the converted weights."""
    import numpy as np

    backbone, targets = ADAPTED[name]
    source = SOURCES[name]
    content = source.rename(dict(source.build()[0].state_dict()))
    path = tmp_path / ('w.npz' if name == 'google' else 'w.pth')
    np.savez(path, **content) if name == 'google' else torch.save(content, path)
    adapted = dict(type='AdaptedBackbone', backbone=backbone, targets=targets, lora_ranks='stable_rank',
                   init_cfg=dict(type='Pretrained', checkpoint=str(path)))  # fmt: skip
    cfg = Config(dict(model=dict(type='ImageClassifier', backbone=adapted), default_scope='mmpretrain'))
    table = settle_ranks(cfg)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model.backbone)
    model.init_weights()
    for module, rank in table.ranks.items():
        weight = model.get_submodule(module).weight.double()
        expected = weight.norm() ** 2 / torch.linalg.matrix_norm(weight, 2) ** 2
        assert rank == round(float(expected)), module
    assert len(table.ranks) > 1


def test_a_whole_model_with_init_cfg(timm_file):
    path, model = timm_file
    backbone = dict(VIT, arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), patch_size=16)
    head = dict(type='VisionTransformerClsHead', num_classes=3, in_channels=16)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    config = dict(type='ImageClassifier', backbone=backbone, head=head, init_cfg=init_cfg)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        whole = MODELS.build(config)
    whole.init_weights()
    whole.eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(whole(x, mode='tensor'), model(x), rtol=0, atol=2e-5)


def test_google_in_a_larger_image(tmp_path):
    """The resized embedding is that of Google's code, not mmpretrain's bicubic one."""
    import numpy as np
    from scipy.ndimage import zoom

    model, _ = timm_vit()
    np.savez(tmp_path / 'w.npz', **google(model.state_dict()))
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'w.npz'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.build(dict(VIT, img_size=(56, 40), init_cfg=init_cfg))
    backbone.init_weights()
    grid = model.pos_embed.detach()[0, 1:].reshape(4, 4, 48).numpy()
    expected = torch.from_numpy(zoom(grid, (7 / 4, 5 / 4, 1), order=1)).reshape(35, 48)
    torch.testing.assert_close(backbone.pos_embed[0, 1:], expected, rtol=0, atol=1e-6)
