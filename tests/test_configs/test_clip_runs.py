"""Configs of clip_lora from training to the table, with tiny towers and generated images in the published folders."""

import catalogue
import pytest
import torch
from coop_layouts import WNIDS, class_names, make_listed, touch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from tiny import quick  # noqa: F401

from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.apis.base_to_new import base_to_new, harmonic_mean
from mmlora.apis.coop_means import coop_means
from mmlora.apis.records import read_records
from mmlora.apis.summarize import summarize
from mmlora.apis.tables import to_markdown
from mmlora.models.clip import restore_openai_keys

CLIP_LORA = 'clip_lora/clip-lora_vit-base-p16_'
SHORT = {'max_iters': dict(max_iters=2), 'first_iters': dict(first_iters=1, second_iters=1),
         'max_epochs': dict(max_epochs=2)}  # fmt: skip


def method(name):
    return name.split('/')[1].split('_')[0]


def leaves(data):
    return [name for name in catalogue.clip() if 'vit-base-p16' in name and name.endswith(f'_{data}')]


def prepared(name, root, **options):
    """The config with tiny towers, a run of one or two steps, and generated data."""
    cfg = catalogue.shrunk_clip(catalogue.load(name))
    for key in SHORT:
        if key in cfg:
            cfg.merge_from_dict(SHORT[key])
    cfg.merge_from_dict(dict(data_root=str(root), **options))
    for part in ('train', 'test'):
        if cfg.get(f'{part}_dataloader'):
            cfg[f'{part}_dataloader'].dataset.serialize_data = False
    return cfg


def weights_of(cfg, path):
    """Write the weights of a model as it begins under the names of OpenAI, and return the file."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build({**cfg.model, 'classes': ['a']})
    model.init_weights()
    torch.save(restore_openai_keys(model.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """EuroSAT in the folders of CoOp."""
    top = tmp_path_factory.mktemp('coop')
    make_listed(top / 'eurosat', 'eurosat', counts=dict(train=2, val=2, test=1), real=True)
    return top


@pytest.mark.parametrize('name', leaves('eurosat'), ids=method)
def test_every_method_runs(tmp_path, monkeypatch, root, name):
    monkeypatch.chdir(tmp_path)
    cfg = prepared(name, root)
    if cfg.get('train_dataloader'):
        cfg.shot = 1
        runner = train(cfg)
        folder = next((tmp_path / 'work_dirs').rglob('last_checkpoint')).parent
        checkpoint = (folder / 'last_checkpoint').read_text()
        assert runner.iter == (1 if 'training-free' in name else 2)
        assert folder.relative_to(tmp_path / 'work_dirs').as_posix().startswith(
            f'{method(name)}/vit-base-p16/eurosat/1shots/seed1')
    else:
        checkpoint = str(weights_of(cfg, tmp_path / 'ViT-B-16.pt'))
    metrics = run_test(cfg, checkpoint)
    assert 0 <= metrics['accuracy/top1'] <= 100
    [results] = (tmp_path / 'work_dirs').rglob('results.json')
    [entry] = read_records(results)
    assert (entry['method'], entry['dataset_name'], entry['test']['images']) == (cfg.method, 'eurosat', 10)
    assert entry['backbone'].endswith(' 2x16') and entry['shot'] == cfg.shot
    assert results.parent.relative_to(tmp_path).parts[1] == method(name)


def test_from_base_to_new_classes(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    name = f'{CLIP_LORA}1xb32-cosine-500i-per-shot_eurosat'
    for seed in (1, 2):
        train(prepared(name, root, shot=2, base_to_new=True, **{'randomness.seed': seed}))
    folders = sorted(path.parent for path in (tmp_path / 'work_dirs').rglob('last_checkpoint'))
    assert [folder.relative_to(tmp_path / 'work_dirs').as_posix() for folder in folders] == [
        f'clip-lora/vit-base-p16/eurosat/2shots/seed{seed}_base_to_new' for seed in (1, 2)]
    values = {}
    for folder in folders:
        for subset in ('base', 'new'):
            metrics = run_test(prepared(name, root, base_to_new=True, test_subset=subset), str(folder / 'iter_2.pth'))
            values.setdefault(subset, []).append(metrics['accuracy/top1'])
    assert len(list((tmp_path / 'work_dirs').rglob('seed*'))) == 2 and (folders[0] / 'tests').is_dir()
    summary = summarize([tmp_path / 'work_dirs'])
    [row] = summary.rows.values()
    base, new = (sum(values[half]) / 2 for half in ('base', 'new'))
    assert base_to_new(row) == {'eurosat': pytest.approx((base, new, harmonic_mean(base, new)))}
    assert summary.columns == ['eurosat-base', 'eurosat-new'] and 'harmonic mean' in to_markdown(summary)


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """ImageNet with two images of each class to draw from, and the two sets with 200 of its classes."""
    top = tmp_path_factory.mktemp('imagenet')
    for label, wnid in enumerate(WNIDS):
        for number in range(2):
            touch(top / 'imagenet' / 'images' / 'train' / wnid / f'{number}.jpg', True, label)
        touch(top / 'imagenet' / 'images' / 'val' / wnid / '0.jpg')
    for folder in ('imagenet-adversarial/imagenet-a', 'imagenet-rendition/imagenet-r'):
        for label, wnid in enumerate(WNIDS[::5]):
            touch(top / folder / wnid / '0.jpg', True, label)
    (top / 'imagenet' / 'classnames.txt').write_text(class_names())
    make_listed(top / 'eurosat', 'eurosat', counts=dict(train=1, val=1, test=1), real=True)
    make_listed(top / 'dtd', 'dtd', counts=dict(train=1, val=1, test=1), real=True)
    return top


def test_from_imagenet_to_other_images_and_other_sets(tmp_path, monkeypatch, imagenet):
    """The classes are those of the target, the adapters those of the source."""
    monkeypatch.chdir(tmp_path)
    name = f'{CLIP_LORA}1xb32-cosine-500i-per-shot_'
    runner = train(prepared(f'{name}imagenet', imagenet, shot=1))
    assert len(runner.model.classes) == 1000
    checkpoint = (tmp_path / runner.work_dir / 'last_checkpoint').read_text()
    for target in ('imagenet-a', 'imagenet-r'):
        run_test(prepared(f'{CLIP_LORA}{target}', imagenet), checkpoint)
    for target in ('eurosat', 'dtd'):
        run_test(prepared(f'{name}{target}', imagenet), checkpoint)
    [results] = (tmp_path / 'work_dirs').rglob('results.json')
    assert results.parent == tmp_path / runner.work_dir
    assert [path.name for path in (tmp_path / 'work_dirs' / 'clip-lora' / 'vit-base-p16').iterdir()] == ['imagenet']
    entries = read_records(results)
    assert [(e['dataset_name'], e['trained_on'], e['method'], e['shot'], e['seed'], e['test']['images'])
            for e in entries] == [(data, 'imagenet', 'CLIP-LoRA', 1, 1, images) for data, images in (
                ('imagenet_a', 200), ('imagenet_r', 200), ('eurosat', 10), ('dtd', 47))]
    summary = summarize([tmp_path / 'work_dirs'])
    [(labels, row)] = summary.rows.items()
    assert labels[-1] == 'last iteration, trained on imagenet'
    assert [(mean.group, len(mean.cells)) for mean in coop_means(row)] == [
        ('10 other sets', 2), ("4 sets of ImageNet's classes", 2)]
    whole = prepared(f'{CLIP_LORA}imagenet-a', imagenet, **{'test_dataloader.dataset.label_space': 'imagenet'})
    whole.dataset_name = 'imagenet_a-1000'
    run_test(whole, checkpoint)
    assert read_records(results)[-1]['dataset_name'] == 'imagenet_a-1000'
