"""What uploads determine, against brute force over all labels; certificates must be sound."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from fedinv_jax.attack.exact import analysis, certificate, identifiability
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


class RankTest(parameterized.TestCase):
    def test_noise_rank_counts_what_stands_out(self):
        rng = np.random.default_rng(0)
        left, right = (np.linalg.qr(rng.normal(size=(n, 5)))[0] for n in (9, 5))
        matrix = left * np.array([100.0, 10.0, 3.1, 2.9, 0.1]) @ right.T
        with jax.enable_x64():
            self.assertEqual(int(noise_rank(jnp.asarray(matrix.T @ matrix))), 3)
            # The short way, of a factor, and a column of zeros.
            loud = np.hstack([100 * matrix[:, :1], np.zeros((9, 1))])
            self.assertEqual(int(noise_rank(jnp.asarray(loud.T @ loud))), 1)

    @parameterized.parameters(0, 1, 2)
    def test_project_against_qr(self, rank):
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
    def test_what_private_parameters_imitate_is_zero(self):
        rng = np.random.default_rng(0)
        j = rng.normal(size=(30, 4))
        a = np.column_stack([1e6 * j @ rng.normal(size=4), rng.normal(size=30)])
        with jax.enable_x64():
            projected = np.asarray(analysis.project(jnp.asarray(a), jnp.asarray(j)))
        np.testing.assert_array_equal(projected[:, 0], 0)
        self.assertGreater(np.linalg.norm(projected[:, 1]), 1)
        self.assertFalse(analysis.box_unique(projected, np.array([1, 0])))


class BoxUniqueTest(parameterized.TestCase):
    @parameterized.product(rows=(1, 2, 4, 6), size=(3, 6, 10), integer=(False, True))
    def test_agrees_with_brute_force(self, rows, size, integer):
        rng = np.random.default_rng([rows, size, integer])
        for _ in range(3):
            matrix = rng.normal(size=(rows, size))
            if integer:  # ties: many binary vectors share their uploads
                matrix = rng.integers(-1, 2, (rows, size)).astype(float)
            y = rng.integers(0, 2, size)
            unique = analysis.box_unique(matrix, y)
            self.assertEqual(unique, not another(matrix, y))
            same = np.sum(np.linalg.norm((binaries(size) - y) @ matrix.T, axis=1) < 1e-9)
            if unique:
                self.assertEqual(same, 1)

    def test_gaussian_systems_turn_unique_around_one_half(self):
        # Wendel: columns of random signs lie in a half space with probability 1/2 at rank = K/2.
        counts = {}
        for rows in (32, 40, 48):
            rng = np.random.default_rng(rows)
            counts[rows] = sum(
                analysis.box_unique(rng.normal(size=(rows, 80)), rng.integers(0, 2, 80))
                for _ in range(10)
            )
        self.assertLessEqual(counts[32], 2)
        self.assertBetween(counts[40], 1, 9)
        self.assertGreaterEqual(counts[48], 8)

    def test_degenerate(self):
        unique = analysis.box_unique
        self.assertFalse(unique(np.array([[1.0, 0.0]]), np.array([1, 0])))  # a column of zeros
        self.assertFalse(unique(np.array([[1.0, 1.0]]), np.array([1, 0])))  # twins that differ
        self.assertTrue(unique(np.array([[1.0, 1.0]]), np.array([1, 1])))  # twins at the corner
        self.assertTrue(unique(np.array([[2.0]]), np.array([1])))
        self.assertFalse(unique(np.zeros((0, 2)), np.array([1, 0])))
        # Padding, even of columns that would spoil it.
        matrix = np.array([[1.0, 0.0], [0.0, 0.0]])
        self.assertTrue(unique(matrix, np.array([1, 0]), np.array([1, 0])))
        self.assertTrue(unique(matrix, np.array([1, 0]), np.zeros(2)))

    def test_a_column_is_judged_by_its_direction(self):
        rng = np.random.default_rng(0)
        matrix, y = rng.normal(size=(6, 6)), rng.integers(0, 2, 6)
        self.assertTrue(analysis.box_unique(matrix * np.logspace(-8, 8, 6), y))

    def test_smallest_num_gradients(self):
        rng = np.random.default_rng(1)
        y = rng.integers(0, 2, 10)
        steps = [rng.normal(size=(2, 10)) for _ in range(6)]
        found = analysis.smallest_num_gradients(steps, y)
        self.assertBetween(found, 2, 5)
        for count in range(1, 7):
            unique = not another(np.concatenate(steps[:count]), y)
            self.assertEqual(unique, count >= found)
        self.assertIsNone(analysis.smallest_num_gradients(steps[: found - 1], y))
        self.assertIsNone(analysis.smallest_num_gradients([], y))


class MarginsTest(parameterized.TestCase):
    # Failed on mutant: the constraints that w violates not subtracted (`against` of 0).
    @parameterized.product(rows=(2, 4, 6, 7, 12), kind=('gauss', 'integer', 'scaled', 'low_rank'))
    def test_bounds_brute_force(self, rows, kind):
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
                self.assertLessEqual(each[i], moved[others[:, i] != y[i]].min() + tolerance)
            self.assertTrue(np.all(each >= 0))
            if np.min(each) > tolerance:
                self.assertTrue(analysis.box_unique(matrix, y))

    @parameterized.parameters(5, 6, 9, 14)
    def test_is_the_point_of_least_norm(self, rows):
        rng = np.random.default_rng(rows)
        seen = 0
        for _ in range(12):
            matrix, y = rng.normal(size=(rows, 7)), rng.integers(0, 2, 7)
            exact = nearest(matrix * (1 - 2 * y))
            each = margins(matrix, y)
            if analysis.box_unique(matrix, y) and exact > 1e-3:
                seen += 1
                self.assertBetween(each.min(), 0.99 * exact, 1.001 * exact)
            else:
                self.assertLess(each.min(), 2e-3)
        self.assertGreater(seen, 2)

    def test_padding_changes_nothing(self):
        rng = np.random.default_rng(0)
        matrix, y = rng.normal(size=(6, 5)), rng.integers(0, 2, 5)
        plain = margins(matrix, y)
        for column in (np.zeros((6, 2)), 100 * rng.normal(size=(6, 2))):
            padded = margins(np.hstack([matrix, column]), np.append(y, [1, 0]), np.arange(7) < 5)
            self.assertTrue(np.all(np.isinf(padded[5:])))
            self.assertAlmostEqual(padded.min(), plain.min(), delta=1e-4)
            if not np.any(column):  # as padding is: its weight is 0
                np.testing.assert_allclose(padded[:5], plain, rtol=1e-3, atol=1e-5)

    @parameterized.product(size=(1, 4), label=(0, 1))
    def test_corners_are_finite(self, size, label):
        rng = np.random.default_rng(0)
        y = np.full(size, label)
        for matrix in (rng.normal(size=(5, size)), np.zeros((5, size)), np.ones((1, size))):
            each = margins(matrix, y)
            self.assertTrue(np.all(np.isfinite(each) & (each >= 0)))
            if not np.any(matrix):
                np.testing.assert_array_equal(each, 0)
        # One upload that adds up positive numbers: none, or all, is the only answer.
        np.testing.assert_allclose(margins(np.ones((1, size)), y), 1, rtol=1e-2)

    def test_a_zero_column_is_not_determined(self):
        each = margins(np.diag([3.0, 0.0, 2.0]), np.array([1, 0, 0]))
        self.assertEqual(each[1], 0)

    def test_sufficient_margins_are_left_alone(self):
        rng = np.random.default_rng(0)
        matrix, y = 100 * rng.normal(size=(9, 4)), rng.integers(0, 2, 4)
        with jax.enable_x64():
            args = jnp.asarray(matrix.T @ matrix), jnp.asarray(y > 0), jnp.ones(4, bool)
            short = np.asarray(compiled(*args, 1.0))
            long = np.asarray(compiled(*args))
        self.assertGreater(short.min(), 1)
        self.assertTrue(np.all(long >= short - 1e-9))

    def test_vmap_is_a_loop(self):
        rng = np.random.default_rng(3)
        matrices, ys = rng.normal(size=(4, 6, 5)), rng.integers(0, 2, (4, 5))
        with jax.enable_x64():
            grams = jnp.asarray(np.swapaxes(matrices, 1, 2) @ matrices)
            together = jax.vmap(compiled)(grams, jnp.asarray(ys > 0), jnp.ones((4, 5), bool))
        loop = [margins(matrix, y) for matrix, y in zip(matrices, ys, strict=True)]
        np.testing.assert_allclose(together, loop, rtol=1e-5, atol=1e-6)


class PredictedErrorTest(absltest.TestCase):
    def test_is_the_inverse(self):
        rng = np.random.default_rng(0)
        matrix = 3 * rng.normal(size=(9, 5))
        gram = matrix.T @ matrix
        where = np.array([True, True, True, False, True])
        with jax.enable_x64():
            found = np.asarray(analysis.predicted_error(jnp.asarray(gram), jnp.asarray(where)))
        expected = np.sqrt(np.diag(np.linalg.inv(gram)))
        np.testing.assert_allclose(found[where], expected[where], rtol=1e-9)
        self.assertEqual(found[3], 0)

    def test_padding_that_is_not_in_the_uploads(self):
        gram = np.diag([4.0, 9.0, 0.0])
        where = jnp.array([True, True, False])
        with jax.enable_x64():
            found = analysis.predicted_error(jnp.asarray(gram), where)
            np.testing.assert_allclose(found, [1 / 2, 1 / 3, 0])
            self.assertLess(float(analysis.predicted_flips(jnp.asarray(gram), where)), 0.2)

    def test_undetermined_labels(self):
        matrix = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
        with jax.enable_x64():
            gram, where = jnp.asarray(matrix.T @ matrix), jnp.ones(3, bool)
            found = analysis.predicted_error(gram, where)
            np.testing.assert_allclose(found, [np.inf, np.inf, 0.5])
            zeros = jnp.zeros((2, 2))
            self.assertTrue(np.all(np.isinf(analysis.predicted_error(zeros, where[:2]))))
            self.assertEqual(float(analysis.predicted_flips(zeros, where[:2])), 0.5)
            self.assertEqual(float(analysis.predicted_flips(zeros, ~where[:2])), 0)


class Linear(NamedTuple):
    """What `certify` reads of a `Problem`: `residual = A y + J p - seen`, unit noise."""

    matrix: jax.Array
    private: jax.Array
    seen: jax.Array

    def residual(self, guess):
        return self.matrix @ guess.labels + self.private @ guess.latent - self.seen


class CertifyTest(parameterized.TestCase):
    # Failed on mutant: the noise of the upload itself left out.
    @parameterized.product(rows=(4, 8, 16), scale=(3.0, 30.0, 300.0), private=(False, True))
    def test_certified_labels_are_the_true_ones(self, rows, scale, private):
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
                    found = self.run_certify(matrix, j, seen, answer.astype(float), state)
                    exact = np.array_equal(answer, truth)
                    if bool(found.certified):
                        certified += 1
                        self.assertTrue(exact)
                        self.assertEqual(int(found.determined), size)
                        # And no other labels come as near.
                        others = left[np.any(all_labels != answer, axis=1)]
                        self.assertGreater(others.min(), left.min())
                    self.assertEqual(bool(found.certified), bool(found.margin > found.noise))
        if scale == 300.0 and rows == 16:
            self.assertGreater(certified, 6)

    @staticmethod
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

    def test_project_gram_is_project(self):
        rng = np.random.default_rng(0)
        a, j = rng.normal(size=(9, 5)), rng.normal(size=(9, 3))
        with jax.enable_x64():
            problem = Linear(jnp.asarray(a), jnp.asarray(j), jnp.zeros(9))
            guess = Guess(jnp.zeros(5), None, jnp.zeros(3))
            # Tangents that repeat, and one that does nothing.
            tangents = jnp.asarray(np.vstack([np.eye(3), 2 * np.eye(3)[:1], np.zeros((1, 3))]))
            found, directions = certificate.project_gram(
                problem, guess, jnp.asarray(a.T @ a), tangents
            )
            projected = np.asarray(analysis.project(jnp.asarray(a), jnp.asarray(j)))
        np.testing.assert_allclose(found, projected.T @ projected, atol=1e-9)
        # Singular values of J and its repeated row; none stands out of noise of size 1.
        values = np.linalg.svd(j @ np.asarray(tangents).T, compute_uv=False)
        self.assertEqual(int(directions), np.sum(values > 3))

    def test_nothing_is_certified_without_candidates_or_uploads(self):
        with jax.enable_x64():
            problem = Linear(jnp.eye(3), jnp.zeros((3, 0)), jnp.zeros(3))
            guess = Guess(jnp.zeros(3), None, jnp.zeros(0))
            one, zero, where = jnp.eye(3), jnp.zeros((3, 3)), jnp.ones(3, bool)
            none = certificate.certify(problem, guess, one, one, ~where)
            silent = certificate.certify(problem, guess, zero, identifiability.factor(zero), where)
        self.assertFalse(bool(none.certified))
        self.assertFalse(bool(silent.certified))
        self.assertEqual(int(silent.determined), 0)

    # Failed on mutant: the margin alone decides.
    def test_an_answer_that_noise_does_not_explain_is_not_certified(self):
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
        self.assertTrue(all(one.margin > one.noise for one in found))
        self.assertEqual([bool(one.certified) for one in found], [True, False])

    def test_extra_doubt_is_taken_off(self):
        with jax.enable_x64():
            problem = Linear(50 * jnp.eye(3), jnp.zeros((3, 0)), 50 * jnp.ones(3))
            guess = Guess(jnp.ones(3), None, jnp.zeros(0))
            gram, where = 2500 * jnp.eye(3), jnp.ones(3, bool)
            factor = identifiability.factor(gram)
            sure, unsure, lost = (
                certificate.certify(problem, guess, gram, factor, where, extra=extra)
                for extra in (0.0, 100.0, jnp.nan)
            )
        self.assertTrue(bool(sure.certified))
        self.assertFalse(bool(unsure.certified))
        self.assertFalse(bool(lost.certified))


if __name__ == '__main__':
    absltest.main()
