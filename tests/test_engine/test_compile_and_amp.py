"""Compilation of the backbone and mixed precision, also on a CPU."""

import pytest
import tiny
import torch
import torch.nn as nn
from mmengine.optim import build_optim_wrapper

from mmlora.apis import train
from mmlora.engine import BF16OptimWrapper

LORA = dict(model__backbone__type='VitSR_LoRA', model__backbone__lora_ranks=2)
PARAMWISE = dict(
    optim_wrapper__paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'.pos_embed': dict(lr_mult=0.1)}),
    optim_wrapper__optimizer__weight_decay=0.01,
)


@pytest.mark.parametrize('options', [dict(), LORA, PARAMWISE], ids=['full', 'LoRA', 'parameter groups'])
def test_a_compiled_backbone_trains_as_the_plain_one(tmp_path, images, options):
    options = dict(options, train_cfg__max_epochs=1)
    train(tiny.tiny_config(images, tmp_path / 'plain', **options))
    runner = train(tiny.tiny_config(images, tmp_path / 'compiled', **options, compile=dict(backend='eager')))
    assert runner.model.backbone._compiled_call_impl is not None
    assert 'compile' not in runner.cfg
    first, second = (tiny.training_state(tmp_path / name / 'epoch_1.pth') for name in ('plain', 'compiled'))
    assert list(first['state_dict']) == list(second['state_dict'])
    for key, value in first['state_dict'].items():
        torch.testing.assert_close(second['state_dict'][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_default_compiler_trains(tmp_path, images):
    # One block and batches of one size: the compiler takes its time for each.
    cfg = tiny.tiny_config(images, tmp_path, train_cfg__max_epochs=1, compile=True, train_dataloader__batch_size=12,
                           model__backbone__arch__num_layers=1, **LORA)
    losses = train(cfg, validate=False).message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 3 and all(torch.isfinite(torch.tensor(losses)))


def test_compiling_what_is_not_there_is_an_error(tmp_path, images):
    cfg = tiny.tiny_config(images, tmp_path, custom_hooks=[dict(type='CompileHook', target='backbon')])
    with pytest.raises(ValueError, match="'backbon': ImageClassifier has no such module; it has backbone"):
        train(cfg)


class Seen(nn.Module):
    """Records the type in which its linear layer computes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.types = []

    def forward(self, x):
        y = self.linear(x)
        self.types.append(y.dtype)
        return y


def test_bf16_computes_in_bfloat16_and_keeps_the_parameters():
    model = Seen()
    wrapper = build_optim_wrapper(model, dict(
        type='BF16OptimWrapper', optimizer=dict(type='SGD', lr=0.1), accumulative_counts=2, _scope_='mmpretrain',
    ))
    assert isinstance(wrapper, BF16OptimWrapper)
    before = model.linear.weight.detach().clone()
    for _ in range(2):
        with wrapper.optim_context(model):
            loss = model(torch.ones(3, 4)).float().sum()
        wrapper.update_params(loss)
    assert model.types == [torch.bfloat16] * 2
    assert model.linear.weight.dtype == torch.float32 and not torch.equal(model.linear.weight, before)
    assert model(torch.ones(3, 4)).dtype == torch.float32


@pytest.mark.parametrize('options,amp', [(dict(), True), (dict(optim_wrapper__type='AmpOptimWrapper',
                                                               optim_wrapper__loss_scale='dynamic'), False)])
@pytest.mark.skipif(torch.cuda.is_available(), reason='on CUDA, AmpOptimWrapper is used')
def test_mixed_precision_trains_on_a_cpu(tmp_path, images, whole_run, options, amp):
    runner = train(tiny.tiny_config(images, tmp_path, **options, **LORA), amp=amp)
    assert type(runner.optim_wrapper) is BF16OptimWrapper
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert losses[-5:].mean() < losses[:5].mean()
