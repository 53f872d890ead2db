"""The adapter folder of a run: by the hook when it ends, and of its checkpoint by the tool."""

import json
import re

import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import mmlora
from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.apis.export_adapter import export_adapter
from mmlora.engine.adapter_folder import result_row
from mmlora.registry import MODELS
from tools.export_adapter import main

VIT = dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=32, patch_size=16)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return tiny.make_images(tmp_path_factory.mktemp('images'), per_class=4)


@pytest.mark.parametrize('backbone', [
    dict(type='VitSR_LoRA', lora_ranks=[[2, 1], [1, 3]]), dict(type='RLRRViT', lora_ranks=1)], ids=['lora', 'rlrr'])
def test_a_run_leaves_its_adapter(backbone, images, tmp_path, monkeypatch):
    base = tmp_path / 'vit.pth'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.save(MODELS.build(dict(type='VisionTransformer', **VIT)).state_dict(), base)
    cfg = tiny.tiny_config(images, tmp_path / 'run', train_cfg__max_epochs=1)
    init = dict(type='Pretrained', checkpoint=str(base))
    cfg.model.backbone = {**backbone, **VIT, 'init_cfg': init}
    cfg.model.head = dict(type='LinearClsHead', num_classes=3, in_channels=16)
    cfg.custom_hooks = [dict(type='AdapterFolderHook')]
    monkeypatch.setattr('sys.argv', ['/elsewhere/tools/train.py', '/elsewhere/my config.py', '--seed', '0'])
    with tiny.quick_runs():
        train(cfg)
        checkpoint = str(tmp_path / 'run' / 'epoch_1.pth')
        tested = tiny.tiny_config(images, tmp_path / 'run', model=cfg.model)
        run_test(tested, checkpoint)
        cfg.dump(str(tmp_path / 'config.py'))
        out = tmp_path / 'exported'
        assert main([str(tmp_path / 'config.py'), checkpoint, '--out', str(out)]) == 0
    left, told = (json.loads((path / 'mmlora.json').read_text()) for path in (tmp_path / 'run' / 'adapter', out))
    assert left['files'] == told['files'] and left['base'] == told['base'] == {**told['base'], 'name': 'vit.pth'}
    assert not any(str(tmp_path.parent) in file.read_text() or str(images.parent) in file.read_text() for path in
                   (tmp_path / 'run' / 'adapter', out) for file in (path / 'mmlora.json', path / 'README.md'))
    assert told['classes'] == ['class0', 'class1', 'class2'] and told['protocol']['seed'] == 0
    assert told['normalization'] == dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
    ranks = [row['rank'] for row in told['rank_table']['rows']]
    assert ranks == [2, 1, 1, 3] if backbone['type'] == 'VitSR_LoRA' else set(ranks) == {1}
    tests = [row for row in told['metrics'] if row['data'].endswith('test')]
    assert len(tests) == 1 and tests[0]['images'] == 12 and tests[0]['low'] < tests[0]['value'] < tests[0]['high']
    card = (out / 'README.md').read_text()
    assert told['base']['sha256'] in card and 'python tools/train.py config.py' in card and 'None' not in card
    left_card = (tmp_path / 'run' / 'adapter' / 'README.md').read_text()
    assert "```bash\npython tools/train.py 'my config.py' --seed 0\n```" in left_card and 'None' not in left_card
    for text in (card, left_card):
        assert re.search(r'\| training images \| 12 of .*fingerprint [0-9a-f]{16}', text)
        assert '| layers.1.attn.proj | 3 | 0.333333 |' in text or '| layers.1.attn.qkv | q 1, k 1, v 1 |' in text
    plain = Config(dict(model={**cfg.model, 'backbone': dict(type='VisionTransformer', **VIT, init_cfg=init)},
                        data_preprocessor=cfg.data_preprocessor, default_scope='mmpretrain'))
    loaded, trained = mmlora.load_adapter(plain, out), mmlora.load_adapter(cfg, tmp_path / 'run' / 'adapter')
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, train_cfg=None))
    model.load_state_dict(state)
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    for other in (loaded, trained):
        torch.testing.assert_close(other(x), model(x), atol=1e-5, rtol=1e-5)
    if backbone['type'] == 'VitSR_LoRA':
        other = export_adapter(Config.fromfile(tmp_path / 'config.py'), checkpoint, tmp_path / 'timm', 'timm')
        torch.testing.assert_close(mmlora.load_adapter(plain, other)(x), model(x), atol=1e-5, rtol=1e-5)
        out = other
    metrics = [row['value'] for row in tests]
    assert list(run_test(tested, str(out), record=False).values()) == metrics
    if backbone['type'] != 'VitSR_LoRA':
        assert main([str(tmp_path / 'config.py'), checkpoint, '--out', str(tmp_path / 'b'), '--library', 'hf']) == 2
        tested.model.backbone = dict(type='AdaptedBackbone', kind='SSF', backbone={
            'type': 'VisionTransformer', **VIT, 'init_cfg': init})
        with pytest.raises(ValueError, match='give a model or config that is adapted in the same way'):
            run_test(tested, str(out), record=False)


def test_intervals_are_wilsons():
    """Of Wilson's interval for 81 of 263, Newcombe, Statistics in Medicine 17, 1998, table I."""
    row = result_row('x', 'accuracy/top1', 100 * 81 / 263, 263)
    assert (round(row['low'] / 100, 4), round(row['high'] / 100, 4)) == (0.2553, 0.3662)
    assert result_row('x', 'loss', 3.0, 263) == dict(data='x', name='loss', value=3.0, images=263)
    assert result_row('x', 'accuracy/top1', float('nan'), 263)['value'] is None
