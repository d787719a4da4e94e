"""The generator has the statistics it promises."""

import numpy as np
import pytest

from fedinv_jax.data import clients, synthetic


def _gini(counts):
    counts = np.sort(counts)
    share = np.cumsum(counts) / counts.sum()
    return 1 - 2 * np.mean(share) + 1 / len(counts)


def _popularity_auc(data):
    counts = clients.item_counts(data)
    aucs = []
    for group in clients.build(data):
        for items, labels, weights in zip(group.items, group.labels, group.weights, strict=True):
            score = counts[items] - (labels > 0)
            positive, negative = score[labels > 0], score[(labels == 0) & (weights > 0)]
            difference = positive[:, None] - negative
            aucs.append(np.mean(difference > 0) + 0.5 * np.mean(difference == 0))
    return np.mean(aucs)


@pytest.mark.parametrize('seed', [0, 1])
def test_defaults_look_like_real_data(seed):
    data = synthetic.generate(seed=seed)
    activity = np.bincount(data.users)
    counts = clients.item_counts(data)
    assert (data.num_users, data.num_items) == (200, 400)
    assert 0.80 < _popularity_auc(data) < 0.88  # MovieLens-100K: .86
    assert 0.55 < _gini(counts) < 0.70  # .63
    assert 0.35 < _gini(activity) < 0.50  # .47
    assert activity.min() >= 8
    assert activity.max() <= 80


def test_neutral_parameters():
    # Mutants that fail: popularity or sigma ignored.
    flat = synthetic.generate(popularity_exponent=0, taste_strength=0, activity_sigma=0)
    assert set(np.bincount(flat.users)) == {20}
    assert _gini(clients.item_counts(flat)) < 0.2
    assert abs(_popularity_auc(flat) - 0.5) < 0.03


def test_choices_follow_the_softmax():
    # The first choice of a user is a softmax draw: chi-squared, 19 degrees, 99.9% point 43.8.
    # Mutant that fails: exponent applied twice; normal noise instead of Gumbel.
    data = synthetic.generate(
        num_users=4000,
        num_items=20,
        taste_strength=0,
        min_activity=1,
        popularity_exponent=1,
        popularity_offset=0.05,
    )
    first = np.sort(np.bincount(data.items[data.timestamps == 0], minlength=20))[::-1]
    logits = -np.log(np.arange(20) / 20 + 0.05)
    expected = 4000 * np.exp(logits) / np.exp(logits).sum()
    assert np.sum((first - expected) ** 2 / expected) < 43.8


def test_taste_is_shared_structure():
    # Mutant that fails: a fresh item taste for every user.
    def top_share(strength):
        data = synthetic.generate(popularity_exponent=0, taste_strength=strength, taste_dim=2)
        table = np.zeros((200, 400))
        table[data.users, data.items] = 1
        spectrum = np.linalg.svd(table - table.mean(0), compute_uv=False) ** 2
        return spectrum[:2].sum() / spectrum.sum()

    assert top_share(2.0) > 2 * top_share(0.0)


def test_seeded_and_first_users_stay():
    # Mutants that fail: seed ignored; all activities drawn before the tastes.
    data, again = synthetic.generate(seed=3), synthetic.generate(seed=3)
    fewer, other = synthetic.generate(seed=3, num_users=50), synthetic.generate(seed=4)
    assert np.array_equal(data.items, again.items)
    assert np.array_equal(data.items[data.users < 50], fewer.items)
    assert not np.array_equal(data.items[:100], other.items[:100])


def test_distinct_and_in_order_of_choice():
    data = synthetic.generate()
    assert len(set(zip(data.users.tolist(), data.items.tolist(), strict=True))) == len(data.users)
    steps = np.diff(data.timestamps)
    assert np.array_equal(steps == 1, np.diff(data.users) == 0)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'num_users': 0}, 'num_users=0 >= 1'),
        ({'taste_dim': 0}, 'taste_dim=0 >= 1'),
        ({'num_items': 30}, 'min_activity=8 <= max_activity=6 <= num_items=30'),
        ({'max_activity': 500}, 'max_activity=500 <= num_items=400'),
        ({'median_activity': 0}, 'median_activity=0 > 0'),
        ({'popularity_offset': 0.0}, 'popularity_offset=0.0 > 0'),
    ],
)
def test_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        synthetic.generate(**kwargs)
