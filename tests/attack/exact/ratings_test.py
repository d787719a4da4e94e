"""Exact attacks on explicit ratings: labels on a grid in place of binary ones."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import client, losses, models, observe, tree
from fedinv_jax.attack import exact
from fedinv_jax.attack.exact import certificate, identifiability
from fedinv_jax.types import Batch, Guess
from tests.attack.exact.helpers import draws, own_federation

STARS, HALVES = (1.0, 5.0, 1.0), (0.5, 5.0, 0.5)


def labels_of(ratings, scale):
    return (np.asarray(ratings) - scale[0]) / (scale[1] - scale[0])


@functools.cache
def known(model, scale, *seen):
    low, high, step = scale
    update = client.gradient_step(model, losses.rating_error(low, high), 0.1)
    with jax.enable_x64():
        found = exact.probe(update, observe.share(*seen), model.init_private, draws(model))
    return found._replace(grid=step / (high - low))


def attacked(model, scale, ratings, *seen, steps=1):
    """The answer to float32 uploads of one client whose private embedding moves."""
    low, high, _ = scale
    given = known(model, scale, *seen)
    size, keys = len(ratings), jax.random.split(jax.random.key(3), 2)
    shared = jax.tree.map(lambda leaf: leaf[:size], model.init_shared(keys[0])['items'])
    shared = {**model.init_shared(keys[0]), 'items': shared}
    private = model.init_private(keys[1])
    batch = Batch(None, jnp.asarray(labels_of(ratings, scale), jnp.float32), jnp.ones(size))
    uploads = []
    for _ in range(steps):
        upload, private = jax.jit(given.client_update)(shared, private, batch)
        uploads.append({name: upload[name] for name in seen})
    _, _, transcript, _ = own_federation(np.zeros(size))
    transcript = dataclasses.replace(
        transcript,
        shared=jax.tree.map(lambda leaf: np.stack([leaf] * steps), shared),
        seen=jax.tree.map(lambda *leaves: np.stack(leaves), *uploads),
        rounds=np.arange(steps),
        participated=np.ones(steps, bool),
        weights=np.ones((steps, size), np.float32),
    )
    choice = exact.choose(given)
    with jax.enable_x64():
        answer = jax.jit(choice.attack)(tree.cast_floats(transcript, np.float64), keys[0])
    return choice.solver, low + (high - low) * np.asarray(answer.scores), answer


# Failed on labels rounded to 0 and 1 in `closed_form`, and on those of `label_posterior`.
@pytest.mark.parametrize('scale', [STARS, HALVES])
def test_one_gradient_of_ncf_reveals_every_rating(scale):
    rng = np.random.default_rng(0)
    ratings = scale[0] + scale[2] * rng.integers(0, round((scale[1] - scale[0]) / scale[2]) + 1, 12)
    ratings[:2] = scale[:2]
    solver, found, answer = attacked(models.ncf(60, 6, (16, 12)), scale, ratings, 'scorer')
    assert solver == 'closed_form'
    np.testing.assert_allclose(found, ratings, atol=0.02)
    assert answer.certificate.certified
    assert answer.fits == 1


# Item rows of matrix factorisation leave a scale open: the ratings of one scale are on the grid.
# Failed on the solver that rounds to 0 and 1.
def test_one_gradient_of_matrix_factorization_reveals_every_rating():
    ratings = np.array([1.0, 5, 3, 4, 4, 2, 5, 3, 4, 1, 3, 4])
    solver, found, answer = attacked(models.matrix_factorization(60, 4), STARS, ratings, 'items')
    assert solver == 'scaled'
    np.testing.assert_allclose(found, ratings, atol=0.02)
    assert not answer.certificate.certified  # other scales are not excluded by proof


def test_solvers_of_binary_labels_are_refused():
    given = known(models.matrix_factorization(60, 4), STARS, 'items')
    for solver in ('one_line', 'spectral', 'coefficients', 'levels'):
        with pytest.raises(ValueError, match=f'{solver} finds binary labels, not ratings; use clo'):
            exact.choose(given, solver=solver)
    assert exact.choose(given, solver='scaled').solver == 'scaled'


# No member is chosen that reads signs or sides, whatever the model.
def test_models_without_a_recovery_are_solved_by_gauss_newton():
    model = models.gmf(60, 4)
    assert known(model, STARS, 'items').structure.on_line
    choice = exact.choose(known(model, STARS, 'items'))
    assert (choice.solver, choice.compared) == ('variable_projection', ())


class Linear:
    """What `certify` reads of a problem: `residual = A y - seen`, unit noise."""

    def __init__(self, matrix, seen):
        self.residual = lambda guess: matrix @ guess.labels - seen


# Failed on mutants: the margin of the whole unit instead of a step of the grid; the noise of the
# upload left out; `margins`, which is for binary labels, on the rounded ones.
@pytest.mark.parametrize('scale', [10.0, 40.0, 300.0])
def test_certified_ratings_are_the_true_ones(scale):
    """Against brute force over all ratings of three items, for right answers and wrong ones."""
    grid, where = 0.25, jnp.ones(3, bool)
    every = np.array(list(itertools.product(np.arange(5) * grid, repeat=3)))
    rng = np.random.default_rng(int(scale))
    certified = 0
    with jax.enable_x64():
        for _ in range(20):
            matrix = scale * rng.normal(size=(6, 3))
            truth = every[rng.integers(len(every))]
            seen = matrix @ truth + rng.normal(size=6)
            gram = jnp.asarray(matrix.T @ matrix)
            factor = identifiability.factor(gram)
            distances = np.linalg.norm(every @ matrix.T - seen, axis=1)
            wrong = every[np.argsort(distances)[1]]
            for answer in (every[np.argmin(distances)], truth, wrong):
                guess = Guess(jnp.asarray(answer + 0.02), None, None)
                found = certificate.certify(
                    Linear(matrix, seen), guess, gram, factor, where, grid=grid
                )
                moves = np.linalg.norm((every - answer) @ matrix.T, axis=1)
                assert found.margin <= moves[moves > 0].min() + 1e-9
                if found.locally_unique:
                    certified += 1
                    np.testing.assert_array_equal(answer, truth)
    assert certified > 0 or scale < 40
