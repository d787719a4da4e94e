"""Whether uploads fit: yes, no, or it cannot be told."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax.attack.exact import consistency, identifiability

pytestmark = pytest.mark.usefixtures('float64')


# Failed on `size >= 0` for `size > num_unknowns`, and without `many`.
@pytest.mark.parametrize(
    ('residual', 'unknowns', 'determined', 'expected'),
    [
        (np.ones(100), 99, True, 1),
        (np.ones(100), 100, True, -1),  # as many equations as unknowns: anything fits
        (np.r_[np.ones(100), np.zeros(100)], 150, True, -1),  # zeros are no equations
        (np.full(100, 6.0), 10, True, 0),
        (np.full(100, 6.0), 10, False, -1),  # other labels might fit
        (np.r_[np.ones(97), 1e3, 1e3, 1e3], 10, True, -1),  # a ReLU that rounding turns on
        (np.full(100, np.nan), 10, True, -1),
        (np.zeros(100), 10, True, -1),
    ],
)
def test_fits(residual, unknowns, determined, expected):
    assert consistency.fits(jnp.asarray(residual), unknowns, determined) == expected


# The bound itself: of labels beyond 1/4 from those of least squares none leaves as little. Failed
# on `variance` without the scale of the columns.
def test_determined_labels_are_the_only_ones_that_may_fit():
    rng = np.random.default_rng(0)
    told = []
    for scale in (3.0, 30.0, 300.0):
        matrix = scale * rng.normal(size=(40, 6)) * rng.uniform(0.5, 2, 6)
        gram = jnp.asarray(matrix.T @ matrix)
        factor, where = identifiability.factor(gram), jnp.ones(6, bool)
        change = np.linalg.inv(matrix.T @ matrix)
        nearest = np.min((1 / 4) ** 2 / np.diag(change))  # least |A d|^2 with some |d_k| = 1/4
        told.append(bool(consistency.determined(gram, factor, where, 40)))
        assert told[-1] == (nearest > 4.0 * 40)
    assert told[0] < told[-1]


def test_labels_that_nothing_tells_are_not_determined():
    gram = jnp.diag(jnp.array([1e9, 1e-9]))
    factor = identifiability.factor(gram)
    assert not consistency.determined(gram, factor, jnp.ones(2, bool), 10)
    padded = jnp.diag(jnp.array([1e9, 0.0]))
    factor = identifiability.factor(padded)
    assert consistency.determined(padded, factor, jnp.array([True, False]), 10)
