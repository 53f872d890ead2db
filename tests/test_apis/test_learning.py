"""What a run says about frozen and learning parameters."""

import logging

import pytest
import torch
from mmpretrain.models import VisionTransformer
from tiny import tiny_config

from mmlora.apis import train
from mmlora.apis.learning import FreshAdapterFilter


@pytest.mark.parametrize('adapted', [False, True])
def test_the_log_says_how_much_learns_and_names_no_frozen_parameter(images, tmp_path, adapted):
    cfg = tiny_config(images, tmp_path, log_level='INFO', train_cfg__max_epochs=1)
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=dict(head=dict(lr_mult=2.0)))
    if adapted:
        cfg.model.backbone.update(type='VitSR_LoRA', lora_ranks=2)
    runner = train(cfg, validate=False)
    (log,) = tmp_path.rglob('*.log')
    text = log.read_text()
    learn = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in runner.model.parameters())
    assert f'{learn:,} of {total:,} parameters learn' in text
    assert adapted == (learn < total)
    assert adapted == (f'{total - learn:,} weights are frozen, and the config names no pre-trained ones' in text)
    assert 'is skipped since its requires_grad' not in text


def log_of(folder):
    (log,) = folder.rglob('*.log')
    return log.read_text()


@pytest.mark.parametrize('hook', [False, True])
def test_weights_without_adapters_are_no_warning_and_ranks_are_shown_once(images, tmp_path, hook):
    cfg = tiny_config(images, tmp_path / 'run', log_level='INFO', train_cfg__max_epochs=1)
    backbone = {key: value for key, value in cfg.model.backbone.items() if key != 'type'}
    torch.save(VisionTransformer(**backbone).state_dict(), tmp_path / 'vit.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'vit.pth'))
    cfg.model.backbone.update(type='VitSR_LoRA', lora_ranks='stable_rank', init_cfg=pretrained)
    if hook:
        cfg.custom_hooks = [dict(type='StableRankHook')]
    train(cfg, validate=False)
    text = log_of(tmp_path / 'run')
    assert 'do not match exactly' not in text and 'names no pre-trained ones' not in text
    assert 'All frozen weights are loaded; the 12 tensors of the adapters start fresh.' in text
    assert text.count('4 modules, criterion stable_rank, mean rank') == 1


def test_any_other_missing_key_stays_a_warning():
    def filtered(keys):
        text = 'The model and loaded state dict do not match exactly\n\nmissing keys in source state_dict: ' + keys
        record = logging.LogRecord('x', logging.WARNING, '', 0, text + '\n', (), None)
        assert FreshAdapterFilter({'backbone.a.lora_A', 'backbone.a.lora_B'}).filter(record)
        return record.levelno

    assert filtered('a.lora_A, a.lora_B') == logging.INFO
    assert filtered('a.lora_A, a.weight') == filtered('b.lora_A') == logging.WARNING


def test_a_second_run_in_a_folder_warns(images, tmp_path):
    cfg = tiny_config(images, tmp_path, log_level='INFO', train_cfg__max_epochs=1)
    said = []
    for resume in (None, None, 'auto'):
        train(cfg, validate=False, resume=resume)
        said.append('holds an earlier run' in log_of(tmp_path))
        next(tmp_path.rglob('*.log')).unlink()
    assert said == [False, True, False]
