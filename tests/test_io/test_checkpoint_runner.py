"""mmengine's own Runner and inferencer on checkpoints: genuine ones resume, Python text in them never runs."""

import pickle
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner

import mmlora  # noqa: F401 (installs the loaders)
from mmlora.io.checkpoint import load_checkpoint
from mmlora.io.plain import plain_checkpoint


class Regression(BaseModel):
    """The smallest model that a Runner trains."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, inputs, targets, mode='loss'):
        return dict(loss=(self.linear(torch.stack(inputs)) - torch.stack(targets)).square().mean())


class Points(torch.utils.data.Dataset):
    metainfo = dict(classes=('a', 'b'), palette=np.eye(2))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index / 8, 1.0]), targets=torch.tensor([index / 4]))


class ScoreHook(Hook):
    """Leaves a numpy scalar in the message hub, as metrics do."""

    def after_train_epoch(self, runner):
        runner.message_hub.update_info('best_score', np.float64(1 / 3))


class PlainHook(Hook):
    """Saves plain data only."""

    priority = 'LOWEST'

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint.update(plain_checkpoint(checkpoint))


def _runner(folder, epochs=2, hooks=(), **kwargs):
    torch.manual_seed(0)
    return Runner(
        model=Regression(), work_dir=str(folder), cfg=Config(dict(train_cfg=dict(), seed=0)),
        train_dataloader=dict(dataset=Points(), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False),
                              collate_fn=dict(type='pseudo_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=epochs), optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        param_scheduler=dict(type='LinearLR', end=8, by_epoch=False),
        default_hooks=dict(checkpoint=dict(type=CheckpointHook, interval=1, max_keep_ckpts=2)),
        custom_hooks=[ScoreHook(), *hooks], log_level='ERROR', default_scope='mmengine',
        experiment_name=f'{folder.name}_{len(list(folder.parent.iterdir()))}_{epochs}_{len(hooks)}', **kwargs)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint after 2 of 4 epochs, written by mmengine alone, and the weights after all 4."""
    folder = tmp_path_factory.mktemp('stock')
    _runner(folder / 'half').train()
    whole = _runner(folder / 'whole', epochs=4)
    whole.train()
    return folder / 'half' / 'epoch_2.pth', whole


def _resume(path, folder, **kwargs):
    runner = _runner(folder, epochs=4, resume=True, load_from=str(path), **kwargs)
    runner.train()
    return runner


def _same_run(runner, whole):
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(runner.model.state_dict()[name], tensor), name
    assert (runner.epoch, runner.iter) == (whole.epoch, whole.iter)
    for name, buffer in whole.message_hub.log_scalars.items():
        found = runner.message_hub.log_scalars[name]
        assert isinstance(found, HistoryBuffer)
        if 'time' not in name:
            np.testing.assert_array_equal(found.data[0], buffer.data[0])
    assert runner.message_hub.get_info('best_score') == 1 / 3


def test_a_genuine_older_checkpoint_resumes(trained, tmp_path):
    path, whole = trained
    before = path.read_bytes()
    with pytest.raises(pickle.UnpicklingError):  # It is one that plain weights_only refuses.
        torch.load(path, weights_only=True)
    _same_run(_resume(path, tmp_path / 'on'), whole)
    assert path.read_bytes() == before


def test_the_dataset_of_an_older_checkpoint_compares_equal(trained):
    """mmengine warns when the pickled dataset_meta of the file differs from the dataset's."""
    meta = load_checkpoint(trained[0])['meta']['dataset_meta']
    assert meta['classes'] == Points.metainfo['classes']
    np.testing.assert_array_equal(meta['palette'], Points.metainfo['palette'])
    assert meta['palette'].dtype == np.float64


def test_a_plain_checkpoint_resumes_and_needs_no_trust(trained, tmp_path):
    _runner(tmp_path / 'half', hooks=[PlainHook()]).train()
    path = tmp_path / 'half' / 'epoch_2.pth'
    torch.load(path, weights_only=True)
    _same_run(_resume(path, tmp_path / 'on', hooks=[PlainHook()]), trained[1])


def test_saving_again_and_again_does_not_gather_text(trained, tmp_path):
    _resume(trained[0], tmp_path / 'on')
    info = load_checkpoint(tmp_path / 'on' / 'epoch_4.pth')['message_hub']['runtime_info']
    assert [name for name in info if 'cfg' in name or 'config' in name] == ['mmlora_cfg_text']


PLACES = {
    'meta config': ('meta', 'config'),
    'meta cfg': ('meta', 'cfg'),
    'hub cfg': ('hub', 'cfg'),
    'hub config': ('hub', 'config'),
}


def _poisoned(path, folder, place):
    """The trained checkpoint with a program that creates a folder in one place."""
    checkpoint = plain_checkpoint(load_checkpoint(path))
    marker = folder / 'ran'
    where, name = PLACES[place]
    part = checkpoint['meta'] if where == 'meta' else checkpoint['message_hub']['runtime_info']
    part[name] = f'made = __import__("os").mkdir({str(marker)!r})\nmodel = dict(type="Regression")\n'
    torch.save(checkpoint, folder / 'bad.pth')
    return folder / 'bad.pth', marker


@pytest.mark.parametrize('place', PLACES)
def test_python_text_does_not_run_on_resume(trained, tmp_path, place):
    path, marker = _poisoned(trained[0], tmp_path, place)
    before = path.read_bytes()
    _same_run(_resume(path, tmp_path / 'on'), trained[1])
    assert not marker.exists() and path.read_bytes() == before


class Inferencer(BaseInferencer):
    """The abstract parts of mmengine's inferencer, empty."""

    def visualize(self, inputs, preds, **kwargs):
        pass

    def postprocess(self, preds, visualization, return_datasample=False, **kwargs):
        return preds

    def _init_pipeline(self, cfg):
        return lambda x: x


@pytest.fixture
def registered():
    MODELS.register_module(module=Regression, force=True)
    yield
    MODELS.module_dict.pop('Regression')


@pytest.mark.parametrize('place', ['meta cfg', 'hub cfg'])
def test_python_text_does_not_run_in_an_inferencer(trained, tmp_path, registered, place):
    path, marker = _poisoned(trained[0], tmp_path, place)
    with warnings.catch_warnings(), pytest.raises(ValueError, match='Cannot find the config in the checkpoint'):
        warnings.simplefilter('ignore')
        Inferencer(weights=str(path), device='cpu', scope='mmengine')
    assert not marker.exists()
    inferencer = Inferencer(Config(dict(model=dict(type='Regression'))), str(path), 'cpu', scope='mmengine')
    weight = torch.load(path, weights_only=True)['state_dict']['linear.weight']
    assert torch.equal(inferencer.model.linear.weight, weight)


@pytest.mark.parametrize('where', ['resume', 'inferencer'])
def test_the_text_runs_without_the_loader(trained, tmp_path, registered, monkeypatch, where):
    """Else the tests above would show nothing."""
    from mmengine.runner import CheckpointLoader
    path, marker = _poisoned(trained[0], tmp_path, 'meta config' if where == 'resume' else 'hub cfg')
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['message_hub'] = dict(log_scalars=OrderedDict(), resumed_keys=OrderedDict(),
                                     runtime_info=checkpoint['message_hub']['runtime_info'])

    def load_from_trust(filename, map_location):
        return checkpoint

    monkeypatch.setattr(CheckpointLoader, '_schemes', {'': load_from_trust})
    if where == 'resume':
        _resume(path, tmp_path / 'on')
    else:
        Inferencer(weights=str(path), device='cpu', scope='mmengine')
    assert marker.is_dir()
