"""The linear probe on CLIP: its formula, its first values, whose classes it knows, and runs."""

import math

import clip_tiny
import pytest
import tiny
import torch
from mmpretrain.structures import DataSample

from mmlora.adapters import parameter_report
from mmlora.models.clip import CLIPLinearProbe
from mmlora.models.clip.methods.linear_probe import probe_logits

SMALL = {key: value for key, value in clip_tiny.SMALL.items() if key != 'lora_dropout'}
CONFIG = tiny.ROOT / 'tests' / 'data' / 'configs' / 'tiny_clip.py'


def probe(**kwargs):
    torch.manual_seed(0)
    model = CLIPLinearProbe(**{**SMALL, **kwargs})
    model.init_weights()
    return model.double()


def fill(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (model.head.probe.weight, model.head.probe.bias):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_logits_are_those_of_the_formula():
    model, images = fill(probe(logit_scale=7.0)), clip_tiny.images()
    features = model.encode_image(images)
    weight, bias = model.head.probe.weight, model.head.probe.bias
    wanted = torch.stack([7 * (weight @ (f / (f * f).sum().sqrt())) + bias for f in features])
    for inputs in (images, features):
        torch.testing.assert_close(model(inputs), wanted, rtol=1e-10, atol=1e-10)
    half = probe_logits(features.bfloat16(), weight, bias, 7.0)
    assert half.dtype == torch.float32


def test_what_learns():
    model, images = probe(), clip_tiny.images()
    model.start_training(lambda view: [])
    model.train()
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    model(images, samples, mode='loss')['loss'].backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == {'head.probe.weight', 'head.probe.bias'}
    assert all(model.get_parameter(name).grad.abs().max() > 0 for name in learned)
    assert '52' in str(parameter_report(model)).replace(',', '')  # 4 classes * (12 + 1)


def test_a_batch_of_images_without_any_label():
    model = probe(head=dict(type='MultiLabelClsHead'))
    samples = [DataSample().set_gt_label([]) for _ in range(3)]
    data = model.data_preprocessor(dict(inputs=clip_tiny.images(), data_samples=samples), True)
    loss = model(clip_tiny.images(), data['data_samples'], mode='loss')['loss']
    assert float(loss) == pytest.approx(4 * math.log(2))  # Of four classes, all probabilities a half.


@pytest.mark.parametrize('init', ['zero', 'text'])
def test_the_first_values(init):
    model = fill(probe(init=init))
    model.start_training(lambda view: [])
    images = clip_tiny.images()
    zero_shot = clip_tiny.small_model(encoder='none')
    zero_shot.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith('head.')})
    wanted = zero_shot(images) if init == 'text' else torch.zeros(3, 4, dtype=torch.float64)
    torch.testing.assert_close(model(images), wanted, rtol=1e-10, atol=1e-10)
    assert not model.head.probe.known.empty


def test_other_classes():
    model, images = fill(probe()), clip_tiny.images()
    before = model(images)
    model.head.probe.known.learn(model.classes)
    assert torch.equal(model(images), before)
    model.set_classes([model.classes[i].replace(' ', '_') for i in (2, 0)])
    torch.testing.assert_close(model(images), before[:, [2, 0]], rtol=1e-12, atol=1e-12)
    model.set_classes(['cat', 'painting'])
    with pytest.raises(ValueError, match=r"not trained on 1 of 2 classes, the first: \['painting'\]"):
        model(images)
    with pytest.raises(ValueError, match='num_classes='):
        probe(classes=None)(images)
    unsized = probe(classes=None, num_classes=5)
    unsized.set_classes(clip_tiny.CLASSES)
    with pytest.raises(ValueError, match='num_classes=4'):
        unsized.start_training(lambda view: [])


@pytest.mark.parametrize('kwargs, error', [
    (dict(init='ones'), ValueError), (dict(lora_rank=2), TypeError), (dict(encoder='none'), TypeError),
    (dict(num_classes=0), ValueError), (dict(typo=1), TypeError),
])  # fmt: skip
def test_bad_arguments(kwargs, error):
    with pytest.raises(error):
        probe(**kwargs)
