import json
import re

import numpy as np
import pytest

import mmlora  # noqa: F401
from mmlora import assets
from mmlora.datasets import FewShotGlyphs, Glyphs, SampleIndex
from mmlora.datasets.glyph_combinations import (
    MIN_MARKS,
    combinations_document,
    find_combinations,
    hold_out,
    qualifies,
    words_of,
)
from mmlora.datasets.glyph_few_shot import FIRST_TEST_DRAW
from mmlora.datasets.split_files import load_split


def glyphs(split='train', **arguments):
    return Glyphs(split, samples_per_class=1, **arguments)


@pytest.fixture(scope='module')
def names():
    return [row['name'] for row in load_split('glyphs/train.json')['classes']]


def test_both_cases_are_one_combination():
    found = find_combinations(
        ['LATIN SMALL LETTER A', 'LATIN SMALL LETTER A WITH DOT', 'LATIN SMALL LETTER B WITH DOT',
         'LATIN CAPITAL LETTER A WITH DOT', 'LATIN SMALL LETTER A WITH DOT AND HOOK']
    )  # yapf: disable
    assert found == [
        ('LATIN SMALL LETTER A WITH DOT', 'LATIN CAPITAL LETTER A WITH DOT'),
        ('LATIN SMALL LETTER B WITH DOT',),
        ('LATIN SMALL LETTER A WITH DOT AND HOOK',),
    ]


@pytest.mark.parametrize(
    'left, expected',
    [
        (['X A', 'X B WITH DOT', 'X C WITH DOT'], True),
        (['X A WITH HOOK', 'X B WITH DOT', 'X C WITH DOT'], True),
        (['X B', 'X B WITH DOT', 'X C WITH DOT'], False),  # no other A
        (['X AB', 'X B WITH DOT', 'X C WITH DOT'], False),  # a longer word
        (['X A', 'X B WITH DOT', 'X C WITH DOT AND HOOK'], False),  # one other DOT alone
    ],
)
def test_a_combination_qualifies_if_letter_and_mark_occur_elsewhere(left, expected):
    assert qualifies(('X A WITH DOT',), ['X A WITH DOT', *left]) is expected


def test_what_is_held_out_can_be_known_from_what_is_left(names):
    val, test = hold_out(names)
    assert not set(val) & set(test) and len(set(val + test)) == 56
    left = set(names).difference(val, test)
    assert MIN_MARKS >= 1 and all(qualifies((name,), left) for name in val + test)
    other_case = {name.replace(' SMALL ', ' CAPITAL ') for name in val + test}
    assert not other_case & {name.replace(' SMALL ', ' CAPITAL ') for name in left}


def test_committed_combinations_and_words_are_what_the_command_makes(names):
    document = load_split('glyphs/combinations.json')
    assert document == json.loads(json.dumps(combinations_document(names, document['command'])))
    others = [row['name'] for split in ('val', 'test') for row in load_split(f'glyphs/{split}.json')['classes']]
    with open(assets.path('clip-micro_words.txt'), encoding='utf-8') as file:
        assert file.read().split() == words_of(['a picture of .', *names, *others])


def test_words_are_split_as_the_tokenizer_does():
    assert words_of(['LATIN B-CREE', 'latin o.']) == ['-', '.', 'b', 'cree', 'latin', 'o']


def test_seen_and_held_out_letters_make_up_the_split():
    parts = {part: glyphs(combinations=part).metainfo['classes'] for part in ('seen', 'val', 'test')}
    assert sorted(sum(parts.values(), ())) == sorted(glyphs().metainfo['classes'])
    assert [len(part) for part in parts.values()] == [1082, 20, 36]


def test_held_out_letters_among_all_labels():
    own, among = glyphs(combinations='test'), glyphs(combinations='test', label_space='split')
    assert len(among) == len(own) == 36 and len(among.metainfo['classes']) == 1138
    for i in (0, 20):
        name = own.metainfo['classes'][own[i]['gt_label']]
        assert among.metainfo['classes'][among[i]['gt_label']] == name
        np.testing.assert_array_equal(own[i]['img'], among[i]['img'])


def test_halves_of_the_letters():
    whole = glyphs('test', scripts=['LAO'])
    base, new = (glyphs('test', scripts=['LAO'], subset=half) for half in ('base', 'new'))
    assert base.metainfo['classes'] + new.metainfo['classes'] == whole.metainfo['classes']
    assert len(base) == 18 and new[0]['gt_label'] == 0
    np.testing.assert_array_equal(new[0]['img'], whole[18]['img'])


def test_few_shot_images_stay_and_share_none_with_other_draws():
    few = Glyphs('val', samples_per_class=2, redraw=False, seed=3)
    np.testing.assert_array_equal(few[SampleIndex(5, 0, epoch=7)]['img'], few[5]['img'])
    more = Glyphs('val', samples_per_class=2, redraw=False, seed=3, first_draw=1)
    assert [few[83 + 5]['draw'], more[5]['draw'], more[83 + 5]['draw']] == [1, 1, 2]
    np.testing.assert_array_equal(few[83 + 5]['img'], more[5]['img'])
    assert (few[5]['img'] != more[5]['img']).any()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(combinations='new'), "combinations='new' must be one of 'seen', 'val', 'test'"),
        (dict(split='val', combinations='seen'), "split='train', got 'val'"),
        (dict(subset='old'), "subset='old'"),
        (dict(subset='{test_subset}'), 'settle_variables'),
        (dict(label_space='all'), "label_space='all'"),
        (dict(first_draw=-1), 'first_draw=-1'),
        (dict(scripts=['LISU'], combinations='test'), 'leave no letter'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        glyphs(**arguments)
    with pytest.raises(ValueError, match="samples_per_class='{shot}'.*settle_variables"):
        Glyphs(samples_per_class='{shot}')


@pytest.mark.parametrize('held_out, letters, count', [
    ('scripts', 'test', 222), ('scripts', 'val', 83), ('combinations', 'test', 36), ('combinations', 'val', 20),
])  # yapf: disable
def test_few_shot_tasks_are_on_letters_that_were_held_out(held_out, letters, count):
    train = FewShotGlyphs('train', n_shot=2, seed=5, letters=letters, held_out=held_out)
    test = FewShotGlyphs('test', letters=letters, held_out=held_out, n_test=3)
    assert train.metainfo['classes'] == test.metainfo['classes'] and len(train.metainfo['classes']) == count
    assert (len(train), len(test)) == (2 * count, 3 * count)
    assert {info['draw'] for info in map(train.get_data_info, range(len(train)))} == {0, 1}
    assert test.get_data_info(0)['draw'] >= FIRST_TEST_DRAW
    seen = set(glyphs(combinations='seen').metainfo['classes'])
    assert not seen & set(test.metainfo['classes'])


def test_training_images_follow_the_seed_and_test_images_do_not():
    train = [FewShotGlyphs('train', n_shot=1, seed=seed, held_out='combinations')[0]['img'] for seed in (0, 0, 1)]
    test = [FewShotGlyphs('test', seed=seed, held_out='combinations')[0]['img'] for seed in (0, 1)]
    assert (train[0] == train[1]).all() and (train[0] != train[2]).any() and (test[0] == test[1]).all()


@pytest.mark.parametrize('arguments, message', [
    (dict(split='val'), "split='val' must be one of 'train', 'test'"),
    (dict(letters='{letters}'), 'settle_variables'),
    (dict(held_out='fonts'), "held_out='fonts'"),
    (dict(n_shot=None), 'n_shot=None'),
    (dict(n_shot=1001), 'n_shot=1001'),
    (dict(n_shot='{shot}'), 'settle_variables'),
    (dict(split='test', n_test=0), 'samples_per_class=0'),
])  # yapf: disable
def test_bad_arguments_of_few_shot_tasks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FewShotGlyphs(**arguments)
