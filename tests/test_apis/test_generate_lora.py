"""From a bank to an adapter folder: task vectors, training, generation and loading, and what is refused on the way."""

from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from tiny import call_tool, quick_runs

from mmlora.adapters import draw_lora
from mmlora.adapters.lora_spec import LoRASpec, lora_tensors
from mmlora.apis import train
from mmlora.apis.extract_task_vectors import extract_task_vectors
from mmlora.apis.generate_lora import generate_lora, load_generator
from mmlora.apis.generator_support import build_viewer, list_support
from mmlora.apis.vector_picture import pca_plane, tsne_plane
from mmlora.datasets import Glyphs
from mmlora.engine.hooks.strict_load_hook import compare_keys
from mmlora.engine.lora_loading import complete_lora
from mmlora.io.checkpoint import load_checkpoint
from mmlora.io.lora_banks import LoRABanks
from mmlora.io.lora_folder import read_lora_folder
from mmlora.io.task_vectors import TaskVectors
from mmlora.models.generators import LoRACodec

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'icm_lora'
TASKS = {'00000': (0, 1), '00001': (5, 9), '00002': (1, 7)}
SUPPORT = 6


def load(name: str, place: Path) -> Config:
    cfg = Config.fromfile(CONFIGS / f'{name}_vit-micro_glyphs-5way.py')
    cfg.merge_from_dict(dict(bank_folder=str(place / 'banks'), task_vectors=str(place / 'vectors.safetensors')))
    if 'task_images' in cfg:
        letters = dict(type='Glyphs', split='train', samples_per_class=3, pipeline=[dict(type='PackInputs')])
        cfg.task_images.update(sources=[dict(name='letters', dataset=letters)], n_way=2, shot=2, num_draws=2,
                               train_fraction=1.0)
    cfg.work_dir = str(place / name)
    return cfg


def write_place(place: Path) -> Path:
    """Write banks of three tasks over vit-micro, their task vectors, and a support set in folders."""
    cfg = load('pca-ridge', place)
    viewer, glyphs = build_viewer(cfg, 'cpu'), Glyphs('train', samples_per_class=3)
    backbone = viewer.frozen.backbone
    sites = [f'layers.{i}.attn.qkv' for i in range(4)]
    fresh = draw_lora(backbone, sites, 4, 'qv', 1.0, torch.Generator().manual_seed(0))
    spec, tensors = LoRASpec.of_weights(fresh, viewer.base_sha256), lora_tensors(fresh)
    banks = LoRABanks.create(place / 'banks', spec, 'B', {key: tensors[key] for key in spec.only('A').keys})
    draw, names = torch.Generator().manual_seed(1), glyphs.metainfo['classes']
    for task, classes in TASKS.items():
        for step in (1, 2):
            own = {key: 0.01 * torch.randn(entry.shape, generator=draw) for key, entry in zip(
                banks.spec.keys, banks.spec.entries, strict=True)}
            banks.add(task, own, step, 50.0 + step, classes=[names[c] for c in classes], class_ids=list(classes))
    for folder, label in (('support', 0), ('support', 3), ('other', 8), ('other', 11)):
        (place / folder / f'letter{label}').mkdir(parents=True)
        for number in range(SUPPORT // 2):
            cv2.imwrite(str(place / folder / f'letter{label}' / f'{number}.png'), glyphs[3 * label + number]['img'])
    extract_task_vectors(cfg, device='cpu')
    return place


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp('icm'))


@pytest.mark.parametrize(('name', 'changes', 'samples'), [
    ('pca-ridge', {}, 2), ('retrieval-nearest', {}, 1), ('retrieval-nearest-noise', {}, 2),
    ('conv-cvae', dict(max_epochs=1), 2), ('cond-prior-cvae', dict(max_epochs=1), 2),
    ('layer-hyper-net', dict(max_epochs=1), 1),
])  # fmt: skip
def test_a_generator_is_trained_and_gives_an_adapter(place: Path, name: str, changes: dict, samples: int) -> None:
    cfg = load(name, place)
    cfg.train_cfg.update(changes)
    cfg.train_dataloader.batch_size = 3
    with quick_runs():
        train(cfg)
    checkpoint, out = place / name / 'epoch_1.pth', place / f'{name}-adapter'
    found = generate_lora(cfg, checkpoint, place / 'support', out, samples, device='cpu')
    folder = read_lora_folder(out)
    assert len(found.losses) == samples and found.chosen == min(range(samples), key=found.losses.__getitem__)
    assert folder.record['generated']['seed'] == 0 and folder.record['classes'] == ['letter0', 'letter3']
    assert tuple(folder.head.weight.shape) == (2, 96) and 'sha256' in (out / 'README.md').read_text()
    again = generate_lora(cfg, checkpoint, place / 'support', place / 'again', samples, device='cpu')
    assert again.losses == found.losses and len(set(found.losses)) == samples
    assert found.tied == [found.chosen]
    if name in ('pca-ridge', 'conv-cvae'):  # What is generated follows the images.
        other = generate_lora(cfg, checkpoint, place / 'other', place / 'again', device='cpu')
        assert any(not torch.equal(pair.b, folder.weights[key].b)
                   for key, pair in read_lora_folder(other.folder).weights.items())
    if name == 'retrieval-nearest':
        vectors = torch.cat([LoRABanks.open(place / 'banks').vectors(task)[:1] for task in TASKS])
        spec = LoRABanks.open(place / 'banks').spec
        own = torch.cat([lora_tensors(folder.weights)[key].flatten() for key in spec.keys])
        assert (vectors - own).abs().amax(1).min() < 1e-6


def test_the_folder_loads_for_tests(place: Path) -> None:
    test_a_generator_is_trained_and_gives_an_adapter(place, 'retrieval-mean', {}, 1)
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(CONFIGS / 'adapter_vit-micro_glyphs-5way.py')
    checkpoint = load_checkpoint(place / 'retrieval-mean-adapter')
    model = MODELS.build(cfg.model)
    state = complete_lora(model, checkpoint)
    assert set(state) == set(model.state_dict())
    for name, value in checkpoint['state_dict'].items():
        assert torch.equal(state[f'backbone.{name}'], value)
    for changes, said in ((dict(lora_ranks=2), 'another shape'), (dict(lora_slices='q'), 'too many'),
                          (dict(lora_scaling=2.0), 'lora_scaling=1.0')):
        other = MODELS.build({**cfg.model, 'backbone': {**cfg.model.backbone, **changes}})
        with pytest.raises(ValueError, match=said):
            complete_lora(other, checkpoint)
    # A linear head is that of the folder; one of another size is nobody's, and a test refuses it.
    for classes, missing in ((2, set()), (3, {'head.fc.weight', 'head.fc.bias'})):
        linear = dict(type='LinearClsHead', num_classes=classes, in_channels=96)
        other = MODELS.build(dict(type='ImageClassifier', backbone=cfg.model.backbone, head=linear))
        report = compare_keys(other, complete_lora(other, checkpoint))
        assert set(report.keys()) == missing
    head = read_lora_folder(place / 'retrieval-mean-adapter').head
    assert torch.equal(complete_lora(other, checkpoint)['head.fc.weight'], head.weight)
    bare = {key: value for key, value in cfg.model.backbone.backbone.items() if key != 'init_cfg'}
    with pytest.raises(ValueError, match='stands on weights'):
        complete_lora(MODELS.build({**cfg.model, 'backbone': {**cfg.model.backbone, 'backbone': bare}}), checkpoint)


@pytest.mark.parametrize('name', ['layer-hyper-net-both', 'layer-hyper-net-episodic'])
def test_training_end_to_end_gives_an_adapter(place: Path, name: str) -> None:
    cfg = load(name, place)
    letters = dict(type='Glyphs', split='train', samples_per_class=3, pipeline=[dict(type='PackInputs')])
    cfg.train_dataloader.dataset.dataset = letters
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.batch_sampler.update(n_way=2, n_shot=2, n_query=1, p_interpolate=float('episodic' in name))
    cfg.custom_hooks[1].num_episodes = 2
    cfg.train_cfg.max_iters = cfg.default_hooks.checkpoint.interval = 2
    with quick_runs():
        train(cfg)
    checkpoint, sha256 = place / name / 'iter_2.pth', build_viewer(cfg, 'cpu').base_sha256
    # The generator knows its base, with a bank or without, and compares as its head does.
    assert load_generator(cfg, checkpoint).spec.base_sha256 == sha256
    found = generate_lora(cfg, checkpoint, place / 'support', place / f'{name}-adapter', device='cpu')
    folder = read_lora_folder(found.folder)
    assert folder.record['generated']['distance'] == 'cosine' and folder.record['generated']['temperature'] == 0.1
    assert not folder.head.bias.any() and found.base_loss < 20  # Squared distances make it some hundreds.
    torch.testing.assert_close(folder.head.weight.norm(dim=1), torch.full((2,), 10.0))
    if name.endswith('both'):
        index = place / 'banks' / 'index.json'
        text = index.read_text()
        try:
            index.write_text(text.replace(sha256, 64 * '0'))
            with quick_runs(), pytest.raises(ValueError, match='stands on weights with the sha256 0000'):
                train(cfg)
        finally:
            index.write_text(text)


def test_equal_samples_are_told(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    test_a_generator_is_trained_and_gives_an_adapter(place, 'retrieval-nearest-noise', {}, 2)
    cfg = load('retrieval-nearest-noise', place)
    cfg.dump(tmp_path / 'cfg.py')
    command = ['generate_lora', tmp_path / 'cfg.py', place / 'retrieval-nearest-noise' / 'epoch_1.pth', '--out',
               tmp_path / 'out', '--device', 'cpu']
    alike = ['--support', place / 'support', '--num-samples', 2, '--cfg-options', 'model.noise_std=1e-30']
    assert call_tool(*command, *alike) == 0
    assert 'sample 0; 2 samples have its loss, [0, 1]' in capsys.readouterr().out
    # From a file of vectors the LoRA is that of the nearest task, the task itself.
    vectors = place / 'vectors.safetensors'
    assert call_tool(*command, '--task-vectors', vectors, '--task', '00001') == 0
    banks, folder = LoRABanks.open(place / 'banks'), read_lora_folder(tmp_path / 'out')
    own = lora_tensors(folder.weights)
    torch.testing.assert_close(torch.cat([own[key].flatten() for key in banks.spec.keys]), banks.vectors('00001')[0])
    assert folder.head is None and folder.record['generated']['task'] == '00001'
    assert call_tool(*command, '--task-vectors', vectors, '--task', 'x') == 2
    assert "no task 'x'" in capsys.readouterr().err
    described = TaskVectors.open(vectors)
    for change, said in ((dict(encoder=dict(type='PrototypeStats')), 'made by PrototypeStats'),
                         (dict(base_sha256='abc'), 'seen by abc')):
        TaskVectors(described.vectors, {**described.record, **change}).write(tmp_path / 'v.safetensors')
        assert call_tool(*command, '--task-vectors', tmp_path / 'v.safetensors', '--task', '00001') == 2
        assert said in capsys.readouterr().err


def test_bad_input_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / 'nothing').mkdir()
    (tmp_path / 'one' / 'a').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'one' / 'a' / '1.png'), torch.zeros(8, 8, 3).numpy())
    (tmp_path / 'list.txt').write_text('one/a/1.png a\nmissing.png b\n')
    (tmp_path / 'words.txt').write_text('one/a/1.png a b\n')
    for name, kind, said in (('nothing', ValueError, 'is empty'), ('one', ValueError, 'at least two classes'),
                             ('list.txt', FileNotFoundError, 'missing.png'), ('words.txt', ValueError, 'line 1'),
                             ('no', FileNotFoundError, 'does not exist')):
        with pytest.raises(kind, match=said):
            list_support(tmp_path / name)
    cfg = load('pca-ridge', place)
    document = LoRACodec(LoRABanks.open(place / 'banks').full_spec).document
    for state, said in (({'vae.weight': torch.zeros(1)}, "no 'codec.document'.*without its statistics"),
                        ({'codec.document': document}, "no 'scaler.mean'.*without its statistics"),
                        ({'codec.document': document[:9], 'scaler.mean': torch.zeros(2)}, 'is damaged')):
        torch.save(dict(state_dict=state), tmp_path / 'plain.pth')
        with pytest.raises(ValueError, match=said):
            load_generator(cfg, tmp_path / 'plain.pth')
    with pytest.raises(ValueError, match='select'):
        generate_lora(cfg, tmp_path / 'plain.pth', place / 'support', tmp_path / 'out', select='best')
    cfg.model.task_encoder = dict(type='PrototypeStats')
    with pytest.raises(ValueError, match='made by MeanFeature'):
        train(cfg)
    with pytest.raises(ValueError, match='fewer than shot=4'):
        extract_task_vectors(cfg, out=tmp_path / 'v.safetensors', shot=4, device='cpu')
    cfg.task_images.n_way = 3
    with pytest.raises(ValueError, match='from 2 to 2, the classes of the smallest task, got 3'):
        extract_task_vectors(cfg, out=tmp_path / 'v.safetensors', device='cpu')


def test_pictures_keep_clusters_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(4, 12, generator=draw)
    points = (centres.repeat_interleave(8, 0) + 0.3 * torch.randn(32, 12, generator=draw)).double().numpy()
    found = torch.as_tensor(tsne_plane(points))
    near = torch.cdist(found, found).fill_diagonal_(float('inf')).argmin(1)
    assert (near // 8 == torch.arange(32) // 8).all()
    flat = torch.as_tensor(pca_plane(points[:, :2] @ points[:2]))  # points of a plane stay as far apart as they are
    wanted = torch.as_tensor(points[:, :2] @ points[:2])
    torch.testing.assert_close(torch.cdist(flat, flat), torch.cdist(wanted, wanted), rtol=1e-3, atol=1e-2)
    with pytest.raises(ValueError, match='at least 4'):
        tsne_plane(points[:3])
