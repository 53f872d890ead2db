"""From a bank to an adapter folder: task vectors, training, generation and loading, and what is refused on the way."""

from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from tiny import quick_runs

from mmlora.adapters import draw_lora
from mmlora.adapters.lora_spec import LoRASpec, lora_tensors
from mmlora.apis import train
from mmlora.apis.extract_task_vectors import extract_task_vectors
from mmlora.apis.generate_lora import generate_lora, load_generator
from mmlora.apis.generator_support import build_viewer, list_support
from mmlora.apis.vector_picture import pca_plane, tsne_plane
from mmlora.datasets import Glyphs
from mmlora.engine.lora_loading import complete_lora
from mmlora.io.checkpoint import load_checkpoint
from mmlora.io.lora_banks import LoRABanks
from mmlora.io.lora_folder import read_lora_folder

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


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Banks of three tasks over vit-micro, their task vectors, and a support set in folders."""
    place = tmp_path_factory.mktemp('icm')
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
    for label in (0, 3):
        (place / 'support' / f'letter{label}').mkdir(parents=True)
        for number in range(SUPPORT // 2):
            cv2.imwrite(str(place / 'support' / f'letter{label}' / f'{number}.png'), glyphs[3 * label + number]['img'])
    extract_task_vectors(cfg, device='cpu')
    return place


@pytest.mark.parametrize(('name', 'changes', 'samples'), [
    ('pca-ridge', {}, 2), ('retrieval-nearest', {}, 1), ('conv-cvae-small', dict(max_epochs=1), 2),
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
    # What is generated follows the task: it is the same again, and another for other images.
    again = generate_lora(cfg, checkpoint, place / 'support', place / 'again', samples, device='cpu')
    assert again.losses == found.losses
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
    bare = {key: value for key, value in cfg.model.backbone.backbone.items() if key != 'init_cfg'}
    with pytest.raises(ValueError, match='stands on weights'):
        complete_lora(MODELS.build({**cfg.model, 'backbone': {**cfg.model.backbone, 'backbone': bare}}), checkpoint)


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
    torch.save(dict(state_dict={'vae.weight': torch.zeros(1)}), tmp_path / 'plain.pth')
    cfg = load('pca-ridge', place)
    with pytest.raises(ValueError, match='without its statistics'):
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
