"""Dropout with cheap masks: the distribution, the mean and the gradient of ``nn.Dropout``."""

import pytest
import torch
import torch.nn as nn

from mmlora.adapters import LoRALinear
from mmlora.adapters.input_dropout import LEVELS, InputDropout, noise


@pytest.mark.parametrize('p', [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_elements_are_dropped_independently_at_the_given_rate(p, dtype):
    torch.manual_seed(0)
    x = noise(torch.Size([499, 401]), p, dtype)
    exact = round(p * LEVELS) / LEVELS
    assert x.dtype == dtype and x.shape == (499, 401)
    assert set(x.double().unique().tolist()) == {0.0, torch.tensor(1 / (1 - exact), dtype=dtype).double().item()}
    kept = (x > 0).double()
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 5 * deviation
    flat = kept.flatten() - kept.mean()
    for lag in (1, 2, 3, 4, 5, 401):  # four elements share a draw
        assert abs((flat[lag:] * flat[:-lag]).mean()) < 5 * p * (1 - p) / kept.numel() ** 0.5, lag


def test_the_mean_is_exact_at_a_rate_that_is_rounded():
    x = noise(torch.Size([1000]), 1 / 3, torch.float64)
    rounded = round(LEVELS / 3) / LEVELS
    assert x.max().item() == pytest.approx(1 / (1 - rounded), abs=1e-15)
    assert noise(torch.Size([100]), 1e-9, torch.float64).min() == 1
    assert torch.isfinite(noise(torch.Size([5000]), 1 - 1e-9, torch.float32)).all()


@pytest.mark.parametrize('shape', [(0,), (1,), (3, 5), (2, 3, 7)])
def test_shapes_and_gradients(shape):
    layer = InputDropout(0.4)
    x = torch.randn(shape, dtype=torch.float64).t().contiguous().t() if len(shape) == 2 else torch.randn(shape)
    x = x.double().requires_grad_()
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    mask = noise(x.shape, 0.4, torch.float64)
    assert torch.equal(y, x * mask)
    y.sum().backward()
    assert torch.equal(x.grad, mask)


def test_modes_are_those_of_the_plain_dropout():
    x, layer = torch.randn(50, 50), InputDropout(0.5)
    assert layer.eval()(x) is x
    assert not torch.equal(layer.train()(x), layer(x))
    layer.p = 0.0
    assert layer(x) is x
    in_place = x.clone()
    assert InputDropout(0.5, inplace=True)(in_place) is in_place and (in_place == 0).any()


def test_layers_use_it_and_follow_the_seed():
    layer = LoRALinear(16, 8, rank=2, dropout=0.5)
    nn.init.normal_(layer.lora_B)
    assert type(layer.lora_dropout) is InputDropout
    x = torch.randn(4, 16)
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)
