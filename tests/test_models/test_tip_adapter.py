"""Tip-Adapter: its formula, its cache, the search, and runs with and without learning."""


import clip_tiny
import pytest
import tiny
import torch
from mmpretrain.structures import DataSample

from mmlora.models.clip import TipAdapter
from mmlora.models.clip.methods.tip_adapter import cache_logits

SMALL = {key: value for key, value in clip_tiny.SMALL.items() if key != 'lora_dropout'}
CONFIG = tiny.ROOT / 'tests' / 'data' / 'configs' / 'tiny_clip.py'
LABELS = [0, 1, 2, 3, 3, 1, 0]


def adapter(**kwargs):
    torch.manual_seed(0)
    model = TipAdapter(**{**SMALL, 'cache_size': len(LABELS), 'num_views': 2, **kwargs})
    model.init_weights()
    return model.double()


def views(view, labels=LABELS):
    generator = torch.Generator().manual_seed(view)
    images = torch.randn(len(labels), 3, 16, 16, dtype=torch.float64, generator=generator)
    samples = [DataSample().set_gt_label(label) for label in labels]
    return [(images[:4], samples[:4]), (images[4:], samples[4:])]


def filled(**kwargs):
    model = adapter(**kwargs)
    model.start_training(views)
    return model


def unit(x):
    return x / (x * x).sum(-1, keepdim=True).sqrt()


def test_logits_are_those_of_the_formula():
    model, images = filled(alpha=1.5, beta=4.0, logit_scale=20.0), clip_tiny.images()
    texts = unit(model.encode_text(model._tokens)).detach()
    views_of = [torch.cat([model.encode_image(x) for x, _ in views(view)]) for view in (0, 1)]
    keys = unit((views_of[0] + views_of[1]) / 2).detach()
    torch.testing.assert_close(model.head.cache.keys.detach(), keys, rtol=1e-10, atol=1e-10)
    for inputs in (images, model.encode_image(images).detach()):
        got = model(inputs)
        for row, f in enumerate(unit(model.image_features(inputs))):
            for label in range(4):
                own = [k for k, other in zip(keys, LABELS, strict=True) if other == label]
                near = sum(float((-4.0 * (1 - f @ k)).exp()) for k in own)
                assert float(got[row, label]) == pytest.approx(20 * float(f @ texts[label]) + 1.5 * near, abs=1e-10)


def test_defaults_and_what_learns():
    model = filled()
    cache = model.head.cache
    assert (float(cache.alpha), float(cache.beta), TipAdapter(**SMALL).num_views) == (1.0, 5.5, 10)
    assert [p for p in model.parameters() if p.requires_grad] == []
    learning = filled(finetune=True).train()
    learning(*views(5)[0], mode='loss')['loss'].backward()
    assert {n for n, p in learning.named_parameters() if p.grad is not None} == {'head.cache.keys'}
    assert learning.head.cache.keys.grad.abs().max() > 0


def test_the_cache_is_float32_at_least_and_takes_several_labels():
    keys, values = torch.randn(5, 4), torch.eye(5)[:, :3].bool()
    assert cache_logits(torch.randn(2, 4).bfloat16(), keys, values, 1.0, 5.5).dtype == torch.float32
    model = adapter()
    scores = torch.tensor([[0.0, 1, 1, 0]] * len(LABELS))
    several = [DataSample().set_gt_score(score) for score in scores]
    model.start_training(lambda view: [(torch.cat([x for x, _ in views(view)]), several)])
    assert torch.equal(model.head.cache.values, scores.bool())


def test_other_classes_and_an_empty_cache():
    model, images = filled(), clip_tiny.images()
    before = model(images)
    model.set_classes([clip_tiny.CLASSES[i] for i in (3, 1)])
    torch.testing.assert_close(model(images), before[:, [3, 1]], rtol=1e-10, atol=1e-10)
    model.set_classes(['cat', 'painting'])
    with pytest.raises(ValueError, match='painting'):
        model(images)
    with pytest.raises(ValueError, match='is empty'):
        adapter()(images)
    with pytest.raises(ValueError, match='cache_size=7'):
        filled(cache_size=6)
    unnamed = filled()
    unnamed.head.cache.known.forget()
    unnamed.set_classes(clip_tiny.CLASSES[:3])
    with pytest.raises(ValueError, match='rows for 4 classes, and there are 3 names'):
        unnamed(images)
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=rf'labels \[{wrong}\], and there are 4'):
            adapter().start_training(lambda view, labels=[*LABELS[:-1], wrong]: views(view, labels))
    with pytest.raises(ValueError, match='no label'):
        adapter().start_training(lambda view: [(x, [DataSample() for _ in s]) for x, s in views(view)])


@pytest.mark.parametrize('kwargs, error', [
    (dict(alpha=-1), ValueError), (dict(beta=0), ValueError), (dict(beta=float('nan')), ValueError),
    (dict(num_views=0), ValueError), (dict(cache_size=0), ValueError), (dict(alpha='1'), ValueError),
    (dict(lora_rank=2), TypeError), (dict(typo=1), TypeError),
])  # fmt: skip
def test_bad_arguments(kwargs, error):
    with pytest.raises(error):
        adapter(**kwargs)


def test_the_search_finds_the_best_by_hand():
    model, generator = filled(logit_scale=5.0), torch.Generator().manual_seed(3)
    features = torch.cat([model.encode_image(x).detach() for view in range(6) for x, _ in views(view)])
    labels = torch.randint(4, (42,), generator=generator)
    alphas, betas = [2.0, 0.0, 7.0, 30.0], [9.0, 1.0, 3.0]

    def accuracy(alpha, beta):
        model.head.cache.alpha.fill_(alpha)
        model.head.cache.beta.fill_(beta)
        return float((model(features).argmax(1) == labels).double().mean() * 100)

    table = {(alpha, beta): accuracy(alpha, beta) for alpha in alphas for beta in betas}
    assert len(set(table.values())) > 2
    most = max(table.values())
    alpha, beta, found = model.search(features, labels, alphas, betas)
    assert found == pytest.approx(most) and (alpha, beta) == min(pair for pair, value in table.items() if value == most)
    assert accuracy(alpha, beta) == pytest.approx(most)
    with pytest.raises(ValueError, match='no beta'):
        model.search(features, labels, [1.0], [])
