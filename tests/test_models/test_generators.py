"""Generators of LoRAs on toy banks: what each learns, what closed forms solve, and what is refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mmlora.adapters.lora_spec import LoRASpec
from mmlora.adapters.lora_weights import Pair
from mmlora.models.generators import (
    ConditionalPriorCVAE,
    ConvCVAE,
    LayerHyperNet,
    LoRAGenerator,
    PCARidge,
    RetrievalGenerator,
    conv_cvae,
)
from mmlora.models.generators.closed_form import principal_components, ridge_regression
from mmlora.models.generators.storage import storage

TASKS, PER_TASK, DRAWS, WIDTH = 4, 4, 3, 6
SMALL = dict(latent_dim=8, channels=(8, 8))
LEARNED = {
    'ConvCVAE': (ConvCVAE, SMALL),
    'ConvCVAE-group': (ConvCVAE, SMALL | dict(norm='group', loss_padding=True)),
    'ConditionalPriorCVAE': (ConditionalPriorCVAE, SMALL | dict(prior_dim=16)),
    'LayerHyperNet': (LayerHyperNet, dict(embed_dim=16, hidden_dim=32)),
}  # fmt: skip
CLOSED = {
    'PCARidge': (PCARidge, dict(ridge=1e-3)), 'nearest': (RetrievalGenerator, dict(mode='nearest', num_tasks=TASKS)),
    'nearest_noise': (RetrievalGenerator, dict(mode='nearest_noise', num_tasks=TASKS)),
    'top_k': (RetrievalGenerator, dict(mode='top_k', num_tasks=TASKS, k=2, temperature=0.1)),
}  # fmt: skip


def toy_spec(depths: int = 2) -> LoRASpec:
    """Layers of 6 -> 8 with a LoRA of rank 2 on two slices and one whole projection: L = 52 a layer in B."""
    pair = Pair(torch.zeros(2, 6), torch.zeros(8, 2), 1.0)
    return LoRASpec.of_weights({(f'layers.{d}.attn.{site}', part): pair for d in range(depths)
                                for site, part in (('qkv', 'q'), ('qkv', 'v'), ('proj', ''))})


def toy_bank(spec: LoRASpec, seed: int = 0) -> dict[str, Tensor]:
    """LoRAs of four tasks, near each other within a task, and conditions that tell the tasks apart."""
    draw = torch.Generator().manual_seed(seed)
    centres, tasks = torch.randn(TASKS, spec.length, generator=draw), torch.arange(TASKS).repeat_interleave(PER_TASK)
    places = torch.randn(TASKS, 1, WIDTH, generator=draw)
    return dict(vectors=0.02 * (centres[tasks] + 0.1 * torch.randn(len(tasks), spec.length, generator=draw)),
                descriptions=places + 0.05 * torch.randn(TASKS, DRAWS, WIDTH, generator=draw), tasks=tasks)


def built(kind: type, arguments: dict, **more: object) -> tuple[LoRAGenerator, dict[str, Tensor]]:
    torch.manual_seed(0)
    generator, bank = kind(spec=toy_spec(), description_dim=WIDTH, **arguments, **more), toy_bank(toy_spec())
    generator.fit(**bank)
    return generator, bank


def trained(kind: type, arguments: dict, steps: int = 50) -> tuple[LoRAGenerator, dict[str, Tensor]]:
    generator, bank = built(kind, arguments)
    optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        chosen = torch.randint(len(bank['tasks']), (8,), generator=draw)
        descriptions = bank['descriptions'][bank['tasks'][chosen], torch.randint(DRAWS, (8,), generator=draw)]
        terms = generator(dict(vector=bank['vectors'][chosen], condition=descriptions), mode='loss')
        optimizer.zero_grad()
        sum(value for name, value in terms.items() if 'loss' in name).backward()
        optimizer.step()
    return generator.eval(), bank


def task_accuracy(generator: LoRAGenerator, bank: dict[str, Tensor]) -> float:
    """How often what is generated for a task is nearest to the mean of its own LoRAs."""
    centres = torch.stack([bank['vectors'][bank['tasks'] == task].mean(0) for task in range(TASKS)])
    with torch.no_grad():
        found = torch.cat([generator.generate(own)[:, 0] for own in bank['descriptions']])
    return float((torch.cdist(found, centres).argmin(1) == torch.arange(TASKS).repeat_interleave(DRAWS)).float().mean())


@pytest.mark.parametrize('name', [name for name in LEARNED if name != 'ConvCVAE'])  # which the next test trains
def test_learned_generators_know_the_task(name: str) -> None:
    generator, bank = trained(*LEARNED[name])
    assert task_accuracy(generator, bank) >= 0.9
    assert torch.equal(generator.generate(bank['descriptions'][0])[:, 0],
                       generator(dict(condition=bank['descriptions'][0]), mode='predict')[:, 0])


def test_the_published_broadcast_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_cvae, 'reconstruction_error', lambda x, y: (x - y[:, None]).square().mean())
    assert task_accuracy(*trained(*LEARNED['ConvCVAE'])) <= 0.5
    monkeypatch.undo()
    assert task_accuracy(*trained(*LEARNED['ConvCVAE'])) >= 0.9


@pytest.mark.parametrize('name', CLOSED)
def test_closed_forms_know_the_task(name: str) -> None:
    generator, bank = built(*CLOSED[name])
    assert task_accuracy(generator, bank) == 1.0
    with pytest.raises(ValueError, match='TrainingFreeLoop'):
        generator(dict(vector=bank['vectors'], condition=bank['descriptions'][bank['tasks'], 0]), mode='loss')
    other, _ = built(*CLOSED[name])
    fresh = type(generator)(spec=toy_spec(), description_dim=WIDTH, **CLOSED[name][1])
    fresh.load_state_dict(generator.state_dict())  # The file alone generates.
    assert torch.equal(fresh.generate(bank['descriptions'][1]), other.generate(bank['descriptions'][1]))


def test_retrieval_gives_lora_of_the_bank() -> None:
    nearest, bank = built(*CLOSED['nearest'])
    best = torch.stack([bank['vectors'][bank['tasks'] == task][0] for task in range(TASKS)])
    torch.testing.assert_close(nearest.generate(bank['descriptions'][:, 0])[:, 0], best)
    mean, _ = built(RetrievalGenerator, dict(mode='mean', num_tasks=TASKS))
    torch.testing.assert_close(mean.generate(bank['descriptions'][:1, 0])[0, 0], best.mean(0))


def test_pca_and_ridge_solve_what_they_say() -> None:
    rng = torch.Generator().manual_seed(0)
    for rows, columns in ((9, 4), (4, 9)):
        x, y = (torch.randn(rows, n, generator=rng, dtype=torch.float64) for n in (columns, 3))
        weight, bias = ridge_regression(x, y, 0.3)
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        ((x @ w + b - y).square().sum(1).mean() + 0.3 * w.square().sum()).backward()
        assert w.grad.abs().max() < 1e-10
        assert b.grad.abs().max() < 1e-10
    points = torch.randn(7, 5, generator=rng, dtype=torch.float64) @ torch.randn(5, 20, generator=rng).double()
    mean, components = principal_components(points, 10)
    assert len(components) == 5  # as many as there is variance
    torch.testing.assert_close(components @ components.T, torch.eye(5).double(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((points - mean) @ components.T @ components + mean, points, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('name', ['ConvCVAE', 'ConditionalPriorCVAE', 'PCARidge', 'nearest_noise'])
def test_samples_follow_the_seed(name: str) -> None:
    generator, bank = built(*(LEARNED | CLOSED)[name])
    generator.eval()
    first, again, other = (generator.generate(bank['descriptions'][0], 3, torch.Generator().manual_seed(seed))
                           for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first[:, 1:], other[:, 1:])
    assert torch.equal(first[:, 0], generator.generate(bank['descriptions'][0])[:, 0])


def test_hyper_net_puts_each_factor_in_its_place() -> None:
    generator, _ = built(*LEARNED['LayerHyperNet'])
    with torch.no_grad():
        for number, head in enumerate(generator.heads):
            head.bias.fill_(number + 1)  # One head for each kind and factor.
    tensors = generator.spec.split(generator.codes(torch.zeros(1, WIDTH), torch.zeros(1, 0)))
    kinds = {(entry.kind, entry.factor): set(tensors[entry.key].unique().tolist()) for entry in generator.spec.entries}
    assert all(len(values) == 1 for values in kinds.values())
    assert len(set().union(*kinds.values())) == len(kinds) == 6


def test_storage_says_from_how_many_on() -> None:
    generator, _ = built(*LEARNED['LayerHyperNet'])
    found = storage(generator, 10)
    assert found['loras'] == 10 * found['lora'] == 40 * generator.spec.length
    assert (found['break_even'] - 1) * found['lora'] <= found['generator'] < found['break_even'] * found['lora']


@pytest.mark.parametrize(('kind', 'arguments', 'said'), [
    (ConvCVAE, dict(kld_weight=-1), 'kld_weight'), (PCARidge, dict(ridge=0), 'ridge'),
    (PCARidge, dict(num_components=0), 'num_components'), (RetrievalGenerator, dict(mode='far', num_tasks=2), 'far'),
    (RetrievalGenerator, dict(), 'num_tasks'), (RetrievalGenerator, dict(num_tasks=2, noise_std=0), 'noise_std'),
    (PCARidge, dict(task_encoder=dict(type='SetEncoder', feature_dim=WIDTH // 2)), 'cannot learn'),
    (LayerHyperNet, dict(task_encoder=dict(type='SetEncoder', feature_dim=4)), 'feature_dim=4'),
    (LayerHyperNet, dict(hidden_dim=0), 'hidden_dim'), (ConditionalPriorCVAE, dict(prior_dim=2.5), 'prior_dim'),
    (LayerHyperNet, dict(task_encoder=dict(type='SupportGradient', distance='far')), 'far'),
    (LayerHyperNet, dict(task_encoder=dict(type='SetEncoder', feature_dim=3, out_dim=0)), 'out_dim'),
    (LayerHyperNet, dict(codec=dict(normalise='none')), 'normalise'),
])  # fmt: skip
def test_bad_arguments_are_refused(kind: type, arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(spec=toy_spec(), description_dim=WIDTH, **arguments)


def test_bad_banks_and_uses_are_refused() -> None:
    with pytest.raises(ValueError, match='needs spec'):
        LayerHyperNet()
    generator, bank = LayerHyperNet(spec=toy_spec(), description_dim=WIDTH), toy_bank(toy_spec())
    with pytest.raises(ValueError, match='no statistics'):
        generator.generate(bank['descriptions'][0])
    one = dict(bank, vectors=bank['vectors'][:1], tasks=bank['tasks'][:1])
    with pytest.raises(ValueError, match='holds 1 LoRA'):
        generator.fit(**one)
    generator.fit(**bank)
    with pytest.raises(ValueError, match='width 3'):
        generator.generate(torch.zeros(1, 3))
    with pytest.raises(ValueError, match='draws nothing'):
        generator.generate(bank['descriptions'][0], 2)
    with pytest.raises(ValueError, match='num_samples'):
        generator.generate(bank['descriptions'][0], 0)
    with pytest.raises(ValueError, match='num_tasks=3'):
        RetrievalGenerator(num_tasks=3, spec=toy_spec(), description_dim=WIDTH).fit(**bank)
    assert np.isfinite(generator.generate(bank['descriptions'][0]).detach().numpy()).all()
