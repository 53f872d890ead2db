"""Banks of LoRAs: built over many tasks, kept by a run, taken over from the published code."""

import importlib
import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from test_pretune_hub import make_cfg, world  # noqa: F401
from tiny import call_tool, quick  # noqa: F401

from mmlora.adapters import LoRASpec, Pair, attach_bank, detach_bank, lora_tensors, read_lora, route
from mmlora.apis import train
from mmlora.apis.build_banks import build_banks, settle_banks
from mmlora.apis.hub_heads import left_out_scores
from mmlora.apis.hub_members import build_frozen
from mmlora.apis.hub_tasks import HubImages, build_sources, draw_task, load_images
from mmlora.engine.hooks import lora_bank_hook
from mmlora.io.lora_banks import LoRABanks
from mmlora.io.published_banks import published_epochs, read_published_checkpoint
from mmlora.models.backbones.skeleton import Skeleton

module = importlib.import_module('mmlora.apis.build_banks')
OPTIONS = dict(hub=dict(num_loras=3, batch_size=8, shared_a=True, head='prototype'),
               bank=dict(start_epoch=2, max_keep=2))


@pytest.fixture
def cfg(world, root):  # noqa: F811
    init_default_scope('mmpretrain')
    cfg = make_cfg(world, root)
    cfg.merge_from_dict(OPTIONS)
    return cfg


def test_each_image_is_compared_with_the_others():
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0, 2])
    scores = left_out_scores(x, y, 4)
    for i in range(7):
        for c in range(4):
            others = [j for j in range(7) if y[j] == c and j != i]
            wanted = -(x[i] - x[others].mean(0)).square().sum() / 2 if others else torch.tensor(float('-inf'))
            torch.testing.assert_close(scores[i, c], wanted.double(), rtol=0, atol=1e-12)


def test_banks_are_built_go_on_and_compute_what_they_say(cfg, tmp_path, monkeypatch, capsys):
    build_banks(cfg, tmp_path / 'a', num_tasks=2)
    # Killed when the third task has its first checkpoint.
    add = LoRABanks.add
    monkeypatch.setattr(LoRABanks, 'add', lambda self, task, *args, **more: add(self, task, *args, **more)
                        if len(self) < 3 or task != '00002' else (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_banks(cfg, tmp_path / 'a')
    monkeypatch.undo()
    assert len(LoRABanks.open(tmp_path / 'a').task('00002').checkpoints) == 1
    assert build_banks(cfg, tmp_path / 'a').built == 1
    whole = build_banks(cfg, tmp_path / 'b', together=1).banks
    banks = LoRABanks.open(tmp_path / 'a')
    assert build_banks(cfg, tmp_path / 'a').built == 0
    assert [task.name for task in banks.tasks] == ['00000', '00001', '00002'] and banks.factors == 'B'
    for own, other in zip(banks.tasks, whole.tasks, strict=True):
        assert own.classes == other.classes and len(own.classes) == 3 and len(own.checkpoints) == 2
        metrics = [one.metric for one in own.checkpoints]
        assert metrics == sorted(metrics, reverse=True)
        torch.testing.assert_close(banks.vectors(own), whole.vectors(other), rtol=0, atol=1e-5)
    assert not torch.equal(banks.vectors('00000'), banks.vectors('00001'))
    # The best checkpoint of a task with its head has the accuracy that the manifest says.
    settled, plan, _ = settle_banks(cfg)
    frozen, digest = build_frozen(settled, 'cpu')
    task = draw_task(build_sources(plan.sources), 1, 0, 3)
    attach_bank(frozen.backbone, [banks.weights(banks.vectors('00001')[0])])
    (data, ) = load_images(HubImages(build_sources(plan.sources)), [[(ref, 0, 0) for ref in task.val]])
    with torch.no_grad(), route(frozen.backbone, 0):
        features = frozen.features(data)
    detach_bank(frozen.backbone)
    head = banks.head('00001')
    hits = (features @ head.weight.T + head.bias).argmax(1) == torch.tensor(task.val_labels)
    assert banks.task('00001').checkpoints[0].metric == pytest.approx(100 * hits.double().mean().item())
    assert banks.full_spec.base_sha256 == digest and banks.about['normalization']['to_rgb']
    cfg.optim_wrapper.optimizer.lr = 0.5
    with pytest.raises(ValueError, match=r'optimizer\.lr: 0.001, now 0.5'):
        build_banks(cfg, tmp_path / 'a')


def test_a_run_adds_to_the_banks_of_a_hub(cfg, tmp_path, root, world, quick, monkeypatch):  # noqa: F811
    """The A of the run is that of the hub, bit for bit, and so is the hash of the frozen weights."""
    banks = build_banks(cfg, tmp_path / 'banks', num_tasks=1).banks
    run = Config.fromfile(root / 'tests' / 'data' / 'configs' / 'tiny_vit.py')
    bare = dict(cfg.model.backbone)
    run.model.pop('train_cfg')
    run.model.backbone = dict(_delete_=True, type='AdaptedBackbone', backbone=bare, targets=['attn.qkv'], lora_ranks=2,
                              lora_scaling='constant', lora_shared_a=0)
    run.model.head = dict(type='LinearClsHead', num_classes=6, in_channels=16)
    run.model.backbone.pop('_delete_')
    run.data_preprocessor = dict(num_classes=6, mean=[60] * 3, std=[40] * 3, to_rgb=True)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        run[name].dataset = dict(cfg.hub_sources[0].dataset)
    hook = dict(type='LoRABankHook', folder=str(tmp_path / 'banks'), task='run', start=2, max_keep=1)
    run.merge_from_dict(dict(custom_hooks=[hook], work_dir=str(tmp_path / 'run')))
    waited = []
    monkeypatch.setattr(lora_bank_hook, 'barrier', lambda: waited.append(1))
    runner = train(run)
    assert waited  # Though the banks are there: another process may have made them since.
    added = LoRABanks.open(tmp_path / 'banks')
    assert [task.name for task in added.tasks] == ['00000', 'run'] and len(added.task('run').checkpoints) == 1
    assert added.task('run').classes == tuple(f'c{i}' for i in range(6)) and added.task('run').checkpoints[0].step > 5
    state = lora_tensors(read_lora(runner.model.backbone))
    banks.check_shared(state, 'the run')
    assert all(banks.shared[key].any() for key in banks.shared) and added.head('run').weight.shape == (6, 16)
    if added.task('run').checkpoints[0].step == runner.iter:
        assert torch.equal(added.vectors('run')[0], added.spec.flatten({k: state[k] for k in added.spec.keys}))
    run.custom_hooks[0].task = '00000'
    with pytest.raises(ValueError, match="has a task '00000' already"):
        train(run)
    # What a run has left that was killed before its first checkpoint is made anew.
    run.custom_hooks[0].task = 'run'
    (tmp_path / 'run' / 'last_checkpoint').unlink()
    with pytest.raises(ValueError, match="has a task 'run' already"):
        train(run)
    (tmp_path / 'banks' / 'run' / lora_bank_hook.UNFINISHED).write_text(str((tmp_path / 'run').resolve()))
    left = tmp_path / 'banks' / 'run' / '77.safetensors'
    left.touch()
    train(run)
    assert not left.exists() and not (left.parent / lora_bank_hook.UNFINISHED).exists()
    assert LoRABanks.open(tmp_path / 'banks').task('run').checkpoints == added.task('run').checkpoints


SITES = [(f'layers.{i}.attn.qkv', part) for i in range(2) for part in 'qv']


def draw(seed, rank=2):
    generator = torch.Generator().manual_seed(seed)
    return {site: Pair(torch.ones(rank, 4), torch.randn(4, rank, generator=generator), 1.0) for site in SITES}


def bad_banks(case, folder):
    spec = LoRASpec.of_weights(draw(0), 'abc')
    tensors = lora_tensors(draw(1))
    shared = {key: value for key, value in tensors.items() if '.lora_A' in key}
    banks = LoRABanks.create(folder, spec, 'B', shared)
    key = 'layers.1.attn.qkv.lora_B_v'
    given = {
        'rank': lora_tensors(draw(1, 3)), 'nan': tensors | {key: torch.full((4, 2), float('nan'))},
        'zero': {name: torch.zeros_like(value) if '_B' in name else value for name, value in tensors.items()},
        'short': {name: value for name, value in tensors.items() if name != key}, 'empty': {},
        'long': tensors | {key: torch.ones(5, 2)}, 'A': {name: 2 * value for name, value in tensors.items()},
    }.get(case, tensors)  # yapf: disable
    names = {'name': '../x'}
    banks.add(names.get(case, 't'), given, -1 if case == 'step' else 3, float('nan') if case == 'metric' else 1.0)
    assert banks.vectors('t').shape == (1, 32)
    path = folder / 't' / '3.safetensors'
    if case == 'damaged':
        path.write_bytes(b'')
    elif case == 'gone':
        path.unlink()
    elif case == 'index':
        (folder / 'index.json').unlink()
    elif case == 'task':
        banks.vectors('u')
    LoRABanks.open(folder).vectors('t')


@pytest.mark.parametrize(('case', 'message'), [
    ('rank', 'lora_A_q is not the A'), ('nan', "task 't', step 3: 8 of 32 values are not finite"),
    ('zero', 'every B is zero'), ('short', r'layers\.1\.attn\.qkv\.lora_B_v \(4, 2\) is missing'),
    ('empty', 'is missing'), ('long', r'must be \(4, 2\), got \(5, 2\)'), ('A', 'lora_A_q is not the A that'),
    ('name', "got '../x'"), ('step', 'got -1'), ('metric', 'is nan, which ranks nothing'),
    ('damaged', 'is empty'), ('gone', 'can not be found'), ('index', 'has no index.json'), ('task', "no task 'u'")])
def test_banks_refuse_what_does_not_fit(case, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        bad_banks(case, tmp_path / 'banks')


@pytest.mark.parametrize(('change', 'message'), [
    (dict(bank=dict(start_epoch=4)), 'behind the last epoch'), (dict(bank=dict(best=1)), r"bank has no \['best'\]"),
    (dict(bank=dict(metric='map')), "got 'map'"), (dict(hub=dict(head='cosine')), "got 'cosine'"),
    (dict(hub=dict(batch_size=5)), 'at least 2 \\* n_way = 6')])
def test_configs_that_cannot_be_used(cfg, change, message):
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError, match=message):
        settle_banks(cfg)


def test_published_banks_are_taken_over(golden, tmp_path, capsys):
    folder = golden / 'icm_lora'
    arrays, document = np.load(folder / 'normalize.npz'), json.loads((folder / 'normalize.json').read_text())
    order = json.loads((folder / 'reformat_order.json').read_text())['index_to_epoch']
    assert published_epochs(100) == [order[str(i)] for i in range(100)]
    for name, place in document['output_folder'].items():
        content = {entry['key']: {field: entry[field] for field in ('mean', 'std', 'length', 'shape')}
                   for entry in document['stats'][name]}
        path = tmp_path / 'dog' / place / f'normalized_adapter_model_{name}.pth'
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({**content, 'data': torch.from_numpy(arrays[f'{name}/data'])}, path)
    torch.save(torch.arange(6.0), tmp_path / 'hidden_state.pth')
    assert call_tool('import_lora_bank', tmp_path / 'out', f'dog={tmp_path / "dog"}', '--hidden-states',
                     f'dog={tmp_path}') == 0, capsys.readouterr().err
    banks = LoRABanks.open(tmp_path / 'out')
    assert [one.step for one in banks.task('dog').checkpoints] == [99, 51, 50, 0]
    assert banks.full_spec.scaling == pytest.approx(8 / 2 ** 0.5)
    for vector, number in zip(banks.vectors('dog'), ('99', '51', '50', '0'), strict=True):
        for key, value in banks.spec.split(vector).items():
            raw = torch.from_numpy(arrays[f'{number}/raw/base_model.model.{key}.weight'])
            torch.testing.assert_close(value, raw, rtol=0, atol=1e-6)
    path = tmp_path / 'dog' / '50' / 'normalized_adapter_model_50.pth'
    content = torch.load(path, weights_only=True)
    key = next(iter(key for key in content if key != 'data'))
    lacking = {field: value for field, value in content[key].items() if field != 'mean'}
    torch.save({**content, key: {**lacking, 'max': 1.0}}, path)
    with pytest.raises(ValueError, match='has no mean, std, length and shape'):
        read_published_checkpoint(path)
    for data, message in ((content['data'][:-1], 'too few for .*blocks.2.attn.q_proj.lora_B'),
                          (torch.cat([content['data'], torch.ones(1)]), 'has 109 values, .* names 108'),
                          (content['data'] * float('nan'), 'not finite')):
        torch.save({**content, 'data': data}, path)
        with pytest.raises(ValueError, match=message):
            read_published_checkpoint(path)


@pytest.mark.parametrize('name', ['vit-micro_glyphs', 'vit-base-p16_vgg-flower', 'swin-base-w7_vgg-flower',
                                  'clip-vit-base-p16_mix'])
def test_configs_of_banks_can_be_built(root, name):
    cfg, plan, bank = settle_banks(Config.fromfile(root / 'configs' / 'icm_lora' / f'bank_{name}-5way.py'))
    assert plan.shared_a and plan.num_loras == {'vit-micro_glyphs': 48}.get(name, 200)
    assert bank.count(cfg.train_cfg.max_epochs) >= 2
    with Skeleton():
        backbone = MODELS.build(cfg.model.backbone)
    fresh = module.fresh_lora(backbone, module.hub_recipe(cfg, plan), None)  # A shared A asks for no task.
    lengths = {'vit-micro': 3072, 'vit-base': 73728, 'swin-base': 96256, 'clip-vit': 73728}
    assert LoRASpec.of_weights(fresh).only('B').length == lengths['-'.join(re.split('[-_]', name)[:2])]
