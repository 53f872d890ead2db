"""The rows of ``mmlora/_compat.py``'s table that are cured elsewhere, or kept away by a habit of the package."""

import ast
import logging
import multiprocessing
import os
import re
import socket
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config, ConfigDict
from mmengine.dist import init_dist
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner import checkpoint as stock
from mmpretrain.registry import MODELS
from torch import nn

import mmlora
from mmlora import _compat
from mmlora.adapters.attention_math import math_attention
from mmlora.apis.distributed import start_processes, stop_processes, wrap_for_processes
from mmlora.apis.flops import count_flops
from mmlora.apis.prepare import set_loader_options
from mmlora.engine.hooks.compile_hook import CompileHook
from mmlora.engine.optim_wrappers import BF16OptimWrapper

ROOT = Path(mmlora.__file__).parent.parent
SOURCES = [path for folder in ('mmlora', 'tools', 'configs', 'benchmarks') for path in (ROOT / folder).rglob('*.py')
           if '.mim' not in path.parts]
CONFIGS = sorted((ROOT / 'configs').rglob('*.py')) if (ROOT / 'configs').is_dir() else []


def _imports(path):
    """Every module that a file imports, with the names taken from it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f'{node.module or ""}.{alias.name}' for alias in node.names]
    return found


def _offenders(pattern, paths=None):
    return [f'{path}: {name}' for path in SOURCES if paths is None or path in paths
            for name in _imports(path) if re.search(pattern, name)]


def test_the_table_has_every_row():
    rows = re.findall(r'^(\d+) ', _compat.__doc__, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 22))
    for path in re.findall(r'``(mmlora/[\w/.]+)``', _compat.__doc__):
        assert (ROOT / path).exists(), path


class TestRow02:
    """mmengine's own checkpoints."""

    def _checkpoint(self, folder):
        model = nn.Linear(2, 1)
        torch.save(dict(state_dict=model.state_dict(), message_hub=dict(log_scalars=dict(a=HistoryBuffer([1.], [1])))),
                   folder / 'epoch_1.pth')
        return folder / 'epoch_1.pth', model

    def test_row02(self, tmp_path):
        path, model = self._checkpoint(tmp_path)
        fresh = nn.Linear(2, 1)
        found = load_checkpoint(fresh, str(path))
        assert torch.equal(fresh.weight, model.weight)
        assert found['message_hub']['log_scalars']['a'].current() == 1.0

    def test_row02_without_the_cure(self, tmp_path, monkeypatch):
        """The stock loader cannot read the file, or reads any file in full trust."""
        path, _ = self._checkpoint(tmp_path)
        monkeypatch.setattr(CheckpointLoader, '_schemes', {'': stock.load_from_local})
        trusted = []
        genuine = torch.load
        monkeypatch.setattr(torch, 'load', lambda *args, **kwargs: trusted.append(
            kwargs.get('weights_only') is False) or genuine(*args, **kwargs))
        try:
            load_checkpoint(nn.Linear(2, 1), str(path))
        except Exception as error:  # noqa: BLE001
            assert 'Weights only load failed' in str(error)
        else:
            assert trusted == [True]


@pytest.mark.skipif(torch.cuda.is_available(), reason='without CUDA')
class TestRow07:
    """Mixed precision on a CPU."""

    def test_row07(self):
        model = nn.Linear(4, 2)
        wrapper = BF16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        before = model.weight.detach().clone()
        with wrapper.optim_context(model):
            out = model(torch.ones(3, 4))
        assert out.dtype == torch.bfloat16
        wrapper.update_params(out.float().sum())
        assert model.weight.dtype == torch.float32 and not torch.equal(model.weight, before)

    def test_row07_without_the_cure(self):
        model = nn.Linear(4, 2)
        with pytest.raises(AssertionError, match='only available training on gpu'):
            AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


class Classifier(BaseModel):
    """A backbone, a head and a loss."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.head(self.backbone(inputs).relu()).square().mean())


class TestRow08:
    """``torch.compile`` with a learning rate per parameter; the backend that only traces is enough to show it."""

    def _parts(self):
        torch.manual_seed(0)  # Some draws leave no unit of the backbone above 0, and no gradient for it.
        model = Classifier()
        groups = [ConfigDict(params=[parameter], lr=0.1) for parameter in model.parameters()]
        return model, OptimWrapper(torch.optim.SGD(groups, lr=0.1))

    def test_row08(self):
        model, wrapper = self._parts()
        CompileHook(backend='eager').before_train(SimpleNamespace(model=model, logger=logging.getLogger('x')))
        before = model.backbone.weight.detach().clone()
        model.train_step(dict(inputs=torch.ones(2, 4)), wrapper)
        assert model.backbone._compiled_call_impl is not None
        assert not torch.equal(model.backbone.weight, before)

    def test_row08_without_the_cure(self):
        model, wrapper = self._parts()
        compiled = torch.compile(model.train_step, backend='eager')  # What mmengine makes of cfg.compile.
        with pytest.raises(Exception, match='UserDefinedDictVariable|ConfigDict'):
            compiled(dict(inputs=torch.ones(2, 4)), wrapper)
        torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='without CUDA')
class TestRow09:
    """Processes on CPUs; that training with two of them works is tested with the tools."""

    def _failure(self, function):
        """Return what a function raises as the one process of a launcher, which is a copy of this process."""
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context('fork')
        receiver, sender = context.Pipe(duplex=False)

        def run():
            os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
            try:
                function()
            except BaseException:  # noqa: BLE001
                sender.send(traceback.format_exc())
            else:
                sender.send('')

        process = context.Process(target=run)
        process.start()
        sender.close()
        failure = receiver.recv() if receiver.poll(120) else 'no answer within two minutes'
        process.join(timeout=10)
        process.kill()
        return failure

    def test_row09(self):
        def cured():
            cfg = Config(dict(launcher='pytorch'))
            start_processes(cfg)
            assert torch.distributed.get_backend() == 'gloo'
            wrap_for_processes(cfg)
            assert cfg.model_wrapper_cfg.device_ids is None
            stop_processes()

        assert self._failure(cured) == ''

    def test_row09_without_the_cure(self):
        failure = self._failure(lambda: init_dist('pytorch', backend='gloo'))
        assert re.search('_cuda_setDevice|NVIDIA driver|CUDA', failure)


def test_row05_nothing_multimodal_is_imported():
    assert not _offenders(r'mmpretrain\.models\.multimodal')


def test_row06_the_lowest_mmengine_registers_adafactor_once():
    low = re.search(r"'mmengine>=([\d.]+)", (ROOT / 'setup.py').read_text(encoding='utf-8')).group(1)
    assert tuple(map(int, low.split('.'))) >= (0, 10, 6)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_row10_no_config_imports(path):
    assert not _imports(path)


def test_row11_no_config_needs_the_lazy_configs_of_mmpretrain():
    assert not _offenders(r'mmpretrain\.configs')
    for path in CONFIGS:
        assert 'mmpretrain.configs' not in path.read_text(encoding='utf-8'), path


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_row12_every_config_is_parsed(path):
    Config.fromfile(path)


def test_row12_what_it_would_say(tmp_path):
    (tmp_path / 'base.py').write_text('neck = None\n')
    (tmp_path / 'child.py').write_text("_base_ = ['base.py']\nneck = dict(type='GlobalAveragePooling')\n")
    with pytest.raises(TypeError, match='is a dict in the child config but is of type'):
        Config.fromfile(tmp_path / 'child.py')


class TestRow13:
    """Workers that persist, where there are none."""

    CFG = dict(train_dataloader=dict(num_workers=0, persistent_workers=True, pin_memory=True))

    def test_row13(self):
        cfg = Config(self.CFG)
        set_loader_options(cfg)
        loader = cfg.train_dataloader
        assert loader.persistent_workers is False and loader.pin_memory is torch.cuda.is_available()
        options = {key: value for key, value in loader.items() if key != 'collate_fn'}
        assert len(list(torch.utils.data.DataLoader([1, 2], **options))) == 2

    def test_row13_rests_where_there_are_workers(self):
        cfg = Config(dict(train_dataloader=dict(num_workers=1)))
        set_loader_options(cfg)
        assert cfg.train_dataloader.persistent_workers is True

    def test_row13_without_the_cure(self):
        with pytest.raises(ValueError, match='persistent_workers option needs num_workers > 0'):
            torch.utils.data.DataLoader([1, 2], **self.CFG['train_dataloader'])


SMALL = {
    'VitSR_LoRA': dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=16,
                       patch_size=8, lora_ranks=2),
    'SwinSR_LoRA': dict(arch=dict(embed_dims=8, depths=[1] * 4, num_heads=[1] * 4), img_size=64, window_size=2,
                        lora_ranks=2),
}


@pytest.mark.parametrize('name', SMALL)
def test_row14(name):
    model = MODELS.build(dict(type=name, **SMALL[name]))
    assert model.train() is model and model.training
    assert model.eval() is model and not model.training


def test_row14_without_the_cure():
    model = MODELS.build(dict(type='VisionTransformer', arch=SMALL['VitSR_LoRA']['arch'], img_size=16, patch_size=8))
    assert model.eval() is None


def _second_order(context):
    torch.manual_seed(0)
    model = MODELS.build(dict(type='VisionTransformer', arch=SMALL['VitSR_LoRA']['arch'], img_size=16, patch_size=8))
    images, weight = torch.randn(2, 3, 16, 16), model.layers[0].attn.qkv.weight
    with context:
        out = model(images)[0].square().sum()
    first, = torch.autograd.grad(out, weight, create_graph=True)
    second, = torch.autograd.grad(first.square().sum(), weight)
    return first, second


def test_row15():
    first, second = _second_order(math_attention())
    assert first.abs().max() > 0 and second.isfinite().all() and second.abs().max() > 0


def test_row15_without_the_cure():
    from contextlib import nullcontext
    with pytest.raises(RuntimeError, match='derivative for aten::_scaled_dot_product.* is not implemented'):
        _second_order(nullcontext())


class Attention(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x[..., :3])


def test_row16_by_hand():
    model = nn.Sequential(nn.Linear(5, 5), Attention())
    linear, attention = 7 * 5 * 5, 7 * 7 * (5 + 3)
    model.train()
    assert count_flops(model, (7, 5)) == linear + attention
    assert model.training and model[0].training


def _counts(arch, size, patch):
    model = MODELS.build(dict(type='VisionTransformer', arch=arch, img_size=size, patch_size=patch))
    known = get_model_complexity_info(model, input_shape=(3, size, size), show_table=False, show_arch=False)['flops']
    return count_flops(model, (3, size, size)), known


def test_row16_without_the_cure():
    counted, known = _counts(SMALL['VitSR_LoRA']['arch'], 16, 8)
    assert counted - known == 2 * 2 * 5 * 5 * 16  # layers x products x tokens^2 x width


@pytest.mark.slow
def test_row16_of_vit_base():
    counted, known = _counts('b', 224, 16)
    assert (round(counted / 1e9, 3), round(known / 1e9, 3)) == (17.582, 16.867)


def test_row17_no_retrieval_metric_is_used():
    for path in SOURCES:
        if path != Path(_compat.__file__):
            assert not re.search(r'np\.in1d|RetrievalRecall|RetrievalAveragePrecision', path.read_text()), path


def test_row18_no_tool_stands_on_another_package_s_scripts():
    assert not _offenders(r'^(pkg_resources|grad_cam|mmpretrain\.tools|tools)\b')
    for path in SOURCES:
        assert 'mmpretrain/.mim/tools' not in path.read_text(encoding='utf-8'), path


def test_row20_the_tests_reach_no_network():
    with socket.socket() as connection:
        connection.settimeout(1)
        with pytest.raises(RuntimeError, match='tests run offline'):
            connection.connect(('192.0.2.1', 80))
