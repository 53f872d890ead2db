"""Each published layout, from the lists to the metrics, with tiny backbones of both families."""

import numpy as np
import pytest
import torch
from layouts import make_medfmc, make_vtab
from mmengine import load
from mmengine.config import Config
from tiny import load as load_checkpoint
from tiny import quick  # noqa: F401

from mmlora.apis import check_data, train
from mmlora.apis import test as run_test

BACKBONES = {
    'vit': dict(
        backbone=dict(type='VitSR_LoRA', img_size=32, patch_size=16, lora_ranks=2,
                      arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)),
        width=16, size=32,
    ),
    'swin': dict(
        backbone=dict(type='SwinSR_LoRA', img_size=64, window_size=2, lora_ranks=1,
                      arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])),
        width=64, size=64,
    ),
}
# Data set, number of classes, whether an image may have several, test images.
SETS = {
    'svhn': (dict(type='VTAB1k', name='svhn', data_root='vtab'), 10, False, 20),
    'chest': (dict(type='Chest19', data_root='chest'), 19, True, 12),
    'endo': (dict(type='Endoscopy', data_root='endo'), 4, True, 12),
    'colon': (dict(type='Colon', data_root='colon'), 2, False, 12),
}


@pytest.fixture(scope='module')
def layouts(tmp_path_factory):
    folder = tmp_path_factory.mktemp('layouts')
    make_vtab(folder / 'vtab', 'svhn')
    for name in ('chest', 'endo', 'colon'):
        make_medfmc(folder, name)
    return folder


def config(layouts, work_dir, backbone, name):
    options, num_classes, several, _ = SETS[name]
    family = BACKBONES[backbone]
    width, size = family['width'], family['size']
    head = dict(type='MultiLabelLinearClsHead' if several else 'LinearClsHead', num_classes=num_classes,
                in_channels=width)
    metric = dict(type='AveragePrecision') if several else dict(type='Accuracy', topk=(1,))

    def loader(split):
        dataset = dict(options, data_root=str(layouts / options['data_root']), split=split, n_shot='{shot}',
                       exp='{split}')
        dataset['pipeline'] = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(size, size)),
                               dict(type='PackInputs')]
        return dict(batch_size=4, num_workers=0, dataset=dataset,
                    sampler=dict(type='DefaultSampler', shuffle=split == 'train'))

    return Config(dict(
        default_scope='mmpretrain', shot=1, split=1, work_dir=str(work_dir),
        model=dict(type='ImageClassifier', backbone=family['backbone'], head=head,
                   neck=dict(type='GlobalAveragePooling') if backbone == 'swin' else None),
        data_preprocessor=dict(mean=[60] * 3, std=[40] * 3, num_classes=num_classes, to_onehot=several),
        train_dataloader=loader('train'), val_dataloader=loader('val'), test_dataloader=loader('test'),
        val_evaluator=metric, test_evaluator=metric, train_cfg=dict(by_epoch=True, max_epochs=1), val_cfg=dict(),
        test_cfg=dict(), optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)),
        randomness=dict(seed=0),
    ))


def truth(layouts, name):
    """Return the lines of the test list as multi-hot rows, read without the package."""
    folder, num_classes, several, _ = layouts / SETS[name][0]['data_root'], *SETS[name][1:]
    path = folder / 'test_WithLabel.txt' if name != 'svhn' else folder / 'svhn' / 'test.txt'
    rows = [line.split('.png ' if '.png ' in line else '.jpg ') for line in path.read_text().splitlines()]
    labels = [[int(word) for word in row[1].replace(',', ' ').split()] for row in rows]
    return np.array(labels if several else np.eye(num_classes, dtype=int)[np.ravel(labels)])


def average_precision(scores, positives):
    ranked = positives[np.argsort(-scores)]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return precision[ranked == 1].mean() if ranked.any() else 0.0


@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize('backbone', BACKBONES)
def test_train_and_test(layouts, work_dir, backbone, name):
    cfg = config(layouts, work_dir, backbone, name)
    assert not check_data(cfg).problems
    runner = train(cfg)
    learnt = load_checkpoint(work_dir / 'epoch_1.pth')['state_dict']
    assert any(key.endswith('lora_B') and value.abs().max() > 0 for key, value in learnt.items())
    assert len(runner.val_loop.dataloader.dataset) == 30 - 12 * (name != 'svhn')

    metrics = run_test(cfg, str(work_dir / 'epoch_1.pth'), out=str(work_dir / 'predictions.pkl'))
    predictions = load(work_dir / 'predictions.pkl')
    _, num_classes, several, images = SETS[name]
    expected = truth(layouts, name)
    assert len(predictions) == len(expected) == images
    scores = torch.stack([row['pred_score'] for row in predictions]).numpy()
    labels = np.zeros_like(expected)
    for row, prediction in zip(labels, predictions, strict=True):
        row[prediction['gt_label'].numpy()] = 1
    np.testing.assert_array_equal(labels, expected)
    if several:
        assert (expected.sum(1) == 0).any()
        value = 100 * np.mean([average_precision(scores[:, c], expected[:, c]) for c in range(num_classes)])
        assert metrics['multi-label/mAP'] == pytest.approx(value, abs=1e-4)
    else:
        value = 100 * np.mean(scores.argmax(1) == expected.argmax(1))
        assert metrics['accuracy/top1'] == pytest.approx(value, abs=1e-4)
