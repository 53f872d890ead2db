"""A resumed run equals the uninterrupted one bit for bit."""

import os
import shutil

import pytest
import tiny
import torch

from mmlora.apis import train
from mmlora.engine import EpochTrainLoop, IterTrainLoop

LORA = dict(
    model__backbone__type='VitSR_LoRA',
    model__backbone__lora_ranks=2,
    model__backbone__lora_dropout=0.2,
)
EMA = dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)])
BY_ITER = dict(default_hooks__checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4))
ITERATIONS = dict(
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=15, val_interval=4),
    train_dataloader__sampler__type='InfiniteSampler',
    **BY_ITER,
)
CASES = {
    'epoch boundary': (dict(), 'epoch_2.pth', 'epoch_3.pth'),
    'epoch boundary, EMA, LoRA, workers': (
        dict(LORA, **EMA, train_dataloader__num_workers=2), 'epoch_1.pth', 'epoch_3.pth',
    ),
    'mid-epoch': (BY_ITER, 'iter_4.pth', 'iter_15.pth'),
    'mid-epoch, workers': (dict(BY_ITER, train_dataloader__num_workers=2), 'iter_8.pth', 'iter_15.pth'),
    'mid-epoch, EMA, LoRA': (dict(BY_ITER, **LORA, **EMA), 'iter_8.pth', 'iter_15.pth'),
    'last iteration of an epoch': (dict(BY_ITER, default_hooks__checkpoint__interval=5), 'iter_5.pth', 'iter_15.pth'),
    'iterations': (ITERATIONS, 'iter_8.pth', 'iter_15.pth'),
    'iterations over a finite sampler, workers': (
        dict(ITERATIONS, train_dataloader__sampler__type='DefaultSampler', train_dataloader__num_workers=2),
        'iter_8.pth', 'iter_15.pth',
    ),
    'repeated augmentation': (
        dict(BY_ITER, train_dataloader__sampler__type='RepeatAugSampler'), 'iter_8.pth', 'iter_15.pth',
    ),
    'bf16, no seed given': (
        dict(BY_ITER, optim_wrapper__type='BF16OptimWrapper', randomness=dict(seed=None)), 'iter_8.pth', 'iter_15.pth',
    ),
    'between two steps of the optimizer': (
        dict(BY_ITER, optim_wrapper__accumulative_counts=3), 'iter_8.pth', 'iter_15.pth',
    ),
}  # yapf: disable


@pytest.mark.parametrize('case', CASES)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, images, case):
    options, middle, last = CASES[case]
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train(tiny.tiny_config(images, whole, **options))
    resumed.mkdir()
    shutil.copy(whole / middle, resumed)
    # In a folder of its own, and with what a killed process would have lost: only the checkpoint is there.
    runner = train(tiny.tiny_config(images, resumed, **options), resume=str(resumed / middle))
    assert isinstance(runner.train_loop, IterTrainLoop if 'iterations' in case else EpochTrainLoop)
    assert not tiny.differing_runs(whole / last, resumed / last)


def test_the_number_of_workers_changes_nothing(tmp_path, images, whole_run):
    train(tiny.tiny_config(images, tmp_path, train_dataloader__num_workers=2))
    assert not tiny.differing_runs(whole_run / 'epoch_3.pth', tmp_path / 'epoch_3.pth')


def test_another_seed_gives_another_run(tmp_path, images, whole_run):
    train(tiny.tiny_config(images, tmp_path, randomness__seed=1))
    assert tiny.differing(tiny.training_state(whole_run / 'epoch_3.pth')['state_dict'],
                          tiny.training_state(tmp_path / 'epoch_3.pth')['state_dict'])


def test_dropout_and_augmentation_matter_in_these_runs(tmp_path, images, whole_run):
    # Otherwise the equalities above would say nothing about randomness.
    for name, options in {
        'dropout': dict(model__backbone__drop_rate=0.0, model__backbone__drop_path_rate=0.0),
        'mixup': dict(model__train_cfg=None),
    }.items():
        train(tiny.tiny_config(images, tmp_path / name, **options))
        assert tiny.differing(tiny.training_state(whole_run / 'epoch_3.pth')['loss'],
                              tiny.training_state(tmp_path / name / 'epoch_3.pth')['loss'])


def test_a_missed_validation_is_made_up(tmp_path, images, whole_run):
    shutil.copy(whole_run / 'epoch_2.pth', tmp_path)
    cfg = tiny.tiny_config(images, tmp_path, default_hooks__checkpoint__save_best='auto')
    runner = train(cfg, resume=str(tmp_path / 'epoch_2.pth'))
    history = runner.message_hub.get_scalar('val/accuracy/top1').data[0]
    assert len(history) == 3  # Epoch 1 from the checkpoint, epochs 2 and 3 from this run.


def test_a_done_validation_is_not_repeated(tmp_path, images):
    options = dict(default_hooks__checkpoint__save_best='auto')
    train(tiny.tiny_config(images, tmp_path, **options, train_cfg__max_epochs=1))
    runner = train(tiny.tiny_config(images, tmp_path, **options, train_cfg__max_epochs=2), resume='auto')
    assert len(runner.message_hub.get_scalar('val/accuracy/top1').data[0]) == 2


def test_other_data_than_before_is_an_error(tmp_path, images, whole_run):
    cfg = tiny.tiny_config(images, tmp_path, train_dataloader__batch_size=12)
    with pytest.raises(ValueError, match='iteration 10 is not in epoch 2 of 3 batches'):
        train(cfg, resume=str(whole_run / 'epoch_2.pth'))


def test_deterministic_kernels_are_asked_for_in_time(tmp_path, images, whole_run, monkeypatch):
    # Processors compute the same with and without. What cuBLAS needs must be there before it starts.
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    asked = []
    monkeypatch.setattr(torch, 'use_deterministic_algorithms', lambda on: asked.append(
        (on, os.environ.get('CUBLAS_WORKSPACE_CONFIG'))))
    train(tiny.tiny_config(images, tmp_path, randomness=dict(seed=0, deterministic=True)))
    assert asked == [(True, ':4096:8')]
    assert not tiny.differing_runs(whole_run / 'epoch_3.pth', tmp_path / 'epoch_3.pth')
