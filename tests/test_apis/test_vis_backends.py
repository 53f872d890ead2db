"""TensorBoard by one line of a config, and what is said where it is not installed."""

import pytest
import tiny
from mmengine.config import Config

from mmlora.apis import train, vis_backends

LINE = "visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])"


def test_one_line_writes_for_tensorboard(tmp_path, images):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(f'_base_ = {str(tiny.ROOT / "configs/quickstart/vit-micro_sr-lora_digits-5shot.py")!r}\n{LINE}\n')
    visualizer = Config.fromfile(leaf).visualizer
    assert [one.type for one in visualizer.vis_backends] == ['LocalVisBackend', 'TensorboardVisBackend']
    options = dict(visualizer=visualizer, train_cfg__max_epochs=1, default_hooks__logger__interval=1)
    with tiny.quick_runs():
        train(tiny.tiny_config(images, tmp_path / 'run', **options))
    [events] = (tmp_path / 'run').glob('*/vis_data/events.out.tfevents.*')
    found = accumulator.EventAccumulator(str(events)).Reload()
    assert {'loss', 'lr', 'accuracy/top1'} <= set(found.Tags()['scalars']) and len(found.Scalars('loss')) == 5
    assert [*(tmp_path / 'run').glob('*/vis_data/scalars.json')]


def test_tensorboard_that_is_not_installed(tmp_path, images, monkeypatch):
    monkeypatch.setattr(vis_backends, 'find_spec', lambda name: None)
    options = dict(visualizer=dict(type='UniversalVisualizer', vis_backends=[dict(type='TensorboardVisBackend')]))
    with pytest.raises(ImportError, match=r'TensorboardVisBackend needs tensorboard.*mmlora\[vis\]'):
        train(tiny.tiny_config(images, tmp_path / 'run', **options))
