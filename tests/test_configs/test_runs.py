"""Configs from training to the tested checkpoint, with tiny backbones and generated images in the published layout."""

import json
import math

import catalogue
import pytest
from fgvc_layouts import make_json
from layouts import make_medfmc, make_vtab
from mmengine.config import Config
from tiny import quick  # noqa: F401

from mmlora.apis import test as run_test
from mmlora.apis import train
from mmlora.datasets import find_vtab_set

SR_LORA = 'sr_lora/{}sr-lora_{}_in21k-pre_1xb4-coslr-20e_{}'
RLRR = 'rlrr/rlrr_{}_in21k-pre_1xb32-late{}'
BASELINE = 'baselines/{}_vit-base-p16_{}in21k-pre_1xb64-coslr-100e_{}'
TOP1 = {'accuracy/top1', 'accuracy/balanced'}
CASES = [
    # config, iterations of an epoch, metrics, options
    (SR_LORA.format('', 'vit-base-p16', 'vtab1k-eurosat'), 3, TOP1, {}),
    (SR_LORA.format('', 'swin-base-w12', 'medfmc-colon'), 2, {'accuracy/top1', 'auc/mean'}, {}),
    (SR_LORA.format('published-code/', 'vit-base-p16', 'medfmc-endo') + '_published-code', 2,
     {'multi-label/mAP', 'auc/mean'}, {}),
    (RLRR.format('vit-large-p16', 'cos-110e_vtab1k-eurosat'), 2, TOP1, {}),
    (RLRR.format('vit-huge-p14', 'cos-110e_vtab1k-diabetic-retinopathy'), 1, TOP1 | {'kappa/quadratic'},
     dict(tune=True)),
    (RLRR.format('vit-base-p16', 'restart-110e_fgvc-nabirds_mixup'), 1, TOP1, {'train_dataloader.batch_size': 8}),
    (BASELINE.format('vpt-deep', '', 'vtab1k-svhn'), 1, TOP1, {}),
    (BASELINE.format('full', '', 'fgvc-cub'), 1, TOP1, dict(tune=True)),
    (BASELINE.format('ssf', 'augreg-', 'fgvc-flowers'), 1, TOP1, {}),
]  # yapf: disable


def write_data(cfg, folder):
    """Write the data of a config in the published layout and return the root of its folders."""
    kind, name = cfg.dataset_name.split('-', 1)
    if kind == 'medfmc':
        return make_medfmc(folder, name)
    if kind == 'fgvc':
        return make_json(folder / name).parent
    vtab_set = find_vtab_set(name)
    return make_vtab(folder, vtab_set.name, min(vtab_set.num_classes, 10))


@pytest.mark.parametrize('name, epoch, metrics, options', CASES, ids=[catalogue.short(case[0]) for case in CASES])
def test_train_and_test(tmp_path, name, epoch, metrics, options):
    cfg = catalogue.shrunk(catalogue.load(name))
    root = str(write_data(cfg, tmp_path))
    cfg.merge_from_dict(options)
    for loader in (cfg[key] for key in catalogue.LOADERS if key in cfg):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = root
    cfg.train_cfg.max_epochs = 1
    cfg.optim_wrapper.optimizer.lr = 1e-3
    runner = train(cfg, work_dir=str(tmp_path / 'run'))
    assert runner.iter == epoch
    learned = {key: p for key, p in runner.model.named_parameters() if p.requires_grad}
    factors = {key: p for key, p in learned.items() if '.lora_B' in key}
    assert all(p.any() for p in factors.values()) and bool(factors) == ('sr-lora' in name)
    active = runner.message_hub.log_scalars.get('train/active_parameters')
    assert (active is not None) == ('sr-lora_vit' in name)
    assert (runner.val_loop is not None) == options.get('tune', False)
    results = run_test(cfg, str(tmp_path / 'run' / 'epoch_1.pth'), work_dir=str(tmp_path / 'run'))
    assert metrics <= set(results) and all(math.isfinite(results[key]) for key in metrics)
    written = json.loads((tmp_path / 'run' / 'results.json').read_text())
    (entry,) = written['results'] if isinstance(written, dict) else written
    few = 'shot' in cfg
    assert (entry['dataset_name'], entry['method']) == (cfg.dataset_name, cfg.method)
    assert (entry.get('shot'), entry.get('split')) == ((1, 1) if few else (None, None))
    assert isinstance(Config.fromfile(next((tmp_path / 'run').glob('*.py'))), Config)
