"""The 1-D convolutional autoencoder: golden numbers of the published code, its loss, and its limits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import CosineAnnealingLR

from mmlora.models.florence.task_vector import mean_state
from mmlora.models.generators.conv_vae import ConvVAE, draw_latent, kl_divergence, reconstruction_error

GOLDEN = Path(__file__).resolve().parents[1] / 'data' / 'golden' / 'icm_lora'
SHAPES = json.loads((GOLDEN / 'shapes.json').read_text())
KLD_WEIGHT = 0.005


def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f'{name}.npz') as file:
        return {key: torch.as_tensor(file[key]) for key in file}


def filled(condition_dim: int = 12) -> ConvVAE:
    """The network with the weights that the goldens' rule gives, in the order of its state."""
    net, state = ConvVAE(5000, 16, condition_dim), {}
    for number, (name, value) in enumerate(net.state_dict().items()):
        draw, shape = np.random.RandomState(1000 + number), tuple(value.shape)
        if name.endswith('num_batches_tracked'):
            state[name] = torch.zeros((), dtype=torch.int64)
            continue
        if name.endswith('running_var'):
            new = 1 + 0.5 * draw.rand(*shape)
        elif name.endswith(('running_mean', 'bias')):
            new = 0.1 * draw.randn(*shape)
        elif len(shape) == 1:
            new = 1 + 0.1 * draw.randn(*shape)
        else:
            new = draw.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
        state[name] = torch.as_tensor(new.astype(np.float32))
    net.load_state_dict(state)
    return net


def run(net: ConvVAE, golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    x, c = golden['x'][:, 0], golden.get('c')
    mu, log_var = net.encode(x, c)
    z = draw_latent(mu, log_var, golden['eps'])
    recons, kld = net.decode(z, c), kl_divergence(mu, log_var)
    fixed = reconstruction_error(recons, net.pad(x))
    crop = reconstruction_error(recons[:, :5000], x)
    reference = (recons - net.pad(x)[:, None]).square().mean()  # the published loss, broadcast to (B, B, Lp)
    return dict(mu=mu, log_var=log_var, z=z, recons=recons, kld=kld, recon_loss_fixed=fixed, recon_loss_fixed_crop=crop,
                recon_loss_reference=reference, loss_fixed=fixed + KLD_WEIGHT * kld,
                loss_reference=reference + KLD_WEIGHT * kld)


@pytest.mark.parametrize(('name', 'condition_dim'), [('cvae_eval', 12), ('vae_uncond_eval', 0)])
def test_evaluation_is_as_published(name: str, condition_dim: int) -> None:
    golden = arrays(name)
    with torch.no_grad():
        found = run(filled(condition_dim).eval(), golden)
    for key, value in found.items():
        torch.testing.assert_close(value, golden[key], rtol=1e-4, atol=2e-5, msg=lambda text, key=key: f'{key}: {text}')
    assert not torch.isclose(found['recon_loss_fixed'], found['recon_loss_reference'])


def test_training_is_as_published() -> None:
    golden, net = arrays('cvae_train'), filled().train()
    found = run(net, golden)
    for kind in ('fixed', 'reference'):
        net.zero_grad()
        found[f'loss_{kind}'].backward(retain_graph=True)
        for name, parameter in net.named_parameters():
            # decoder.0.0.bias stands before batch norm: its gradient is zero, and the golden one noise.
            if f'grad_{kind}/{name}' in golden and name != 'decoder.0.0.bias':
                torch.testing.assert_close(parameter.grad, golden[f'grad_{kind}/{name}'], rtol=1e-3, atol=1e-5)
    for key, value in found.items():
        torch.testing.assert_close(value.detach(), golden[key], rtol=1e-4, atol=5e-5)
    state = net.state_dict()
    for key in golden:
        if key.startswith('running_'):
            what, module = key.split('/')
            torch.testing.assert_close(state[f'{module}.{what}'], golden[key])


def test_decoding_is_as_published() -> None:
    golden = arrays('cvae_decode')
    with torch.no_grad():
        found = filled().eval().decode(golden['z'], golden['c'].expand(3, -1))
    torch.testing.assert_close(found, golden['decoded'], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(found[:, :5000], golden['cropped'], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('length', sorted(SHAPES, key=int))
def test_shapes_are_as_published(length: str) -> None:
    wanted = SHAPES[length]
    with torch.device('meta'):
        net = ConvVAE(int(length), wanted['latent_dim'], wanted['condition_dim'])
    assert (net.padded, net.last_length) == (wanted['adjusted'], wanted['last_length'])
    if wanted['state'] is not None:  # listed for three of five
        assert [[name, list(value.shape)] for name, value in net.state_dict().items()] == wanted['state']
    assert sum(p.numel() for p in net.parameters()) == wanted['params']


def test_learning_rate_is_as_published() -> None:
    golden = json.loads((GOLDEN / 'lr_schedule.json').read_text())
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=golden['base_lr'])
    schedule, rates = CosineAnnealingLR(optimizer, T_max=golden['T_max']), {}
    for epoch in range(golden['num_epochs'] + 1):
        rates[epoch] = optimizer.param_groups[0]['lr']
        optimizer.step()
        schedule.step()
    for epoch, rate in golden['lr_at_epoch'].items():
        assert rates[int(epoch)] == pytest.approx(rate, rel=1e-6)


def test_task_vector_is_as_published() -> None:
    golden = arrays('task_vector')
    states = golden['hidden_states']  # (steps of all images, beams, 1, D)
    torch.testing.assert_close(mean_state(states[:, :, -1]), golden['task_vector_reference'], rtol=1e-6, atol=1e-7)


def test_divergence_of_two_normal_distributions() -> None:
    mu, log_var, prior_mu, prior_log_var = torch.randn(4, 5, 3, dtype=torch.float64)
    q, p = (torch.distributions.Normal(m, (v / 2).exp()) for m, v in ((mu, log_var), (prior_mu, prior_log_var)))
    wanted = torch.distributions.kl_divergence(q, p).sum(-1).mean()
    torch.testing.assert_close(kl_divergence(mu, log_var, prior_mu, prior_log_var), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(('arguments', 'said'), [
    (dict(length=0), 'length'), (dict(length=8, channels=()), 'channels'), (dict(length=8, norm='layer'), 'layer'),
    (dict(length=8, latent_dim=1.5), 'latent_dim'),
])  # fmt: skip
def test_bad_networks_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ConvVAE(**arguments)


def test_bad_batches_are_refused() -> None:
    net = ConvVAE(8, 2, 0, (2, 2, 2))
    with pytest.raises(ValueError, match='batches of at least 2'):
        net.encode(torch.zeros(1, 8))
    with pytest.raises(ValueError, match='drop_last'):
        net.decode(torch.zeros(1, 2))
    with pytest.raises(ValueError, match='must be'):
        net.encode(torch.zeros(2, 9))
    with pytest.raises(ValueError, match='broadcast'):
        reconstruction_error(torch.zeros(2, 8), torch.zeros(2, 1, 8))
    ConvVAE(8, 2, 0, (2, 2, 2), norm='group').encode(torch.zeros(1, 8))  # the way out that the message names
