"""Tests by episodes: encoding each image once gives what encoding each episode gives."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmlora.datasets import Glyphs
from mmlora.engine.adaptation import unwrap_model
from mmlora.episodes import draw_episode, positions_by_class
from mmlora.evaluation import mean_and_interval, prototype_accuracy

PACK = [dict(type='PackInputs')]
SETTINGS = [dict(n_way=5, n_shot=1, n_query=3), dict(n_way=3, n_shot=2, n_query=2)]


def data(**kwargs):
    return dict(type='Glyphs', split='test', scripts=['ARMENIAN'], subset='base', samples_per_class=4, pipeline=PACK,
                **kwargs)


def loader(**kwargs):
    sampler = dict(type='DefaultSampler', shuffle=False)
    return dict(batch_size=16, num_workers=0, sampler=sampler, dataset=data(**kwargs))


@pytest.fixture
def build(tmp_path):
    init_default_scope('mmpretrain')

    def make(stage='test', model='MetaClassifier', evaluator=None, **changes):
        evaluator = evaluator or [dict(type='EpisodeAccuracy', metric='euclidean', n_episodes=20, seed=3, prefix=str(i),
                                       **own) for i, own in enumerate(SETTINGS)]
        vit = dict(type='VisionTransformer', img_size=32, patch_size=8, out_type='cls_token',
                   arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16))
        cfg = dict(
            model=dict(type=model, backbone=vit, data_preprocessor=dict(mean=[54] * 3, std=[72] * 3)),
            work_dir=str(tmp_path), default_scope='mmpretrain', log_level='ERROR', randomness=dict(seed=0),
            experiment_name=f'{tmp_path.name}-{stage}-{len(list(tmp_path.iterdir()))}', visualizer=None,
        )  # fmt: skip
        cfg[f'{stage}_dataloader'], cfg[f'{stage}_evaluator'] = loader(), evaluator
        cfg[f'{stage}_cfg'] = dict(type=f'Episode{stage.title()}Loop')
        cfg = Config(cfg)
        cfg.merge_from_dict(changes)
        torch.manual_seed(0)
        return Runner.from_cfg(cfg)

    return make


def by_episode(model, seed=3):
    """Encode the images of each episode by themselves."""
    dataset = Glyphs(**{key: value for key, value in data().items() if key != 'type'})
    positions, found = positions_by_class(dataset.get_gt_labels()), []

    @torch.no_grad()
    def encode(places):
        items = [dataset[int(place)] for place in places.ravel()]
        batch = dict(inputs=[item['inputs'] for item in items], data_samples=[item['data_samples'] for item in items])
        features = model.extract_feat(model.data_preprocessor(batch)['inputs'])[-1]
        return features.numpy().reshape(*places.shape, -1)

    for own in SETTINGS:
        episodes = [draw_episode(positions, **own, seed=seed, number=number) for number in range(20)]
        values = [100 * prototype_accuracy(encode(e.support), encode(e.query), 'euclidean') for e in episodes]
        found.append(mean_and_interval(np.array(values)))
    return found


def test_encoding_once_equals_encoding_each_episode(build, monkeypatch):
    runner = build()
    model, seen = unwrap_model(runner.model), []
    extract = model.extract_feat
    monkeypatch.setattr(model, 'extract_feat', lambda inputs: (seen.append(len(inputs)), extract(inputs))[1])
    metrics = runner.test()
    assert sum(seen) == len(runner.test_dataloader.dataset) and not model.training
    monkeypatch.undo()
    wanted = by_episode(model.eval())
    for i, (accuracy, interval) in enumerate(wanted):
        assert metrics[f'{i}/accuracy'] == pytest.approx(accuracy, abs=1e-9)
        assert metrics[f'{i}/interval'] == pytest.approx(interval, abs=1e-9)
    assert 20 < wanted[0][0] < 100 and wanted[0][0] != wanted[1][0]


def test_any_classifier_can_be_tested_and_validated(build):
    tested, validated = build(model='ImageClassifier').test(), build('val', model='ImageClassifier').val()
    assert tested == validated and set(tested) == {f'{i}/{name}' for i in range(2) for name in ('accuracy', 'interval')}


def test_what_cannot_be_tested(build):
    with pytest.raises(TypeError, match='needs an EpisodeAccuracy in test_evaluator, got Accuracy'):
        build(evaluator=[dict(type='Accuracy')]).test()
    too_many = dict(type='EpisodeAccuracy', n_shot=4, n_query=1)
    runner = build(evaluator=[too_many])
    unwrap_model(runner.model).extract_feat = None  # Nothing is encoded.
    with pytest.raises(ValueError, match=r'need 5 images of each class, but class 0 \(ARMENIAN \w+ LETTER \w+\) has 4'):
        runner.test()
    runner = build(**{'model.backbone.out_type': 'featmap'})
    with pytest.raises(ValueError, match=r'have the shape \(16, 16, 4, 4\), and episodes need'):
        runner.test()


@pytest.mark.parametrize('arguments, message', [
    (dict(n_episodes=1), 'n_episodes must be a whole number of at least 2, got 1'),
    (dict(n_way=2.0), 'n_way must be a whole number of at least 1, got 2.0'),
])
def test_numbers_out_of_range(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(evaluator=[dict(type='EpisodeAccuracy', **arguments)]).test()
