"""Distances by hand, and where they have gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax.attack import distances
from tests.helpers import all_finite

PREDICTED = {'u': jnp.array([1.0, -2.0]), 'v': jnp.array([[3.0]])}
SEEN = {'u': jnp.array([2.0, 1.0]), 'v': jnp.array([[-1.0]])}


# Failed on: the predicted upload's norm as divisor.
def test_by_hand():
    expected = {
        distances.squared_distance: (1 + 9 + 16) / (4 + 1 + 1),
        distances.cosine_distance: 1 - (2 - 2 - 3) / np.sqrt(14 * 6),
        distances.squared_distance_per_leaf: ((1 + 9) / 5 + 16 / 1) / 2,
        distances.cosine_distance_per_leaf: ((1 - 0) + (1 + 1)) / 2,
    }
    for distance, value in expected.items():
        np.testing.assert_allclose(distance(PREDICTED, SEEN), value, rtol=1e-6)


# Failed on: no divisor.
@pytest.mark.parametrize('factor', [1e-5, 1.0, 1e5])
@pytest.mark.parametrize('cosine', [False, True])
@pytest.mark.parametrize('leaf', [False, True])
def test_scale_free_and_zero_at_equality(factor, cosine, leaf):
    distance = {
        (False, False): distances.squared_distance,
        (False, True): distances.squared_distance_per_leaf,
        (True, False): distances.cosine_distance,
        (True, True): distances.cosine_distance_per_leaf,
    }[cosine, leaf]
    a, b = (optax.tree.scale(factor, x) for x in (PREDICTED, SEEN))
    np.testing.assert_allclose(distance(a, b), distance(PREDICTED, SEEN), rtol=1e-5)
    np.testing.assert_allclose(distance(a, a), 0, atol=1e-6)
    if cosine:
        np.testing.assert_allclose(distance(optax.tree.scale(3.0, a), a), 0, atol=1e-6)
        negative = optax.tree.scale(-1.0, a)
        np.testing.assert_allclose(distance(negative, a), 2, rtol=1e-6)


# Failed on: one rsqrt of the product of both norms.
@pytest.mark.parametrize('scale', [0.0, 1e-10, 1e-7, 1.0])
def test_cosine_gradient_is_finite(scale):
    small = optax.tree.scale(scale, PREDICTED)
    for a, b in ((small, SEEN), (SEEN, small), (small, small)):
        for distance in (distances.cosine_distance, distances.cosine_distance_per_leaf):
            assert all_finite((distance(a, b), jax.grad(distance)(a, b)))


# Failed on: each leaf divided by its own norm alone.
def test_a_leaf_of_zeros_does_not_overflow():
    seen = {'a': jnp.ones(3), 'b': jnp.zeros(2)}
    predicted = {'a': jnp.ones(3), 'b': jnp.full(2, 5.0)}
    value, gradient = jax.value_and_grad(distances.squared_distance_per_leaf)(predicted, seen)
    np.testing.assert_allclose(value, 50 / 3e-12 / 2, rtol=1e-5)
    assert all_finite(gradient)


# Failed on: the floor left out.
@pytest.mark.parametrize('leaf', [False, True])
def test_squared_gradient_is_finite_at_zero(leaf):
    distance = distances.squared_distance_per_leaf if leaf else distances.squared_distance
    zero = optax.tree.zeros_like(PREDICTED)
    for a, b in ((zero, SEEN), (zero, zero), (optax.tree.scale(0.1, PREDICTED), zero)):
        assert all_finite((distance(a, b), jax.grad(distance)(a, b)))
    np.testing.assert_array_equal(distance(zero, zero), 0)
