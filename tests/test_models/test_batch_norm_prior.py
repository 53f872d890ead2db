"""The prior by BatchNorm statistics: golden numbers, other normalisations, and networks that do not fit."""

import pytest
import torch
import torch.nn as nn
from mmpretrain.models import ResNet
from recycle_tiny import TinyPrior, arrays

from mmlora.datasets import Glyphs
from mmlora.models.batch_norm_prior import PRIORS, BatchNormPrior, build_prior, renormalise

EXACT = dict(rtol=0, atol=1e-10)


def test_value_and_gradient():
    golden, prior = arrays('bn_prior'), BatchNormPrior(TinyPrior())
    x = golden['x'].requires_grad_()
    loss = prior(x)
    loss.backward()
    torch.testing.assert_close(loss, golden['loss'], **EXACT)
    torch.testing.assert_close(x.grad, golden['grad'], **EXACT)
    assert all(p.grad is None and not p.requires_grad for p in prior.parameters())


def test_the_network_stays_as_it_is():
    prior = BatchNormPrior(TinyPrior().train())
    before = {key: value.clone() for key, value in prior.state_dict().items()}
    prior.train()
    prior(arrays('bn_prior')['x'])
    assert not any(m.training or m._forward_pre_hooks for m in prior.modules())
    assert all(torch.equal(value, before[key]) for key, value in prior.state_dict().items())


def test_relative_does_not_depend_on_the_scale_of_layers():
    """A convolution that is scaled, with the layer behind it, computes the same and remembers other numbers."""
    first, second = TinyPrior(), TinyPrior()
    with torch.no_grad():
        second.c2.weight.mul_(7)
        second.b2.running_mean.mul_(7)
        second.b2.running_var.mul_(49)
        second.b2.eps *= 49
    x = arrays('bn_prior')['x']
    torch.testing.assert_close(first(x), second(x), **EXACT)
    one, other = (BatchNormPrior(n, relative=True)(x) for n in (first, second))
    torch.testing.assert_close(one, other, **EXACT)
    assert not torch.allclose(BatchNormPrior(first)(x), BatchNormPrior(second)(x))


def test_images_of_another_normalisation():
    x, own, other = arrays('bn_prior')['x'], ((0.4,) * 3, (0.2,) * 3), ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    pixels = x * 0.2 + 0.4
    theirs = (pixels - x.new_tensor(other[0])[:, None, None]) / x.new_tensor(other[1])[:, None, None]
    torch.testing.assert_close(renormalise(theirs, other, own), x, **EXACT)
    prior = BatchNormPrior(TinyPrior(), *own)
    torch.testing.assert_close(prior(theirs, *other), prior(x), **EXACT)
    torch.testing.assert_close(prior(theirs, *other), arrays('bn_prior')['loss'], **EXACT)
    assert prior(x, *own) == prior(x) and prior(theirs) != prior(x)


def test_the_prior_of_letters_knows_letters():
    prior, letters = build_prior(), Glyphs('test', samples_per_class=1)
    images = torch.stack([torch.from_numpy(letters[i]['img']).permute(2, 0, 1) for i in range(0, 220, 5)]) / 255
    images = (images - PRIORS['glyphs'].mean[0]) / PRIORS['glyphs'].std[0]
    real = prior(images)
    noise = prior(images.flatten()[torch.randperm(images.numel())].reshape(images.shape))
    assert len(prior.layers) == 16 and real * 3 < noise
    with pytest.raises(ValueError, match='knows images of 32 x 32 pixels, but these have 64 x 64'):
        prior(torch.zeros(1, 3, 64, 64))


def test_a_resnet_50_of_torchvision(tmp_path):
    """torchvision's names are mmpretrain's, but for the classifier."""
    network = ResNet(depth=50)
    state = {**network.state_dict(), 'fc.weight': torch.zeros(1000, 2048), 'fc.bias': torch.zeros(1000)}
    torch.save(state, tmp_path / 'resnet50.pth')
    prior = build_prior('resnet50', str(tmp_path / 'resnet50.pth'))
    assert len(prior.layers) == 53 and not prior.relative
    assert torch.equal(prior.network.layer4[2].conv3.weight, network.layer4[2].conv3.weight)
    del state['layer4.2.bn3.running_var']
    torch.save(state, tmp_path / 'cut.pth')
    with pytest.raises(ValueError, match=r"1 tensors are missing .* 'layer4.2.bn3.running_var'"):
        build_prior('resnet50', str(tmp_path / 'cut.pth'))


@pytest.mark.parametrize('arguments, message', [
    (['vgg'], "unknown prior 'vgg': choose from glyphs, resnet50 or none"),
    (['resnet50'], 'comes without weights: give the path'),
    (['none', 'a.pth'], "no prior takes the weights 'a.pth'"),
])
def test_priors_that_do_not_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_prior(*arguments)


def test_no_prior_and_networks_without_statistics():
    assert build_prior('none') is None and build_prior(None) is None
    for network in (nn.Linear(2, 2), nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))):
        with pytest.raises(ValueError, match='no BatchNorm layer with running statistics'):
            BatchNormPrior(network)
    with pytest.raises(ValueError, match='give mean and std together'):
        BatchNormPrior(TinyPrior(), mean=(0.5, 0.5, 0.5))


def test_the_description_tells_priors_apart():
    one, other = BatchNormPrior(TinyPrior()), BatchNormPrior(TinyPrior())
    assert one.describe() == other.describe() == BatchNormPrior(TinyPrior().float()).describe()
    other.network.b1.running_mean += 1
    assert one.describe() != other.describe()
    assert one.describe() != BatchNormPrior(TinyPrior(), relative=True).describe()
