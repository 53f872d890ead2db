"""Runs of the baselines of CLIP: trained, resumed, tested by the tool, loaded strictly, searched."""

import copy
import json
import multiprocessing
import os
import re
import socket

import pytest
import tiny
import torch
from mmengine.config import Config

from mmlora.apis import merge_checkpoint, train
from mmlora.apis import test as run_test
from mmlora.models.clip import restore_openai_keys

CONFIG = tiny.ROOT / 'tests' / 'data' / 'configs' / 'tiny_clip.py'


def run_config(images, work_dir, kind, views=0, **model):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(tiny.data_options(images))
    for name in ('lora_rank', 'lora_dropout', 'params'):
        cfg.model.pop(name)
    cfg.model.update(dict(type=kind, vision=dict(drop_path_rate=0.0), **model))
    cfg.work_dir = str(work_dir)
    if kind == 'TipAdapter':
        cfg.model.num_views = 2
        if not model.get('finetune'):
            cfg.train_cfg = dict(type='TrainingFreeLoop')
    if views:
        hook = dict(type='FeatureCacheHook', num_views=views, folder=str(work_dir.parent / 'features'))
        cfg.custom_hooks = [*cfg.custom_hooks, hook]
    return cfg


def accuracies(folder):
    return [float(n) for log in folder.glob('*/*.log') for n in re.findall(r'accuracy/top1: ([\d.]+)', log.read_text())]


def test_zero_shot_needs_the_weights_alone(tmp_path, images):
    cfg = run_config(images, tmp_path / 'work', 'LoRACLIP', encoder='none')
    runner = train(run_config(images, tmp_path / 'run', 'CLIPLinearProbe', init='text'))
    state = {key: value for key, value in runner.model.state_dict().items() if not key.startswith('head.')}
    torch.save(restore_openai_keys(state), tmp_path / 'ViT.pt')
    metrics = run_test(cfg, str(tmp_path / 'ViT.pt'))
    [record] = json.loads((tmp_path / 'work' / 'results.json').read_text())['results']
    assert record['metrics'] == metrics and record['trainable_parameters'] == 0
    probe = run_config(images, tmp_path / 'probe', 'CLIPLinearProbe', init='text')
    probe.load_from = str(tmp_path / 'ViT.pt')
    probe.optim_wrapper.optimizer.lr = 0.0
    train(probe)
    assert accuracies(tmp_path / 'probe')[-1] == pytest.approx(metrics['accuracy/top1'], abs=0.01)


@pytest.mark.parametrize('init', ['zero', 'text'])
def test_a_probe_learns_and_is_tested_by_the_tool(tmp_path, images, init):
    cfg = run_config(images, tmp_path / 'run', 'CLIPLinearProbe', 3, init=init)
    runner = train(cfg)
    assert runner.model.head.probe.weight.shape == (3, 8)  # the number of classes is that of the data
    path = tmp_path / 'run' / 'cfg.py'
    runner.cfg.dump(path)
    tiny.call_tool('test', path, tmp_path / 'run' / 'epoch_3.pth', '--work-dir', tmp_path / 'test')
    tested = accuracies(tmp_path / 'test')
    assert tested == accuracies(tmp_path / 'run')[-1:] and tested[0] > 50  # chance is a third
    state = tiny.load(tmp_path / 'run' / 'epoch_3.pth')['state_dict']
    assert {key for key in state if key.startswith('head.')} == {
        'head.probe.weight', 'head.probe.bias', 'head.probe.known.keys'}  # fmt: skip
    assert state['head.probe.weight'].abs().max() > 0


def test_fewer_kept_views_than_the_cache_averages_are_refused(tmp_path, images):
    with pytest.raises(ValueError, match='averages 2 views of an image, and FeatureCacheHook keeps num_views=1'):
        train(run_config(images, tmp_path / 'run', 'TipAdapter', 1))


def test_a_resumed_probe_and_strict_loading(tmp_path, images):
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train(run_config(images, whole, 'CLIPLinearProbe'))
    cfg = run_config(images, resumed, 'CLIPLinearProbe')
    cfg.load_from, cfg.resume = str(whole / 'epoch_1.pth'), True
    train(cfg)
    assert tiny.differing_runs(resumed / 'epoch_3.pth', whole / 'epoch_3.pth') == []
    checkpoint = tiny.load(whole / 'epoch_3.pth')
    del checkpoint['state_dict']['head.probe.bias']
    torch.save(checkpoint, whole / 'broken.pth')
    dumped = next(whole.glob('*.py'))
    with pytest.raises(ValueError, match=r'1 missing: head\.probe\.bias'):
        tiny.call_tool('test', dumped, whole / 'broken.pth', '--work-dir', tmp_path / 'test')
    with pytest.raises(ValueError, match='nothing can be merged'):
        merge_checkpoint(Config.fromfile(dumped), str(whole / 'epoch_3.pth'), str(tmp_path / 'merged.pth'))


@pytest.mark.parametrize('finetune', [False, True])
def test_tip_adapter_and_its_checkpoint_through_the_tool(tmp_path, images, finetune):
    states = []
    weights = dict(alpha=1.0, beta=5.5) if finetune else dict(alpha=50.0, beta=20.0)
    for cached in (False, True):
        folder = tmp_path / str(cached)
        runner = train(run_config(images, folder, 'TipAdapter', 3 * cached, finetune=finetune, **weights))
        last = folder / f'epoch_{3 if finetune else 1}.pth'
        states.append(tiny.load(last)['state_dict'])
        runner.cfg.dump(folder / 'cfg.py')
        tiny.call_tool('test', folder / 'cfg.py', last, '--work-dir', tmp_path / f'test{cached}')
        tested = accuracies(tmp_path / f'test{cached}')
        assert tested == accuracies(folder)[-1:] and tested[0] > 60  # chance is a third
        about = tiny.load(last)['meta']['mmlora']['protocol']
        assert about['step'] == about['total']
    assert states[0]['head.cache.values'].sum(0).tolist() == [12, 12, 12]
    if not finetune:
        cfg = run_config(images, tmp_path / 'by_iterations', 'TipAdapter', **weights)
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=500)
        cfg.log_processor = dict(by_epoch=False)
        train(cfg)
        again = tiny.load(tmp_path / 'by_iterations' / 'iter_1.pth')
        assert tiny.differing(again['state_dict'], states[0]) == []
        about = again['meta']['mmlora']['protocol']
        assert (about['unit'], about['step'], about['total']) == ('iteration', 1, 1)
    torch.testing.assert_close(states[0]['head.cache.keys'], states[1]['head.cache.keys'], rtol=1e-4, atol=1e-5)
    first = tiny.load(tmp_path / 'False' / 'epoch_1.pth')['state_dict']['head.cache.keys']
    assert finetune != torch.equal(first, states[0]['head.cache.keys'])


def test_averaged_weights_would_lose_the_cache(tmp_path, images):
    cfg = run_config(images, tmp_path / 'run', 'TipAdapter')
    cfg.custom_hooks.append(dict(type='EMAHook'))
    with pytest.raises(ValueError, match='leave EMAHook out'):
        train(cfg)


def _train_as_one_of_two(rank, address, cfg):
    os.environ['LOCAL_RANK'] = str(rank)  # As torchrun sets it; the runner asks for it.
    torch.distributed.init_process_group('gloo', address, rank=rank, world_size=2)
    train(cfg, launcher='pytorch')
    torch.distributed.destroy_process_group()


def test_two_processes_fill_the_cache_and_validate_as_one(tmp_path, images):
    cfg = run_config(images, tmp_path / 'two', 'TipAdapter', alpha=50.0, beta=20.0)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        address = f'tcp://127.0.0.1:{probe.getsockname()[1]}'
    context = multiprocessing.get_context('fork')
    workers = [context.Process(target=_train_as_one_of_two, args=(rank, address, cfg)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    tested = run_test(cfg, str(tmp_path / 'two' / 'epoch_1.pth'), record=False, work_dir=str(tmp_path / 'one'))
    assert accuracies(tmp_path / 'two') == [pytest.approx(tested['accuracy/top1'], abs=0.01)]
    assert tested['accuracy/top1'] > 60  # chance is a third


def test_a_resumed_tip_adapter_keeps_its_cache(tmp_path, images):
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    train(run_config(images, whole, 'TipAdapter', finetune=True))
    cfg = run_config(images, resumed, 'TipAdapter', finetune=True)
    cfg.load_from, cfg.resume = str(whole / 'epoch_1.pth'), True
    train(cfg)
    assert tiny.differing_runs(resumed / 'epoch_3.pth', whole / 'epoch_3.pth') == []


@pytest.mark.parametrize('finetune', [False, True])
def test_alpha_and_beta_are_searched_on_validation_data_alone(tmp_path, images, finetune):
    cfg = run_config(images, tmp_path / 'run', 'TipAdapter', finetune=finetune)
    search = dict(type='TipAdapterSearchHook', alphas=[0.5, 40.0], betas=[2.0, 20.0])
    cfg.custom_hooks = [*cfg.custom_hooks, search]
    with pytest.raises(ValueError, match='val_dataloader holds the test data'):
        train(cfg, work_dir=str(tmp_path / 'refused'))
    cfg.val_dataloader.dataset.indices = list(range(0, 36, 2))
    averaged = copy.deepcopy(cfg)
    averaged.custom_hooks.append(dict(type='EMAHook'))
    with pytest.raises(ValueError, match='leave EMAHook'):
        train(averaged, work_dir=str(tmp_path / 'refused'))
    train(cfg)
    cache = tiny.load(tmp_path / 'run' / f'epoch_{3 if finetune else 1}.pth')['state_dict']
    assert (float(cache['head.cache.alpha']), float(cache['head.cache.beta'])) in [
        (alpha, beta) for alpha in search['alphas'] for beta in search['betas']]  # fmt: skip
    [log] = (tmp_path / 'run').glob('*/*.log')
    found = float(re.search(r'Tip-Adapter: alpha=.* accuracy ([\d.]+)', log.read_text())[1])
    assert found == pytest.approx(accuracies(tmp_path / 'run')[-1], abs=0.01)
    cfg.model = dict(Config.fromfile(CONFIG).model)
    with pytest.raises(TypeError, match='is for TipAdapter'):
        train(cfg, work_dir=str(tmp_path / 'refused'))
