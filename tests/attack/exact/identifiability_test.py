"""Margins and ranks that stand out of noise, against brute force over all labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fedinv_jax.attack.exact import analysis, identifiability
from tests.attack.exact.helpers import binaries


def nearest(signed):
    """The least norm in the convex hull of columns: LDP's dual by non-negative least squares."""
    size = max(np.max(np.linalg.norm(signed, axis=0)), 1e-30)
    stacked = np.vstack([signed / size, np.ones(signed.shape[1])])
    target = np.append(np.zeros(len(signed)), 1.0)
    x, _ = scipy.optimize.nnls(stacked, target, maxiter=1000)
    return np.linalg.norm(signed @ (x / x.sum()))


# Jitted once for all: a loop that is not is compiled at every call.
@jax.jit
def compiled(gram, labels, where, sufficient=jnp.inf):
    factor = identifiability.factor(gram)
    return identifiability.margins(gram, factor, labels, where, sufficient)


@jax.jit
def noise_rank(gram):
    return identifiability.noise_rank(gram, identifiability.factor(gram))


def margins(matrix, y, where=None):
    where = np.ones(len(y), bool) if where is None else where
    with jax.enable_x64():
        return np.asarray(
            compiled(jnp.asarray(matrix.T @ matrix), jnp.asarray(y) > 0.5, jnp.asarray(where))
        )


def test_noise_rank_counts_what_stands_out():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 5)))[0] for n in (9, 5))
    matrix = left * np.array([100.0, 10.0, 3.1, 2.9, 0.1]) @ right.T
    with jax.enable_x64():
        assert int(noise_rank(jnp.asarray(matrix.T @ matrix))) == 3
        # The short way, of a factor, and a column of zeros.
        loud = np.hstack([100 * matrix[:, :1], np.zeros((9, 1))])
        assert int(noise_rank(jnp.asarray(loud.T @ loud))) == 1


# Failed on mutant: the constraints that w violates not subtracted (`against` of 0).
@pytest.mark.parametrize('rows', [2, 4, 6, 7, 12])
@pytest.mark.parametrize('kind', ['gauss', 'integer', 'scaled', 'low_rank'])
def test_bounds_brute_force(rows, kind):
    size = 7
    rng = np.random.default_rng([rows, len(kind)])
    others, num_sure = binaries(size), 0
    for _ in range(8):
        matrix = rng.normal(size=(rows, size))
        if kind == 'integer':
            matrix = rng.integers(-1, 2, (rows, size)).astype(float)
        elif kind == 'scaled':
            matrix = matrix * np.logspace(-2, 2, size)
        elif kind == 'low_rank':
            matrix = rng.normal(size=(rows, 3)) @ rng.normal(size=(3, size))
        y = rng.integers(0, 2, size)
        each = margins(matrix, y)
        moved = np.linalg.norm((others - y) @ matrix.T, axis=1)
        tolerance = 2e-6 * np.max(np.linalg.norm(matrix, axis=0))
        for i in range(size):
            assert each[i] <= moved[others[:, i] != y[i]].min() + tolerance
        assert np.all(each >= 0)
        sure = np.min(each) > tolerance
        assert not sure or analysis.box_unique(matrix, y)
        num_sure += sure
    assert num_sure >= (8 if rows >= 6 and kind != 'low_rank' else 0)


@pytest.mark.parametrize('rows', [5, 6, 9, 14])
def test_is_the_point_of_least_norm(rows):
    rng = np.random.default_rng(rows)
    seen = 0
    for _ in range(12):
        matrix, y = rng.normal(size=(rows, 7)), rng.integers(0, 2, 7)
        exact = nearest(matrix * (1 - 2 * y))
        each = margins(matrix, y)
        if analysis.box_unique(matrix, y) and exact > 1e-3:
            seen += 1
            assert 0.99 * exact <= each.min() <= 1.001 * exact
        else:
            assert each.min() < 2e-3
    assert seen > 2


def test_padding_changes_nothing():
    rng = np.random.default_rng(0)
    matrix, y = rng.normal(size=(6, 5)), rng.integers(0, 2, 5)
    plain = margins(matrix, y)
    for column in (np.zeros((6, 2)), 100 * rng.normal(size=(6, 2))):
        padded = margins(np.hstack([matrix, column]), np.append(y, [1, 0]), np.arange(7) < 5)
        assert np.all(np.isinf(padded[5:]))
        assert padded.min() == pytest.approx(plain.min(), abs=1e-4)
        if not np.any(column):  # as padding is: its weight is 0
            np.testing.assert_allclose(padded[:5], plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('size', [1, 4])
@pytest.mark.parametrize('label', [0, 1])
def test_corners_are_finite(size, label):
    rng = np.random.default_rng(0)
    y = np.full(size, label)
    for matrix in (rng.normal(size=(5, size)), np.zeros((5, size)), np.ones((1, size))):
        each = margins(matrix, y)
        assert np.all(np.isfinite(each) & (each >= 0))
        if not np.any(matrix):
            np.testing.assert_array_equal(each, 0)
    # One upload that adds up positive numbers: none, or all, is the only answer.
    np.testing.assert_allclose(margins(np.ones((1, size)), y), 1, rtol=1e-2)


def test_a_zero_column_is_not_determined():
    each = margins(np.diag([3.0, 0.0, 2.0]), np.array([1, 0, 0]))
    assert each[1] == 0


def test_sufficient_margins_are_left_alone():
    rng = np.random.default_rng(0)
    matrix, y = 100 * rng.normal(size=(9, 4)), rng.integers(0, 2, 4)
    with jax.enable_x64():
        args = jnp.asarray(matrix.T @ matrix), jnp.asarray(y > 0), jnp.ones(4, bool)
        short = np.asarray(compiled(*args, 1.0))
        long = np.asarray(compiled(*args))
    assert short.min() > 1
    assert np.all(long >= short - 1e-9)


def test_vmap_is_a_loop():
    rng = np.random.default_rng(3)
    matrices, ys = rng.normal(size=(4, 6, 5)), rng.integers(0, 2, (4, 5))
    with jax.enable_x64():
        grams = jnp.asarray(np.swapaxes(matrices, 1, 2) @ matrices)
        together = jax.vmap(compiled)(grams, jnp.asarray(ys > 0), jnp.ones((4, 5), bool))
    loop = [margins(matrix, y) for matrix, y in zip(matrices, ys, strict=True)]
    np.testing.assert_allclose(together, loop, rtol=1e-5, atol=1e-6)
