"""LoRA inversion: the golden trajectory, what is kept, and going on after a kill."""

import copy

import pytest
import torch
from recycle_tiny import Classifier, TinyPrior, arrays
from torch import nn

from mmlora.apis.inversion import InversionSettings, LoRAInversion
from mmlora.apis.inversion_terms import Augmentation, draw_augmentation, to_pixels, total_variation, valid_range
from mmlora.models.batch_norm_prior import BatchNormPrior

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EXACT = dict(rtol=0, atol=1e-10)
SHORT = dict(iterations=8, prune_layers=[3], prune_ratios=[0.5])


class Golden(LoRAInversion):
    """Starts and augments as the published code did in the golden run."""

    def start(self, shape, seed, dtype):
        return arrays('inversion_prune3_fixed')['x0']

    def augmentation(self, size, seed, step):
        down, right, flip = arrays('inversion_prune3_fixed')['aug'][step].tolist()
        return Augmentation((down, right), bool(flip))


@pytest.fixture(scope='module')
def classifier():
    return Classifier()


@pytest.fixture(scope='module')
def prior():
    return BatchNormPrior(TinyPrior())


def invert(inversion, classifier, **kwargs):
    return inversion(classifier, [0, 1, 2, 0, 1, 2], (32, 32), *IMAGENET, **kwargs)


@pytest.mark.parametrize('keep, image', [('best', 'image_at_best_iteration'), ('last', 'final_image')])
def test_the_golden_trajectory(classifier, prior, keep, image):
    golden, seen = arrays('inversion_prune3_fixed'), []
    inversion = Golden(InversionSettings(keep=keep, **SHORT), prior)
    found = invert(inversion, classifier, report=seen.append, report_every=1)
    losses = torch.tensor([p.loss for p in seen]), torch.tensor([p.terms['ce'] for p in seen])
    torch.testing.assert_close(losses[0].double(), golden['loss_total'], rtol=1e-6, atol=0)
    torch.testing.assert_close(losses[1].double(), golden['loss_oh'], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.images, golden[image], **EXACT)
    if keep == 'best':
        assert found.step == int(golden['best_iteration'])
    else:
        assert torch.equal(found.record.kept, golden['index'])
        torch.testing.assert_close(found.record.attention, golden['attention'], **EXACT)


@pytest.mark.parametrize('layers, ratios', [([], []), ([3], [0.25])])
def test_pruning_in_the_last_layer_changes_no_image(classifier, prior, layers, ratios):
    settings = InversionSettings(iterations=8, prune_layers=layers, prune_ratios=ratios, keep='last')
    found = invert(Golden(settings, prior), classifier)
    torch.testing.assert_close(found.images, arrays('inversion_prune3_fixed')['final_image'], **EXACT)


def test_losses_before_pruning_are_not_compared_with_those_after_it(classifier, prior):
    """Iteration 1 has the smallest loss of the first five, 4 that of those from 2 on, where pruning begins."""
    golden = arrays('inversion_prune3_fixed')['loss_total']
    assert golden[:5].argmin() == 1 and golden[2:5].argmin() == 2
    steps = {}
    for layers in ([], [3]):
        pruning = dict(prune_start=0.4, prune_layers=layers, prune_ratios=[0.5] * len(layers))
        settings = InversionSettings(iterations=5, **pruning)
        steps[len(layers)] = invert(Golden(settings, prior), classifier).step
    assert steps == {0: 1, 1: 4}


def test_the_classifier_is_left_as_it_was(classifier, prior):
    classifier.backbone.train()
    learned = {n for n, p in classifier.named_parameters() if p.requires_grad}
    invert(LoRAInversion(InversionSettings(iterations=2, prune_layers=[1], prune_ratios=[0.5]), prior), classifier)
    assert classifier.backbone.training and not classifier.training
    assert {n for n, p in classifier.named_parameters() if p.requires_grad} == learned
    assert all(p.grad is None for p in classifier.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in classifier.modules())
    classifier.eval()


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize('stop, save_every', [(3, 1), (5, 2), (8, 4), (1, 5)])
def test_a_killed_run_goes_on_and_gives_the_same_images(classifier, prior, tmp_path, stop, save_every):
    settings = InversionSettings(iterations=8, prune_layers=[1], prune_ratios=[0.5], tv_weight=0.1, l2_weight=0.01)
    whole, steps, path = invert(LoRAInversion(settings, prior), classifier, seed=5), [], tmp_path / 'state.safetensors'

    def kill(progress):
        if progress.step == stop:
            raise KilledError

    with pytest.raises(KilledError):
        invert(LoRAInversion(settings, prior), classifier, seed=5, state_file=path, save_every=save_every, report=kill,
               report_every=1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in classifier.modules())
    again = invert(LoRAInversion(settings, prior), classifier, seed=5, state_file=path, save_every=save_every,
                   report=lambda p: steps.append(p.step), report_every=1)
    assert steps[0] == (stop - 1) // save_every * save_every + 1
    assert torch.equal(again.images, whole.images) and again.step == whole.step
    assert torch.equal(again.losses, whole.losses) and torch.equal(again.record.kept, whole.record.kept)
    with pytest.raises(ValueError, match='an unfinished inversion with other seed'):
        invert(LoRAInversion(settings, prior), classifier, seed=6, state_file=path)
    other = copy.deepcopy(classifier)
    other.head.bias.data += 1
    with pytest.raises(ValueError, match='an unfinished inversion with other classifier'):
        invert(LoRAInversion(settings, prior), other, seed=5, state_file=path)
    path.write_bytes(b'half a file')
    with pytest.raises(ValueError, match='is no unfinished inversion'):
        invert(LoRAInversion(settings, prior), classifier, seed=5, state_file=path)


def test_the_best_images_of_before_a_kill_are_kept(classifier, prior, tmp_path):
    golden, path = arrays('inversion_prune3_fixed'), tmp_path / 'state.safetensors'

    def kill(progress):
        if progress.step == 7:
            raise KilledError

    inversion, options = Golden(InversionSettings(**SHORT), prior), dict(state_file=path, save_every=1, report_every=1)
    with pytest.raises(KilledError):
        invert(inversion, classifier, report=kill, **options)
    found = invert(inversion, classifier, **options)
    assert found.step == int(golden['best_iteration']) == 5
    torch.testing.assert_close(found.images, golden['image_at_best_iteration'], **EXACT)


def test_images_are_made_for_their_classes_and_stay_pixels(classifier):
    settings = InversionSettings(iterations=60, jitter=0.0, flip=0.0)
    found = invert(LoRAInversion(settings), classifier, seed=1)
    start = classifier(LoRAInversion().start((6, 3, 32, 32), 1, torch.float64))
    before = nn.functional.cross_entropy(start, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert found.correct.all() and found.losses.mean() < before / 5
    assert 0 <= found.images.min() and found.images.max() <= 1 and found.images.dtype == torch.float64


def test_bfloat16_gives_nearly_the_same():
    class Small(nn.Sequential):
        def forward(self, x):
            return super().forward(x.flatten(1))

    torch.manual_seed(0)
    model, found = Small(nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 2)), {}
    for amp in (False, True):
        inversion = LoRAInversion(InversionSettings(iterations=3, amp=amp))
        found[amp] = inversion(model, [0, 1], (4, 4), *IMAGENET)
    assert found[True].record is None and found[True].images.dtype == torch.float32
    assert not torch.equal(found[True].losses, found[False].losses)
    torch.testing.assert_close(found[True].losses, found[False].losses, rtol=0.1, atol=0.1)


@pytest.mark.parametrize('data', ['cifar100', 'miniimagenet'])
def test_the_valid_range(data):
    golden = arrays('normalise_clip')
    z, mean, std = golden['z'], golden[f'{data}_mean'].tolist(), golden[f'{data}_std'].tolist()
    least, greatest = valid_range(mean, std, z)
    clipped = torch.minimum(torch.maximum(z, least), greatest)
    torch.testing.assert_close(clipped, golden[f'{data}_clip'], **EXACT)
    pixels = torch.where(z == 0, golden[f'{data}_denorm'], to_pixels(clipped, mean, std))  # There 0 means masked.
    torch.testing.assert_close(pixels, golden[f'{data}_denorm'], **EXACT)


def test_augmentation_and_variation():
    x = torch.arange(2 * 3 * 5 * 4, dtype=torch.float64).reshape(2, 3, 5, 4)
    moved = Augmentation((1, -1), True)(x)
    assert moved[0, 0, 1, 3] == x[0, 0, 0, 1] and moved[1, 2, 0, 0] == x[1, 2, 4, 0]
    draws = [draw_augmentation((32, 16), 1 / 8, 0.5, 0, step) for step in range(200)]
    assert {d.shift[0] for d in draws} == set(range(-4, 5)) and {d.shift[1] for d in draws} == {-2, -1, 0, 1, 2}
    assert 60 < sum(d.flip for d in draws) < 140
    assert draws[7] == draw_augmentation((32, 16), 1 / 8, 0.5, 0, 7) and draws[:9] != [
        draw_augmentation((32, 16), 1 / 8, 0.5, 1, step) for step in range(9)]
    steep = torch.tensor([[0.0, 1.0], [3.0, 7.0]])[None, None]
    assert total_variation(steep) == (3 + 6) / 2 + (1 + 4) / 2 + 7 + 2


@pytest.mark.parametrize('given, error, message', [
    (dict(iterations=0), ValueError, 'iterations must be at least 1'),
    (dict(iterations=1.5), TypeError, 'iterations must be a whole number'),
    (dict(lr=0), ValueError, 'lr must be above 0'),
    (dict(lr='0.1'), TypeError, 'lr must be a number'),
    (dict(bn_weight=-1), ValueError, r'bn_weight must lie in \[0, inf\]'),
    (dict(bn_weight=float('nan')), ValueError, 'bn_weight must lie'),
    (dict(flip=1.5), ValueError, r'flip must lie in \[0, 1\], got 1.5'),
    (dict(betas=(0.5, 1.0)), ValueError, 'betas must be two numbers'),
    (dict(keep='first'), ValueError, 'keep must be one of best, last'),
    (dict(prune_layers=[3]), ValueError, 'must have the same length'),
])
def test_bad_settings(given, error, message):
    with pytest.raises(error, match=message):
        InversionSettings(**given)


def test_settings_as_data():
    settings = InversionSettings(prune_layers=[-1], prune_ratios=[0.75])
    assert InversionSettings.from_dict(settings.to_dict()) == settings
    with pytest.raises(TypeError, match=r"unknown settings \['steps'\]: choose from iterations"):
        InversionSettings.from_dict(dict(steps=1))


class Nothing(nn.Linear):
    """A classifier without tokens."""

    def forward(self, x):
        return super().forward(x.mean((2, 3)))


@pytest.mark.parametrize('model, targets, settings, message', [
    (lambda: Nothing(3, 2), [0, 2], {}, 'label 2 is wanted, but the classifier has 2 classes'),
    (lambda: Nothing(3, 2), [], {}, 'targets must be labels'),
    (lambda: Nothing(3, 2), [-1], {}, 'targets must be labels'),
    (lambda: Nothing(3, 2), [0], dict(prune_layers=[0], prune_ratios=[0.5]), 'this Nothing has 0'),
    (lambda: nn.Linear(4, 4), [0], {}, r'must return logits \(B, classes\)'),
    (lambda: nn.Flatten(), [0], {}, 'has no parameters'),
])
def test_bad_requests(model, targets, settings, message):
    with pytest.raises(ValueError, match=message):
        LoRAInversion(InversionSettings(iterations=1, **settings))(model(), targets, (4, 4), *IMAGENET)


def test_a_loss_that_is_not_finite_is_an_error():
    model = Nothing(3, 2)
    nn.init.constant_(model.bias, float('nan'))
    with pytest.raises(ValueError, match='the loss of iteration 0 is nan: lower lr=0.25'):
        LoRAInversion(InversionSettings(iterations=1))(model, [0], (4, 4), *IMAGENET)
