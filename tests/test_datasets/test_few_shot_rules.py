"""The draws of CoOp and CLIP-LoRA, image by image, and the halves of the classes."""

import random

import pytest

from mmlora.datasets.few_shot_rules import SAMPLINGS, classes_of
from mmlora.datasets.list_files import ListedImage


def names(images):
    return [image.name for image in images]


@pytest.mark.parametrize('sampling, key', [('coop', 'coop_order'), ('clip_lora', 'cliplora_order')])
def test_draws_are_those_of_the_published_codes(golden_draws, sampling, key):
    """Among them classes with fewer images than are drawn."""
    train, val = ([ListedImage(name, label, number) for number, (name, label, _) in enumerate(golden_draws[split])]
                  for split in ('train', 'val'))
    assert len(golden_draws['cases']) == 15
    random.seed(123)
    state = random.getstate()
    for case in golden_draws['cases']:
        drawn = SAMPLINGS[sampling](train, val, case['shots'], case['seed'])
        assert [names(part) for part in drawn] == [case[key]['train'], case[key]['val']]
    assert random.getstate() == state


def test_without_validation_images():
    train = [ListedImage(f'{label}/{number}', label, number) for number in range(9) for label in (1, 0)]
    drawn, val = SAMPLINGS['clip_lora'](train, None, 5, 1)
    rng = random.Random(1)  # Class by class as they appear: first those to train on, then those to validate on.
    both = {label: rng.sample([f'{label}/{number}' for number in range(9)], 9) for label in (1, 0)}
    assert names(drawn) == both[1][:5] + both[0][:5] and names(val) == both[1][5:] + both[0][5:]
    assert SAMPLINGS['coop'](train, None, 5, 1)[1] is None


def test_a_class_with_too_few_images_for_both_says_how_to_take_all():
    train = [ListedImage(f'a/{number}', 0, number) for number in range(10)]
    with pytest.raises(ValueError, match='7 for training and 4 for .* fewer shots, or take all images with shot=None'):
        SAMPLINGS['clip_lora'](train, None, 7, 1)


@pytest.mark.parametrize('num_classes, base', [(1, 1), (2, 1), (47, 24), (100, 50), (397, 199)])
def test_halves(num_classes, base):
    halves = {subset: list(classes_of(num_classes, subset)) for subset in ('all', 'base', 'new')}
    assert halves['base'] + halves['new'] == halves['all'] == list(range(num_classes))
    assert len(halves['base']) == base
