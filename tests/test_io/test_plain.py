"""What is saved is plain data, and history buffers come back exactly."""

import io
import pickle
from collections import OrderedDict, defaultdict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, MessageHub

from mmlora.io.plain import MARK, from_plain, plain_checkpoint, to_plain


def _through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _same(a, b):
    assert type(a) is type(b)
    if isinstance(a, HistoryBuffer):
        assert a.max_length == b.max_length
        for left, right in zip(a.data, b.data, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            _same(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    else:
        assert a == b


def _hub():
    hub = MessageHub('plain')
    for step in range(5):
        hub.update_scalar('train/loss', 1.0 / (step + 3))
        hub.update_scalar('train/count', step, 4)
    hub.update_info('epoch', 3)
    hub.update_info('best_score', np.float64(0.1) + np.float64(0.2))
    hub.update_info('keep_ckpt_ids', [1, 2])
    return hub.state_dict()


HISTORIES = {
    'floats': HistoryBuffer([1 / 3, float('nan'), float('-inf')], [1, 2, 3]),
    'integers': HistoryBuffer([1, 2], [1, 1]),
    'empty': HistoryBuffer(),
    'short': HistoryBuffer([1.0, 2.0], [1, 1], max_length=2),
}


@pytest.mark.parametrize('name', HISTORIES)
def test_a_history_buffer_comes_back_exactly(name):
    buffer = HISTORIES[name]
    back = from_plain(_through_a_file(to_plain(buffer)))
    _same(back, buffer)
    back.update(7.0)  # It is a working buffer, not a read-only view of the file.
    assert back.current() == 7.0


def test_a_message_hub_comes_back_and_its_next_mean_is_the_same():
    state = _hub()
    with pytest.raises(pickle.UnpicklingError):  # Else this module would not be needed.
        _through_a_file(state)
    back = from_plain(_through_a_file(to_plain(state)))
    state['runtime_info']['best_score'] = float(state['runtime_info']['best_score'])
    _same(back, state)
    assert back['log_scalars']['train/loss'].mean(3) == state['log_scalars']['train/loss'].mean(3)


CASES = {
    'numpy float': (np.float32(0.1), float(np.float32(0.1))),
    'numpy integer': (np.int64(3), 3),
    'numpy bool': (np.bool_(True), True),
    'numpy text': (np.str_('a'), 'a'),
    'array': (np.arange(4, dtype='int16'), torch.arange(4, dtype=torch.int16)),
    'array of the other byte order': (np.arange(4, dtype='>f4'), torch.arange(4, dtype=torch.float32)),
    'array with negative strides': (np.arange(3)[::-1], torch.tensor([2, 1, 0])),
    'array without axes': (np.array(1.5), torch.tensor(1.5, dtype=torch.float64)),
    'array of text': (np.array(['a', 'bc']), ['a', 'bc']),
    'config dict': (ConfigDict(a=dict(b=np.int8(1))), dict(a=dict(b=1))),
    'default dict': (defaultdict(list, a=[1]), dict(a=[1])),
    'ordered dict': (OrderedDict(a=np.int8(1)), OrderedDict(a=1)),
    'numpy key': ({np.int64(2): 'a'}, {2: 'a'}),
    'path': (Path('a') / 'b', str(Path('a') / 'b')),
    'tuple': ((1, (np.int64(2), None)), (1, (2, None))),
    'bytes': (b'ab', b'ab'),
    'no bytes': (b'', bytearray()),
    'set': ({1, 2}, {1, 2}),
    'large integer': (2**70, 2**70),
    'shape': (torch.Size([2, 3]), torch.Size([2, 3])),
}


@pytest.mark.parametrize('name', CASES)
def test_plain_form(name):
    value, expected = CASES[name]
    plain = to_plain(value)
    _same(plain, expected)
    _same(from_plain(_through_a_file(plain)), expected)


REFUSED = {
    'function': (print, r"^message_hub\.runtime_info\.foo is a <class 'builtin_function_or_method'>"),
    'object': (object(), r'runtime_info\.foo is a'),
    'inside a list': ([1, dict(a=object())], r'runtime_info\.foo\[1\]\.a is a'),
    'array of objects': (np.array([object()]), r'runtime_info\.foo is a numpy value of dtype object'),
    'key': ({print: 1}, r'a key of message_hub\.runtime_info\.foo is a'),
    'named tuple': (namedtuple('P', 'a')(1), r'runtime_info\.foo is a'),  # noqa: PYI024
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_plain_is_named(name):
    value, message = REFUSED[name]
    checkpoint = dict(state_dict={}, message_hub=dict(runtime_info=OrderedDict(foo=value)))
    with pytest.raises(TypeError, match=message):
        plain_checkpoint(checkpoint)


def test_a_whole_training_checkpoint():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    checkpoint = dict(
        meta=dict(epoch=1, iter=np.int64(4), dataset_meta=dict(classes=('a', 'b'), palette=np.eye(2))),
        state_dict=model.state_dict(), message_hub=_hub(), optimizer=optimizer.state_dict(),
        param_schedulers=[scheduler.state_dict()])
    plain = plain_checkpoint(checkpoint)
    assert list(plain) == list(checkpoint)
    assert type(checkpoint['meta']['iter']) is np.int64  # The runner's own objects are not touched.
    assert plain['state_dict']['0.weight'] is checkpoint['state_dict']['0.weight']
    back = _through_a_file(plain)
    assert back['state_dict']._metadata == model.state_dict()._metadata
    optimizer.load_state_dict(back['optimizer'])
    assert back['meta']['iter'] == 4


BROKEN = {
    'another mark': {MARK: 'os.system', 'log': torch.ones(1), 'count': torch.ones(1), 'max_length': 3},
    'no vectors': {MARK: 'HistoryBuffer', 'log': [1], 'count': [1], 'max_length': 3},
    'lengths differ': {MARK: 'HistoryBuffer', 'log': torch.ones(2), 'count': torch.ones(1), 'max_length': 3},
    'matrix': {MARK: 'HistoryBuffer', 'log': torch.ones(1, 1), 'count': torch.ones(1, 1), 'max_length': 3},
    'no length': {MARK: 'HistoryBuffer', 'log': torch.ones(1), 'count': torch.ones(1), 'max_length': True},
    'unhashable mark': {MARK: [], 'log': torch.ones(1), 'count': torch.ones(1), 'max_length': 3},
}


@pytest.mark.parametrize('name', BROKEN)
def test_a_false_mark_is_refused(name):
    with pytest.raises(ValueError, match=r'hub\.a\[0\] is marked as'):
        from_plain(dict(a=[BROKEN[name]]), 'hub')
