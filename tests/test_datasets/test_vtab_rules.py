"""How VTAB-1k is made from tensorflow_datasets: splits and labels of each set."""

import numpy as np
import pytest

from mmlora.datasets import VTAB_SETS
from mmlora.datasets.vtab_rules import VTAB_RULES, other_sizes, vtab_slices

# set: source and version, val200, test, and the number of images of each split of tensorflow_datasets.
TABLE = {
    'cifar': ('cifar100:3.0.2', 'train[45000:45200]', 'test', dict(train=50000, test=10000)),
    'caltech101': ('caltech101:3.0.1', 'train[2754:2954]', 'test', dict(train=3060, test=6084)),
    'dtd': ('dtd:3.0.1', 'validation[:200]', 'test', dict(train=1880, validation=1880, test=1880)),
    'oxford_flowers102': ('oxford_flowers102:2.1.1', 'validation[:200]', 'test',
                          dict(train=1020, validation=1020, test=6149)),
    'oxford_iiit_pet': ('oxford_iiit_pet:3.2.0', 'train[2944:3144]', 'test', dict(train=3680, test=3669)),
    'svhn': ('svhn_cropped:3.0.0', 'train[65931:66131]', 'test', dict(train=73257, test=26032, extra=531131)),
    'sun397': ('sun397/tfds:4.0.0', 'validation[:200]', 'test', dict(train=76128, validation=10875, test=21750)),
    'patch_camelyon': ('patch_camelyon:2.0.0', 'validation[:200]', 'test',
                       dict(train=262144, validation=32768, test=32768)),
    'eurosat': ('eurosat/rgb:2.0.0', 'train[16200:16400]', 'train[21600:]', dict(train=27000)),
    'resisc45': ('resisc45:3.0.0', 'train[18900:19100]', 'train[25200:]', dict(train=31500)),
    'diabetic_retinopathy': ('diabetic_retinopathy_detection/btgraham-300:3.0.0', 'validation[:200]', 'test',
                             dict(train=35126, validation=10906, test=42670)),
    'clevr_count': ('clevr:3.1.0', 'train[63000:63200]', 'validation', dict(train=70000, validation=15000, test=15000)),
    'clevr_dist': ('clevr:3.1.0', 'train[63000:63200]', 'validation', dict(train=70000, validation=15000, test=15000)),
    'dmlab': ('dmlab:2.0.1', 'validation[:200]', 'test', dict(train=65550, validation=22628, test=22735)),
    'kitti': ('kitti:3.2.0', 'validation[:200]', 'test', dict(train=6347, validation=423, test=711)),
    'dsprites_loc': ('dsprites:2.0.0', 'train[589824:590024]', 'train[663552:]', dict(train=737280)),
    'dsprites_ori': ('dsprites:2.0.0', 'train[589824:590024]', 'train[663552:]', dict(train=737280)),
    'smallnorb_azi': ('smallnorb:2.0.0', 'test[:200]', 'test[12150:]', dict(train=24300, test=24300)),
    'smallnorb_ele': ('smallnorb:2.0.0', 'test[:200]', 'test[12150:]', dict(train=24300, test=24300)),
}  # yapf: disable


def places(slices: str, counts: dict[str, int]) -> set[tuple[str, int]]:
    """Return which images slices such as 'train[:800]+validation[:200]' mean."""
    found = set()
    for part in slices.split('+'):
        split, _, cut = part.partition('[')
        numbers = [int(text) if text else None for text in cut.rstrip(']').split(':')] if cut else [None, None]
        found |= {(split, index) for index in range(counts[split])[slice(*numbers)]}
    return found


def test_there_is_a_rule_for_each_set():
    assert set(VTAB_RULES) == set(VTAB_SETS) == set(TABLE)


@pytest.mark.parametrize('name', TABLE)
def test_splits(name):
    source, val, test, counts = TABLE[name]
    rule = VTAB_RULES[name]
    assert f'{rule.source}:{rule.version}' == source and set(rule.splits) <= set(counts)
    assert other_sizes(rule, counts) is None
    slices = vtab_slices(rule, counts)
    assert slices == dict(train800='train[:800]', val200=val, train800val200=f'train[:800]+{val}', test=test)
    held = {key: places(text, counts) for key, text in slices.items()}
    assert {key: len(images) for key, images in held.items()} == dict(
        train800=800, val200=200, train800val200=1000, test=VTAB_SETS[name].test_images)
    assert held['train800'] | held['val200'] == held['train800val200']
    assert not held['train800val200'] & held['test']


@pytest.mark.parametrize('name', [name for name in TABLE if VTAB_RULES[name].sizes])
def test_a_cut_of_another_number_of_images_is_told(name):
    counts = {split: size - 1 for split, size in TABLE[name][3].items()}
    assert 'and VTAB-1k is cut from' in other_sizes(VTAB_RULES[name], counts)


def test_only_splits_that_are_cut_have_a_size():
    for name, rule in VTAB_RULES.items():
        cut = {part.split for part in (rule.val, rule.test) if part.start}
        assert set(rule.sizes) == cut, name


def clevr(count=5, distances=()):
    depths = np.array([*distances, *[50.0] * (count - len(distances))], np.float32)
    return dict(objects=dict(size=np.zeros(count, np.int64),
                             pixel_coords=np.stack([np.zeros(count), np.ones(count), depths], 1).astype(np.float32)))


def kitti(*objects):
    """An example of objects (type, distance); types 0, 1 and 2 are vehicles."""
    location = np.array([(1.0, 2.0, z) for _, z in objects], np.float32).reshape(-1, 3)
    return dict(objects=dict(type=np.array([kind for kind, _ in objects], np.int64), location=location))


def labelled(name, label):
    return dict.fromkeys([name], np.int64(label))


LABELS = {
    'cifar': [(labelled('label', 99), 99), (labelled('label', 0), 0)],
    'clevr_count': [(clevr(3), 0), (clevr(10), 7)],
    'clevr_dist': [
        (clevr(3, [7.5, 20]), 0), (clevr(3, [8.0]), 0), (clevr(3, [20, 8.01]), 1), (clevr(3, [8.5]), 1),
        (clevr(3, [8.6]), 2), (clevr(3, [9.2]), 3), (clevr(3, [9.5]), 3), (clevr(3, [9.9]), 4), (clevr(3, [10.0]), 4),
        (clevr(3, [10.1]), 5),
    ],
    'kitti': [
        (kitti((0, 5.0), (1, 30.0)), 0), (kitti((2, 8.0)), 0), (kitti((1, 8.1)), 1), (kitti((0, 20.0)), 1),
        (kitti((0, 20.5)), 2), (kitti((0, 300.0)), 2), (kitti((3, 5.0), (7, 1.0)), 3), (kitti(), 3),
        (kitti((3, 5.0), (2, 15.0)), 1), (kitti((0, -1.0)), 0),
    ],
    'dsprites_loc': [(labelled('label_x_position', x), label) for x, label in ((0, 0), (1, 0), (2, 1), (31, 15))],
    'dsprites_ori': [(labelled('label_orientation', x), label)
                     for x, label in ((0, 0), (2, 0), (3, 1), (4, 1), (5, 2), (37, 14), (38, 15), (39, 15))],
    'smallnorb_azi': [(dict(label_azimuth=np.int64(17), label_elevation=np.int64(3)), 17)],
    'smallnorb_ele': [(dict(label_azimuth=np.int64(17), label_elevation=np.int64(8)), 8)],
}  # yapf: disable


@pytest.mark.parametrize(('name', 'example', 'label'), [(n, *case) for n, cases in LABELS.items() for case in cases])
def test_labels(name, example, label):
    found = VTAB_RULES[name].label(example)
    assert found == label and type(found) is int


def test_all_other_sets_take_the_label_as_it_is():
    example = labelled('label', 3)
    assert [VTAB_RULES[name].label(example) for name in set(TABLE) - set(LABELS)] == [3] * 11


@pytest.mark.parametrize(('attribute', 'steps', 'name'), [
    ('label_x_position', 32, 'dsprites_loc'), ('label_orientation', 40, 'dsprites_ori'),
])
def test_dsprites_are_grouped_as_published(attribute, steps, name):
    wanted = np.floor_divide(np.arange(steps, dtype=np.float32), np.float32(steps / 16)).astype(int)
    found = [VTAB_RULES[name].label(labelled(attribute, value)) for value in range(steps)]
    assert found == wanted.tolist() and set(found) == set(range(16))


def test_images_become_bytes_of_three_channels():
    rng = np.random.default_rng(0)
    colour, grey = rng.integers(0, 256, (4, 5, 3), np.uint8), rng.integers(0, 256, (4, 5, 1), np.uint8)
    binary = rng.integers(0, 2, (4, 5, 1), np.uint8)
    wanted = {'dsprites_loc': (binary, np.repeat(binary * 255, 3, 2)), 'smallnorb_ele': (grey, np.repeat(grey, 3, 2))}
    for name in TABLE:
        given, image = wanted.get(name.replace('_ori', '_loc').replace('_azi', '_ele'), (colour, colour))
        found = VTAB_RULES[name].image(dict(image=given))
        assert found.dtype == np.uint8 and np.array_equal(found, image), name
