"""Prototypes and the model that learns by episodes, against golden numbers and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from recycle_tiny import Classifier, arrays

from mmlora.adapters import SparseTokens, adapter_modules
from mmlora.evaluation import prototype_accuracy
from mmlora.models import MetaClassifier, PrototypeHead, prototype_scores
from mmlora.models.meta_classifier import MASK, TEACHER, split_episodes

EXACT = dict(rtol=1e-10, atol=1e-12)


class Features(torch.nn.Module):
    """The golden tower with its projection as a backbone."""

    def __init__(self, lora='student'):
        super().__init__()
        self.tower = Classifier(lora)

    def forward(self, x):
        return (self.tower.features(x),)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def samples(labels, support, episode=0, lora=None):
    return [DataSample(metainfo=dict(episode=episode, support=support, lora=lora)).set_gt_label(int(y)) for y in labels]


@pytest.mark.parametrize('kind', ['kl', 'ce'])
def test_the_golden_episode(kind):
    golden = arrays('proto_episode_1shot')
    support, query = (golden[f'z_{part}'].requires_grad_() for part in ('support', 'query'))
    head = PrototypeHead()
    scores = head.scores(support, golden['y_support'], query)
    torch.testing.assert_close(scores, golden['scores'], **EXACT)
    loss = head.episode_loss(scores, golden['y_query'], golden['teacher_logits'] if kind == 'kl' else None)
    torch.testing.assert_close(loss, golden[f'loss_{kind}'], **EXACT)
    loss.backward()
    torch.testing.assert_close(support.grad, golden[f'grad_{kind}_support'], **EXACT)
    torch.testing.assert_close(query.grad, golden[f'grad_{kind}_query'], **EXACT)
    right = (scores.argmax(-1) == golden['y_query']).double().mean()
    torch.testing.assert_close(100 * right, golden['accuracy'].double(), **EXACT)


def test_the_golden_distance_without_the_square():
    golden = arrays('proto_episode_1shot')
    scores = PrototypeHead('euclidean').scores(golden['z_support'], golden['y_support'], golden['z_query'])
    torch.testing.assert_close(scores, golden['scores_paper_eq3b'], **EXACT)
    torch.testing.assert_close(scores.softmax(-1), golden['prob_paper_eq3b'], **EXACT)


@pytest.mark.parametrize('distance, metric', [('squared_euclidean', 'euclidean'), ('cosine', 'cosine')])
def test_training_and_tests_choose_alike(distance, metric):
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.randn(5, n, 8, generator=generator, dtype=torch.float64) for n in (3, 20))
    support += 0.6 * torch.eye(5, 8).double()[:, None] * 2
    query += 0.6 * torch.eye(5, 8).double()[:, None] * 2
    labels = torch.arange(5)
    flat = support.transpose(0, 1).reshape(15, 8)  # One of each class in turn.
    scores = prototype_scores(flat, labels.repeat(3), query.reshape(100, 8), 5, distance)
    accuracy = (scores.argmax(-1) == labels.repeat_interleave(20)).double().mean()
    assert float(accuracy) == pytest.approx(prototype_accuracy(support.numpy(), query.numpy(), metric), abs=1e-12)
    assert 0.3 < accuracy < 1


@pytest.mark.parametrize('distance', ['squared_euclidean', 'cosine'])
def test_mixed_precision_ends_at_the_features(distance):
    """In bfloat16 the means of the support alone would cost two digits of scores of this size."""
    support, query = (100 + torch.randn(6, 64) for _ in range(2))
    labels, head = torch.arange(3).repeat(2), PrototypeHead(distance)
    wanted = head.scores(support.double(), labels, query.double())
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(head.scores(support, labels, query).double(), wanted, rtol=1e-4, atol=1e-4)
        assert head.scores(support.bfloat16(), labels, query.bfloat16()).dtype == torch.float32


def test_cosine_and_temperature_by_hand():
    support = torch.tensor([[2.0, 0], [0, 4], [6, 8]])
    labels = torch.tensor([0, 1, 1])
    prototype = F.normalize(torch.tensor([0.3, 0.9]), dim=0)  # Mean of (0, 1) and (.6, .8).
    wanted = torch.tensor([[3 / 5, (torch.tensor([0.6, 0.8]) @ prototype).item()]])
    scores = PrototypeHead('cosine', temperature=0.5).scores(support, labels, torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(scores, 2 * wanted)


@pytest.mark.parametrize('arguments, message', [
    (dict(distance='manhattan'), "'manhattan' is unknown; choose from squared_euclidean, euclidean, cosine"),
    (dict(temperature=0), 'must be a positive number, got 0'),
    (dict(temperature='1'), "must be a positive number, got '1'"),
])
def test_a_head_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        PrototypeHead(**arguments)


@pytest.mark.parametrize('tokens', ['dense', 'sparse'])
@pytest.mark.parametrize('kind', ['kl', 'ce'])
def test_the_golden_step(tokens, kind):
    golden = {name.removeprefix(f'{tokens}_'): value for name, value in arrays('meta_step').items()}
    model = MetaClassifier(Features(), sparse=tokens == 'sparse').double()
    images = torch.cat([golden['support'], golden['query']])
    batch = [*samples(golden['y_support'], True), *samples(golden['y_query'], False)]
    for sample, image in zip(batch, images, strict=True):
        sample.set_field(image.reshape(3, 4, 8, 4, 8).abs().amax(dim=(0, 2, 4)).flatten() > 0, MASK)
    if tokens == 'sparse':
        assert {int(sample.get(MASK).sum()) for sample in batch} == {8}
    if kind == 'kl':
        for sample, logits in zip(batch[6:], golden['teacher_logits_dense'], strict=True):
            sample.set_field(logits, TEACHER)
    layers = list(adapter_modules(model).values())
    learned = {f'w_{letter.lower()}_{2 * i + j:03}': getattr(layer, f'lora_{letter}_{part}')
               for i, layer in enumerate(layers) for j, part in enumerate('qv') for letter in 'AB'}
    optimizer = torch.optim.Adam(learned.values(), lr=1e-3)
    loss = model.loss(images, batch)['loss']
    torch.testing.assert_close(loss, golden[f'{kind}_loss'], **EXACT)
    loss.backward()
    assert len(learned) == 16
    for name, parameter in learned.items():
        torch.testing.assert_close(parameter.grad, golden[f'{kind}_grad_{name}'], **EXACT)
    optimizer.step()
    for name in ('w_a_000', 'w_b_003'):
        torch.testing.assert_close(learned[name].data, golden[f'{kind}_after_{name}'], **EXACT)


def tiny(**kwargs):
    torch.manual_seed(0)
    vit = dict(type='VisionTransformer', img_size=16, patch_size=8, out_type='cls_token',
               arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16))
    backbone = dict(type='AdaptedBackbone', backbone=vit, targets=['attn.qkv'], lora_ranks=2)
    model = MODELS.build(dict(type='MetaClassifier', backbone=backbone, **kwargs))
    for layer in adapter_modules(model).values():
        layer.lora_B_q.data.normal_()
    return model


def episode(n_way, n_shot, n_query, number=0, lora=None):
    labels = list(range(n_way))
    return [*samples(labels * n_shot, True, number, lora), *samples(labels * n_query, False, number, lora)]


def test_losses_of_episodes_of_any_size_are_summed():
    model = tiny().double()
    parts = [episode(3, 2, 2, 7), episode(2, 1, 3, 8)]
    images = torch.randn(20, 3, 16, 16, dtype=torch.float64)
    one, two = model.loss(images[:12], parts[0]), model.loss(images[12:], parts[1])
    both = model.loss(images, [*parts[0], *parts[1]])
    torch.testing.assert_close(both['loss'], one['loss'] + two['loss'], **EXACT)
    torch.testing.assert_close(both['accuracy'], (one['accuracy'] + two['accuracy']) / 2)
    assert one['loss'] > 0 and not torch.allclose(one['loss'], two['loss'])


def test_only_the_factors_learn():
    model = tiny()
    model.loss(torch.randn(12, 3, 16, 16), episode(3, 2, 2))['loss'].backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == {f'backbone.layers.{i}.attn.qkv.lora_{x}_{p}' for i in (0, 1) for x in 'AB' for p in 'qv'}
    assert not list(model.head.parameters())


def test_predictions_are_features_and_dense():
    model = tiny(sparse=True).eval()
    images = torch.randn(4, 3, 16, 16)
    features = torch.stack([sample.feature for sample in model(images, mode='predict')])
    torch.testing.assert_close(features, model.backbone(images)[-1], rtol=0, atol=0)
    torch.testing.assert_close(features, model(images), rtol=0, atol=0)


def test_sparse_episodes_with_masks_of_different_size():
    model = tiny(sparse=True).double()
    images, batch = torch.randn(12, 3, 16, 16, dtype=torch.float64), episode(3, 2, 2)
    keep = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) > 0.4
    keep[:, 0] = True
    for sample, row in zip(batch, keep, strict=True):
        sample.set_field(row, MASK)
    losses = model.loss(images, batch)
    sparse = SparseTokens()
    sparse.attach(model.backbone)  # Also shows that nothing is left attached.
    features = []
    for image, row in zip(images, keep, strict=True):
        with sparse.only(row[None]):
            features.append(model.backbone(image[None])[-1][0])
    labels = torch.arange(3).repeat(2)
    scores = prototype_scores(torch.stack(features[:6]), labels, torch.stack(features[6:]), 3)
    torch.testing.assert_close(losses['loss'], F.cross_entropy(scores, labels), **EXACT)
    sparse.detach()
    model.sparse = False
    assert not torch.allclose(losses['loss'], model.loss(images, batch)['loss'])


@pytest.mark.parametrize('batch, message', [
    ([DataSample().set_gt_label(0)], "batch_sampler=dict\\(type='EpisodeSampler'"),
    (episode(3, 1, 2)[:3], r'queries of \[\]: a batch must hold whole episodes'),
    (episode(3, 1, 2)[1:], r'classes \[1, 2\] and queries of \[0, 1, 2\]'),
    (episode(3, 1, 2, lora='00003'), "episode of the LoRA '00003' has no logits of a teacher"),
])
def test_batches_that_are_no_episodes(batch, message):
    with pytest.raises(ValueError, match=message):
        tiny().loss(torch.randn(len(batch), 3, 16, 16), batch)


def test_images_without_a_mask():
    with pytest.raises(ValueError, match='9 of 9 images have no mask, which sparse=True needs'):
        tiny(sparse=True).loss(torch.randn(9, 3, 16, 16), episode(3, 1, 2))


def test_episodes_of_a_batch():
    assert split_episodes([*episode(2, 1, 1, 4), *episode(2, 1, 1, 5)]) == [([0, 1], [2, 3]), ([4, 5], [6, 7])]
    assert np.shape(split_episodes(episode(2, 2, 2))) == (1, 2, 4)
