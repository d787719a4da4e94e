"""Certificates must be sound: against brute force over all labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax.attack.exact import analysis, certificate, identifiability
from fedinv_jax.types import Guess
from tests.attack.exact.helpers import binaries


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
                if bool(found.locally_unique):
                    certified += 1
                    assert exact
                    assert int(found.determined) == size
                    # And no other labels come as near.
                    others = left[np.any(all_labels != answer, axis=1)]
                    assert others.min() > left.min()
                assert bool(found.locally_unique) == bool(found.margin > found.noise)
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
        projected = np.asarray(analysis.project(jnp.asarray(a), jnp.asarray(j)))
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
    assert not none.locally_unique
    assert not silent.locally_unique
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
    assert [bool(one.locally_unique) for one in found] == [True, False]


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
    assert sure.locally_unique
    assert not unsure.locally_unique
    assert not lost.locally_unique
