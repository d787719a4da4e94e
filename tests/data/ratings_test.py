"""Explicit ratings: scales, labels, and clients whose batches hold rated items only."""

import numpy as np
import pytest

from fedinv_jax.data import clients, ratings, synthetic
from fedinv_jax.data import interactions as interactions_lib

STARS = ratings.Scale(1.0, 5.0, 1.0)
HALVES = ratings.Scale(0.5, 5.0, 0.5)


# Failed on labels r / high.
@pytest.mark.parametrize('scale', [STARS, HALVES, ratings.Scale(-10.0, 10.0, 0.01)])
def test_labels_are_the_ratings_of_a_scale(scale):
    given = np.arange(round(1 / scale.grid) + 1) * scale.step + scale.low
    labels = ratings.labels(given, scale)
    assert labels.dtype == np.float32
    assert (labels[0], labels[-1]) == (0, 1)
    np.testing.assert_allclose(scale.low + (scale.high - scale.low) * labels, given, atol=1e-5)
    np.testing.assert_allclose(np.diff(labels), scale.grid, atol=1e-6)


@pytest.mark.parametrize(
    ('given', 'scale', 'message'),
    [
        ([1, 2.5, 4], STARS, r'found 2.5: set data.rating_scale to \(1, 4, 1.5\)'),
        ([0.5, 1, 5], STARS, r'found 0.5: set data.rating_scale to \(0.5, 5, 0.5\)'),
        ([1, 6], STARS, r'of 1 to 5 in steps of 1 .* found 6'),
        ([3, 3], STARS, r'several different ratings .* found only \[3.\]'),
        ([1, 2], (5, 1, 1), r'Expected data.rating_scale=\(5, 1, 1\) to be'),
        ([1, 2], (1, 5, 3), 'a whole number of steps apart'),
        ([1, 2], (1, 5, 0), 'a whole number of steps apart'),
        ([1, 2], (1, float('nan'), 1), 'finite number'),
    ],
)
def test_ratings_off_the_scale_are_refused(given, scale, message):
    with pytest.raises(ValueError, match=message):
        ratings.labels(np.array(given), ratings.Scale(*scale))


# Failed on the builder that sampled negatives; and on one that left out who rated every item.
def test_batches_hold_the_rated_items_and_their_ratings():
    users, items = [1, 1, 1, 2, 2, 3], [7, 8, 9, 7, 9, 8]
    data = interactions_lib.make(users, items, ratings=[0.5, 5, 3.5, 1, 2, 4])
    groups = clients.build(data, labels='explicit', rating_scale=HALVES)
    found = {}
    for group in groups:
        assert not group.num_negatives.any()
        for user, own, labels, weights in zip(
            group.users, group.items, group.labels, group.weights, strict=True
        ):
            real = weights > 0
            rated = zip(own[real].tolist(), (0.5 + 4.5 * labels[real]).round(4), strict=True)
            found[int(user)] = dict(rated)
    assert found == {0: {0: 0.5, 1: 5.0, 2: 3.5}, 1: {0: 1.0, 2: 2.0}, 2: {1: 4.0}}
    assert not any(map(len, clients.negatives_of(groups).values()))
    mean = np.mean([0.5, 5, 3.5, 1, 2, 4])
    assert clients.public_share(groups) == pytest.approx((mean - 0.5) / 4.5)
    assert not interactions_lib.left_out(data, negatives=False)


# Failed on a mean over all raters, the victim with them.
def test_log_odds_of_ratings_are_damped_means():
    sums, numbers, mean = np.array([0.0, 1.75, 0.0]), np.array([0, 2, 3]), 0.6
    odds = clients.log_odds(sums, numbers, mean)
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), [0.6, 2.35 / 3, 0.6 / 4], rtol=1e-6)
    with pytest.raises(ValueError, match=r'counts_of_others in \[0, num_others=3\]'):
        clients.log_odds(np.array([2.0, 1.0]), np.array([1, 3]))


def test_synthetic_ratings():
    plain, rated = synthetic.generate(seed=1), synthetic.generate(seed=1, num_ratings=5)
    np.testing.assert_array_equal(plain.items, rated.items)
    assert set(plain.ratings.tolist()) == {1.0}
    assert set(rated.ratings.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    first = synthetic.generate(seed=1, num_users=30, num_ratings=5)
    np.testing.assert_array_equal(rated.ratings[: len(first.ratings)], first.ratings)
    total, count = np.bincount(rated.items, rated.ratings), np.bincount(rated.items)
    others = (total[rated.items] - rated.ratings) / np.maximum(count[rated.items] - 1, 1)
    many = count[rated.items] > 5  # an item's mean rating says something of another rating of it
    assert np.corrcoef(others[many], rated.ratings[many])[0, 1] > 0.4
    with pytest.raises(ValueError, match='num_ratings=0 >= 1'):
        synthetic.generate(num_ratings=0)
