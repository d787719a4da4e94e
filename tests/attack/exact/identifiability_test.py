"""What uploads determine, against brute force over all labels; certificates must be sound."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fedinv_jax.attack.exact import certificate, identifiability
from fedinv_jax.types import Guess


def binaries(size):
    return np.array(list(itertools.product((0, 1), repeat=size)))


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


@pytest.mark.parametrize('rank', [0, 1, 3, 6])
@pytest.mark.parametrize('rows', [6, 9])
def test_rank(rank, rows):
    rng = np.random.default_rng(rank)
    matrix = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, 6))
    # Columns of very different sizes count alike.
    matrix = matrix * np.logspace(-6, 6, 6)
    with jax.enable_x64():
        assert int(identifiability.rank(jnp.asarray(matrix), 1e-9)) == rank


def test_noise_rank_counts_what_stands_out():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 5)))[0] for n in (9, 5))
    matrix = left * np.array([100.0, 10.0, 3.1, 2.9, 0.1]) @ right.T
    with jax.enable_x64():
        assert int(noise_rank(jnp.asarray(matrix.T @ matrix))) == 3
        # The short way, of a factor, and a column of zeros.
        loud = np.hstack([100 * matrix[:, :1], np.zeros((9, 1))])
        assert int(noise_rank(jnp.asarray(loud.T @ loud))) == 1


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
        projected = identifiability.project(jnp.asarray(a), jnp.asarray(j))
    np.testing.assert_allclose(projected, a - q @ (q.T @ a), atol=1e-9)


# Failed on mutant: what rounding leaves kept, which box_unique scales up.
def test_what_private_parameters_imitate_is_zero():
    rng = np.random.default_rng(0)
    j = rng.normal(size=(30, 4))
    a = np.column_stack([1e6 * j @ rng.normal(size=4), rng.normal(size=30)])
    with jax.enable_x64():
        projected = np.asarray(identifiability.project(jnp.asarray(a), jnp.asarray(j)))
    np.testing.assert_array_equal(projected[:, 0], 0)
    assert np.linalg.norm(projected[:, 1]) > 1
    assert not identifiability.box_unique(projected, np.array([1, 0]))


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
        unique = identifiability.box_unique(matrix, y)
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
            identifiability.box_unique(rng.normal(size=(rows, 80)), rng.integers(0, 2, 80))
            for _ in range(10)
        )
    assert counts[32] <= 2
    assert 1 <= counts[40] <= 9
    assert counts[48] >= 8


def test_degenerate():
    unique = identifiability.box_unique
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
    assert identifiability.box_unique(matrix * np.logspace(-8, 8, 6), y)


def test_smallest_num_gradients():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 10)
    steps = [rng.normal(size=(2, 10)) for _ in range(6)]
    found = identifiability.smallest_num_gradients(steps, y)
    assert 2 <= found <= 5
    for count in range(1, 7):
        unique = not another(np.concatenate(steps[:count]), y)
        assert unique == (count >= found)
    assert identifiability.smallest_num_gradients(steps[: found - 1], y) is None
    assert identifiability.smallest_num_gradients([], y) is None


# Failed on mutant: the constraints that w violates not subtracted (`against` of 0).
@pytest.mark.parametrize('rows', [2, 4, 6, 7, 12])
@pytest.mark.parametrize('kind', ['gauss', 'integer', 'scaled', 'low_rank'])
def test_bounds_brute_force(rows, kind):
    size = 7
    rng = np.random.default_rng([rows, len(kind)])
    others = binaries(size)
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
        if np.min(each) > tolerance:
            assert identifiability.box_unique(matrix, y)


@pytest.mark.parametrize('rows', [5, 6, 9, 14])
def test_is_the_point_of_least_norm(rows):
    rng = np.random.default_rng(rows)
    seen = 0
    for _ in range(12):
        matrix, y = rng.normal(size=(rows, 7)), rng.integers(0, 2, 7)
        exact = nearest(matrix * (1 - 2 * y))
        each = margins(matrix, y)
        if identifiability.box_unique(matrix, y) and exact > 1e-3:
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


def test_is_the_inverse():
    rng = np.random.default_rng(0)
    matrix = 3 * rng.normal(size=(9, 5))
    gram = matrix.T @ matrix
    where = np.array([True, True, True, False, True])
    with jax.enable_x64():
        found = np.asarray(identifiability.predicted_error(jnp.asarray(gram), jnp.asarray(where)))
    expected = np.sqrt(np.diag(np.linalg.inv(gram)))
    np.testing.assert_allclose(found[where], expected[where], rtol=1e-9)
    assert found[3] == 0


def test_padding_that_is_not_in_the_uploads():
    gram = np.diag([4.0, 9.0, 0.0])
    where = jnp.array([True, True, False])
    with jax.enable_x64():
        found = identifiability.predicted_error(jnp.asarray(gram), where)
        np.testing.assert_allclose(found, [1 / 2, 1 / 3, 0])
        assert float(identifiability.predicted_flips(jnp.asarray(gram), where)) < 0.2


def test_undetermined_labels():
    matrix = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    with jax.enable_x64():
        gram, where = jnp.asarray(matrix.T @ matrix), jnp.ones(3, bool)
        found = identifiability.predicted_error(gram, where)
        np.testing.assert_allclose(found, [np.inf, np.inf, 0.5])
        zeros = jnp.zeros((2, 2))
        assert np.all(np.isinf(identifiability.predicted_error(zeros, where[:2])))
        assert float(identifiability.predicted_flips(zeros, where[:2])) == 0.5
        assert float(identifiability.predicted_flips(zeros, ~where[:2])) == 0


class Linear(NamedTuple):
    """What `certify` reads of a `Problem`: `residual = A y + J p - seen`, unit noise."""

    matrix: jax.Array
    private: jax.Array
    seen: jax.Array

    def residual(self, guess):
        return self.matrix @ guess.labels + self.private @ guess.latent - self.seen


# Failed on mutant: the noise of the upload itself left out.
@pytest.mark.parametrize('rows', [4, 8, 16])
@pytest.mark.parametrize('scale', [3.0, 30.0, 300.0])
@pytest.mark.parametrize('private', [False, True])
def test_certified_labels_are_the_true_ones(rows, scale, private):
    """Also where the answer is wrong: any answer within the noise may be handed in."""
    size = 6
    rng = np.random.default_rng([rows, int(scale), private])
    all_labels = binaries(size)
    certified = 0
    with jax.enable_x64():
        for _ in range(12):
            matrix = scale * rng.normal(size=(rows, size))
            j = scale * rng.normal(size=(rows, 2 if private else 0))
            truth = rng.integers(0, 2, size)
            p = rng.normal(size=j.shape[1])
            seen = matrix @ truth + j @ p + rng.normal(size=rows)
            # The best answer by brute force, with the best private state for each.
            q = np.linalg.qr(j)[0] if private else np.zeros((rows, 0))
            left = all_labels @ matrix.T - seen
            left = np.linalg.norm(left - (left @ q) @ q.T, axis=1)
            best = all_labels[np.argmin(left)]
            wrong = truth.copy()
            wrong[rng.integers(size)] ^= 1
            for answer in (best, truth, wrong):
                state = np.linalg.lstsq(j, seen - matrix @ answer)[0] if private else p
                found = run_certify(matrix, j, seen, answer.astype(float), state)
                exact = np.array_equal(answer, truth)
                if bool(found.certified):
                    certified += 1
                    assert exact
                    assert int(found.determined) == size
                    # And no other labels come as near.
                    others = left[np.any(all_labels != answer, axis=1)]
                    assert others.min() > left.min()
                assert bool(found.certified) == bool(found.margin > found.noise)
    if scale == 300.0 and rows == 16:
        assert certified > 6


@jax.jit
def run_certify(matrix, j, seen, answer, state):
    problem = Linear(jnp.asarray(matrix), jnp.asarray(j), jnp.asarray(seen))
    guess = Guess(jnp.asarray(answer), None, jnp.asarray(state))
    gram = problem.matrix.T @ problem.matrix
    if j.shape[1]:
        gram, _ = certificate.project_gram(problem, guess, gram, jnp.eye(j.shape[1]))
    where = jnp.ones(len(answer), bool)
    factor = identifiability.factor(gram)
    return certificate.certify(problem, guess, gram, factor, where, num_private=j.shape[1])


def test_project_gram_is_project():
    rng = np.random.default_rng(0)
    a, j = rng.normal(size=(9, 5)), rng.normal(size=(9, 3))
    with jax.enable_x64():
        problem = Linear(jnp.asarray(a), jnp.asarray(j), jnp.zeros(9))
        guess = Guess(jnp.zeros(5), None, jnp.zeros(3))
        # Tangents that repeat, and one that does nothing.
        tangents = jnp.asarray(np.vstack([np.eye(3), 2 * np.eye(3)[:1], np.zeros((1, 3))]))
        found, directions = certificate.project_gram(problem, guess, jnp.asarray(a.T @ a), tangents)
        projected = np.asarray(identifiability.project(jnp.asarray(a), jnp.asarray(j)))
    np.testing.assert_allclose(found, projected.T @ projected, atol=1e-9)
    # Singular values of J and its repeated row; none stands out of noise of size 1.
    values = np.linalg.svd(j @ np.asarray(tangents).T, compute_uv=False)
    assert int(directions) == np.sum(values > 3)


def test_nothing_is_certified_without_candidates_or_uploads():
    with jax.enable_x64():
        problem = Linear(jnp.eye(3), jnp.zeros((3, 0)), jnp.zeros(3))
        guess = Guess(jnp.zeros(3), None, jnp.zeros(0))
        one, zero, where = jnp.eye(3), jnp.zeros((3, 3)), jnp.ones(3, bool)
        none = certificate.certify(problem, guess, one, one, ~where)
        silent = certificate.certify(problem, guess, zero, identifiability.factor(zero), where)
    assert not none.certified
    assert not silent.certified
    assert int(silent.determined) == 0


# Failed on mutant: the margin alone decides.
def test_an_answer_that_noise_does_not_explain_is_not_certified():
    with jax.enable_x64():
        gram, where = jnp.diag(jnp.array([1e12, 1e12])), jnp.ones(2, bool)
        factor = identifiability.factor(gram)
        found = []
        for left in (1.0, 1e3):
            problem = Linear(
                1e6 * jnp.eye(2), jnp.zeros((2, 0)), 1e6 * jnp.ones(2) + left * jnp.ones(2)
            )
            guess = Guess(jnp.ones(2), None, jnp.zeros(0))
            found.append(certificate.certify(problem, guess, gram, factor, where))
    assert all(one.margin > one.noise for one in found)
    assert [bool(one.certified) for one in found] == [True, False]


def test_extra_doubt_is_taken_off():
    with jax.enable_x64():
        problem = Linear(50 * jnp.eye(3), jnp.zeros((3, 0)), 50 * jnp.ones(3))
        guess = Guess(jnp.ones(3), None, jnp.zeros(0))
        gram, where = 2500 * jnp.eye(3), jnp.ones(3, bool)
        factor = identifiability.factor(gram)
        sure, unsure, lost = (
            certificate.certify(problem, guess, gram, factor, where, extra=extra)
            for extra in (0.0, 100.0, jnp.nan)
        )
    assert sure.certified
    assert not unsure.certified
    assert not lost.certified
