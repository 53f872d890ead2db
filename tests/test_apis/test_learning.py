"""What a run says about frozen and learning parameters."""

import pytest
from tiny import tiny_config

from mmlora.apis import train


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
    assert 'is skipped since its requires_grad' not in text
