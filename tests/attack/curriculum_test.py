"""The steps that a stage counts, what goes on to the next one, and when."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import observe, types
from fedinv_jax.attack import curriculum, inversion, objective
from fedinv_jax.attack.exact import problems
from tests.helpers import KEY, assert_close, make_client, make_hypothesis, make_transcript, toy

VIEW, STEPS = ('items', 'scorer'), 3


def problem_of(steps, which='free'):
    """The problem of the first of three steps."""
    transcript, _, _ = make_transcript('ncf', VIEW, 'gradient_step', steps=STEPS)
    return objective.problem(
        problems.steps(transcript, slice(steps)), make_client('ncf', 'gradient_step'),
        observe.share(*VIEW), make_hypothesis('ncf', which, steps),
    )  # fmt: skip


# Failed on a mean over all T steps, and on `<=` in place of `<`.
@pytest.mark.parametrize('which', ['free', 'static', 'unrolled'])
def test_the_first_steps_are_a_problem_of_their_own(which):
    whole = problem_of(STEPS, which)
    guess = whole.init(KEY)
    guess = guess._replace(latent=guess.latent + jax.random.normal(KEY, guess.latent.shape))
    for steps in range(1, STEPS + 1):
        short, counted = problem_of(steps, which), whole.first(steps)
        own = guess._replace(latent=guess.latent[:steps]) if which == 'free' else guess
        np.testing.assert_allclose(counted.objective(guess), short.objective(own), rtol=1e-5)
        factor = np.sqrt(STEPS / steps)
        found = jax.tree.map(lambda leaf, f=factor: leaf / f, counted.residual(guess))
        assert_close(jax.tree.map(lambda leaf, n=steps: leaf[:n], found), short.residual(own))
        assert not any(np.any(leaf[steps:]) for leaf in jax.tree.leaves(found))


# Failed on the first known state for all later steps.
def test_new_steps_have_the_private_state_of_the_nearest_known_one():
    latent = jnp.arange(12.0).reshape(STEPS, 4)
    guess = types.Guess(jnp.zeros(2), None, latent)
    extended = problem_of(STEPS).extend(guess, jnp.asarray(2))
    np.testing.assert_array_equal(extended.latent, latent[jnp.array([0, 1, 1])])
    for which in ('static', 'unrolled'):
        assert problem_of(STEPS, which).extend(guess, 2).latent is latent


def staircase():
    """A toy whose first n steps have their optimum at n, and each extension adds 100."""
    plain = toy(lambda x: jnp.sum(x**2))
    return plain._replace(
        first=lambda steps: plain._replace(
            objective=lambda guess: jnp.sum((guess.labels - steps) ** 2)
        ),
        extend=lambda guess, steps: guess._replace(labels=guess.labels + 100 * steps),
    )


def states_of(solver, problem, count):
    """The states after 0, 1, ..., `count` iterations."""
    update = jax.jit(functools.partial(solver.update, problem))
    states = [solver.init(problem, KEY)]
    for _ in range(count):
        states.append(update(states[-1]))
    return states


# Failed on a stage that begins at the last point in place of the best, without the extension, with
# the memory of the optimiser, and with the objective of the stage before.
def test_a_stage_starts_anew_from_the_best_guess_of_the_one_before():
    solver = curriculum.curriculum(inversion.descent(optax.adam(0.1)), (1, 3), 50)
    problem = staircase()
    states = states_of(solver, problem, 120)
    alone = states_of(inversion.descent(optax.adam(0.1)), problem.first(1), 50)
    for mine, own in zip(states[:50], alone[:50], strict=True):
        np.testing.assert_allclose(mine.guess.labels, own.guess.labels, rtol=1e-6)
        np.testing.assert_allclose(mine.objective, own.objective, rtol=1e-5)
    np.testing.assert_allclose(states[50].guess.labels, alone[50].guess.labels + 100, rtol=1e-6)
    assert states[50].objective == np.inf
    start = states[50].guess
    later = problem.first(3)._replace(init=lambda key: start)
    for mine, own in zip(
        states[50:], states_of(inversion.descent(optax.adam(0.1)), later, 70), strict=True
    ):
        np.testing.assert_allclose(mine.guess.labels, own.guess.labels, rtol=1e-6)


# Failed on a curriculum that is done with its first stage, and on one that waits for the count.
def test_a_stage_ends_when_its_solver_is_done():
    solver = curriculum.curriculum(
        inversion.descent(optax.sgd(0.5), stop_below=1e-9), (1, 2, 3), 1000
    )
    states = states_of(solver, staircase(), 7)
    assert [int(state.memory.stage) for state in states] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [bool(state.done) for state in states] == [False] * 6 + [True] * 2
    np.testing.assert_allclose(states[-1].guess.labels, 3)


def test_the_start_of_the_problem_is_the_start_of_the_first_stage():
    start = types.Guess(jnp.full(3, 7.0), None, ())
    solver = curriculum.curriculum(inversion.descent(optax.sgd(0.1)), (1, 2), 5)
    state = solver.init(staircase()._replace(init=lambda key: start), KEY)
    np.testing.assert_array_equal(state.guess.labels, start.labels)


@pytest.mark.parametrize(
    ('stages', 'iterations', 'message'),
    [
        ((), 1, r'stages=\(\) to start'), ((4, 2), 1, 'not to decrease'), ((0, 2), 1, 'to start'),
        ((1, 2), 0, 'num_iterations=0 > 0'),
    ],
)  # fmt: skip
def test_bad_stages(stages, iterations, message):
    with pytest.raises(ValueError, match=message):
        curriculum.curriculum(inversion.descent(optax.sgd(0.1)), stages, iterations)


def test_a_problem_without_steps():
    solver = curriculum.curriculum(inversion.descent(optax.sgd(0.1)), (1, 2), 1)
    with pytest.raises(ValueError, match='count its first steps'):
        solver.init(toy(lambda x: jnp.sum(x**2)), KEY)
