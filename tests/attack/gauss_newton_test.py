"""Gauss-Newton against SciPy, and on MGradInv's objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fedinv_jax import observe
from fedinv_jax.attack import (
    curriculum,
    distances,
    dynamics,
    gauss_newton,
    inversion,
    objective,
    priors,
    relax,
)
from fedinv_jax.types import Guess
from tests.helpers import KEY, MODELS, make_client, make_transcript

VIEW = ('items', 'scorer')


def linear(seed=0, **fields):
    """A residual that is linear in 5 labels and 2 private numbers, its system and its target."""
    random = np.random.default_rng(seed)
    system, target = random.normal(size=(12, 7)), random.normal(size=12)
    problem = objective.Problem(
        init=lambda key: Guess(jnp.full(5, 0.5), None, jnp.ones(2)),
        predict=None,
        whiten=None,
        residual=lambda guess: system @ jnp.r_[guess.labels, guess.latent] - target,
        objective=None,
        answer=None,
        **fields,
    )
    return problem, system, target


def one_step(problem):
    solver = gauss_newton.gauss_newton(0.0)
    return jax.jit(lambda: solver.update(problem, solver.init(problem, KEY)))()


BOUNDS = ([0] * 5 + [-np.inf] * 2, [1] * 5 + [np.inf] * 2)


# The mutant without the labels' share of the private step fails here.
@pytest.mark.usefixtures('float64')
def test_private_states_are_eliminated():
    problem, system, target = linear()
    state = one_step(problem)
    expected = scipy.optimize.lsq_linear(system, target, BOUNDS, tol=1e-14)
    np.testing.assert_allclose(state.guess.labels, expected.x[:5], atol=1e-6)
    np.testing.assert_allclose(state.guess.latent, expected.x[5:], atol=1e-6)


# Failed on a penalty without its curvature, twice its slope, and left out of the objective.
@pytest.mark.usefixtures('float64')
def test_a_penalty_counts_in_step_and_objective():
    slope, weight = np.array([3.0, -2.0, 0.5, 0.0, -1.0]), 0.7

    def penalty(guess):
        return slope @ guess.labels + weight * jnp.sum(guess.latent**2)

    problem, system, target = linear(penalty=penalty)
    state = one_step(problem)

    def value(x):
        return np.sum((system @ x - target) ** 2) + slope @ x[:5] + weight * np.sum(x[5:] ** 2)

    expected = scipy.optimize.minimize(
        value, np.full(7, 0.5), bounds=list(zip(*BOUNDS, strict=True)), tol=1e-14
    )
    found = np.r_[state.guess.labels, state.guess.latent]
    np.testing.assert_allclose(found, expected.x, atol=1e-4)
    np.testing.assert_allclose(state.objective, value(found), rtol=1e-10)


def test_a_concave_penalty_does_not_break_the_step():
    problem, _, _ = linear(penalty=lambda guess: 100 * jnp.sum(guess.labels * (1 - guess.labels)))
    state = one_step(problem)
    assert np.isfinite(state.objective)
    assert np.all((state.guess.labels >= 0) & (state.guess.labels <= 1))


def posed(distance, scale, x64=True):
    """MGradInv's problem with three steps and priors, in the form of squares."""
    transcript, labels, _ = make_transcript('ncf', VIEW, 'gradient_step', x64, steps=3)
    deviation = jax.tree.map(lambda leaf: np.sqrt(3) * leaf, jax.vmap(scale)(transcript.seen))
    problem = objective.problem(
        transcript, make_client('ncf', 'gradient_step'), observe.share(*VIEW),
        dynamics.free(MODELS['ncf'].init_private, 3), distance,
        ((1e-6, priors.norm_prior(0.5)), (1e-6, priors.popularity_prior())),
        relax.identity(), deviation=deviation,
    )  # fmt: skip
    return problem, labels


# Failed on deviations without sqrt(T), and on first steps without their factor.
@pytest.mark.parametrize(
    ('distance', 'scale'),
    [
        (distances.squared_distance, distances.scale),
        (distances.squared_distance_per_leaf, distances.scale_per_leaf),
    ],
)
@pytest.mark.usefixtures('float64')
def test_squares_and_penalty_are_the_objective(distance, scale):
    problem, _ = posed(distance, scale)
    guess = problem.init(KEY)
    guess = guess._replace(latent=guess.latent + jax.random.normal(KEY, guess.latent.shape))
    for one in (problem, problem.first(2)):
        squares = distances.squared_norm(one.residual(guess)) + one.penalty(guess)
        np.testing.assert_allclose(squares, one.objective(guess), rtol=1e-10)


@pytest.mark.parametrize('x64', [True, False])
def test_it_solves_mgradinv_alone_and_by_stages(x64):
    with jax.enable_x64(x64):
        problem, labels = posed(distances.squared_distance_per_leaf, distances.scale_per_leaf, x64)
        solver = gauss_newton.gauss_newton()
        for one in (solver, curriculum.curriculum(solver, (1, 3), 20)):
            answer = jax.jit(lambda s=one: inversion.invert(problem, s, KEY, 40, 4))()
            np.testing.assert_array_equal(answer.labels, labels > 0)
            assert answer.objective < 1e-2


# Failed on a run that ends with the first iteration that lowers nothing.
@pytest.mark.usefixtures('float64')
def test_a_run_ends_where_iterations_no_longer_help():
    problem, _, _ = linear()
    for tolerance, ends in ((0.0, False), (0.5, True)):
        solver = gauss_newton.gauss_newton(0.0, 0.0, tolerance)
        update = jax.jit(lambda state, s=solver: s.update(problem, state))
        first = update(solver.init(problem, KEY))  # the optimum, in one iteration
        assert not first.done
        worse = first._replace(guess=first.guess._replace(latent=first.guess.latent + 1e-3))
        assert bool(update(worse).done) == ends


def test_refuses():
    with pytest.raises(ValueError, match='damping=-1'):
        gauss_newton.gauss_newton(-1)
