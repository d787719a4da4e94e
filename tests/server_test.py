"""Aggregation against arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import server
from tests import reference

NAN = float('nan')
SHARED = {
    'items': {'embedding': jnp.zeros((4, 2)), 'bias': jnp.zeros(4)},
    'scorer': {'kernel': jnp.zeros(2)},
}
# Two clients with three rows (the second one's last row is padding, of item 0), one with two;
# the last client of the first group does not take part. What must not count is NaN.
GROUPS = (
    server.Uploads(
        {
            'items': {
                'embedding': jnp.array(
                    [
                        [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
                        [[7.0, 8.0], [9.0, 10.0], [NAN, NAN]],
                        [[NAN, NAN], [NAN, NAN], [NAN, NAN]],
                    ]
                ),
                'bias': jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, NAN], [NAN, NAN, NAN]]),
            },
            'scorer': {'kernel': jnp.array([[1.0, 2.0], [3.0, 4.0], [NAN, NAN]])},
        },
        jnp.array([[0, 1, 2], [1, 2, 0], [0, 1, 2]]),
        jnp.array([[True, True, True], [True, True, False], [True, True, True]]),
        jnp.array([True, True, False]),
    ),
    server.Uploads(
        {
            'items': {
                'embedding': jnp.array([[[20.0, 30.0], [40.0, 50.0]]]),
                'bias': jnp.array([[60.0, 70.0]]),
            },
            'scorer': {'kernel': jnp.array([[5.0, 9.0]])},
        },
        jnp.array([[2, 0]]),
        jnp.array([[True, True]]),
        jnp.array([True]),
    ),
)
SUM = np.array(
    [[1.0 + 40, 2.0 + 50], [3.0 + 7, 4.0 + 8], [5.0 + 9 + 20, 6.0 + 10 + 30], [0.0, 0.0]]
)
BIAS_SUM = np.array([1.0 + 70, 2.0 + 4, 3.0 + 5 + 60, 0.0])
SCORER_SUM = np.array([1.0 + 3 + 5, 2.0 + 4 + 9])
TOUCHED = np.array([2.0, 2.0, 3.0, 1.0])


def total_of(shared, groups):
    return functools.reduce(server.accumulate, groups, server.zero_total(shared))


def aggregate(shared, groups, aggregation):
    """A round's total, divided as the server is told."""
    return server.average(total_of(shared, groups), aggregation)


# Failed on: `active` ignored; `touched` ignored; the mean over the last group's clients only;
# `.set` for `.add`.
@pytest.mark.parametrize(
    ('how', 'embedding', 'bias'),
    [
        ('sum', SUM, BIAS_SUM),
        ('mean', SUM / 3, BIAS_SUM / 3),
        ('mean_over_touched', SUM / TOUCHED[:, None], BIAS_SUM / TOUCHED),
    ],
)
def test_items(how, embedding, bias):
    result = jax.jit(
        lambda shared, groups: aggregate(shared, groups, {'items': how, 'scorer': 'sum'})
    )(SHARED, GROUPS)
    np.testing.assert_allclose(result['items']['embedding'], embedding, rtol=1e-6)
    np.testing.assert_allclose(result['items']['bias'], bias, rtol=1e-6)


@pytest.mark.parametrize(('how', 'by'), [('sum', 1), ('mean', 3), ('mean_over_touched', 3)])
def test_scorer(how, by):
    result = aggregate(SHARED, GROUPS, {'items': 'sum', 'scorer': how})
    np.testing.assert_allclose(result['scorer']['kernel'], SCORER_SUM / by, rtol=1e-6)


# Failed on: `touched` ignored.
@pytest.mark.parametrize('items', server.AGGREGATIONS)
@pytest.mark.parametrize('scorer', server.AGGREGATIONS)
def test_reference(items, scorer):
    rng = np.random.default_rng(0)
    num_clients, size = 4, 3
    ids = np.stack([rng.permutation(4)[:size] for _ in range(num_clients)])
    touched = rng.random((num_clients, size)) < 0.7
    active = np.array([True, False, True, True])
    uploads = {
        'items': {
            'embedding': rng.normal(size=(num_clients, size, 2)),
            'bias': rng.normal(size=(num_clients, size)),
        },
        'scorer': {'kernel': rng.normal(size=(num_clients, 2))},
    }
    chosen = np.flatnonzero(active)
    expected = reference.aggregate(
        reference.to_float64(SHARED),
        [
            {
                'items': {k: v[c][touched[c]] for k, v in uploads['items'].items()},
                'scorer': {'kernel': uploads['scorer']['kernel'][c]},
            }
            for c in chosen
        ],
        [ids[c][touched[c]] for c in chosen],
        items,
        scorer,
    )
    with jax.enable_x64(True):
        shared = reference.to_float64(SHARED)
        seen = server.Uploads(
            jax.tree.map(jnp.asarray, uploads), *map(jnp.asarray, (ids, touched, active))
        )
        actual = aggregate(shared, [seen], {'items': items, 'scorer': scorer})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), actual, expected)


# Failed on: `.set` for `.add`.
def test_a_repeated_row_adds():
    seen = server.Uploads(
        {'items': jnp.array([[[1.0], [2.0]]]), 'scorer': {}},
        jnp.array([[1, 1]]),
        jnp.ones((1, 2), bool),
        jnp.array([True]),
    )
    result = aggregate({'items': jnp.zeros((2, 1)), 'scorer': {}}, [seen], {'items': 'sum'})
    np.testing.assert_array_equal(result['items'], [[0.0], [3.0]])


# Failed on: `value / num_active` without a guard.
@pytest.mark.parametrize('how', server.AGGREGATIONS)
def test_nobody(how):
    nobody = [group._replace(active=jnp.zeros_like(group.active)) for group in GROUPS]
    result = aggregate(SHARED, nobody, {'items': how, 'scorer': how})
    for leaf in jax.tree.leaves(result):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_what_is_not_seen_is_zero():
    blind = [group._replace(uploads={'items': group.uploads['items']}) for group in GROUPS]
    result = aggregate(SHARED, blind, {'items': 'sum', 'scorer': 'mean'})
    np.testing.assert_array_equal(result['scorer']['kernel'], np.zeros(2))
    np.testing.assert_allclose(result['items']['bias'], BIAS_SUM)


def test_no_scorer():
    seen = GROUPS[1]._replace(uploads={'items': GROUPS[1].uploads['items'], 'scorer': {}})
    shared = {'items': SHARED['items'], 'scorer': {}}
    result = aggregate(shared, [seen], {'items': 'sum', 'scorer': 'mean'})
    assert jax.tree.structure(result) == jax.tree.structure(shared)


# Failed on: the aggregate added.
def test_subtracts():
    sgd = server.server(optax.sgd(0.5))
    shared = jax.tree.map(lambda leaf: leaf + 1, SHARED)
    new, _ = server.apply(sgd, shared, server.init(sgd, shared), total_of(shared, GROUPS))
    np.testing.assert_allclose(new['items']['embedding'], 1 - 0.5 * SUM, rtol=1e-6)
    np.testing.assert_allclose(new['scorer']['kernel'], 1 - 0.5 * SCORER_SUM / 3, rtol=1e-6)


def test_server_momentum_carries_over():
    heavy = server.server(optax.sgd(1.0, momentum=0.5), scorer='sum')
    state = server.init(heavy, SHARED)
    shared, state = server.apply(heavy, SHARED, state, total_of(SHARED, GROUPS))
    shared, state = server.apply(heavy, shared, state, total_of(shared, GROUPS))
    # g, then g + g/2.
    np.testing.assert_allclose(shared['scorer']['kernel'], -2.5 * SCORER_SUM, rtol=1e-6)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'items': 'men'}, r"Expected items='men' to be one of sum, mean, mean_over_touched\."),
        ({'scorer': 'median'}, r"Expected scorer='median'"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        server.server(optax.sgd(1.0), **changes)
