import pytest
import torch
from mmpretrain.registry import OPTIMIZERS

import mmlora  # noqa: F401
from mmlora.engine.muon import MuonAdamW, orthogonalize


@pytest.mark.parametrize('shape', [(8, 8), (6, 20), (20, 6)])
def test_orthogonalize_keeps_directions_and_levels_their_sizes(shape):
    torch.manual_seed(0)
    matrix = torch.randn(*shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalize(matrix, steps=10) @ vh.T
    sizes = inner.diagonal()
    assert sizes.min() > 0.6 and sizes.max() < 1.3
    torch.testing.assert_close(inner - sizes.diag(), torch.zeros_like(inner), rtol=0, atol=1e-9)


def test_vectors_and_images_step_as_adamw():
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(2, 3, 4))] for _ in range(2))
    for a, b in zip(ours, theirs, strict=True):
        b.data.copy_(a.data)
    options = dict(lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    optimizers = MuonAdamW(ours, **options), torch.optim.AdamW(theirs, **options)
    for step in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.sin(a.detach() + step)
            b.grad = torch.sin(b.detach() + step)
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_matrix_step_has_the_size_of_adamws():
    weight = torch.nn.Parameter(torch.zeros(32, 64))
    optimizer = OPTIMIZERS.build(dict(type='mmlora.MuonAdamW', params=[weight], lr=0.01, weight_decay=0.0))
    torch.manual_seed(0)
    weight.grad = torch.randn(32, 64)
    optimizer.step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.01 * 0.2, rel=0.25)


def test_state_survives_saving():
    def run(save_at):
        torch.manual_seed(1)
        params = [torch.nn.Parameter(torch.randn(4, 6)), torch.nn.Parameter(torch.randn(4))]
        optimizer = MuonAdamW(params, lr=0.02)
        for step in range(5):
            if step == save_at:
                state = optimizer.state_dict()
                optimizer = MuonAdamW(params, lr=0.5)
                optimizer.load_state_dict(state)
            for param in params:
                param.grad = torch.cos(param.detach() * (step + 1))
            optimizer.step()
        return params

    for whole, resumed in zip(run(None), run(3), strict=True):
        torch.testing.assert_close(whole, resumed, rtol=0, atol=0)


@pytest.mark.parametrize('option', [dict(lr=-1.0), dict(momentum=1.0), dict(betas=(0.9, 1.0)), dict(weight_decay=-1.0)])
def test_bad_arguments_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        MuonAdamW([torch.nn.Parameter(torch.ones(2, 2))], **option)
