"""Ids, order, filters and splits of interactions."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from fedinv_jax.data import interactions as interactions_lib

_ROWS = strategies.lists(
    strategies.tuples(
        strategies.integers(0, 5),  # user
        strategies.integers(0, 6),  # item
        strategies.sampled_from([1.0, 2.0, 5.0]),  # rating
        strategies.integers(0, 3),  # timestamp: many ties
    ),
    min_size=1,
    max_size=40,
)


def _make(rows, **kwargs):
    return interactions_lib.make(*map(list, zip(*rows, strict=True)), **kwargs)


def _rows(data):
    return list(
        zip(
            [data.user_ids[user] for user in data.users],
            [data.item_ids[item] for item in data.items],
            data.ratings.tolist(),
            data.timestamps.tolist(),
            strict=True,
        )
    )


@hypothesis.given(_ROWS, strategies.randoms())
@hypothesis.settings(deadline=None, max_examples=60)
def test_does_not_depend_on_row_order(rows, random):
    # Mutants that fail: ids by first appearance; no rating in the sort; no item in the sort.
    data = _make(rows)
    shuffled = rows.copy()
    random.shuffle(shuffled)
    again = _make(shuffled)
    assert again.user_ids == data.user_ids
    assert again.item_ids == data.item_ids
    assert _rows(again) == _rows(data)


@hypothesis.given(_ROWS)
@hypothesis.settings(deadline=None, max_examples=60)
def test_sorted_and_distinct_with_the_latest_kept(rows):
    # Mutant that fails: keep the earliest of a repeated pair.
    data = _make(rows)
    best = {}
    for user, item, rating, time in rows:
        best[user, item] = max(best.get((user, item), (-1, 0)), (time, rating))
    expected = sorted((user, time, item, rating) for (user, item), (time, rating) in best.items())
    got = [(int(user), time, int(item), rating) for user, item, rating, time in _rows(data)]
    assert got == expected


def test_types_and_defaults():
    data = interactions_lib.make([3, 1], [4, 4], name='tiny')
    assert data.users.dtype == data.items.dtype == np.int32
    assert data.ratings.dtype == np.float32
    assert data.timestamps.dtype == np.int64
    assert (data.num_users, data.num_items, data.name) == (2, 1, 'tiny')
    assert data.ratings.tolist() == [1, 1]
    assert data.timestamps.tolist() == [1, 0]  # User '1' appeared second.


@pytest.mark.parametrize(
    ('raw', 'expected'),
    [
        ([10, 9, -1], ('-1', '9', '10')),
        (['10', '9', '-1'], ('-1', '9', '10')),
        (['10', '9', 'x'], ('10', '9', 'x')),
        (['10', '9', '09'], ('09', '10', '9')),  # '09' is another id than '9'.
        ([str(10**30), '7'], ('7', str(10**30))),
        (['é', 'z'], ('z', 'é')),
    ],
)
def test_ids_by_number_or_by_text(raw, expected):
    data = interactions_lib.make(raw, [1] * len(raw))
    assert data.user_ids == expected
    first = dict(zip(data.timestamps.tolist(), data.users.tolist(), strict=True))
    assert [data.user_ids[first[row]] for row in range(len(raw))] == list(map(str, raw))


def test_empty():
    data = interactions_lib.make([], [])
    train, test = interactions_lib.leave_one_out(interactions_lib.k_core(data, 2))
    assert len(train.users) == len(test.users) == data.num_users == 0


def test_make_refuses_bad_columns():
    with pytest.raises(ValueError, match=r'one length, got \[2, 1, 2, 2\]'):
        interactions_lib.make([1, 2], [1])
    with pytest.raises(ValueError, match='finite ratings, got nan at position 1'):
        interactions_lib.make([1, 2], [1, 2], [1, np.nan])


def test_binarize():
    data = _make([(1, 1, 2.0, 0), (1, 2, 4.0, 0), (2, 1, 3.9, 0), (3, 1, 5.0, 0)])
    kept = interactions_lib.binarize(data, 4)
    assert _rows(kept) == [('1', '2', 4.0, 0), ('3', '1', 5.0, 0)]
    assert kept.users.tolist() == [0, 2]  # Not renumbered.
    assert kept.user_ids == data.user_ids
    assert interactions_lib.binarize(data) is data


@hypothesis.given(_ROWS, strategies.integers(0, 4))
@hypothesis.settings(deadline=None, max_examples=80)
def test_k_core_against_removal_one_by_one(rows, k):
    # Mutants that fail: one pass only; items not filtered; `> k`.
    data = _make(rows)
    pairs = {(user, item) for user, item, _, _ in _rows(data)}
    while True:
        bad = next(
            (
                pair
                for pair in sorted(pairs)
                if sum(pair[0] == other[0] for other in pairs) < k
                or sum(pair[1] == other[1] for other in pairs) < k
            ),
            None,
        )
        if bad is None:
            break
        pairs.remove(bad)
    core = interactions_lib.k_core(data, k)
    assert {(user, item) for user, item, _, _ in _rows(core)} == pairs
    assert (core.num_users, core.num_items) == (data.num_users, data.num_items)


def test_k_core_refuses_negative():
    with pytest.raises(ValueError, match='Expected k=-1 >= 0'):
        interactions_lib.k_core(interactions_lib.make([1], [1]), -1)


@hypothesis.given(_ROWS, strategies.randoms())
@hypothesis.settings(deadline=None, max_examples=60)
def test_leave_one_out(rows, random):
    # Mutants that fail: the first interaction; last in file order; lone interactions to test.
    random.shuffle(rows)
    data = _make(rows)
    train, test = interactions_lib.leave_one_out(data)
    by_user = {}
    for user, item, _, time in _rows(data):
        by_user.setdefault(user, []).append((time, int(item)))
    expected = {user: max(seen)[1] for user, seen in by_user.items() if len(seen) > 1}
    assert {user: int(item) for user, item, _, _ in _rows(test)} == expected
    assert sorted(_rows(train) + _rows(test)) == sorted(_rows(data))
    assert test.user_ids == train.user_ids == data.user_ids
