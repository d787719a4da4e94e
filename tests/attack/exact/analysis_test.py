"""What uploads determine, against brute force over all labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fedinv_jax.attack.exact import analysis
from tests.attack.exact.helpers import binaries


def another(matrix, y):
    """Whether another vector of the box has the same uploads: push each label away from y."""
    for k, label in enumerate(y):
        sign = 1 - 2 * label
        result = scipy.optimize.linprog(
            -sign * np.eye(len(y))[k], A_eq=matrix, b_eq=matrix @ y, bounds=(0, 1)
        )
        if result.status == 0 and abs(result.x[k] - label) > 1e-6:
            return True
    return False


@pytest.mark.parametrize('rank', [0, 1, 2])
def test_project_against_qr(rank):
    rng = np.random.default_rng(0)
    a, j = rng.normal(size=(9, 4)), rng.normal(size=(9, 2)) * [1e-5, 1e5]
    if rank < 2:  # a private parameter that does nothing, or imitates the other
        j[:, 1] = rank * 3 * j[:, 0]
    if rank == 0:
        j[:] = 0
    q = np.linalg.qr(j[:, :rank])[0]
    with jax.enable_x64():
        projected = analysis.project(jnp.asarray(a), jnp.asarray(j))
    np.testing.assert_allclose(projected, a - q @ (q.T @ a), atol=1e-9)


# Failed on mutant: what rounding leaves kept, which box_unique scales up.
def test_what_private_parameters_imitate_is_zero():
    rng = np.random.default_rng(0)
    j = rng.normal(size=(30, 4))
    a = np.column_stack([1e6 * j @ rng.normal(size=4), rng.normal(size=30)])
    with jax.enable_x64():
        projected = np.asarray(analysis.project(jnp.asarray(a), jnp.asarray(j)))
    np.testing.assert_array_equal(projected[:, 0], 0)
    assert np.linalg.norm(projected[:, 1]) > 1
    assert not analysis.box_unique(projected, np.array([1, 0]))


@pytest.mark.parametrize('rows', [1, 2, 4, 6])
@pytest.mark.parametrize('size', [3, 6, 10])
@pytest.mark.parametrize('integer', [False, True])
def test_agrees_with_brute_force(rows, size, integer):
    rng = np.random.default_rng([rows, size, integer])
    for _ in range(3):
        matrix = rng.normal(size=(rows, size))
        if integer:  # ties: many binary vectors share their uploads
            matrix = rng.integers(-1, 2, (rows, size)).astype(float)
        y = rng.integers(0, 2, size)
        unique = analysis.box_unique(matrix, y)
        assert unique == (not another(matrix, y))
        same = np.sum(np.linalg.norm((binaries(size) - y) @ matrix.T, axis=1) < 1e-9)
        if unique:
            assert same == 1


def test_gaussian_systems_turn_unique_around_one_half():
    # Wendel: columns of random signs lie in a half space with probability 1/2 at rank = K/2.
    counts = {}
    for rows in (32, 40, 48):
        rng = np.random.default_rng(rows)
        counts[rows] = sum(
            analysis.box_unique(rng.normal(size=(rows, 80)), rng.integers(0, 2, 80))
            for _ in range(10)
        )
    assert counts[32] <= 2
    assert 1 <= counts[40] <= 9
    assert counts[48] >= 8


def test_degenerate():
    unique = analysis.box_unique
    assert not unique(np.array([[1.0, 0.0]]), np.array([1, 0]))  # a column of zeros
    assert not unique(np.array([[1.0, 1.0]]), np.array([1, 0]))  # twins that differ
    assert unique(np.array([[1.0, 1.0]]), np.array([1, 1]))  # twins at the corner
    assert unique(np.array([[2.0]]), np.array([1]))
    assert not unique(np.zeros((0, 2)), np.array([1, 0]))
    # Padding, even of columns that would spoil it.
    matrix = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert unique(matrix, np.array([1, 0]), np.array([1, 0]))
    assert unique(matrix, np.array([1, 0]), np.zeros(2))


def test_a_column_is_judged_by_its_direction():
    rng = np.random.default_rng(0)
    matrix, y = rng.normal(size=(6, 6)), rng.integers(0, 2, 6)
    assert analysis.box_unique(matrix * np.logspace(-8, 8, 6), y)


def test_smallest_num_gradients():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 10)
    steps = [rng.normal(size=(2, 10)) for _ in range(6)]
    found = analysis.smallest_num_gradients(steps, y)
    assert 2 <= found <= 5
    for count in range(1, 7):
        unique = not another(np.concatenate(steps[:count]), y)
        assert unique == (count >= found)
    assert analysis.smallest_num_gradients(steps[: found - 1], y) is None
    assert analysis.smallest_num_gradients([], y) is None


def test_is_the_inverse():
    rng = np.random.default_rng(0)
    matrix = 3 * rng.normal(size=(9, 5))
    gram = matrix.T @ matrix
    where = np.array([True, True, True, False, True])
    with jax.enable_x64():
        found = np.asarray(analysis.predicted_error(jnp.asarray(gram), jnp.asarray(where)))
    expected = np.sqrt(np.diag(np.linalg.inv(gram)))
    np.testing.assert_allclose(found[where], expected[where], rtol=1e-9)
    assert found[3] == 0


def test_padding_that_is_not_in_the_uploads():
    gram = np.diag([4.0, 9.0, 0.0])
    where = jnp.array([True, True, False])
    with jax.enable_x64():
        found = analysis.predicted_error(jnp.asarray(gram), where)
        np.testing.assert_allclose(found, [1 / 2, 1 / 3, 0])
        assert float(analysis.predicted_flips(jnp.asarray(gram), where)) < 0.2


def test_undetermined_labels():
    matrix = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    with jax.enable_x64():
        gram, where = jnp.asarray(matrix.T @ matrix), jnp.ones(3, bool)
        found = analysis.predicted_error(gram, where)
        np.testing.assert_allclose(found, [np.inf, np.inf, 0.5])
        zeros = jnp.zeros((2, 2))
        assert np.all(np.isinf(analysis.predicted_error(zeros, where[:2])))
        assert float(analysis.predicted_flips(zeros, where[:2])) == 0.5
        assert float(analysis.predicted_flips(zeros, ~where[:2])) == 0
