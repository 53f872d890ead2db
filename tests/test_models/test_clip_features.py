"""Features of images as inputs of CLIP: through the preprocessor, and in every mode."""

import clip_tiny
import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmlora.models.clip.preprocessor import CLIPDataPreprocessor, preprocessor_config


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


@pytest.mark.parametrize('encoder', ['none', 'both'])
def test_features_give_what_their_images_give(encoder):
    model = clip_tiny.small_model(encoder=encoder).eval()
    images, labels = clip_tiny.images(4), [3, 0, 1, 1]
    features = model.encode_image(images).detach()
    assert model.image_features(features) is features
    assert torch.equal(model.extract_feat(images)[0], features) and model.extract_feat(features)[0] is features
    assert torch.equal(model(features), model(images))
    losses = [model(x, samples(labels), mode='loss')['loss'] for x in (features, images)]
    assert torch.equal(*losses)
    predicted = [model(x, samples(labels), mode='predict') for x in (features, images)]
    scores = [torch.stack([sample.pred_score for sample in batch]) for batch in predicted]
    assert torch.equal(*scores) and not torch.equal(scores[0][0], scores[0][1])


@pytest.mark.parametrize('shape', [(2, 11), (2, 13), (12,), (2, 3, 12), (0, 3)])
def test_other_inputs_are_refused(shape):
    with pytest.raises(ValueError, match=r'features of images \(B, 12\)'):
        clip_tiny.small_model().image_features(torch.zeros(shape))


@pytest.mark.parametrize('kind', [{}, {'type': 'ClsDataPreprocessor'}, {'type': 'mmpretrain.ClsDataPreprocessor'},
                                  {'type': ClsDataPreprocessor}])
@pytest.mark.parametrize('as_list', [False, True], ids=['tensor', 'list'])
def test_the_preprocessor_lets_features_through(kind, as_list):
    model = clip_tiny.small_model(data_preprocessor=dict(kind, to_onehot=True, num_classes=4))
    features = torch.randn(2, 12, dtype=torch.float64)
    batch = dict(inputs=list(features) if as_list else features, data_samples=samples([2, 0]))
    got = model.data_preprocessor(batch, training=True)
    assert torch.equal(got['inputs'], features) and got['inputs'].dtype == torch.float64
    assert [s.gt_score.tolist() for s in got['data_samples']] == [[0, 0, 1, 0], [1, 0, 0, 0]]
    without = model.data_preprocessor(dict(inputs=features))
    assert torch.equal(without['inputs'], features) and without['data_samples'] is None


def test_images_are_prepared_as_before():
    own = MODELS.build(preprocessor_config(dict(pad_size_divisor=16)))
    stock = ClsDataPreprocessor(
        mean=[122.7709383, 116.7460125, 104.09373615], std=[68.5005327, 66.6321579, 70.32316305], to_rgb=True,
        pad_size_divisor=16,
    )  # fmt: skip
    images = torch.randint(0, 256, (2, 3, 10, 12))
    for inputs in (images, list(images)):
        assert torch.equal(own(dict(inputs=inputs))['inputs'], stock(dict(inputs=inputs))['inputs'])


def test_features_are_not_mixed_as_images():
    mixing = CLIPDataPreprocessor(num_classes=4, batch_augments=dict(augments=[dict(type='Mixup', alpha=1.0)]))
    batch = dict(inputs=torch.randn(2, 12), data_samples=samples([2, 0]))
    with pytest.raises(ValueError, match='batch_augments'):
        mixing(batch, training=True)
    assert mixing(batch)['inputs'] is not None
