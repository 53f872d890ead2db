import json
import unicodedata

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from tiny import call_tool
from torch.utils.data import DataLoader

import mmlora  # noqa: F401
from mmlora.datasets import Glyphs
from mmlora.datasets.glyph_fonts import covered_letters, is_plain_letter, script_of
from mmlora.datasets.glyph_render import INK_SIZE, Distortion, affine_matrix, distort, glyph_bitmap
from mmlora.datasets.glyph_splits import (
    LOOK_ALIKE,
    SPLIT_SCRIPTS,
    appearance,
    drawable_fonts,
    select_letters,
    split_document,
)
from mmlora.datasets.glyphs import SPLITS, draw_glyph
from mmlora.datasets.seeded import SampleIndex, SeededDataset
from mmlora.datasets.split_files import load_split, split_path

SANS = 'DejaVuSans.ttf'


@pytest.fixture(scope='module')
def documents():
    return {split: load_split(f'glyphs/{split}.json') for split in SPLITS}


@pytest.mark.parametrize(
    'char, plain, script',
    [
        ('A', True, 'LATIN'),
        ('é', True, 'LATIN'),
        ('Ω', True, 'GREEK'),
        ('ᐁ', True, 'CANADIAN SYLLABICS'),
        ('𐌀', True, 'OLD ITALIC'),
        ('ﬁ', False, 'LATIN'),  # a ligature
        ('ª', False, None),
        ('𝔸', False, None),
        ('7', False, None),
        ('ﺎ', False, 'ARABIC'),  # a presentation form
    ],
)
def test_which_characters_are_letters_of_a_script(char, plain, script):
    assert is_plain_letter(char) is plain
    assert script_of(char) == script


def test_splits_are_disjoint_and_without_duplicates(documents):
    codes = [row['code'] for split in SPLITS for row in documents[split]['classes']]
    assert len(codes) == len(set(codes)) == 1138 + 83 + 222
    scripts = [set(documents[split]['scripts']) for split in SPLITS]
    assert not scripts[0] & scripts[1] and not scripts[0] & scripts[2] and not scripts[1] & scripts[2]


@pytest.mark.parametrize('split', SPLITS)
def test_rows_of_a_split_are_true(documents, split):
    covered = covered_letters()
    for row in documents[split]['classes']:
        char = chr(row['code'])
        assert row['name'] == unicodedata.name(char)
        assert row['script'] == script_of(char) in SPLIT_SCRIPTS[split]
        fonts = documents[split]['font_sets'][row['fonts']]
        assert fonts and set(fonts) <= set(covered[row['code']])


@pytest.fixture(scope='module')
def selected():
    """What is slow of making the splits."""
    return select_letters()


@pytest.mark.slow
def test_the_tool_writes_the_committed_splits(root, tmp_path, monkeypatch, selected):
    monkeypatch.setattr('mmlora.datasets.glyph_splits.select_letters', lambda: selected)
    assert call_tool('make_splits', 'glyphs', '--out', tmp_path) == 0
    for split in ('train', 'val', 'test'):
        committed = root / 'data_splits' / 'glyphs' / f'{split}.json'
        assert (tmp_path / f'{split}.json').read_text() == committed.read_text()


@pytest.mark.slow
def test_committed_splits_are_what_the_command_makes(documents, selected):
    kept, twins = selected
    for split in SPLITS:
        document = json.loads(json.dumps(split_document(split, kept[split], documents[split]['command'])))
        assert document == documents[split]
    assert twins[ord('c')] == ord('C')  # they differ in size alone
    assert twins[0x410] == twins[0x391] == ord('A')  # Cyrillic A and Greek Alpha


@pytest.mark.parametrize('split', ['val', 'test'])
def test_no_two_classes_look_alike(documents, split):
    codes = [row['code'] for row in documents[split]['classes']]
    fonts = [documents[split]['font_sets'][row['fonts']] for row in documents[split]['classes']]
    views = np.stack([appearance(code, SANS) for code, own in zip(codes, fonts, strict=True) if SANS in own])
    scores = views @ views.T - np.eye(len(views))
    assert len(views) > 50 and scores.max() < LOOK_ALIKE


def test_every_class_draws_ink_and_no_missing_glyph(documents):
    for split in SPLITS:
        for row in documents[split]['classes']:
            font = documents[split]['font_sets'][row['fonts']][-1]
            assert drawable_fonts(row['code'], (font,)) == (font,)
    assert drawable_fonts(0x4E00, (SANS,)) == ()  # a Chinese character, which the font lacks


def test_bitmap_is_normalised_in_size_and_place():
    for char in 'Wi.':
        rows, columns = np.nonzero(glyph_bitmap(ord(char), SANS))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(INK_SIZE, abs=1)
        assert (rows.min() + rows.max()) / 2 == pytest.approx(31.5, abs=1)


def test_no_distortion_is_a_centred_half_size_copy():
    matrix = affine_matrix(Distortion(), np.random.default_rng(0))
    np.testing.assert_allclose(matrix, [[0.5, 0, -0.25], [0, 0.5, -0.25]], atol=1e-12)
    bitmap = glyph_bitmap(ord('H'), SANS)
    image = distort(bitmap, Distortion(), np.random.default_rng(0)).astype(float)
    blocks = bitmap.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(image - blocks).max() <= 1


@pytest.mark.parametrize('name', list(Distortion.__dataclass_fields__))
def test_each_distortion_changes_the_image(name):
    amount = dict(rotation=30, shift=4, wave=3, blur=3).get(name, 0.5)
    bitmap = glyph_bitmap(ord('R'), SANS)
    clean, changed = (
        distort(bitmap, distortion, np.random.default_rng(3))
        for distortion in (Distortion(), Distortion(**{name: amount}))
    )
    assert np.abs(clean.astype(int) - changed).mean() > 1


def test_negative_distortion_is_refused():
    with pytest.raises(ValueError, match='rotation=-1'):
        Distortion(rotation=-1)


def test_image_depends_on_seed_epoch_letter_and_draw_alone():
    first = dict(
        code=ord('R'), fonts=(SANS, 'DejaVuSerif.ttf'), distortion=Distortion(shift=3), seed=1, epoch=2, draw=3
    )
    image = draw_glyph(**first)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    np.random.seed(5)
    np.testing.assert_array_equal(image, draw_glyph(**first))
    for change in (dict(seed=2), dict(epoch=3), dict(draw=4), dict(code=ord('Q'))):
        assert (image != draw_glyph(**{**first, **change})).any()


def test_data_set_speaks_as_mmpretrain_expects():
    dataset = Glyphs('test', samples_per_class=2)
    assert len(dataset) == 2 * 222
    assert dataset.CLASSES[0].startswith('ARMENIAN') and set(dataset.metainfo['domains']) == set(SPLIT_SCRIPTS['test'])
    np.testing.assert_array_equal(np.bincount(dataset.get_gt_labels()), 2)
    sample = dataset[223]
    assert sample['gt_label'] == 1 and sample['draw'] == 1 and sample['sample_idx'] == 223
    assert type(sample['sample_idx']) is int


def test_epoch_of_the_index_selects_other_draws():
    plain, wrapped = (Glyphs('val', samples_per_class=1), SeededDataset(Glyphs('val', samples_per_class=1)))
    images = [plain[SampleIndex(4, 0, epoch)]['img'] for epoch in (0, 1)]
    assert (images[0] != images[1]).any()
    np.testing.assert_array_equal(plain[4]['img'], images[0])
    np.testing.assert_array_equal(wrapped[SampleIndex(4, 0, 1)]['img'], images[1])


def test_subset_of_scripts_keeps_the_images():
    whole, part = Glyphs('val', samples_per_class=1), Glyphs('val', samples_per_class=1, scripts=['NKO'])
    assert set(part.metainfo['domains']) == {'NKO'}
    label = whole.metainfo['code_points'].index(part.metainfo['code_points'][0])
    np.testing.assert_array_equal(whole[label]['img'], part[0]['img'])


def test_workers_give_the_same_images():
    init_default_scope('mmpretrain')
    dataset = Glyphs('val', samples_per_class=1, pipeline=[dict(type='PackInputs')])
    batches = [
        [sample['inputs'] for sample in DataLoader(dataset, batch_size=None, num_workers=workers)] for workers in (0, 2)
    ]
    assert len(batches[0]) == 83
    assert all((one == two).all() for one, two in zip(*batches, strict=True))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(split='all'), "not 'all'"),
        (dict(samples_per_class=0), 'samples_per_class=0'),
        (dict(seed=-1), 'seed=-1'),
        (dict(distortion=dict(turn=3)), 'turn'),
        (dict(distortion='smooth'), "distortion='smooth' must be one of 'rough'"),
        (dict(split='val', scripts=['LATIN']), 'LATIN'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Glyphs(**arguments)


def test_a_distortion_has_a_name():
    plain, named = Glyphs('val', 1), Glyphs('val', 1, distortion='rough')
    assert named.distortion.wave == 2 * plain.distortion.wave
    assert (named.prepare_data(0)['img'] != plain.prepare_data(0)['img']).any()


def test_missing_split_file_says_where_it_looked():
    with pytest.raises(FileNotFoundError, match='data_splits'):
        split_path('glyphs/none.json')
