"""Options of the command line: what is mistyped has no effect, and must not pass."""

import pytest
from mmengine.config import Config

from mmlora.apis.options import merge_options


def config():
    return Config(dict(
        shot=1,
        model=dict(head=dict(num_classes=3), backbone=dict(lora_ranks=8)),
        train_dataloader=dict(dataset=dict(pipeline=[dict(type='Resize', scale=3)])),
    ))


def test_options_replace_and_add():
    cfg = config()
    merge_options(cfg, {'shot': 5, 'model.head.topk': (1,), 'rank_batches': 4, 'val_dataloader.batch_size': 2,
                        'train_dataloader.dataset.pipeline.0.scale': 9, 'model.backbone.init_cfg.checkpoint': 'a'})
    assert cfg.shot == 5 and cfg.model.head.topk == (1,) and cfg.rank_batches == 4
    assert cfg.train_dataloader.dataset.pipeline[0]['scale'] == 9
    merge_options(cfg, None)


@pytest.mark.parametrize('key, meant', [
    ('shots', 'shot'),
    ('model.head.num_clases', 'num_classes'),
    ('model.backbone.lora_rank', 'lora_ranks'),
    ('train_dataloader.dataset.pipline.0.scale', 'pipeline'),
    ('train_dataloader.dataset.pipeline.0.scales', 'scale'),
])
def test_a_mistyped_option_is_refused(key, meant):
    cfg = config()
    with pytest.raises(ValueError, match=f"the option '{key}' sets .* did you mean '{meant}'"):
        merge_options(cfg, {'model.head.num_classes': 7, key: 5})
    assert cfg.model.head.num_classes == 3
