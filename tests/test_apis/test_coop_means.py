"""Means over the sets of CoOp in the table of a summary, worked out by hand."""

import pytest
from test_summarize import entry, table, write_each

from mmlora.apis.summarize import summarize
from mmlora.apis.tables import to_markdown
from mmlora.datasets import COOP_SETS, IMAGENET_SHIFTS

TITLE = "Means over CoOp's sets"


def means(folder):
    """The cells after the labels of a row, by the row's shot and protocol."""
    text = to_markdown(summarize([folder]))
    return [row[2:] for row in table(text.split(TITLE)[1])[1:]] if TITLE in text else []


def test_seeds_are_averaged_first_then_sets(tmp_path):
    values = {'dtd': (40.0, 44.0), 'eurosat': (70.0,), 'ucf101': (50.0, 54.0, 58.0)}
    write_each(tmp_path, *(entry(value, name, seed=seed) for name, found in values.items()
                           for seed, value in enumerate(found)))
    # 42, 70 and 54: 166 / 3. Over all six results it would be 52.67.
    assert means(tmp_path) == [['1', 'last epoch', '3 of 11 sets', '1 to 3', '55.33']]


def test_each_row_has_its_own_and_all_eleven_are_named_so(tmp_path):
    write_each(tmp_path, *(entry(50.0 + i, name, shot=shot) for shot in (1, 16)
                           for i, name in enumerate(COOP_SETS) if shot == 16 or i < 2))
    assert means(tmp_path) == [['1', 'last epoch', '2 of 11 sets', '1', '50.50'],
                               ['16', 'last epoch', '11 of 11 sets', '1', '55.00']]


def test_what_was_trained_on_imagenet_is_averaged_over_the_others(tmp_path):
    others = [name for name in COOP_SETS if name != 'imagenet']
    write_each(tmp_path, entry(70.0, 'imagenet'),
               *(entry(60.0 + i, name, trained_on='imagenet') for i, name in enumerate(others)),
               *(entry(40.0 + i, name, trained_on='imagenet') for i, name in enumerate(IMAGENET_SHIFTS)))
    protocol = 'last epoch, trained on imagenet'
    assert means(tmp_path) == [['1', protocol, '10 of 10 other sets', '1', '64.50'],
                               ['1', protocol, "4 of 4 sets of ImageNet's classes", '1', '41.50']]


@pytest.mark.parametrize('entries', [
    [entry(1.0, 'dtd')], [entry(1.0, 'toy'), entry(2.0, 'other')],
    [entry(1.0, 'dtd'), entry(2.0, 'eurosat'), entry(3.0, 'eurosat')],  # One run, two values.
    [entry(1.0, 'dtd'), entry(2.0, 'eurosat'), entry(3.0, 'eurosat', images=7)],  # Tested on two lists.
    [entry(1.0, 'dtd-base'), entry(2.0, 'eurosat-base')],  # Halves of the classes have means of their own.
])
def test_no_mean_of_one_set_or_of_what_is_unclear(tmp_path, entries):
    write_each(tmp_path, *entries)
    assert means(tmp_path) == []
