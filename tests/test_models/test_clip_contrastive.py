"""Training a CLIP from scratch: the loss by hand, what learns, and that the weights are those of the plain model."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from clip_tiny import SMALL
from mmpretrain.structures import DataSample
from torch import Tensor

from mmlora.models import LoRACLIPClassifier
from mmlora.models.clip import ContrastiveCLIP
from mmlora.models.clip.contrastive import MAX_LOGIT_SCALE, contrastive_loss
from mmlora.models.clip.prompts import lengths

TOWERS = {key: value for key, value in SMALL.items() if key != 'lora_dropout'}


def batch(labels: list[int]) -> tuple[Tensor, list[DataSample]]:
    images = torch.randn(len(labels), 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return images, [DataSample().set_gt_label(label) for label in labels]


def test_distinct_captions_give_the_published_loss():
    logits = torch.randn(4, 4, dtype=torch.float64)
    labels = torch.tensor([2, 0, 3, 1])
    by_image = F.cross_entropy(logits, labels)
    by_caption = F.cross_entropy(logits.T, labels.argsort())
    torch.testing.assert_close(contrastive_loss(logits, labels), (by_image + by_caption) / 2, rtol=0, atol=1e-12)


def test_images_of_one_caption_count_equally_and_other_captions_have_none():
    logits = torch.randn(3, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    by_image = -sum(logits[i].log_softmax(0)[label] for i, label in enumerate(labels)) / 3
    first, second = logits[:, 0].log_softmax(0), logits[:, 1].log_softmax(0)
    by_caption = -((first[0] + first[2]) / 2 + second[1]) / 2
    torch.testing.assert_close(contrastive_loss(logits, labels), (by_image + by_caption) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize('negatives', [0, 1, 9])
def test_loss_of_the_model_is_that_of_its_logits(negatives):
    torch.manual_seed(0)
    model = ContrastiveCLIP(negatives=negatives, **TOWERS)
    inputs, samples = batch([2, 0, 2])
    loss = model.loss(inputs, samples)['loss']
    logits = model.logits(inputs)
    places = torch.tensor([1, 0, 1])  # the captions of the batch in order: 0, 2
    if negatives == 1:
        choices = [contrastive_loss(logits[:, [0, 2, other]], places) for other in (1, 3)]
        assert any(torch.isclose(loss, choice, rtol=0, atol=1e-6) for choice in choices)
    else:
        columns = [0, 2] if negatives == 0 else [0, 2, 1, 3]
        torch.testing.assert_close(loss, contrastive_loss(logits[:, columns], places), rtol=0, atol=1e-6)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_scale_is_learned_and_bounded():
    model = ContrastiveCLIP(**TOWERS)
    inputs, _ = batch([0])
    with torch.no_grad():
        usual = model.logits(inputs) / model.logit_scale.exp()
        model.logit_scale.fill_(math.log(1000.0))
        torch.testing.assert_close(model.logits(inputs), usual * MAX_LOGIT_SCALE, rtol=1e-5, atol=1e-5)


def test_a_scale_above_its_bound_comes_back():
    torch.manual_seed(0)
    model = ContrastiveCLIP(**TOWERS)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1000.0))
    model.loss(*batch([0, 1, 2, 3]))['loss'].backward()
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(MAX_LOGIT_SCALE))
    assert model.logit_scale.grad.abs() > 1e-3


def test_weights_are_those_of_the_plain_model():
    torch.manual_seed(0)
    trained = ContrastiveCLIP(**TOWERS)
    plain = LoRACLIPClassifier(encoder='none', logit_scale='pretrained', **TOWERS)
    plain.load_state_dict(trained.state_dict(), strict=True)
    inputs, _ = batch([0, 1])
    torch.testing.assert_close(plain.eval().logits(inputs), trained.eval().logits(inputs), rtol=1e-5, atol=1e-5)
    assert lengths(plain._tokens) == lengths(trained._tokens)


def test_steps_lower_the_loss():
    torch.manual_seed(0)
    model = ContrastiveCLIP(**TOWERS)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    inputs, samples = batch([0, 1, 2, 3])
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(model.loss(inputs, samples)['loss'])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize('arguments, kind, message', [
    (dict(negatives=-1), ValueError, 'negatives=-1'),
    (dict(encoder='both'), TypeError, 'leave out encoder'),
    (dict(logit_scale=100.0), TypeError, 'leave out logit_scale'),
    (dict(head=dict(type='ClsHead')), TypeError, 'leave out head'),
    (dict(lora_ranks=3), TypeError, 'lora_ranks'),
])  # yapf: disable
def test_bad_arguments_are_refused(arguments, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        ContrastiveCLIP(**TOWERS, **arguments)


def test_a_label_without_a_name_is_refused():
    with pytest.raises(ValueError, match='label 7.*4 names'):
        ContrastiveCLIP(**TOWERS).loss(*batch([0, 7]))
