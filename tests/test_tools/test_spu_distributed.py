"""Two processes on CPUs draw the same sub-ranks, whatever their seeds, and every parameter gets a gradient."""

import pytest
import tiny
import torch
from test_distributed import train_in_copies

CONFIG = tiny.CONFIG.with_name('tiny_vit_spu.py')


@pytest.mark.slow
def test_two_processes_draw_the_same(tmp_path, images):
    pairs = [f'{key}={value}' for key, value in tiny.data_options(images).items()]
    # By default the wrapper does not look for unused parameters, and fails at the second iteration where there are any.
    train_in_copies(tmp_path, CONFIG, '--work-dir', tmp_path, '--no-validate', '--cfg-options', *pairs)
    first, second = (torch.load(tmp_path / f'draws{rank}.pth', weights_only=True) for rank in (0, 1))
    assert first['seed'] != second['seed']
    assert first['draws'] == second['draws'] and len({tuple(draw) for draw in first['draws']}) > 3
    assert not tiny.differing(first['state_dict'], second['state_dict'])
