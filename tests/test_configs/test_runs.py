"""Configs from training to the tested checkpoint, with tiny backbones and generated images in the published layout."""

import json
import math

import catalogue
import pytest
from layouts import make_medfmc, make_vtab
from mmengine.config import Config
from tiny import quick  # noqa: F401

from mmlora.apis import test as run_test
from mmlora.apis import train

NAME = 'sr_lora/{}sr-lora_{}_in21k-pre_1xb4-coslr-20e_{}'
CASES = [
    # config, whether its data are of MedFMC, epochs with their iterations, metrics
    (NAME.format('', 'vit-base-p16', 'vtab1k-eurosat'), False, 3, {'accuracy/top1', 'accuracy/balanced'}),
    (NAME.format('', 'swin-base-w12', 'medfmc-colon'), True, 2, {'accuracy/top1', 'auc/mean'}),
    (NAME.format('published-code/', 'vit-base-p16', 'medfmc-endo') + '_published-code', True, 2,
     {'multi-label/mAP', 'auc/mean'}),
]  # yapf: disable


@pytest.mark.parametrize('name, medfmc, epoch, metrics', CASES, ids=[catalogue.short(case[0]) for case in CASES])
def test_train_and_test(tmp_path, name, medfmc, epoch, metrics):
    cfg = catalogue.shrunk(catalogue.load(name))
    data = cfg.dataset_name.split('-')[1]
    root = make_medfmc(tmp_path, data) if medfmc else make_vtab(tmp_path, data)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
    cfg.train_cfg.max_epochs = 1
    cfg.optim_wrapper.optimizer.lr = 1e-3
    runner = train(cfg, work_dir=str(tmp_path / 'run'))
    assert runner.iter == epoch
    changed = [key for key, p in runner.model.named_parameters() if '.lora_B' in key and p.any()]
    assert changed == [key for key, p in runner.model.named_parameters() if '.lora_B' in key]
    active = runner.message_hub.log_scalars.get('train/active_parameters')
    assert (active is not None) == ('vit' in name)
    results = run_test(cfg, str(tmp_path / 'run' / 'epoch_1.pth'), work_dir=str(tmp_path / 'run'))
    assert metrics <= set(results) and all(math.isfinite(results[key]) for key in metrics)
    written = json.loads((tmp_path / 'run' / 'results.json').read_text())
    (entry,) = written['results'] if isinstance(written, dict) else written
    assert (entry['dataset_name'], entry['shot'], entry['split']) == (cfg.dataset_name, 1, 1)
    assert isinstance(Config.fromfile(next((tmp_path / 'run').glob('*.py'))), Config)
