"""CLIP with LoRA through the tools: trained, resumed, tested and merged, with class names from the data set."""

import re

import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from mmlora.apis import train
from mmlora.io.plain import from_plain

CONFIG = tiny.ROOT / 'tests' / 'data' / 'configs' / 'tiny_clip.py'


def options(images, *more):
    return ['--cfg-options', *(f'{key}={value}' for key, value in tiny.data_options(images).items()), *more]


def accuracies(folder):
    [log] = folder.glob('*/*.log')
    return [float(number) for number in re.findall(r'accuracy/top1: ([\d.]+)', log.read_text())]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp('clip')
    tiny.call_tool('train', CONFIG, '--work-dir', folder, *options(images))
    return folder


def test_training_learns_and_changes_the_factors_alone(trained):
    first, last = (tiny.load(trained / f'epoch_{n}.pth') for n in (1, 3))
    changed = {k for k, v in last['state_dict'].items() if not torch.equal(v, first['state_dict'][k])}
    assert changed == {k for k in last['state_dict'] if 'lora_' in k} != set()
    losses = from_plain(last['message_hub'])['log_scalars']['train/loss'].data[0]
    assert len(losses) == 3 * tiny.BATCHES and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert tuple(last['meta']['dataset_meta']['classes']) == ('class0', 'class1', 'class2')
    about = last['meta']['mmlora']
    assert about['scalings']['text.transformer.resblocks.0.attn'] == dict.fromkeys('qkvo', 0.5)
    assert about['ranks']['visual.layers.2.attn.qkv'] == dict.fromkeys('qkv', 4)


def test_testing_says_what_training_said(tmp_path, images, trained):
    tiny.call_tool('test', trained / 'tiny_clip.py', trained / 'epoch_3.pth', '--work-dir', tmp_path)
    assert accuracies(tmp_path) == accuracies(trained)[-1:]
    with pytest.raises(ValueError, match=r'alpha is 1.0 there and 3.0 in the config; scaling .* is 0.5 there and 1.5'):
        tiny.call_tool('test', trained / 'tiny_clip.py', trained / 'epoch_3.pth', '--work-dir', tmp_path / 'other',
                       '--cfg-options', 'model.lora_alpha=3', 'model.encoder=both')


def test_a_resumed_run_ends_like_one_that_was_never_stopped(tmp_path, images, trained):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(tiny.data_options(images))
    cfg.work_dir, cfg.load_from, cfg.resume = str(tmp_path), str(trained / 'epoch_1.pth'), True
    train(cfg)
    assert tiny.differing_runs(tmp_path / 'epoch_3.pth', trained / 'epoch_3.pth') == []


def test_merged_weights_load_into_a_plain_model(tmp_path, trained):
    tiny.call_tool('merge', trained / 'tiny_clip.py', trained / 'epoch_3.pth', tmp_path / 'merged.pth')
    with pytest.raises(ValueError, match="did you mean 'lora_rank'"):
        tiny.call_tool('merge', trained / 'tiny_clip.py', trained / 'epoch_3.pth', tmp_path / 'x.pth', '--cfg-options',
                       'model.lora_ranks=4')
    merged, last = (tiny.load(path)['meta']['mmlora'] for path in (tmp_path / 'merged.pth', trained / 'epoch_3.pth'))
    assert merged['protocol'] == last['protocol'] and merged['protocol']['dataset_name']
    state = tiny.load(tmp_path / 'merged.pth')['state_dict']
    assert not any('lora_' in key for key in state)
    cfg = Config.fromfile(tmp_path / 'merged.py')
    assert cfg.model.encoder == 'none' and 'lora_rank' not in cfg.model
    adapted = MODELS.build({**Config.fromfile(trained / 'tiny_clip.py').model, 'classes': ['class0', 'class1']})
    plain = MODELS.build({**cfg.model, 'classes': ['class0', 'class1']})
    adapted.load_state_dict(tiny.load(trained / 'epoch_3.pth')['state_dict'])
    plain.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), adapted.eval()(x), rtol=0, atol=1e-3)
    tiny.call_tool('test', tmp_path / 'merged.py', tmp_path / 'merged.pth', '--work-dir', tmp_path / 'test')
    assert accuracies(tmp_path / 'test') == accuracies(trained)[-1:]
    with pytest.raises(ValueError, match=r'merged.pth was trained with other prompts: classes are'):
        tiny.call_tool('test', tmp_path / 'merged.py', tmp_path / 'merged.pth', '--work-dir', tmp_path / 'other',
                       '--cfg-options', 'model.classes=[class0,class1,photo]')


@pytest.mark.slow
def test_the_tower_alone_is_a_backbone_for_the_tools(tmp_path, images):
    cfg = Config.fromfile(CONFIG)
    backbone = dict(type='LoRA-CLIP', arch=cfg.model.arch, lora_rank=2)
    cfg = tiny.tiny_config(images, tmp_path, model__backbone=dict(_delete_=True, **backbone), model__train_cfg=None)
    cfg.dump(tmp_path / 'tower.py')
    tiny.call_tool('train', tmp_path / 'tower.py', '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1')
    tiny.call_tool('merge', tmp_path / 'tower.py', tmp_path / 'epoch_1.pth', tmp_path / 'merged.pth')
    merged = Config.fromfile(tmp_path / 'merged.py').model.backbone
    assert merged.type == 'LoRACLIPVision' and merged.params is None


class TestClassNames:
    def runner(self, images, tmp_path, **options):
        cfg = Config.fromfile(CONFIG)
        cfg.merge_from_dict({**tiny.data_options(images), **options})
        cfg.work_dir = str(tmp_path)
        return Runner.from_cfg(cfg)

    def test_names_of_the_model_win(self, images, tmp_path):
        names = ['a class0', 'class1', 'photo']
        runner = self.runner(images, tmp_path, **{'model.classes': names})
        runner.val()
        assert runner.model.classes == tuple(names)

    def test_templates_of_the_data_set_give_way_to_the_model(self, images, tmp_path):
        own = {'val_dataloader.dataset.metainfo': dict(templates=['a {}.', 'photo of {}']), 'train_dataloader': None,
               'optim_wrapper': None, 'train_cfg': None, 'param_scheduler': None}  # fmt: skip
        runner = self.runner(images, tmp_path / 'data', **own)
        runner.val()
        assert runner.model.templates == ('a {}.', 'photo of {}')
        assert runner.model.classes == ('class0', 'class1', 'class2') and runner.model._tokens.shape[0] == 6
        runner = self.runner(images, tmp_path / 'model', **own, **{'model.templates': 'a photo {}'})
        runner.val()
        assert runner.model.templates == ('a photo {}',)
        runner = self.runner(images, tmp_path / 'none')
        runner.val()
        assert runner.model.templates == ('a photo of a {}.',)

    def test_another_number_of_names_is_an_error(self, images, tmp_path):
        with pytest.raises(ValueError, match='the model has 2 classes, the data set of val_dataloader 3'):
            self.runner(images, tmp_path, **{'model.classes': ['class0', 'class1']}).val()

    def test_the_same_names_in_another_order_are_an_error(self, images, tmp_path):
        with pytest.raises(ValueError, match='the classes of the data set of val_dataloader in another order'):
            self.runner(images, tmp_path, **{'model.classes': ['class1', 'class0', 'class2']}).val()

    def test_data_sets_must_agree(self, images, tmp_path):
        options = {'val_dataloader.dataset.metainfo': dict(classes=['class2', 'class1', 'class0'])}
        with pytest.raises(ValueError, match='train_dataloader and val_dataloader name their classes differently'):
            self.runner(images, tmp_path, **options).train()

    def test_another_model_does_not_need_it(self, images, tmp_path):
        cfg = tiny.tiny_config(images, tmp_path, custom_hooks=[dict(type='ClassNamesHook')])
        with pytest.raises(TypeError, match='the model is a ImageClassifier'):
            Runner.from_cfg(cfg).val()
