"""Features of items: drawn, from a CSV file, and the genres of MovieLens-100K."""

import numpy as np
import pytest

from fedinv_jax.data import features

ITEM = '{}|Am\xe9lie (1995)|01-Jan-1995||http://x|{}\n'


def write(path, text, encoding='utf-8'):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding)
    return path


def test_each_item_has_one_to_three_drawn_features():
    drawn = features.draw(500, 20, seed=3)
    counts = drawn.incidence.sum(axis=1)
    assert drawn.incidence.shape == (500, 20) == (500, len(drawn.names))
    assert set(counts) == {1, 2, 3}
    assert np.array_equal(np.unique(drawn.incidence), [0, 1])
    assert drawn.incidence.sum(axis=0).min() > 25
    assert np.array_equal(features.draw(500, 20, seed=3).incidence, drawn.incidence)
    assert np.any(features.draw(500, 20, seed=4).incidence != drawn.incidence)
    assert np.array_equal(features.draw(3, 1).incidence, np.ones((3, 1)))
    with pytest.raises(ValueError, match='num_features=0 >= 1'):
        features.draw(3, 0)


# Failed on: features by their first appearance; items that the data set does not have.
def test_a_file_is_read_by_the_ids_of_the_items(tmp_path):
    text = '10,war\n9,"love, lost"\n9,war\n\n7,western\n10,war\n'
    for header in ('', 'item,feature\n'):
        read = features.read(write(tmp_path / 'f.csv', header + text), ('9', '10'))
        assert read.names == ('love, lost', 'war')
        assert read.incidence.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('9,war\n10\n', r"f\.csv:2: Expected item,feature, found '10'"),
        ('9,war\n10, \n', 'f.csv:2: Expected item,feature'),
        ('9,war\n', 'Expected a feature for every item, found none for 1 of 2, such as item 10'),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        features.read(write(tmp_path / 'f.csv', text), ('9', '10'))


def flags(*names):
    return '|'.join(str(int(name in names)) for name in features.GENRES)


def test_genres_are_those_of_movielens(tmp_path):
    text = ITEM.format(2, flags('War', 'Drama')) + ITEM.format(1, flags('War'))
    path = write(tmp_path / 'ml-100k' / 'u.item', text, 'latin-1')
    read = features.genres(('1', '2'), tmp_path)
    assert read.names == ('Drama', 'War')
    assert read.incidence.tolist() == [[0, 1], [1, 1]]
    write(path, text + ITEM.format(3, flags()[:-2]), 'latin-1')
    with pytest.raises(ValueError, match=r'u\.item:3: Expected an item and 19 flags'):
        features.genres(('1', '2'), tmp_path)
