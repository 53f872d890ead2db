"""Making hubs: tasks, training of several at once, going on after a kill, and what tools make of it."""

import copy
import importlib
import json
import re
import shutil
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.models import VisionTransformer
from tiny import ROOT, call_tool, killed_at, one_thread, quick, run_tool  # noqa: F401

from mmlora.adapters import attach_bank, detach_bank, draw_lora, merge_lora, read_lora, route
from mmlora.adapters.lora_weights import adapt_with
from mmlora.apis import hub_job, hub_members
from mmlora.apis.hub_members import build_frozen
from mmlora.apis.hub_plan import groups_to_do, hub_identity, settle_hub
from mmlora.apis.hub_tasks import HubImages, build_sources, draw_task, steps
from mmlora.apis.hub_training import Recipe, train_tasks
from mmlora.apis.pretune_hub import HubPlan, HubRun, pretune_hub
from mmlora.io.hub import LoRAHub
from mmlora.io.lora_folder import read_lora_folder
from mmlora.randomness import derive_seed

module = importlib.import_module('mmlora.apis.pretune_hub')

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
CLASSES = 6
BACKBONE = dict(type='mmpretrain.VisionTransformer', img_size=16, patch_size=8,
                arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24))


@pytest.fixture(scope='session')
def world(tmp_path_factory):
    """Images of six classes of unequal size, and weights of a tiny ViT."""
    folder, rng = tmp_path_factory.mktemp('hub_world'), np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / 'images' / f'c{label}').mkdir(parents=True)
        for number in range(5 + label):
            image = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            image[:, :, label % 3] += 40 * (1 + label // 3)
            cv2.imwrite(str(folder / 'images' / f'c{label}' / f'{number}.png'), image)
    torch.manual_seed(0)
    model = VisionTransformer(**{key: value for key, value in BACKBONE.items() if key != 'type'})
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    torch.save(model.state_dict(), folder / 'vit.pth')
    return folder


def make_cfg(world, root):
    """The config of a hub of five LoRAs, in groups of two, of a second altogether."""
    base = Config.fromfile(root / 'configs' / '_base_' / 'hub_runtime.py')
    base.merge_from_dict(dict(
        model=dict(backbone=dict(BACKBONE, init_cfg=dict(type='Pretrained', checkpoint=str(world / 'vit.pth')))),
        data_preprocessor=dict(mean=[60, 60, 60], std=[40, 40, 40], to_rgb=True),
        train_cfg=dict(max_epochs=3),
        param_scheduler=dict(milestones=[2]),
        hub=dict(rank=2, num_loras=5, n_way=3, together=2, batch_size=4, num_workers=0),
    ))
    base.hub_sources = [dict(name='toy', dataset=dict(
        type='CustomDataset', data_root=str(world / 'images'), pipeline=PIPELINE,
        serialize_data=False))]  # Serializing collects garbage, which takes half a second in a test run.
    return base


@pytest.fixture
def cfg(world, root):
    init_default_scope('mmpretrain')
    return make_cfg(world, root)


@pytest.fixture(scope='session')
def sources(world, root):
    init_default_scope('mmpretrain')
    return build_sources(settle_hub(make_cfg(world, root)).hub.sources)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_file() and '.lock' not in path.name}


def test_a_task_follows_from_its_number(sources):
    tasks = [draw_task(sources, number, 7, 3) for number in range(20)]
    assert draw_task(sources, 11, 7, 3) == tasks[11] != draw_task(sources, 11, 8, 3)
    assert len({tuple(task.class_ids) for task in tasks}) > 10
    for task in tasks:
        assert task.classes == [f'c{k}' for k in task.class_ids] and len(set(task.class_ids)) == 3
        for label, k in enumerate(task.class_ids):
            own = [ref for ref, other in zip(task.train, task.train_labels, strict=True) if other == label]
            val = [ref for ref, other in zip(task.val, task.val_labels, strict=True) if other == label]
            assert len(own) == int(0.8 * (5 + k)) and own + val == [(0, *image) for image in sources[0].images[k]]


def test_classes_of_several_sources(cfg, sources):
    data = cfg.hub_sources[0].dataset
    two = build_sources([dict(name='a', dataset=[data, data], classes=['c1', 'c4'])])
    two.append(replace(sources[0], name='b', first=2))
    assert [len(images) for images in two[0].images] == [12, 18]
    one = [draw_task(two, number, 0, 2) for number in range(12)]
    assert {task.source for task in one} == {'a', 'b'}
    assert all(max(task.class_ids) < 2 if task.source == 'a' else min(task.class_ids) >= 2 for task in one)
    assert {draw_task(two, number, 0, 4, across=True).source for number in range(12)} >= {'a+b'}
    assert [own.first for own in build_sources([dict(name=n, dataset=data, classes=['c2']) for n in 'ab'])] == [0, 1]
    with pytest.raises(ValueError, match='3-way tasks need at least 2 and at most the 2 classes of a'):
        draw_task(two[:1], 0, 0, 3)
    with pytest.raises(ValueError, match='has 1. images, of which train_fraction=0.05 leaves 0 to learn from and 1'):
        draw_task(two, 0, 0, 2, 0.05)


@pytest.mark.parametrize('classes, message', [
    (['c9'], r"has no classes \['c9'\]: it has 6"), ([6], r'has no classes \[6\]'), (['c1', 'c1'], 'listed twice'),
    ('lora_recycle/cub.json:test', r"write one behind the"),
])
def test_wrong_classes_are_refused(cfg, sources, classes, message):
    with pytest.raises(ValueError, match=message):
        build_sources([dict(cfg.hub_sources[0], classes=classes)])


def test_batches_of_a_task_do_not_depend_on_the_others(sources):
    tasks = [draw_task(sources, number, 0, 3) for number in range(4)]
    together = list(steps(tasks, 0, 4, 3))
    for place, task in enumerate(tasks):
        own = [step[0] for step in steps([task], 0, 4, 3)]
        assert [p.images for step in together for p in step if p.place == place] == [p.images for p in own]
        for epoch in range(3):
            seen = [p for p in own if p.epoch == epoch]
            assert sorted(i for p in seen for i in p.images) == list(range(len(task.train)))
            assert [p.ends for p in seen] == [False] * (len(seen) - 1) + [True]
    assert len({len(task.train) for task in tasks}) > 1  # so that some end before others


@pytest.fixture
def double(cfg, sources):
    """A frozen backbone in float64, tasks of unequal length, and a recipe in which everything takes part."""
    frozen, _ = build_frozen(settle_hub(cfg), 'cpu')
    frozen.backbone.double()
    tasks = [draw_task(sources, number, 0, 3) for number in range(4)]
    recipe = Recipe(['attn.qkv', 'ffn.layers.1'], 2, dict(type='AdamW', lr=0.01, weight_decay=0.1), max_norm=0.5,
                    schedulers=[dict(type='MultiStepLR', milestones=[1, 2], gamma=0.5),
                                dict(type='LinearLR', start_factor=0.5, end=4, by_epoch=False)],
                    batch_size=4, max_epochs=3)
    return frozen, HubImages(sources), tasks, recipe


def same(first, second):
    assert list(first.weights) == list(second.weights)
    for key, pair in first.weights.items():
        for own, other in zip(pair[:2], second.weights[key][:2], strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-10)
    for own, other in zip(first.head, second.head, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-10)
    assert first.metrics == pytest.approx(second.metrics, abs=1e-9)


def test_together_is_one_at_a_time(double):
    frozen, images, tasks, recipe = double
    names = list(frozen.backbone.state_dict())
    together = train_tasks(frozen, images, tasks, recipe)
    for one in together:
        same(one, train_tasks(frozen, images, [one.task], recipe)[0])
    assert list(frozen.backbone.state_dict()) == names
    first = next(iter(together[0].weights.values()))
    assert first.b.abs().max() > 0.01 and not torch.equal(first.b, next(iter(together[1].weights.values())).b)


def test_a_task_is_trained_as_by_hand(double):
    """An ordinary adapted model with a head, torch's optimizer and a rate computed here."""
    frozen, images, tasks, recipe = double
    trained = train_tasks(frozen, images, tasks[:2], recipe)[1]
    task, model = tasks[1], copy.deepcopy(frozen.backbone)
    generators = [torch.Generator().manual_seed(derive_seed(f'hub {what}', 0, 1)) for what in ('lora', 'head')]
    sites = [f'layers.{i}.{end}' for i in range(2) for end in ('attn.qkv', 'ffn.layers.1')]
    layers = adapt_with(model, draw_lora(model, sites, 2, 'qv', 1.0, generators[0]))
    head = nn.Linear(16, 3).double()
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -0.25, 0.25, generator=generators[1])
    learned = [p for layer in layers.values() for p in layer.adapter_parameters().values()] + list(head.parameters())
    optimizer = torch.optim.AdamW(learned, weight_decay=0.1)
    x = torch.stack([images[ref, 0, 0]['inputs'] for ref in task.train]).double()[:, [2, 1, 0]]
    x, y = ((x - 60) / 40).float().double(), torch.tensor(task.train_labels)
    losses = []
    for number, (part, ) in enumerate(steps([task], 0, 4, 3)):
        rate = 0.01 * 0.5 ** part.epoch * (0.5 + 0.5 * min(number, 3) / 3)
        loss = F.cross_entropy(head(model(x[part.images])[-1]), y[part.images])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 0.5)
        optimizer.param_groups[0]['lr'] = rate
        optimizer.step()
        losses += [loss.item()] * len(part.images) if part.epoch == 2 else []
    for key, pair in read_lora(model).items():
        torch.testing.assert_close(trained.weights[key].a, pair.a, rtol=0, atol=1e-9)
        torch.testing.assert_close(trained.weights[key].b, pair.b, rtol=0, atol=1e-9)
    torch.testing.assert_close(trained.head.weight, head.weight.detach(), rtol=0, atol=1e-9)
    assert trained.metrics['loss'] == pytest.approx(np.mean(losses), abs=1e-9)
    val = torch.stack([images[ref, 0, 0]['inputs'] for ref in task.val]).double()[:, [2, 1, 0]]
    hits = head(model((val - 60) / 40)[-1]).argmax(1) == torch.tensor(task.val_labels)
    assert trained.metrics['accuracy/top1'] == pytest.approx(100 * hits.double().mean().item())


@pytest.fixture(scope='session')
def whole(world, root, tmp_path_factory):
    """A hub that was made without a break. Not to be written to."""
    return tmp_path_factory.mktemp('whole') / 'hub'


@pytest.fixture
def made(whole, cfg):
    if not whole.exists():
        pretune_hub(cfg, whole)
    return whole


def test_a_hub_is_made_and_computes_what_it_says(cfg, made, sources):
    hub = LoRAHub.open(made)
    assert len(hub) == 5 and hub.about['sources'] == ['toy'] and hub.about['n_way'] == 3
    frozen, digest = build_frozen(settle_hub(cfg), 'cpu')
    hub.check_base(digest)
    images = HubImages(sources)
    attach_bank(frozen.backbone, hub.adapters())
    for place, name in enumerate(hub):
        record = hub.records[name]
        task = draw_task(images.sources, place, 0, 3)
        assert (record['classes'], record['class_ids']) == (task.classes, task.class_ids)
        assert record['normalization'] == dict(mean=[60, 60, 60], std=[40, 40, 40], to_rgb=True)
        x = frozen.preprocessor(dict(inputs=[images[ref, 0, 0]['inputs'] for ref in task.val]))['inputs']
        with route(frozen.backbone, place), torch.no_grad():
            scores = F.linear(frozen.backbone(x)[-1], *hub.head(name))
        hits = scores.argmax(1) == torch.tensor(task.val_labels)
        assert record['metrics']['accuracy/top1'] == pytest.approx(100 * hits.double().mean().item())
        card = (hub.folder / name / 'README.md').read_text()
        assert '95 % interval' in card and record['base']['sha256'] in card and '| layer | rank | scaling |' in card
    detach_bank(frozen.backbone)


def test_a_killed_hub_goes_on_and_is_the_same(cfg, made, tmp_path, monkeypatch):
    """Killed between the two members of the second group, so that the group is trained again and one member is kept."""
    count, write = [], hub_members.write_lora_folder

    def die(*args):
        count.append(args)
        if len(count) == 4:
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(hub_members, 'write_lora_folder', die)
    with pytest.raises(KeyboardInterrupt):
        pretune_hub(cfg, tmp_path / 'hub')
    monkeypatch.undo()
    assert len(LoRAHub.open(tmp_path / 'hub')) == 2  # what was whole is a hub already
    kept = (tmp_path / 'hub' / '00002' / 'mmlora.json').stat().st_mtime_ns
    said = []
    pretune_hub(cfg, tmp_path / 'hub', run=HubRun(say=said.append))
    assert '5 LoRAs in 3 groups, 2 to do' in said[0]
    assert (tmp_path / 'hub' / '00002' / 'mmlora.json').stat().st_mtime_ns == kept
    found, wanted = files_of(tmp_path / 'hub'), files_of(made)
    assert found == wanted and len(wanted) == 5 * 5 + 1


def test_a_hub_killed_in_the_middle_of_a_write_goes_on(cfg, tmp_path, one_thread):  # noqa: F811
    """By SIGKILL: in the first file, in the index after the first group, and within a later member."""
    def make(name):
        cfg.hub_name = 'toy'
        pretune_hub(cfg, tmp_path / name, num_loras=3)

    make('whole')
    wanted = files_of(tmp_path / 'whole')
    for write in (1, 11, 14):
        killed_at(write, lambda: make('killed'))
        assert len({name for name in files_of(tmp_path / 'killed') if not name.endswith('.tmp')}) == write - 1
        make('killed')
        assert {k: v for k, v in files_of(tmp_path / 'killed').items() if not k.endswith('.tmp')} == wanted
        shutil.rmtree(tmp_path / 'killed')


def test_what_is_done_is_skipped_and_more_is_added(cfg, made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / 'hub')
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'hub').glob('*/*')}
    monkeypatch.setattr(module, 'train_groups', lambda *args: pytest.fail('there is nothing to do'))
    report = pretune_hub(cfg, tmp_path / 'hub')
    assert len(report.hub) == 5 and {path: path.stat().st_mtime_ns for path in before} == before
    monkeypatch.undo()
    assert len(pretune_hub(cfg, tmp_path / 'hub', num_loras=6).hub) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (tmp_path / 'hub' / '00003' / 'head.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='head.safetensors is missing'):
        LoRAHub.open(tmp_path / 'hub').head('00003')


def test_other_weights_under_the_same_name_need_another_folder(cfg, made, world, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / 'hub')
    before = files_of(tmp_path / 'hub')
    state = torch.load(world / 'vit.pth', weights_only=True)
    state['cls_token'] += 1
    torch.save(state, tmp_path / 'vit.pth')
    name = cfg.model.backbone.init_cfg.checkpoint
    read = hub_members.PretrainedWeights
    monkeypatch.setattr(hub_members, 'PretrainedWeights', lambda checkpoint: read(
        checkpoint=str(tmp_path / 'vit.pth') if checkpoint == name else checkpoint))
    monkeypatch.setattr(hub_members, 'train_tasks', lambda *args: pytest.fail('hours of training for nothing'))
    with pytest.raises(ValueError, match="member '00000' of .* stands on weights with the sha256 .* have .* now: give"):
        pretune_hub(cfg, tmp_path / 'hub', num_loras=6)
    assert files_of(tmp_path / 'hub') == before


def test_other_settings_need_another_folder(cfg, made):
    cfg.hub.rank, cfg.hub.together, cfg.hub.num_loras = 3, 1, 99
    settled = settle_hub(cfg)
    with pytest.raises(ValueError, match="member '00000' of .* was made by other settings: hub.rank: 2, now 3. Give"):
        groups_to_do(HubPlan(**settled.hub), hub_identity(settled), made)


def test_groups_in_processes_of_their_own(cfg, made, tmp_path, monkeypatch):
    """The engine is that of sweeps and tested there; here it runs what it is given in this process, but for one."""
    def engine(launches, resources):
        for number, launch in enumerate(launches):
            if number != 1:
                hub_job.main([launch.folder])
                module.write_state(launch.folder, seconds=1.0)
            else:
                module.write_state(launch.folder, status='failed', reason='exit status 1', tail='no memory')
            yield launch.folder

    monkeypatch.setitem(module.ENGINES, 'ray', engine)
    report = pretune_hub(cfg, tmp_path / 'hub', run=HubRun('ray'))
    assert report.failed == {'00002-00003': ('exit status 1', 'no memory')}
    assert list(report.hub) == ['00000', '00001', '00004']
    report = pretune_hub(cfg, tmp_path / 'hub')
    shutil.rmtree(tmp_path / 'hub' / '.groups')
    assert not report.failed and files_of(tmp_path / 'hub') == files_of(made)
    with pytest.raises(FileNotFoundError, match=r'has no job.json'):
        hub_job.run_group(tmp_path)


RAY = '''
import importlib, runpy, sys
import ray
stub, *words = sys.argv[1:]
main, hub = runpy.run_path('tools/pretune_hub.py')['main'], importlib.import_module('mmlora.apis.pretune_hub')
ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)  # Once, for both starts.
program, hub.PROGRAM = hub.PROGRAM, (sys.executable, stub)
print('status', main(words))
hub.PROGRAM = program
print('status', main(words))
'''


@pytest.mark.slow
def test_ray_makes_the_same_members_and_those_of_a_killed_group_again(cfg, made, tmp_path):
    """In a process of its own: Ray reaches for the network to learn its address."""
    pytest.importorskip('ray')
    cfg.dump(tmp_path / 'toy.py')
    done = run_tool(
        sys.executable, '-c', RAY, ROOT / 'tests' / 'test_apis' / 'hub_job_stub.py', tmp_path / 'toy.py', '--work-dir',
        tmp_path / 'hub', '--num-loras', 2, '--engine', 'ray', '--workers', 1, '--threads', 1, '--device', 'cpu')
    first, again, _ = re.split(r'status \d\n', done.stdout)
    assert '1 to do' in first and '00000-00001: FAILED, killed by SIGKILL' in first and '1 LoRAs, ' in first
    assert '1 to do' in again and '00000-00001: done' in again and '2 LoRAs, ' in again, done.stderr
    for name in ('00000', '00001'):
        assert files_of(tmp_path / 'hub' / name) == files_of(made / name)


@pytest.mark.parametrize('change, message', [
    (dict(hub=dict(n_ways=5)), r"hub has no \['n_ways'\]"),
    (dict(hub=dict(together=0)), 'hub.together must be a whole number of at least 1, got 0'),
    (dict(hub=dict(scaling=0)), 'hub.scaling must be a number above 0, got 0'),
    (dict(hub=dict(train_fraction=1.0)), 'between 0 and 1, got 1.0'),
    (dict(hub=dict(cache=True, num_workers=2)), 'needs num_workers=0, got 2'),
    (dict(hub=dict(targets=[])), 'hub.targets is missing'),
    (dict(optim_wrapper=dict(accumulative_counts=2)), 'optim_wrapper of a hub has optimizer'),
    (dict(train_cfg=dict(by_epoch=True)), r'train_cfg of a hub is dict\(max_epochs=...\)'),
    (dict(model=dict(backbone=dict(init_cfg=None))), 'needs weights, on which all LoRAs stand'),
    (dict(hub_sources=None), 'the config of a hub needs hub_sources'),
])
def test_configs_that_cannot_be_used(cfg, change, message):
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=message):
        settle_hub(cfg)


def test_a_training_that_diverges_writes_nothing(cfg, tmp_path):
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e30))
    with pytest.raises(ValueError, match='not finite: the training has diverged'):
        pretune_hub(cfg, tmp_path / 'hub', num_loras=1)
    assert not list((tmp_path / 'hub').glob('0*/mmlora.json'))


def test_one_that_diverges_does_not_take_along_the_others(cfg, made, tmp_path, monkeypatch):
    train = hub_members.train_tasks

    def diverge(*args):
        first, *others = train(*args)
        weights = {key: pair._replace(b=pair.b * float('nan')) for key, pair in first.weights.items()}
        return [replace(first, weights=weights), *others]

    monkeypatch.setattr(hub_members, 'train_tasks', diverge)
    with pytest.raises(ValueError, match='00000 holds values that are not finite'):
        pretune_hub(cfg, tmp_path / 'hub', num_loras=2)
    assert [path.name for path in (tmp_path / 'hub').glob('0*')] == ['00001']
    assert files_of(tmp_path / 'hub' / '00001') == files_of(made / '00001')


def test_the_tools(cfg, made, tmp_path, capsys):
    cfg.dump(tmp_path / 'toy.py')
    assert call_tool('pretune_hub', tmp_path / 'toy.py', '--work-dir', made, '--dry-run', '--num-loras', 9) == 0
    assert '3 groups to do: 4-5, 6-7, 8-8' in capsys.readouterr().out
    assert call_tool('pretune_hub', tmp_path / 'toy.py', '--work-dir', made) == 0
    assert '5 LoRAs, ' in capsys.readouterr().out
    assert call_tool('pretune_hub', tmp_path / 'toy.py', '--work-dir', made, '--seed', 3) == 2
    assert 'error: member' in capsys.readouterr().err
    out = tmp_path / 'merged'
    assert call_tool('merge_adapters', made, '--method', 'change', '--rank', 3, '--out', out) == 0
    found, hub = read_lora_folder(out), LoRAHub.open(made)
    for key, pair in merge_lora(hub.adapters(), 'change', rank=3).items():
        assert torch.equal(found.weights[key].a, pair.a) and pair.rank == 3
    assert found.head is None and len(found.record['merged']['sources']) == 5
    again = tmp_path / 'again'
    assert call_tool('merge_adapters', made / '00001', out, '--weights', 1, '--out', again) == 2
    assert 'error: 2 adapters need 2 finite weights' in capsys.readouterr().err
    assert call_tool('merge_adapters', made / '00001', out, '--out', out) == 2
    assert 'is to be merged and would be overwritten: choose another folder' in capsys.readouterr().err
    record = json.loads((out / 'mmlora.json').read_text())
    (out / 'mmlora.json').write_text(json.dumps({**record, 'base': dict(sha256='other')}))
    assert call_tool('merge_adapters', made / '00001', out, '--out', again) == 2
    assert "differs in the frozen weights: it has 'other'" in capsys.readouterr().err
