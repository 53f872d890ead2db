"""Ways to adapt CLIP beside LoRA, by the runner: trained, resumed, tested, and from base to new classes."""

import pytest
import tiny
import torch
from coop_layouts import make_listed
from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmlora.apis import merge_checkpoint, settle_variables, train
from mmlora.apis import test as run_test
from mmlora.apis.settle_classes import settle_classes
from mmlora.io.plain import from_plain

CONFIG = tiny.ROOT / 'tests' / 'data' / 'configs' / 'tiny_clip.py'
LORA = ('params', 'lora_rank', 'lora_dropout', 'vision')
METHODS = {
    'coop': (dict(type='CoOp', n_ctx=4), {'text.context.vectors'}, 0.5),
    'coop for each class': (dict(type='CoOp', n_ctx=3, ctx_init='a photo of', class_specific=True),
                            {'text.context.vectors'}, 0.5),
    'clip-adapter': (dict(type='CLIP-Adapter', ratio=0.6, reduction=1), {'image_adapter.down', 'image_adapter.up'},
                     0.1),
    'layer norm': (dict(type='LayerNormCLIP'), None, 0.02),
}


def config(images, folder, method, **options):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({**tiny.data_options(images), **options})
    for name in LORA:
        cfg.model.pop(name)
    model, _, rate = METHODS[method]
    cfg.model.update(model)
    cfg.optim_wrapper.optimizer.lr = rate
    cfg.work_dir = str(folder)
    return cfg


@pytest.fixture(scope='module')
def trained(tmp_path_factory, images):
    runs = {}

    def get(method):
        if method not in runs:
            folder = tmp_path_factory.mktemp('run')
            runs[method] = folder, train(config(images, folder, method))
        return runs[method]

    return get


@pytest.mark.parametrize('method', METHODS)
def test_a_run_learns_and_changes_nothing_else(trained, method):
    folder, runner = trained(method)
    first, last = (tiny.load(folder / f'epoch_{n}.pth') for n in (1, 3))
    changed = {key for key, value in last['state_dict'].items() if not torch.equal(value, first['state_dict'][key])}
    wanted = METHODS[method][1] or {name for name, p in runner.model.named_parameters() if p.requires_grad}
    assert changed == wanted
    losses = from_plain(last['message_hub'])['log_scalars']['train/loss'].data[0]
    assert losses[-5:].mean() < 0.9 * losses[:3].mean()
    assert runner.cfg.model.get('num_classes') == (3 if 'each' in method else None)


@pytest.mark.parametrize('method', ['coop for each class', 'clip-adapter'])
def test_testing_says_what_validation_said(tmp_path, images, trained, method):
    folder, runner = trained(method)
    scores = run_test(config(images, tmp_path, method), str(folder / 'epoch_3.pth'), record=False)
    assert scores['accuracy/top1'] == runner.message_hub.get_scalar('val/accuracy/top1').current()


@pytest.mark.parametrize('method', ['coop for each class', 'clip-adapter'])
def test_a_resumed_run_ends_like_one_that_was_never_stopped(tmp_path, images, trained, method):
    folder, _ = trained(method)
    train(config(images, tmp_path, method), resume=str(folder / 'epoch_2.pth'))
    assert tiny.differing_runs(tmp_path / 'epoch_3.pth', folder / 'epoch_3.pth') == []


@pytest.mark.parametrize('method', ['coop for each class', 'clip-adapter'])
def test_a_run_starts_from_a_checkpoint_of_plain_weights(tmp_path, images, method):
    cfg = config(images, tmp_path, method)
    plain = MODELS.build(dict(type='LoRACLIP', encoder='none', arch=cfg.model.arch, tokenizer=cfg.model.tokenizer))
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'plain.pth')
    cfg.load_from, cfg.train_cfg.max_epochs = str(tmp_path / 'plain.pth'), 1
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.optim_wrapper.optimizer.weight_decay = 0.0
    state = train(cfg, validate=False).model.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(state[name], value), name
    if 'each' in method:  # Words mean something only once the weights are there.
        words = plain.text.token_embedding.weight[torch.tensor([1, 2, 3])]
        assert torch.equal(state['text.context.vectors'], words.expand(3, 3, -1))


def test_another_ratio_is_refused(tmp_path, images, trained):
    folder, _ = trained('clip-adapter')
    cfg = config(images, tmp_path, 'clip-adapter')
    cfg.model.ratio = 0.2
    with pytest.raises(ValueError, match='image_adapter was trained with the scaling 0.6, the model has 0.2'):
        run_test(cfg, str(folder / 'epoch_3.pth'), record=False)


def test_nothing_can_be_merged(tmp_path, trained):
    folder, runner = trained('coop')
    with pytest.raises(ValueError, match='the context of CoOp is no part of a plain CLIP'):
        merge_checkpoint(runner.cfg, str(folder / 'epoch_3.pth'), str(tmp_path / 'merged.pth'))


@pytest.mark.parametrize('method', ['coop', 'coop for each class'])
def test_base_to_new(tmp_path, method):
    make_listed(tmp_path / 'data' / 'eurosat', 'eurosat', counts=dict(train=2, val=2, test=2), real=True)
    cfg = config(tmp_path, tmp_path / 'run', method, **{'train_cfg.max_epochs': 1})
    vocabulary = ['a', 'photo', 'of', '.', 'the', 'class', *map(str, range(10))]
    cfg.model.update(tokenizer=dict(type='WordTokenizer', vocabulary=vocabulary))
    cfg.model.arch.update(vocab_size=len(vocabulary) + 3, context_length=12)
    cfg.base_to_new, cfg.dataset_name, cfg.test_subset = True, 'eurosat', dict(base_to_new='new', otherwise='all')
    cfg.data_preprocessor.num_classes = None
    data = dict(type='CoOpDataset', name='eurosat', data_root=str(tmp_path / 'data'), serialize_data=False)
    pipelines = {part: dict(pipeline=cfg[f'{part}_dataloader'].dataset.pipeline) for part in ('train', 'test')}
    cfg.train_dataloader.dataset = dict(data, subset='base', **pipelines['train'])
    cfg.test_dataloader.dataset = dict(data, split='test', subset='{test_subset}', **pipelines['test'])
    train(cfg, validate=False)
    checkpoint = str(tmp_path / 'run' / 'epoch_1.pth')
    cfg.test_subset = 'base'
    assert 'accuracy/top1' in run_test(cfg, checkpoint, record=False)
    cfg.test_subset = 'new'
    if method == 'coop':
        assert 'accuracy/top1' in run_test(cfg, checkpoint, record=False)
        return
    with pytest.raises(ValueError, match='for new classes train with class_specific=False'):
        run_test(cfg, checkpoint, record=False)


class TestSettleClasses:
    def test_number_of_the_training_data(self, images, tmp_path):
        cfg = config(images, tmp_path, 'coop for each class')
        settle_variables(cfg)
        assert settle_classes(cfg) == 3 == cfg.model.num_classes
        assert settle_classes(cfg) is None
        cfg = config(images, tmp_path, 'coop for each class', **{'model.classes': ['class0', 'class1']})
        assert settle_classes(cfg) == 2

    def test_number_of_a_checkpoint(self, images, tmp_path, trained):
        folder, _ = trained('coop for each class')
        cfg = config(images, tmp_path, 'coop for each class')
        cfg.train_dataloader = None
        assert settle_classes(cfg, str(folder / 'epoch_1.pth')) == 3

    def test_models_without_rows(self, images, tmp_path):
        assert settle_classes(config(images, tmp_path, 'coop')) is None
        assert settle_classes(Config(dict(model=dict(type='ResNet')))) is None

    def test_data_that_do_not_say(self, images, tmp_path):
        cfg = config(images, tmp_path, 'coop for each class')
        cfg.train_dataloader.dataset = dict(type='BaseDataset', ann_file='', lazy_init=True)
        with pytest.raises(ValueError, match=r'the training data have .*: give the model num_classes'):
            settle_classes(cfg)
        cfg = config(tmp_path / 'none', tmp_path, 'coop for each class')
        with pytest.raises(FileNotFoundError, match='train_dataloader'):
            settle_classes(cfg)
