"""Quadratic programs against scipy and brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fedinv_jax.attack import box_qp

K = 8


def system(rows, kind, seed=0):
    """A matrix `[rows, K]` and a target near the image of binary labels, float64."""
    rng = np.random.default_rng([seed, rows])
    matrix = rng.normal(size=(rows, K))
    if kind == 'ill':
        matrix = matrix * np.logspace(0, -4, rows)[:, None]
    elif kind == 'low_rank':
        matrix = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, K))
    elif kind == 'scaled':
        matrix = matrix * np.logspace(-3, 3, K)
    elif kind == 'duplicate':
        matrix[:, 1] = matrix[:, 0]
    elif kind == 'zero':
        matrix[:, 3] = 0
    target = matrix @ rng.integers(0, 2, K) + 0.1 * rng.normal(size=rows)
    return matrix, target


def cost(matrix, target, x):
    return np.sum((matrix @ np.asarray(x) - target) ** 2) / 2


def normal(matrix, target):
    return jnp.asarray(matrix.T @ matrix), jnp.asarray(matrix.T @ target)


# Jitted once for all: a loop that is not is compiled at every call.
box = jax.jit(box_qp.box_least_squares)
flip_descent = jax.jit(box_qp.flip_descent)
cholesky = jax.jit(box_qp.cholesky)


@jax.jit
def least_squares(gram, rhs):
    return box_qp.least_squares(gram, box_qp.cholesky(gram), rhs)


@jax.jit
def free(gram, rhs, diagonal, lower=0.0, upper=1.0):
    return box_qp.box_least_squares_matrix_free(lambda x: gram @ x, rhs, diagonal, lower, upper)


KINDS = ('well', 'ill', 'low_rank', 'scaled', 'duplicate', 'zero')


# Failed on mutant: the centring term of the corrector left out.
@pytest.mark.parametrize('rows', [4, 8, 30])
@pytest.mark.parametrize('kind', KINDS)
def test_dense_agrees_with_scipy(rows, kind):
    matrix, target = system(rows, kind)
    for low, high in ((0.0, 1.0), (-0.3, 0.2)):
        best = scipy.optimize.lsq_linear(matrix, target, (low, high), method='bvls').cost
        with jax.enable_x64():
            x = np.asarray(box(*normal(matrix, target), lower=low, upper=high))
        assert np.all((x >= low) & (x <= high))
        assert cost(matrix, target, x) - best < 1e-8 * max(best, 1)


@pytest.mark.parametrize('rows', [4, 8, 30])
@pytest.mark.parametrize('kind', KINDS)
def test_matrix_free_agrees_with_scipy(rows, kind):
    matrix, target = system(rows, kind)
    best = scipy.optimize.lsq_linear(matrix, target, (0, 1), method='bvls').cost
    with jax.enable_x64():
        gram, rhs = normal(matrix, target)
        for diagonal in (jnp.diag(gram), jnp.diag(gram) * jnp.linspace(0.5, 2, K)):
            x = np.asarray(free(gram, rhs, diagonal))
            assert np.all((x >= 0) & (x <= 1))
            assert cost(matrix, target, x) - best < 1e-5 * max(best, 1)


def test_bounds_of_each_coordinate():
    matrix, target = system(30, 'well')
    rng = np.random.default_rng(1)
    low = rng.uniform(-1, 0.3, K)
    high = low + rng.uniform(0.1, 1, K)
    best = scipy.optimize.lsq_linear(matrix, target, (low, high), method='bvls')
    with jax.enable_x64():
        gram, rhs = normal(matrix, target)
        dense = box(gram, rhs, jnp.asarray(low), jnp.asarray(high))
        loose = free(gram, rhs, jnp.diag(gram), jnp.asarray(low), jnp.asarray(high))
    np.testing.assert_allclose(dense, best.x, atol=1e-6)
    np.testing.assert_allclose(loose, best.x, atol=1e-5)


def test_binary_optima_on_the_boundary_are_reached():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        matrix, y = rng.normal(size=(12, K)), rng.integers(0, 2, K)
        with jax.enable_x64():
            x = box(*normal(matrix, matrix @ y))
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_zeros_are_finite():
    with jax.enable_x64():
        zeros = jnp.zeros((3, 3)), jnp.zeros(3)
        dense = box(*zeros)
        loose = free(*zeros, jnp.zeros(3))
        np.testing.assert_allclose(dense, 0.5, atol=1e-6)
        assert np.all(np.isfinite(loose))
        np.testing.assert_array_equal(least_squares(*zeros), np.zeros(3))


def test_an_uninformed_label_stays_at_the_centre():
    matrix, target = system(30, 'zero')
    with jax.enable_x64():
        x = box(*normal(matrix, target))
    assert float(x[3]) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize('which', ['box', 'free', 'polish'])
def test_vmap_is_a_loop(which):
    def solve(gram, rhs):
        if which == 'box':
            return box(gram, rhs)
        if which == 'free':
            return free(gram, rhs, jnp.diag(gram))
        return flip_descent(gram, rhs, rhs > 0)[0].astype(float)

    with jax.enable_x64():
        systems = [normal(*system(9, kind)) for kind in ('well', 'ill', 'scaled', 'well')]
        gram, rhs = (jnp.stack(parts) for parts in zip(*systems, strict=True))
        together = jax.vmap(solve)(gram, rhs)
        loop = jnp.stack([solve(*pair) for pair in systems])
    # Not more: of an ill-conditioned system the iterates stop where rounding does.
    np.testing.assert_allclose(together, loop, atol=1e-6)


def test_least_squares_agrees_with_numpy():
    matrix, target = system(30, 'scaled')
    with jax.enable_x64():
        x = least_squares(*normal(matrix, target))
    expected = np.linalg.lstsq(matrix, target)[0]
    np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-8)


# Failed on mutant: the level not scaled with its column.
@pytest.mark.parametrize('kind', ['well', 'scaled', 'zero'])
def test_a_factor_tells_whether_all_singular_values_are_above_a_level(kind):
    matrix, _ = system(30, kind)
    values = np.linalg.svd(matrix, compute_uv=False)
    least = np.min(values[values > 1e-9]) ** 2
    with jax.enable_x64():
        gram = jnp.asarray(matrix.T @ matrix)
        assert np.all(np.isfinite(cholesky(gram, 0.99 * least)))
        assert np.all(np.isnan(np.diag(cholesky(gram, 1.01 * least))))


def test_a_level_is_refined_away():
    matrix, target = system(30, 'well')
    with jax.enable_x64():
        gram, rhs = normal(matrix, target)
        factor = cholesky(gram, 1e-3)
        once = box_qp.approximate(gram, factor, rhs)
        twice = box_qp.least_squares(gram, factor, rhs)
    expected = np.linalg.lstsq(matrix, target)[0]
    assert np.max(np.abs(once - expected)) > 1e-6
    np.testing.assert_allclose(twice, expected, atol=1e-7)


# Failed on mutant: the cross term of a pair of flips with the wrong sign.
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rows', [4, 12])
@pytest.mark.parametrize('seed', [0, 1])
def test_no_flip_of_one_or_two_helps(kind, rows, seed):
    matrix, target = system(rows, kind, seed)
    start = np.random.default_rng(seed + 7).integers(0, 2, K).astype(bool)
    with jax.enable_x64():
        end, raised = flip_descent(*normal(matrix, target), jnp.asarray(start))
    end, raised = np.asarray(end), np.asarray(raised)
    tolerance = 1e-9 * np.max(np.sum(matrix**2, 0))
    at = cost(matrix, target, end)
    assert at <= cost(matrix, target, start) + tolerance
    least = np.full(K, np.inf)
    for i, j in itertools.combinations_with_replacement(range(K), 2):
        other = end.copy()
        other[[i, j]] ^= True
        rise = cost(matrix, target, other) - at
        assert rise >= -tolerance
        least[[i, j]] = np.minimum(least[[i, j]], rise)
    np.testing.assert_allclose(raised, least, atol=10 * tolerance)


def test_one_label():
    with jax.enable_x64():
        for rhs, expected in ((0.9, True), (0.1, False)):
            end, raised = flip_descent(jnp.eye(1), jnp.array([rhs]), jnp.array([not expected]))
            assert bool(end[0]) == expected
            np.testing.assert_allclose(raised, [0.4])
