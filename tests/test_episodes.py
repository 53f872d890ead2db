import numpy as np
import pytest

from mmlora.episodes import check_episode_size, draw_episode, positions_by_class

LABELS = np.repeat([7, 3, 5, 9], [12, 10, 11, 10])
POSITIONS = positions_by_class(LABELS)


def test_positions_are_grouped_by_class():
    assert list(POSITIONS) == [3, 5, 7, 9]
    np.testing.assert_array_equal(POSITIONS[3], np.arange(12, 22))


def test_episode_holds_what_it_says():
    episode = draw_episode(POSITIONS, n_way=3, n_shot=2, n_query=5, seed=1, number=4)
    assert episode.support.shape == (3, 2) and episode.query.shape == (3, 5)
    assert len(set(episode.classes)) == 3
    for row, label in enumerate(episode.classes):
        chosen = [*episode.support[row], *episode.query[row]]
        assert len(set(chosen)) == 7 and set(LABELS[chosen]) == {label}


def test_episode_is_a_function_of_seed_and_number():
    def draw(seed, number):
        episode = draw_episode(POSITIONS, 3, 2, 5, seed, number)
        return np.concatenate([episode.classes, episode.support.ravel(), episode.query.ravel()])

    first = draw(0, 8)
    np.random.seed(1)
    draw(0, 3)
    np.testing.assert_array_equal(first, draw(0, 8))
    assert (first != draw(0, 9)).any() and (first != draw(1, 8)).any()


def test_all_classes_and_images_occur():
    episodes = [draw_episode(POSITIONS, 2, 1, 2, 0, number) for number in range(200)]
    assert set(np.concatenate([e.classes for e in episodes])) == {3, 5, 7, 9}
    assert set(np.concatenate([e.query.ravel() for e in episodes])) == set(range(len(LABELS)))


@pytest.mark.parametrize(
    'sizes, message',
    [
        ((5, 1, 1), '5-way episodes need 5 classes, but the data has 4'),
        ((3, 5, 6), r'11 images of each class, but class 3 \(three\) has 10'),
        ((0, 1, 1), 'n_way=0'),
        ((2, 0, 1), 'n_shot=0'),
        ((2, 1, 0), 'n_query=0'),
    ],
)
def test_impossible_episodes_are_refused(sizes, message):
    names = ['zero', 'one', 'two', 'three', 'four', 'five']
    with pytest.raises(ValueError, match=message):
        check_episode_size(POSITIONS, *sizes, classes=names)
