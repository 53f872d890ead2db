"""The learning rates of LoRA-Recycle's meta-training, iteration by iteration."""

import json

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope


def rates(count, skip=0, state=None, **kwargs):
    init_default_scope('mmpretrain')
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    cfg = dict(type='PeriodicWarmupCosineLR', by_epoch=False, **kwargs)
    schedule = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer))
    if state:
        optimizer.load_state_dict(state[0])
        schedule.load_state_dict(state[1])
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.step()
    return found, (optimizer.state_dict(), schedule.state_dict())


def test_every_iteration(golden):
    wanted = json.loads((golden / 'lora_recycle' / 'lr_schedule.json').read_text())['lr_used_at_iteration']
    assert len(wanted) == 250
    assert rates(250)[0] == pytest.approx(wanted, rel=1e-10)


def test_resuming():
    whole, _ = rates(60, period=20, warmup=5)
    first, state = rates(33, period=20, warmup=5)
    assert first + rates(27, period=20, warmup=5, state=state)[0] == whole


@pytest.mark.parametrize('arguments, message', [
    (dict(period=0), 'period=0 must be at least 1'), (dict(period=10, warmup=10), r'warmup=10 must lie in 0\.\.9'),
    (dict(min_ratio=2), r'min_ratio must lie in 0\.\.1, got 2'),
])  # fmt: skip
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        rates(1, **arguments)
