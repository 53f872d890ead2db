"""Every suite runs at small sizes, and its ways agree there. No time is asserted."""

import io
import re
from contextlib import redirect_stdout
from dataclasses import replace

import pytest
import torch

from benchmarks import __main__ as runner
from benchmarks.core import Comparison, DisagreementError, Spread, check_agreement
from benchmarks.suites import SUITES, attention, episodes, generator, hub, last_blocks, start_up, step
from benchmarks.suites.text import LONGEST, prompts

CPU = torch.device('cpu')
ONE_MS = Spread(1.0, 1.0, 1.0)
OTHER_WORK = {
    'attention': {'frozen', 'frozen, nn.MultiheadAttention'},
    'linear': {'frozen', 'fully trained'},
    'data': {'nothing but the transforms'},
    'generator': {*(f'{kind}: one LoRA' for kind in generator.KINDS), 'a step of fine-tuning, 5 images'},
    'mixed': {'one adapter for all (ours)'},
    'rlrr': {'frozen'},
    'step': {'floor', 'full fine-tuning'},
    'stable_rank': {'two passes over W'},
    'sparse': {'25% left out', '50% left out', '75% left out'},
}


def run_here(program: str) -> tuple[float, float]:
    out = io.StringIO()
    with redirect_stdout(out):
        exec(program, {})
    _, total, kilobytes = out.getvalue().split()
    return float(total), int(kilobytes) / 1024


@pytest.mark.parametrize('name', SUITES)
def test_a_suite_runs_and_its_ways_agree(name, tmp_path, monkeypatch):
    monkeypatch.setattr(start_up, 'start', run_here)  # A process takes seconds to import.
    monkeypatch.chdir(start_up.ROOT)
    out = tmp_path / 'tables.md'
    assert runner.main(['--suite', name, '--quick', '--out', str(out)]) == 0
    text = out.read_text()
    assert f'## {name}\n' in text and 'No times' not in text
    items = list(SUITES[name](CPU, True))
    assert all(f'### {item.title}\n' in text for item in items)
    cases = [case for item in items if isinstance(item, Comparison) for case in item.cases]
    silent = {case.name for case in cases if case.results is None}
    assert silent == OTHER_WORK.get(name, set()), 'what is compared with nothing is a floor'


@pytest.mark.parametrize('dropout', [0.0, 0.25])
def test_the_reference_of_the_attention_tells_a_wrong_factor(dropout):
    for way, name in (('ours', 'lora_B_k'), ('ours, fused qkv', 'qkv.lora_A_v')):
        found = attention.ways(attention.QUICK, CPU, dropout)
        module, function, gradients = found[way]
        with torch.no_grad():
            module.get_parameter(name).add_(0.1)
        _, x = attention.layers(attention.QUICK, CPU)
        learned = [p for p in module.parameters() if p.requires_grad]
        check = attention.in_evaluation(module, function)
        wrong = attention.step(way, function, x, learned, gradients=gradients, check=check)
        right = attention.training(attention.QUICK, CPU, dropout, 1)
        cases = [wrong if case.name == way else case for case in right.cases]
        with pytest.raises(DisagreementError, match=f"'{way}' differs from 'dense change'"):
            check_agreement(Comparison('A title', cases, right.base, right.reference, right.tolerance))


def test_dropout_is_drawn_in_what_is_timed():
    for way, (module, function, gradients) in attention.ways(attention.QUICK, CPU, 0.25).items():
        assert module.training
        _, x = attention.layers(attention.QUICK, CPU)
        assert torch.equal(function(x), function(x)) == (gradients is None), way


def test_prompts_end_where_they_should():
    tokens = prompts(50, 77, 100)
    ends = tokens.argmax(dim=-1) + 1
    assert ends.max() == LONGEST and ends.min() >= 8 and (tokens == 99).sum() == 50
    assert all(not row[end:].any() for row, end in zip(tokens, ends, strict=True))


def test_episodes_are_the_same_and_what_is_encoded_is_counted(monkeypatch):
    made = episodes.clip_like(CPU, True)
    check_agreement(made)
    counted = {case.name: case.facts(ONE_MS)[episodes.ENCODED] for case in made.cases}
    assert counted == {episodes.EACH: '160 (1.6 times all)', episodes.ONCE: '100 (1.0 times all)'}
    draw = episodes.draw_episode
    monkeypatch.setattr(episodes, 'draw_episode', lambda *args: draw(*args[:-1], args[-1] + 1))
    for case in made.cases:
        case.run()
    with pytest.raises(DisagreementError, match=f"'{re.escape(episodes.ONCE)}' differs"):
        check_agreement(made)


def test_loras_of_another_training_are_found(monkeypatch):
    train = hub.train_tasks
    monkeypatch.setattr(hub, 'train_tasks', lambda frozen, images, tasks, recipe: train(
        frozen, images, tasks, replace(recipe, optimizer=dict(type='Adam', lr=2e-3))))
    with pytest.raises(DisagreementError, match="'K = 1' differs from 'one at a time, no bank'"):
        check_agreement(next(hub.suite(CPU, True)))


def test_memory_stands_beside_the_published_one():
    rows = [case.facts(ONE_MS) for case in next(SUITES['sparse'](CPU, True)).cases]
    shares = [int(row['kept, part'].rstrip('%')) for row in rows[1:]]
    assert rows[0] == {} and shares[0] >= 100 and shares == sorted(shares, reverse=True) and shares[-1] < 60
    assert [row['published: ratio'] for row in rows[1:]] == ['1.00', '0.75', '0.48', '0.26']


def test_a_fine_tuning_is_extrapolated_from_the_median():
    assert generator.extrapolated(Spread(2000.0, 1.0, 9e9)) == {'extrapolated': '100 steps: 200 s'}


def test_the_floor_of_a_step_has_no_gradient_below_the_first_qkv():
    model, _ = step.floor(step.source(step.TINY))
    images, seen = torch.randn(2, 3, 32, 32), []
    qkv = model.backbone.layers[0].attn.qkv
    qkv.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    logits = model(images)
    ((below, given),) = seen
    assert not below.requires_grad and given.is_leaf and given.requires_grad
    logits.sum().backward()
    assert given.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in model.parameters())


def test_an_epoch_that_encodes_trains_on_the_tokens_it_has_made(monkeypatch):
    split = last_blocks.split_backbone

    def wrong(backbone):
        prefix, rest = split(backbone)

        def flipped(images):
            calls.append(images)
            return prefix(images) if len(calls) == 1 else prefix(images).flip(-1)

        return flipped, rest

    calls = []
    monkeypatch.setattr(last_blocks, 'split_backbone', wrong)
    made = last_blocks.from_tokens(step.source(step.TINY), 2, 1, CPU, 1)
    with pytest.raises(DisagreementError, match=f"'{last_blocks.FIRST}' differs"):
        check_agreement(made)


def test_a_program_runs_in_a_process_of_its_own():
    assert start_up.start("print('said')\nprint('found', 1.5, 2048)") == (1.5, 2.0)
    with pytest.raises(RuntimeError, match='a process that builds a model failed: (.|\\n)*no_such_name'):
        start_up.start('no_such_name')


def test_a_program_that_builds_other_weights_is_found(monkeypatch):
    monkeypatch.setattr(start_up, 'start', run_here)
    monkeypatch.chdir(start_up.ROOT)
    monkeypatch.setitem(start_up.WAYS, start_up.OURS, ('import mmlora', 'dict(vit, in_channels=4)'))
    with pytest.raises(DisagreementError, match=f"'{start_up.OURS}' differs"):
        check_agreement(next(start_up.suite(CPU, True)))
