"""Tests in which something learns from the support of each episode."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from mmlora.adapters import draw_lora, merge_lora
from mmlora.engine.episode_tuning import EpisodeTuningLoop, right_answers
from mmlora.engine.tuners import (
    FeatureTuner,
    FullTuner,
    LoRAHubTuner,
    LoRATuner,
    MOLETuner,
    NumberedEpisode,
    TestImages,
    lora_hub_tuner,
)
from mmlora.engine.tuners.feature_tuner import fit_and_score, gather
from mmlora.engine.tuners.heads import LinearHeads
from mmlora.engine.tuners.hub_factors import StackedLoRAs, with_adapters
from mmlora.engine.tuners.lora_hub_tuner import search
from mmlora.engine.tuners.mole_tuner import Gates, balance_loss, mix
from mmlora.engine.tuners.views import draw_views
from mmlora.episodes import draw_episode, positions_by_class
from mmlora.evaluation import EpisodeScores, episode_accuracies, images_digest
from mmlora.io.hub import LoRAHub, write_index
from mmlora.io.lora_folder import write_lora_folder
from mmlora.ranks import weights_sha256

VIT = dict(type='VisionTransformer', img_size=32, patch_size=16, out_type='cls_token',
           arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16))
PREPARED = dict(mean=[54] * 3, std=[72] * 3)
ADAM = dict(type='Adam', lr=0.01)
SIZES = [dict(n_way=3, n_shot=1, n_query=2, prefix='1-shot'), dict(n_way=3, n_shot=2, n_query=2, prefix='2-shot')]
TUNERS = [
    dict(type='FeatureTuner', head='linear', steps=3),
    dict(type='LoRATuner', rank=2, steps=3, optimizer=ADAM, together=4),
    dict(type='FullTuner', steps=3),
    dict(type='FullTuner', head='prototype', steps=2, views=1),
    dict(type='FeatureTuner', head='prototype', hub='{hub}', merge='change'),
    dict(type='LoRAHubTuner', hub='{hub}', members=2, evaluations=5),
    dict(type='LoRAHubTuner', hub='{hub}', head='linear', members=2, evaluations=5, steps=3, views=0),
    dict(type='MOLETuner', hub='{hub}', steps=3),
]


def data():
    return dict(type='Glyphs', split='test', scripts=['ARMENIAN'], subset='base', samples_per_class=4,
                pipeline=[dict(type='PackInputs')])


def build_model(dtype=torch.float32):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(dict(type='ImageClassifier', backbone=VIT, data_preprocessor=PREPARED))
    model.train(False)
    return model.to(dtype)


def loras(backbone, count=3):
    """LoRAs that change something, of several ranks and scalings."""
    found = []
    for k in range(count):
        drawn = draw_lora(backbone, ['layers.0.attn.qkv', 'layers.1.attn.qkv'], k + 1, 'qv', 0.5 + k)
        found.append({key: pair._replace(b=torch.randn_like(pair.b)) for key, pair in drawn.items()})
    return found


def write_hub(folder, backbone):
    sha256 = weights_sha256({key: torch.atleast_1d(value) for key, value in backbone.state_dict().items()})
    for k, weights in enumerate(loras(backbone)):
        about = dict(classes=['a'], class_ids=[0], task={}, normalization=dict(PREPARED, to_rgb=False),
                     base=dict(sha256=sha256, name='tiny'), metrics={})
        write_lora_folder(folder / f'{k:05d}', weights, about)
    write_index(folder, mixed_ranks=True)


@pytest.fixture(scope='module')
def runner(tmp_path_factory):
    init_default_scope('mmpretrain')
    folder = tmp_path_factory.mktemp('tuning')
    loading = dict(batch_size=32, num_workers=0, dataset=data(), sampler=dict(type='DefaultSampler', shuffle=False))
    runner = Runner.from_cfg(Config(dict(
        model=dict(type='ImageClassifier', backbone=VIT, data_preprocessor=PREPARED), work_dir=str(folder),
        test_dataloader=loading, test_cfg=dict(type='EpisodeTuningLoop', tuner=dict(type='FeatureTuner')),
        test_evaluator=evaluators(folder), default_scope='mmpretrain', log_level='ERROR', visualizer=None,
        randomness=dict(seed=0), experiment_name=folder.name,
    )))  # fmt: skip
    runner.model.load_state_dict(build_model().state_dict())
    write_hub(folder / 'hub', runner.model.backbone)
    runner.call_hook('before_run')
    return runner


def evaluators(folder, name='run'):
    return [dict(type='EpisodeAccuracy', n_episodes=6, seed=3, save=str(folder / f'{name}-{own["prefix"]}'), **own)
            for own in SIZES]


@pytest.fixture
def run(runner, tmp_path):
    """Test a tuner; return the metrics and the files of the episodes. The model must be as it was."""

    def make(tuner, name='run'):
        init_default_scope('mmpretrain')
        tuner = {key: f'{runner.work_dir}/hub' if value == '{hub}' else value for key, value in tuner.items()}
        model = runner.model
        state, learns = ({key: value.clone() for key, value in model.state_dict().items()},
                         {key: p.requires_grad for key, p in model.named_parameters()})
        loop = EpisodeTuningLoop(runner, runner.test_dataloader, evaluators(tmp_path, name), tuner)
        try:
            metrics = loop.run()
        finally:
            after = model.state_dict()
            assert set(after) == set(state) and all(torch.equal(after[key], value) for key, value in state.items())
            assert {key: p.requires_grad for key, p in model.named_parameters()} == learns
            assert all(p.grad is None for p in model.parameters())
        return metrics, [EpisodeScores.read(tmp_path / f'{name}-{own["prefix"]}') for own in SIZES]

    return make


@pytest.mark.parametrize('tuner', TUNERS, ids=lambda t: f'{t["type"]}-{t.get("head", "")}')
def test_each_tuner_runs_alike_twice_and_leaves_the_model_as_it_was(run, tuner):
    (metrics, scores), (again, _) = run(tuner), run(tuner, 'again')
    assert metrics == again and list(metrics) == [f'{own["prefix"]}/{name}' for own in SIZES
                                                  for name in ('accuracy', 'interval')]
    assert [metrics[f'{own["prefix"]}/accuracy'] for own in SIZES] == [s.accuracies.mean() for s in scores]
    assert all(len(s.accuracies) == 6 and 0 <= s.accuracies.min() and s.accuracies.max() <= 100 for s in scores)


def test_episodes_are_those_of_the_loop_that_learns_nothing(runner, run):
    _, scores = run(dict(type='FeatureTuner', head='prototype'))
    images = TestImages(runner.model, runner.test_dataloader)
    features, labels = images.encode().numpy(), np.asarray(images.loader.dataset.get_gt_labels())
    for own, found in zip(SIZES, scores, strict=True):
        sizes = {key: value for key, value in own.items() if key != 'prefix'}
        wanted = 100 * episode_accuracies(features, labels, n_episodes=6, seed=3, metric='euclidean', **sizes)
        np.testing.assert_allclose(found.accuracies, wanted, atol=1e-10)
        assert found.images == images_digest(labels, images.loader.dataset.metainfo['classes'])


def some_episodes(images, count=3):
    positions = positions_by_class(images.loader.dataset.get_gt_labels())
    episodes = [NumberedEpisode(draw_episode(positions, 3, 2, 2, 0, number), number, 0) for number in range(count)]
    inputs = next(images.read([np.concatenate([e.positions for e in episodes])]))
    return episodes, inputs.unflatten(0, (count, -1)).double()


class InDouble(TestImages):
    """Images in double precision."""

    def read(self, groups):
        return (inputs.double() for inputs in super().read(groups))


@pytest.mark.parametrize('tuner', [
    LoRATuner(rank=2, steps=4, optimizer=ADAM), LoRATuner(rank=2, steps=4), FeatureTuner(steps=4, optimizer=ADAM),
], ids=['lora-adam', 'lora-sgd', 'linear-probe'])
def test_episodes_learn_together_what_each_learns_alone(runner, tuner):
    images = InDouble(build_model(torch.float64), runner.test_dataloader)
    episodes, inputs = some_episodes(images)
    tuner.start(images)
    together = tuner.scores(episodes, inputs)
    alone = torch.cat([tuner.scores([e], inputs[k : k + 1]) for k, e in enumerate(episodes)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    tuner.steps = 0
    assert (tuner.scores(episodes, inputs) - together).abs().max() > 1e-3


def test_a_linear_probe_is_a_linear_layer_trained_on_the_support(runner):
    images = InDouble(build_model(torch.float64), runner.test_dataloader)
    (episode, *_), _ = some_episodes(images)
    tuner = FeatureTuner(steps=0)
    tuner.start(images)
    features, own = images.encode(), episode.episode
    rows = tuner.scores([episode])[0]
    query = features[torch.as_tensor(own.query.ravel())]
    probe, fresh = torch.nn.Linear(features.shape[1], 3).double(), LinearHeads([episode], features.shape[1], features)
    probe.load_state_dict(dict(weight=fresh.weight[0], bias=fresh.bias[0]))
    stepper = torch.optim.SGD(probe.parameters(), lr=0.1)
    for _ in range(5):
        stepper.zero_grad()
        support = features[torch.as_tensor(own.support.ravel())]
        F.cross_entropy(probe(support), torch.tensor([0, 0, 1, 1, 2, 2])).backward()
        stepper.step()
    tuner.steps = 5
    found = tuner.scores([episode])[0]
    assert (found - rows).abs().max() > 1e-3
    torch.testing.assert_close(found, probe(query).detach(), rtol=1e-10, atol=1e-10)


def test_full_tuning_lowers_the_loss_of_the_support(runner):
    images = InDouble(build_model(torch.float64), runner.test_dataloader)
    (episode, *_), inputs = some_episodes(images, 1)
    inputs[:, 6:] = inputs[:, :6]  # The queries are the support.
    losses = []
    for steps in (0, 20):
        tuner = FullTuner(steps=steps)
        tuner.start(images)
        losses.append(F.cross_entropy(tuner.scores([episode], inputs)[0], torch.tensor([0, 0, 1, 1, 2, 2])).item())
        tuner.finish()
    assert losses[1] < 0.5 * losses[0]


def tuned(tuner, runner, change=lambda inputs: None):
    """Scores ``(3, 6, 3)`` of a tuner in double precision, and its images; the inputs may be changed first."""
    images = InDouble(build_model(torch.float64), runner.test_dataloader)
    episodes, inputs = some_episodes(images)
    change(inputs)
    tuner.start(images)
    try:
        scores = [tuner.scores([e], inputs[k : k + 1]) for k, e in enumerate(episodes)]
    finally:
        tuner.finish()
    return torch.cat(scores), images


@pytest.mark.parametrize('kind, settings', [
    (LoRATuner, dict(rank=2, steps=3)),
    (FullTuner, dict(steps=2)),
    (FullTuner, dict(head='prototype', steps=2, views=1)),
    (LoRAHubTuner, dict(members=2, evaluations=5)),
    (LoRAHubTuner, dict(head='linear', members=2, evaluations=5, steps=3)),
], ids=['lora', 'full', 'full-prototype', 'lorahub', 'lorahub-linear'])  # fmt: skip
def test_other_queries_do_not_matter(runner, kind, settings):
    if kind is LoRAHubTuner:
        settings = dict(settings, hub=f'{runner.work_dir}/hub')

    def spoil(inputs):  # The first six of an episode of 3 classes and 2 shots are the support.
        inputs[:, 7:] = torch.randn(inputs[:, 7:].shape, generator=torch.Generator().manual_seed(1)).double()

    wanted, found = tuned(kind(**settings), runner)[0], tuned(kind(**settings), runner, spoil)[0]
    torch.testing.assert_close(found[:, 0], wanted[:, 0], rtol=1e-10, atol=1e-10)
    assert (found[:, 1:] - wanted[:, 1:]).abs().max() > 1e-3


def adapted_scores(runner, weights):
    """Scores of class means on a backbone that carries a LoRA."""
    images = InDouble(build_model(torch.float64), runner.test_dataloader)
    with with_adapters(images.backbone, [weights]):
        features = images.encode()
    return fit_and_score('prototype', some_episodes(images)[0], *gather(features, some_episodes(images)[0]), ADAM, 0)


def test_hubs_are_used_as_they_say(runner, monkeypatch):
    hub = f'{runner.work_dir}/hub'
    members = LoRAHub.open(hub).adapters()
    average = tuned(FeatureTuner(head='prototype', hub=hub), runner)[0]
    torch.testing.assert_close(average, adapted_scores(runner, merge_lora(members, 'change')), rtol=1e-6, atol=1e-6)
    alone = tuned(MOLETuner(hub=hub, head='prototype', members=[1], steps=0), runner)[0]
    torch.testing.assert_close(alone, adapted_scores(runner, members[1]), rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(lora_hub_tuner, 'search', lambda loss, size, *args: np.eye(size)[0])
    chosen = tuned(LoRAHubTuner(hub=hub, members=3, views=0), runner)[0]
    torch.testing.assert_close(chosen, adapted_scores(runner, members[0]), rtol=1e-6, atol=1e-6)
    assert (average - chosen).abs().max() > 1e-3


def test_a_gate_and_its_head_learn(runner):
    settings = dict(hub=f'{runner.work_dir}/hub', optimizer=ADAM)
    fresh, learned = (tuned(MOLETuner(steps=steps, **settings), runner)[0] for steps in (0, 20))
    assert (fresh - learned).abs().max() > 1e-2


def test_weighted_sums_of_stacked_loras_are_those_of_merging():
    adapters = loras(build_model(torch.float64).backbone)
    del adapters[1]['layers.1.attn.qkv', 'v']
    weights = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64)
    found = StackedLoRAs(adapters, weights).combine(weights)
    wanted = merge_lora(adapters, 'factors', weights.tolist())
    assert set(found) == set(wanted)
    for key, pair in wanted.items():
        torch.testing.assert_close(found[key].delta(), pair.delta(), rtol=1e-10, atol=1e-10)
        assert pair.delta().abs().max() > 1e-3


def test_the_search_stays_within_bounds_and_keeps_the_best():
    asked = []

    def loss(weights):
        asked.append((float(((weights - [1.0, -9.0]) ** 2).sum()), *weights))
        return asked[-1][0]

    best = search(loss, 2, 1.5, 60)
    np.testing.assert_allclose(best, [1.0, -1.5], atol=0.01)
    assert len(asked) <= 60 and tuple(best) == min(asked)[1:] and np.abs([one[1:] for one in asked]).max() <= 1.5


def test_a_gate_begins_with_the_average():
    experts = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    gates = Gates(experts)
    torch.testing.assert_close(mix(gates.weights(experts), experts), experts.mean(2), rtol=1e-10, atol=1e-10)
    even = balance_loss(gates.weights(experts))
    with torch.no_grad():
        gates.matrix.normal_()
    weights = gates.weights(experts)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, dtype=torch.float64), rtol=1e-10, atol=1e-10)
    assert balance_loss(weights) > even + 1e-3
    logits = torch.einsum('esn,enm->esm', F.normalize(experts, dim=-1).flatten(2), gates.matrix) / 2
    with torch.no_grad():
        gates.temperature.fill_(2)
    torch.testing.assert_close(gates.weights(experts), logits.softmax(-1), rtol=1e-10, atol=1e-10)


def test_views_are_shifted_copies():
    images = torch.arange(64, dtype=torch.float64).reshape(1, 1, 8, 8)
    views = draw_views(images, 20, torch.Generator().manual_seed(0), shift=0.25, light=0)
    assert views.shape == (20, 1, 8, 8) and len({tuple(v.ravel().tolist()) for v in views}) > 10
    moved = {(int(v[0, 4, 4]) // 8 - 4, int(v[0, 4, 4]) % 8 - 4) for v in views}
    assert max(abs(step) for pair in moved for step in pair) == 2
    assert torch.equal(draw_views(images, 1, torch.Generator(), shift=0, light=0), images)


def test_queries_without_a_finite_score_are_wrong():
    scores = torch.eye(2).repeat_interleave(2, 0)[None].repeat(2, 1, 1)  # (2, 4, 2), all right
    scores[1, 0, 0] = float('nan')
    values, diverged = right_answers(scores)
    assert values.tolist() == [1.0, 0.75] and diverged == 1


@pytest.mark.parametrize('tuner, message', [
    (dict(type='Probe'), 'must name a type; choose from FeatureTuner, FullTuner, '),
    (dict(type='LoRATuner', optimizer=dict(type='LBFGS')), "'LBFGS'} would mix episodes that are learned together"),
    (dict(type='FeatureTuner', head='svm'), "head='svm' is unknown; choose from linear, prototype"),
    (dict(type='FeatureTuner', merge='ties'), "merge='ties' is unknown; choose from factors, linear, change"),
    (dict(type='FeatureTuner', steps=-1), 'steps must be a whole number of at least 0, got -1'),
    (dict(type='LoRATuner', targets=['qkw']), "pattern 'qkw' matches no linear layer"),
    (dict(type='MOLETuner', hub='{hub}', members=[]), r'members=\[\] leaves no LoRA of the hub'),
    (dict(type='FeatureTuner', stepz=3), "unexpected keyword argument 'stepz'; FeatureTuner takes head, hub, merge"),
    (dict(type='LoRAHubTuner'), "missing a required argument: 'hub'"),
    (dict(type='LoRAHubTuner', hub='{hub}', l1=float('nan')), 'l1=nan'),
    (dict(type='MOLETuner', hub='{hub}', balance=float('inf')), 'balance must be at least 0 and finite, got inf'),
    (dict(type='FeatureTuner', optimizer=dict(type='SGD', lr=-1)), 'Invalid learning rate'),
])
def test_what_cannot_be_tuned(run, tuner, message):
    with pytest.raises(ValueError, match=message):
        run(tuner)
