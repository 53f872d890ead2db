"""SPUHook in whole runs: draws, resuming, what is saved and evaluated, other hooks, and what is refused."""

import copy
import shutil
from collections import Counter

import pytest
import tiny
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from mmlora.adapters import adapted_layers, at_rank
from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.engine import SPUHook
from mmlora.engine.adaptation import unwrap_model
from mmlora.randomness import derive_seed

LORA = dict(
    model__backbone__type='VitSR_LoRA',
    model__backbone__lora_ranks=[[3, 4], [4, 2]],
    model__backbone__lora_alpha=8,
)
BY_ITER = dict(default_hooks__checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4))
LAYERS = [f'backbone.layers.{i}.attn.{end}' for i in range(2) for end in ('qkv', 'proj')]


@pytest.fixture(autouse=True, scope='module')
def probe():
    @HOOKS.register_module()
    class SubRankProbe(Hook):
        """Records what the layers use in each forward pass in training mode, and what they are left with."""

        priority = 'HIGH'  # Before what runs a forward pass at the beginning of an iteration.
        seen: list = []

        def before_train(self, runner):
            self.layers, self.seen, self.left = adapted_layers(unwrap_model(runner.model)), [], []
            for name, layer in self.layers.items():
                layer.register_forward_hook(lambda layer, x, y, name=name: self.see(name, layer))

        def see(self, name, layer):
            if layer.training:
                self.seen[-1].setdefault(name, []).append(layer.sub_rank and copy.copy(layer.sub_rank))

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.seen.append({})

        def before_val(self, runner):
            self.left += [layer.sub_rank for layer in self.layers.values()]

        after_train = before_val

    yield
    HOOKS.module_dict.pop('SubRankProbe')


def config(images, folder, *hooks, **options):
    hooks = [hook if isinstance(hook, dict) else dict(type=hook) for hook in hooks]
    return tiny.tiny_config(images, folder, **{**LORA, **options}, custom_hooks=hooks)


def probed(runner):
    [probe] = [hook for hook in runner.hooks if type(hook).__name__ == 'SubRankProbe']
    return probe


def spu(**options):
    return dict(type='SPUHook', **options)


def test_each_iteration_and_layer_draws_and_nothing_is_left(tmp_path, images):
    runner = train(config(images, tmp_path, spu(rows='reference', detach_prefix=True), 'SubRankProbe'))
    probe, size = probed(runner), {'qkv': {'q': 16 + 16, 'v': 16 + 16}, 'proj': {'': 16 + 16}}
    assert [list(step) for step in probe.seen] == [LAYERS] * 15
    active = []
    for i, step in enumerate(probe.seen):
        active.append(0)
        for name, [sub] in step.items():
            rank = max(probe.layers[name].ranks.values())
            m = 1 + (derive_seed('spu', 0, i, name, 0) * rank >> 63)
            assert set(sub.ranks.values()) == {m} and sub.rows == 'reference' and sub.detach_prefix and not sub.always
            active[-1] += sum(m * size[name.rpartition('.')[2]][s] for s in sub.ranks)
    assert len({tuple(tuple(sub.ranks.values()) for [sub] in step.values()) for step in probe.seen}) > 5
    assert runner.message_hub.get_scalar('train/active_parameters').data[0].tolist() == active
    assert len(probe.left) == 16 and set(probe.left) == {None}
    assert not any(layer._forward_pre_hooks for layer in probe.layers.values())


def test_dylora_is_lora_of_one_rank_with_uniform_draws(tmp_path, images):
    cfg = config(images, tmp_path, spu(), 'SubRankProbe', train_cfg__max_epochs=12)
    inner = dict(tiny.tiny_config(images, tmp_path).model.backbone)
    cfg.model.backbone = dict(
        type='AdaptedBackbone', kind='LoRA', backbone=inner, targets=['qkv', 'proj'], lora_ranks=4, lora_alpha=8
    )
    runner = train(cfg)
    probe, drawn = probed(runner), Counter()
    for i, step in enumerate(probe.seen):
        for name, [sub] in step.items():
            m = 1 + (derive_seed('spu', 0, i, name, 0) * 4 >> 63)
            assert set(sub.ranks.values()) == {m} and sub.rescale and not sub.detach_prefix
            drawn[m] += 1
    # 60 iterations of 4 layers: each of 1 .. 4 is expected 60 times, with a standard deviation of 6.7.
    assert set(drawn) == {1, 2, 3, 4} and sum(drawn.values()) == 240
    assert all(35 < count < 85 for count in drawn.values())


def test_each_forward_pass_draws(tmp_path, images):
    # Two passes in an iteration: the classifier's own and one more over the same images.
    @HOOKS.register_module(force=True)
    class TwicePass(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if not batch_idx % 2:
                runner.model.backbone(torch.zeros(1, 3, 32, 32))

    hooks = [spu(per='forward'), dict(type='TwicePass', priority='LOW'), 'SubRankProbe']
    runner = train(config(images, tmp_path, *hooks, train_cfg__max_epochs=2))
    HOOKS.module_dict.pop('TwicePass')
    probe = probed(runner)
    assert not any(layer._forward_pre_hooks for layer in probe.layers.values())
    passes = [{len(subs) for subs in step.values()} for step in probe.seen]
    assert passes == [{2}, {1}, {2}, {1}, {2}] * 2
    pairs = [subs for step in probe.seen for subs in step.values() if len(subs) == 2]
    assert any(first.ranks != second.ranks for first, second in pairs)
    for i, step in enumerate(probe.seen):
        for name, subs in step.items():
            rank = max(probe.layers[name].ranks.values())
            for count, sub in enumerate(subs):
                assert set(sub.ranks.values()) == {1 + (derive_seed('spu', 0, i, name, count) * rank >> 63)}
    assert set(probe.left) == {None}


def test_only_factors_and_head_move(tmp_path, images):
    cfg = config(images, tmp_path, spu())
    runner = train(cfg)
    torch.manual_seed(0)
    first, last = tiny.load(tmp_path / 'epoch_1.pth')['state_dict'], tiny.load(tmp_path / 'epoch_3.pth')['state_dict']
    learned = {name for name, p in runner.model.named_parameters() if p.requires_grad}
    for name, value in first.items():
        assert torch.equal(value, last[name]) == (name not in learned), name


@pytest.mark.parametrize('per', ['iteration', 'forward'])
@pytest.mark.parametrize('more', [{}, dict(optim_wrapper__accumulative_counts=3)], ids=['', 'accumulation'])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, images, per, more):
    def run(folder, **kwargs):
        hooks = [spu(per=per, detach_prefix=True), dict(type='EMAHook', momentum=0.1)]
        return train(config(images, folder, *hooks, model__backbone__lora_dropout=0.2, **BY_ITER, **more), **kwargs)

    run(tmp_path / 'whole')
    (tmp_path / 'resumed').mkdir()
    shutil.copy(tmp_path / 'whole' / 'iter_8.pth', tmp_path / 'resumed')
    run(tmp_path / 'resumed', resume=str(tmp_path / 'resumed' / 'iter_8.pth'))
    assert not tiny.differing_runs(tmp_path / 'whole' / 'iter_15.pth', tmp_path / 'resumed' / 'iter_15.pth')


def test_options_change_the_run(tmp_path, images):
    # Otherwise the equalities above would say nothing.
    losses = {}
    for name, hooks in dict(
        none=[], spu=[spu()], detached=[spu(detach_prefix=True)], reference=[spu(rows='reference')],
        powers=[spu(distribution='powers_of_two')], seed=[spu(seed=5)], proj=[spu(targets=['proj'])],
    ).items():  # yapf: disable
        train(config(images, tmp_path / name, *hooks, train_cfg__max_epochs=2), validate=False)
        state = tiny.load(tmp_path / name / 'epoch_2.pth')['state_dict']
        losses[name] = tuple(float(state[f'{layer}.lora_A{s}'].double().sum()) for layer in LAYERS[:2]
                             for s in (('_q', '_v') if 'qkv' in layer else ('',)))
    assert len(set(losses.values())) == len(losses)


def test_the_saved_best_is_what_was_validated(tmp_path, images):
    cfg = config(images, tmp_path, spu(), 'EMAHook', default_hooks__checkpoint__save_best='auto')
    runner = train(cfg)
    best = runner.message_hub.get_info('best_score')
    assert runner.message_hub.get_scalar('val/accuracy/top1').data[0].max() == best
    [path] = tmp_path.glob('best_*.pth')
    assert run_test(cfg, str(path), work_dir=str(tmp_path / 'test'))['accuracy/top1'] == best


def test_evaluation_in_the_middle_of_an_iteration_is_of_the_full_rank(tmp_path, images):
    outputs = []

    @HOOKS.register_module(force=True)
    class Evaluate(Hook):
        priority = 'LOW'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            model, x = runner.model.backbone, torch.ones(2, 3, 32, 32)
            model.eval()
            with torch.no_grad():
                evaluated = model(x)[0]
                with at_rank(model, 4):
                    full = model(x)[0]
                with at_rank(model, 1):
                    partial = model(x)[0]
            model.train()
            outputs.append((torch.equal(evaluated, full), torch.equal(evaluated, partial)))

    for per in ('iteration', 'forward'):
        train(config(images, tmp_path / per, spu(per=per), 'Evaluate', train_cfg__max_epochs=1), validate=False)
    HOOKS.module_dict.pop('Evaluate')
    # Fresh factors change nothing at any rank, and the head, which begins at zero, lets them learn a step later.
    assert outputs == ([(True, True)] * 2 + [(True, False)] * 3) * 2


def test_two_hooks_treat_different_layers(tmp_path, images):
    # As the published code does it.
    hooks = [
        spu(targets='qkv', per='forward', rows='reference'),
        spu(targets='proj', per='iteration', detach_prefix=True),
        'SubRankProbe',
    ]
    runner = train(config(images, tmp_path, *hooks, train_cfg__max_epochs=1))
    for step in probed(runner).seen:
        for name, [sub] in step.items():
            assert (sub.rows == 'reference') == ('qkv' in name) != sub.detach_prefix
    hub = runner.message_hub
    assert all(len(hub.get_scalar(f'train/active_parameters{end}').data[0]) == 5 for end in ('', '_2'))


COMPILED = [dict(type='CompileHook', backend='eager')]
REFUSED = {
    'no adapters': ([spu()], dict(model__backbone__type='VisionTransformer'), ValueError, 'no adapted layer'),
    'per': ([spu(per='epoch')], {}, ValueError, r"'epoch'.*\['iteration', 'forward'\]"),
    'rows': ([spu(rows='mine')], {}, ValueError, "'mine'.*per_group"),
    'distribution': ([spu(distribution='normal')], {}, ValueError, "'normal'.*uniform"),
    'targets': ([spu(targets='fc1')], {}, ValueError, "'fc1' matches no adapted layer"),
    'twice': ([spu(), spu(targets='proj')], {}, ValueError, 'two SPUHooks treat .*layers.0.attn.proj'),
    'CompileHook': ([spu(), *COMPILED], {}, ValueError, r"torch.compile, here of \['backbone'\]"),
    'CompileHook first': ([*COMPILED, spu()], {}, ValueError, 'torch.compile'),
    'compile': ([spu()], dict(compile=True), ValueError, 'torch.compile'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_work_is_refused(tmp_path, images, case):
    hooks, options, error, match = REFUSED[case]
    cfg = config(images, tmp_path, *hooks, **options)
    if case == 'no adapters':
        for name in ('lora_ranks', 'lora_alpha'):
            cfg.model.backbone.pop(name)
    with pytest.raises(error, match=match):
        train(cfg)


def test_reference_rows_need_one_rank(tmp_path, images):
    cfg = config(images, tmp_path, spu(rows='reference'))
    runner = train(cfg, validate=False)
    hook, [layer] = SPUHook(rows='reference'), [runner.model.backbone.layers[0].attn.qkv]
    layer._ranks = {'q': 1, 'v': 2}
    with pytest.raises(ValueError, match=r"backbone.layers.0.attn.qkv: rows='reference' needs slices of one rank"):
        hook.before_train(runner)


def test_a_part_without_adapters_may_be_compiled(tmp_path, images):
    hooks = [spu(), dict(type='CompileHook', target='head', backend='eager')]
    runner = train(config(images, tmp_path, *hooks, train_cfg__max_epochs=1), validate=False)
    assert runner.model.head._compiled_call_impl is not None
