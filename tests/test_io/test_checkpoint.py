"""Good checkpoints of every format load; bad ones are refused by name, run nothing and stay on disk as they were."""

import argparse
import hashlib
import http.server
import logging
import os
import pickle
import random
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from attacks import WEIGHTS, Attribute, Runs, poisoned, saved
from mmengine import runner as mmengine_runner
from mmengine.fileio import LocalBackend
from mmengine.fileio.backends import registry_utils
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as stock

import mmlora  # noqa: F401 (installs the loaders)
from mmlora.io import reader
from mmlora.io.checkpoint import load_checkpoint, register_loaders


def _hashes(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).rglob('*') if path.is_file()}


# --- files that load -------------------------------------------------------------------------------------------------

def _npz(path, arrays):
    with open(path, 'wb') as file:
        np.savez(file, **arrays)


def _same_weights(found):
    assert sorted(found) == sorted(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


@pytest.mark.parametrize(('name', 'form'), [
    ('a.pth', 'zip'), ('no_suffix', 'zip'), ('a.bin', 'old'),
    ('a.pth', 'safetensors'), ('a.safetensors', 'safetensors'), ('no_suffix', 'safetensors')])
def test_formats_are_told_by_content(tmp_path, name, form):
    if form == 'safetensors':
        safetensors.torch.save_file(WEIGHTS, tmp_path / name)
    else:
        torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=form == 'zip')
    _same_weights(load_checkpoint(tmp_path / name))


def test_npz_of_google(tmp_path):
    _npz(tmp_path / 'a.npz', {'Transformer/a': np.arange(6, dtype='>f4').reshape(2, 3), 'step': np.int64(3),
                              'half': np.array([0x3F80, 0x4000], dtype='<u2').view('V2')})
    found = load_checkpoint(tmp_path / 'a.npz')
    assert torch.equal(found['Transformer/a'], torch.arange(6.0).reshape(2, 3))
    assert found['step'].shape == () and found['step'] == 3
    assert found['half'].dtype == torch.bfloat16 and found['half'].tolist() == [1.0, 2.0]


def test_mmap_reads_the_same(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'a.pth')
    torch.save(WEIGHTS, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(WEIGHTS, tmp_path / 'a.safetensors')
    for name in ('a.pth', 'old.pth', 'a.safetensors'):
        _same_weights(reader.read_checkpoint(tmp_path / name, mmap=True))


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_tensors_do_not_change_when_their_file_is_overwritten_in_place(tmp_path, name):
    save = torch.save if name.endswith('pth') else safetensors.torch.save_file
    save(WEIGHTS, tmp_path / name)
    found = load_checkpoint(tmp_path / name)
    with open(tmp_path / name, 'r+b') as file:
        file.write(b'\xff' * (tmp_path / name).stat().st_size)
    _same_weights(found)


def test_reading_is_silent_unless_a_logger_is_given(tmp_path, capsys, caplog):
    torch.save(WEIGHTS, tmp_path / 'a.pth')
    load_checkpoint(tmp_path / 'a.pth')
    assert capsys.readouterr().out == ''
    with caplog.at_level(logging.INFO, logger='mine'):
        load_checkpoint(tmp_path / 'a.pth', logger=logging.getLogger('mine'))
    assert 'Loads checkpoint by local backend' in caplog.text


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors', 'a.npz'])
def test_map_location(tmp_path, name):
    tensors = {'a': torch.ones(2)}
    {'a.pth': torch.save, 'a.safetensors': safetensors.torch.save_file,
     'a.npz': lambda content, path: _npz(path, {'a': np.ones(2, 'f4')})}[name](tensors, tmp_path / name)
    assert load_checkpoint(tmp_path / name, None)['a'].device.type == 'cpu'
    assert load_checkpoint(tmp_path / name, 'meta')['a'].device.type == 'meta'
    assert load_checkpoint(tmp_path / name, torch.device('cpu'))['a'].tolist() == [1, 1]


def test_a_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(WEIGHTS, tmp_path / 'a.pth')
    _same_weights(load_checkpoint('~/a.pth'))


def test_weights_of_the_package_by_name(tmp_path, monkeypatch):
    import sys
    import types
    torch.save(WEIGHTS, tmp_path / 'tiny.pth')
    assets = types.ModuleType('mmlora.assets')
    assets.path = lambda name: tmp_path / f'{name}.pth'
    monkeypatch.setitem(sys.modules, 'mmlora.assets', assets)
    monkeypatch.setattr(mmlora, 'assets', assets, raising=False)
    _same_weights(load_checkpoint('mmlora://tiny'))


# --- files that do not -----------------------------------------------------------------------------------------------

BAD_BYTES = {
    'empty': (b'', 'is empty'),
    'text': (b'epoch 3, accuracy 0.93\n', r"looks like text, beginning with 'epoch 3"),
    'web page': (b'\n<!DOCTYPE html><html>404</html>', 'a web page'),
    'xml': (b'<?xml version="1.0"?><Error>AccessDenied</Error>', 'a web page'),
    'git lfs pointer': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git lfs pull'),
    'png': (b'\x89PNG\r\n\x1a\n' + b'\0' * 64, 'a PNG image'),
    'jpeg': (b'\xff\xd8\xff\xe0' + b'\0' * 64, 'a JPEG image'),
    'gzip': (b'\x1f\x8b\x08' + b'\0' * 64, 'gzip'),
    'noise': (bytes(range(128, 256)) * 4, 'damaged|no known kind'),
    'old pickle of text protocol': (pickle.dumps({'a': 1}, 0), 'not a checkpoint'),
    'plain pickle': (pickle.dumps({'a': 1}, 2), 'damaged or cut off'),
    'a list': (saved([torch.ones(1)]), 'holds a list, not the dict'),
    'a tensor': (saved(torch.ones(1)), 'holds a Tensor, not the dict'),
    'a module': (saved(torch.nn.Linear(1, 1)), 'torch.nn.modules.linear.Linear'),
    'a zip of something else': (b'PK\x03\x04' + b'\0' * 300, 'damaged or cut off'),
    'cut zip': (saved(WEIGHTS)[:-300], 'damaged or cut off'),
    'cut to a few bytes': (saved(WEIGHTS)[:9], 'damaged or cut off'),
    'cut old file': (saved(WEIGHTS, _use_new_zipfile_serialization=False)[:-9], 'damaged or cut off'),
    'cut safetensors': (safetensors.torch.save(WEIGHTS)[:-1], 'damaged or cut off'),
    'npz of objects': (None, 'holds Python objects'),
    'npz of text': (None, 'array of <U1, not of numbers'),
    'torchscript of objects': (None, 'refused: .*TorchScript program with builtins.print'),
}


def _bad_file(folder, name):
    path = folder / 'bad.pth'
    if name == 'npz of objects':
        _npz(path, {'a': np.array([Runs(os.mkdir, str(folder / 'ran'))], dtype=object)})
    elif name == 'npz of text':
        _npz(path, {'a': np.array(['x'])})
    elif name == 'torchscript of objects':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('net/data.pkl', b'\x80\x02cbuiltins\nprint\n.')
            archive.writestr('net/code/net.py', '')
    else:
        path.write_bytes(BAD_BYTES[name][0])
    return path


@pytest.mark.parametrize('name', BAD_BYTES)
def test_what_is_no_checkpoint_is_named_and_kept(tmp_path, name):
    path = _bad_file(tmp_path, name)
    before = _hashes(tmp_path)
    with pytest.raises(ValueError, match=BAD_BYTES[name][1]) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    assert _hashes(tmp_path) == before and os.listdir(tmp_path) == ['bad.pth']


@pytest.mark.parametrize('form', ['zip', 'old', 'safetensors', 'npz'])
def test_damage_anywhere_gives_a_clear_error_or_a_dict(tmp_path, form):
    content = {'state_dict': WEIGHTS, 'meta': {'epoch': 3, 'names': ('a', 'b')}}
    path, draw = tmp_path / 'bad.pth', random.Random(form)
    if form == 'safetensors':
        whole = safetensors.torch.save(WEIGHTS)
    elif form == 'npz':
        _npz(path, {'a': np.ones((2, 3))})
        whole = path.read_bytes()
    else:
        whole = saved(content, _use_new_zipfile_serialization=form == 'zip')
    errors = 0
    for trial in range(60):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[draw.randrange(1, len(data)):]
        else:
            for _ in range(1 + trial % 7):
                data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            assert isinstance(load_checkpoint(path), dict)
        except ValueError as error:
            assert str(path) in str(error)
            errors += 1
    assert errors > 20


def test_a_missing_file_names_its_near_misses(tmp_path):
    torch.save({}, tmp_path / 'epoch_10.pth')
    with pytest.raises(FileNotFoundError, match=r'epoch_1\.pth can not be found; did you mean epoch_10\.pth'):
        load_checkpoint(tmp_path / 'epoch_1.pth')
    with pytest.raises(FileNotFoundError, match='there is no folder'):
        load_checkpoint(tmp_path / 'absent' / 'epoch_1.pth')
    with pytest.raises(ValueError, match=r'is a folder, not a checkpoint: .*epoch_10\.pth'):
        load_checkpoint(tmp_path)


# --- files that want to run code: tests/test_security has them all ----------------------------------------------------

def test_the_attack_works_where_files_are_trusted(tmp_path):
    """Else the tests of attacks would show nothing."""
    torch.save(poisoned('mkdir', tmp_path / 'ran'), tmp_path / 'bad.pth')
    torch.load(tmp_path / 'bad.pth', weights_only=False)
    assert (tmp_path / 'ran').is_dir()


def test_a_zip_with_a_second_pickle_beside_its_own(tmp_path):
    """The list of names and the load must look at the same member of the archive."""
    torch.save(dict(WEIGHTS), tmp_path / 'good.pth')
    marker = tmp_path / 'ran'
    with zipfile.ZipFile(tmp_path / 'good.pth') as source, zipfile.ZipFile(tmp_path / 'bad.pth', 'w') as target:
        for item in source.infolist():
            target.writestr(item.filename, source.read(item))
        target.writestr('evil/data.pkl', pickle.dumps(Runs(os.mkdir, str(marker)), 2))
        target.writestr('x.npy', b'')
    try:
        _same_weights(load_checkpoint(tmp_path / 'bad.pth'))
    except ValueError as error:
        assert 'bad.pth' in str(error)
    assert not marker.exists()


@pytest.mark.filterwarnings('ignore:Environment variable')
def test_no_environment_variable_turns_trust_on(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    torch.save(poisoned('mkdir', tmp_path / 'ran'), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='refused'):
        load_checkpoint(tmp_path / 'bad.pth')
    assert not (tmp_path / 'ran').exists()


# --- every scheme ----------------------------------------------------------------------------------------------------

def _tiny():
    return torch.nn.Linear(3, 2)


def _route_load_checkpoint(path, monkeypatch):
    mmengine_runner.load_checkpoint(_tiny(), str(path))


def _route_prefix(path, monkeypatch):
    stock._load_checkpoint_with_prefix('backbone', str(path))


def _route_loader(path, monkeypatch):
    CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def _route_init_cfg(path, monkeypatch):
    from mmengine.model import BaseModule
    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()


def _route_s3(path, monkeypatch):
    class Bucket(LocalBackend):
        def get(self, filepath):
            return path.read_bytes()

    monkeypatch.setitem(registry_utils.backends, 'petrel', Bucket)
    CheckpointLoader.load_checkpoint('s3://bucket/bad.pth')


def _route_openmmlab_file(path, monkeypatch):
    monkeypatch.setenv('MMENGINE_HOME', str(path.parent))
    monkeypatch.setattr(stock, 'get_external_models', lambda: {'x': path.name})
    CheckpointLoader.load_checkpoint('open-mmlab://x')


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serve ``tmp_path`` on this machine; downloads go to a cache of their own."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'cache'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_of_one_name_in_two_repositories_are_kept_apart(tmp_path, served):
    for number, name in enumerate('ab'):
        (tmp_path / name).mkdir()
        safetensors.torch.save_file({'x': torch.tensor([float(number)])}, tmp_path / name / 'model.safetensors')
    found = [float(load_checkpoint(f'{served}/{name}/model.safetensors')['x']) for name in 'aba']
    assert found == [0.0, 1.0, 0.0]


def _web_route(scheme, index):
    def load(url, monkeypatch):
        if index is None:
            return CheckpointLoader.load_checkpoint(url)
        monkeypatch.setattr(stock, index, lambda: {'x': url})
        return CheckpointLoader.load_checkpoint(f'{scheme}x')
    return load


FILE_ROUTES = {'load_checkpoint': _route_load_checkpoint, 'prefix': _route_prefix, 'loader': _route_loader,
               'init_cfg': _route_init_cfg, 's3': _route_s3, 'open-mmlab file': _route_openmmlab_file}
WEB_ROUTES = {'http': _web_route(None, None), 'torchvision': _web_route('torchvision://', 'get_torchvision_models'),
              'modelzoo': _web_route('modelzoo://', 'get_torchvision_models'),
              'mmcls': _web_route('mmcls://', 'get_mmcls_models'),
              'open-mmlab': _web_route('open-mmlab://', 'get_external_models'),
              'openmmlab': _web_route('openmmlab://', 'get_external_models')}


@pytest.mark.parametrize('route', FILE_ROUTES)
def test_no_route_to_a_file_runs_it(tmp_path, monkeypatch, route):
    torch.save(poisoned('mkdir', tmp_path / 'ran'), tmp_path / 'bad.pth')
    before = _hashes(tmp_path)
    with pytest.raises(ValueError, match='refused.*mkdir'):
        FILE_ROUTES[route](tmp_path / 'bad.pth', monkeypatch)
    assert not (tmp_path / 'ran').exists() and _hashes(tmp_path) == before


@pytest.mark.parametrize('route', WEB_ROUTES)
def test_no_route_over_the_web_runs_it(tmp_path, monkeypatch, served, route):
    torch.save(poisoned('mkdir', tmp_path / 'ran'), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='refused.*mkdir'):
        WEB_ROUTES[route](f'{served}/bad.pth', monkeypatch)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('route', WEB_ROUTES)
def test_a_download_is_read_and_kept_for_the_next_time(tmp_path, monkeypatch, served, route):
    torch.save({'state_dict': {f'backbone.{name}': value for name, value in WEIGHTS.items()}}, tmp_path / 'a.pth')
    prefix = '' if route == 'mmcls' else 'backbone.'
    for _ in range(2):
        found = WEB_ROUTES[route](f'{served}/a.pth', monkeypatch)['state_dict']
        _same_weights({name.removeprefix(prefix): value for name, value in found.items()})
        (tmp_path / 'a.pth').unlink(missing_ok=True)


def test_errors_of_the_web(tmp_path, served):
    with pytest.raises(ConnectionError, match=r'cannot download http.*absent\.pth'):
        load_checkpoint(f'{served}/absent.pth')
    for name in ('mmcls://resnet5', 'open-mmlab://vgg16_caff'):
        with pytest.raises(ValueError, match='knows no model.*did you mean'):
            load_checkpoint(name)
    with pytest.raises(ValueError, match='pavi:// is not supported'):
        load_checkpoint('pavi://x/y.pth')


def test_every_scheme_of_mmengine_is_ours():
    register_loaders()
    places = {prefix: loader.__module__ for prefix, loader in CheckpointLoader._schemes.items()}
    assert set(places.values()) == {'mmlora.io.checkpoint'}, places
    assert len(places) == 12


def test_no_file_of_the_package_trusts_a_pickle():
    for path in Path(mmlora.__file__).parent.rglob('*.py'):
        if '.mim' not in path.parts:
            text = path.read_text()
            assert 'weights_only=False' not in text and 'allow_pickle=True' not in text, path


# --- Python text -----------------------------------------------------------------------------------------------------

def test_python_text_is_moved_out_of_reach(tmp_path):
    text = 'raise SystemExit'
    torch.save(dict(
        state_dict={}, meta=dict(cfg=text, config=text, epoch=1),
        message_hub=dict(log_scalars={}, runtime_info=OrderedDict(cfg=text, mmlora_cfg_text='older', epoch=1),
                         resumed_keys=OrderedDict(cfg=True, epoch=True))), tmp_path / 'a.pth')
    found = load_checkpoint(tmp_path / 'a.pth')
    assert found['meta'] == dict(epoch=1, mmlora_cfg_text=text, mmlora_config_text=text)
    assert found['message_hub']['runtime_info'] == dict(epoch=1, mmlora_cfg_text=text)
    assert found['message_hub']['resumed_keys'] == dict(epoch=True, mmlora_cfg_text=True)


def test_a_malformed_hub_is_left_to_the_runner(tmp_path):
    torch.save(dict(meta=None, message_hub=[1]), tmp_path / 'a.pth')
    assert load_checkpoint(tmp_path / 'a.pth') == dict(meta=None, message_hub=[1])


def test_a_false_mark_names_the_file(tmp_path):
    torch.save(dict(message_hub=dict(log_scalars=dict(a={'__mmlora__': 'x'}))), tmp_path / 'a.pth')
    named = r'a\.pth cannot be used: the checkpoint\.message_hub\.log_scalars\.a is marked'
    with pytest.raises(ValueError, match=named):
        load_checkpoint(tmp_path / 'a.pth')


# --- older mmengine checkpoints --------------------------------------------------------------------------------------

def test_what_older_mmengine_saved_is_read_exactly(tmp_path):
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer
    buffer = HistoryBuffer([1 / 3, 2.5], [1, 2], max_length=7)
    content = dict(
        buffer=buffer, scalar=np.float64(1 / 3), flag=np.bool_(True), text=np.str_('é'),
        columns=np.asfortranarray(np.arange(6, dtype='>i2').reshape(2, 3)), none=np.zeros((0, 2), 'f4'),
        words=np.array(['a', 'bc']), config=ConfigDict(a=ConfigDict(b=[buffer])),
        args=argparse.Namespace(lr=np.float32(0.5)))
    for zipped in (True, False):
        torch.save(content, tmp_path / 'old.pth', _use_new_zipfile_serialization=zipped)
        found = load_checkpoint(tmp_path / 'old.pth')
        for back in (found['buffer'], found['config']['a']['b'][0]):
            assert type(back) is HistoryBuffer and back.max_length == 7
            for left, right in zip(back.data, buffer.data, strict=True):
                assert left.dtype == right.dtype and left.tolist() == right.tolist()
            back.update(3.0)
        assert found['scalar'] == 1 / 3 and found['flag'] is True and found['text'] == 'é'
        for name in ('columns', 'none', 'words'):
            assert found[name].dtype == content[name].dtype and found[name].shape == content[name].shape
            np.testing.assert_array_equal(found[name], content[name])
        assert type(found['config']) is dict and found['args'] == dict(lr=0.5)


def test_a_file_cannot_teach_history_buffers_new_statistics(tmp_path):
    from mmengine.logging import HistoryBuffer
    before = dict(HistoryBuffer._statistics_methods)
    buffer = HistoryBuffer([1.0], [1])
    try:
        HistoryBuffer._statistics_methods['mean'] = OrderedDict
        torch.save(dict(a=buffer), tmp_path / 'a.pth')
    finally:
        HistoryBuffer._statistics_methods.update(before)
    assert load_checkpoint(tmp_path / 'a.pth')['a'].statistics('mean') == 1.0
    assert HistoryBuffer._statistics_methods == before


def test_the_list_of_allowed_types_is_the_users_own_again(tmp_path):
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([getattr, Fraction])
    try:
        mine = set(torch.serialization.get_safe_globals())
        torch.save(dict(a=Fraction()), tmp_path / 'mine.pth')
        assert isinstance(load_checkpoint(tmp_path / 'mine.pth')['a'], Fraction)
        torch.save(dict(a=Attribute(OrderedDict, 'fromkeys')), tmp_path / 'bad.pth')
        with pytest.raises(ValueError, match='refused'):  # The real getattr, allowed or not, is never called.
            load_checkpoint(tmp_path / 'bad.pth')
        assert set(torch.serialization.get_safe_globals()) == mine
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


class Fraction:
    """A type that the user trusts."""
