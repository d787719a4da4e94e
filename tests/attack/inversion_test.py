"""Solvers: what is kept, restarts, and labels recovered end to end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import observe, types
from fedinv_jax.attack import distances, inversion, objective
from tests.helpers import (
    KEY,
    TARGET,
    D,
    make_client,
    make_hypothesis,
    make_transcript,
    pad,
    quadratic,
    toy,
)


@pytest.mark.parametrize(
    ('optimizer', 'iterations', 'atol'),
    [
        pytest.param(optax.adam(0.05), 600, 1e-2, id='adam'),
        pytest.param(optax.lbfgs(), 20, 1e-4, id='lbfgs'),
    ],
)
def test_finds_the_minimum_of_a_quadratic(optimizer, iterations, atol):
    for restarts in (1, 3):
        answer = inversion.invert(
            toy(quadratic), inversion.descent(optimizer), KEY, iterations, restarts
        )
        np.testing.assert_allclose(answer.scores, TARGET, atol=atol)
        np.testing.assert_allclose(answer.objective, quadratic(answer.scores), atol=1e-6)


# Failed on: the last point kept; the point after the best kept; the last objective kept.
def test_the_best_so_far_is_kept():
    # Converges for 5 steps, then runs away.
    optimizer = optax.sgd(lambda count: jnp.where(count < 5, 0.05, 0.7))
    solver, problem = inversion.descent(optimizer), toy(quadratic)
    state, values = solver.init(problem, KEY), []
    update = jax.jit(functools.partial(solver.update, problem))
    for _ in range(20):
        values.append(float(quadratic(state.memory.point.labels)))
        state = update(state)
        np.testing.assert_allclose(state.objective, min(values), rtol=1e-6)
        np.testing.assert_allclose(
            state.objective, quadratic(state.guess.labels), rtol=1e-5, atol=1e-10
        )
    assert values[-1] > 1e3 * min(values)


# Failed on: inf instead of NaN as answer.
def test_never_finite_is_nan():
    for bad in (jnp.nan, jnp.inf):
        answer = inversion.invert(
            toy(lambda x, bad=bad: jnp.sum(x) * bad),
            inversion.descent(optax.adam(0.1)),
            KEY,
            5,
            3,
        )
        assert np.isnan(answer.objective)


# Failed on: a state that goes on when it is done.
def test_nan_later_keeps_what_was_best():
    # Momentum alone would carry the point on, out of the region without a value.
    problem = toy(lambda x: jnp.where(x[0] < 0.5, jnp.nan, jnp.sum(x)))
    problem = problem._replace(init=lambda key: types.Guess(jnp.full(3, 1.0), None, ()))
    solver = inversion.descent(optax.sgd(0.1, momentum=0.9))
    update = jax.jit(functools.partial(solver.update, problem))
    states = [solver.init(problem, KEY)]
    for _ in range(8):
        states.append(update(states[-1]))
    # Visited: 1, .9, .71, .439; the last one has no value.
    assert [bool(state.done) for state in states] == [False] * 4 + [True] * 5
    for state in states[4:]:
        np.testing.assert_array_equal(state.memory.point.labels, states[4].memory.point.labels)
        np.testing.assert_allclose(state.guess.labels, np.full(3, 0.71), rtol=1e-6)
        np.testing.assert_allclose(state.objective, 3 * 0.71, rtol=1e-6)


# Failed on: argmax for argmin; the first restart kept.
def test_the_restart_of_least_objective_is_kept():
    # Many local minima: where a restart ends depends on where it starts.
    def bumpy(x):
        return jnp.sum(0.05 * x**2 + 1 - jnp.cos(3 * x))

    problem, solver = toy(bumpy, 4.0), inversion.descent(optax.adam(0.05))
    keys = jax.random.split(KEY, 8)
    alone = []
    for key in keys:
        start = problem._replace(init=lambda _, key=key: problem.init(key))
        alone.append(inversion.invert(start, solver, KEY, 150))
    ends = np.array([float(answer.objective) for answer in alone])
    assert ends.max() - ends.min() > 0.1
    together = inversion.invert(problem, solver, KEY, 150, 8)
    np.testing.assert_allclose(together.objective, ends.min(), rtol=1e-4)
    np.testing.assert_allclose(together.scores, alone[ends.argmin()].scores, atol=1e-3)
    # The first R keys of a split do not depend on how many there are: more restarts from one
    # key are never worse, up to rounding.
    few = [float(inversion.invert(problem, solver, KEY, 150, r).objective) for r in (1, 3, 8)]
    assert few[0] + 1e-5 >= few[1]
    assert few[1] + 1e-5 >= few[2]


# Failed on: argmax for argmin; the last objective kept, finite or not.
def test_a_failed_restart_does_not_win():
    def function(x):
        return jnp.where(x[0] > 0, quadratic(x), jnp.nan)

    keys = jax.random.split(KEY, 6)
    starts = np.array([float(jax.random.normal(key, (3,))[0]) for key in keys])
    assert (starts < 0).any()
    assert (starts > 0).any()
    solver = inversion.descent(optax.adam(0.01))
    answer = inversion.invert(toy(function), solver, KEY, 5, 6)
    assert np.isfinite(answer.objective)
    assert float(answer.scores[0]) > 0


def test_number_of_iterations_may_be_traced():
    traces = []

    @jax.jit
    def run(iterations):
        traces.append(1)
        solver = inversion.descent(optax.adam(0.05))
        return inversion.invert(toy(quadratic), solver, KEY, iterations).objective

    values = [float(run(jnp.asarray(n))) for n in (1, 20, 200)]
    assert len(traces) == 1
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(
        values[0], quadratic(toy(quadratic).init(jax.random.split(KEY, 1)[0]).labels), rtol=1e-5
    )


def test_errors():
    solver = inversion.descent(optax.adam(0.1))
    with pytest.raises(ValueError, match=r'Expected num_iterations=0 > 0\.'):
        inversion.invert(toy(quadratic), solver, KEY, 0)
    with pytest.raises(ValueError, match=r'Expected num_restarts=0 > 0\.'):
        inversion.invert(toy(quadratic), solver, KEY, 1, 0)


# Failed on: predictions in the reverse order of the steps.
@pytest.mark.parametrize(
    'which',
    [
        'unrolled',
        pytest.param('static', marks=pytest.mark.slow),
        pytest.param('free', marks=pytest.mark.slow),
    ],
)
def test_labels_are_recovered(which):
    name, view, kind, size = 'ncf', ('items', 'scorer'), 'gradient_step', 8
    transcript, labels, _ = make_transcript(name, view, kind, size=size, seed=2)

    @jax.jit
    def attack(transcript, key):
        problem = objective.problem(
            transcript,
            make_client(name, kind),
            observe.share(*view),
            make_hypothesis(name, which),
            distances.squared_distance_per_leaf,
        )
        solver = inversion.descent(optax.adam(0.1))
        first = problem.objective(problem.init(jax.random.split(key, 1)[0]))
        return first, inversion.invert(problem, solver, key, 400)

    first, answer = attack(transcript, KEY)
    np.testing.assert_array_equal(answer.labels, labels > 0.5)
    assert float(answer.objective) < 0.1 * float(first)
    assert jnp.all((answer.scores > 0.5) == answer.labels)
    assert answer.private.shape == (D,)


# Failed on: the weights of the guess ignored.
def test_unknown_batch():
    transcript, _, _ = make_transcript('ncf', ('scorer',), 'gradient_step', size=5)
    # Four items more than the batch holds: the catalogue.
    catalogue = pad(transcript, 4).replace(weights=None)

    def make():
        return objective.problem(
            catalogue,
            make_client('ncf', 'gradient_step'),
            observe.share('scorer'),
            make_hypothesis('ncf', 'static'),
        )

    problem = make()
    start = problem.init(jax.random.split(KEY, 1)[0])
    gradient = jax.jit(jax.grad(problem.objective))(start)
    assert float(jnp.max(jnp.abs(gradient.weights))) > 1e-5
    solver = inversion.descent(optax.adam(0.1))
    answer = jax.jit(lambda key: inversion.invert(make(), solver, key, 100))(KEY)
    assert float(answer.objective) < 0.5 * float(problem.objective(start))
    assert answer.scores.shape == (9,)
    assert jnp.all((answer.scores >= 0) & (answer.scores <= 1))


# Failed on the mutant whose `done` looked at the value only.
def test_a_gradient_that_is_not_finite_is_a_failure():
    problem = objective.Problem(
        init=lambda key: types.Guess(jnp.zeros(2), None, ()),
        predict=None,
        whiten=None,
        residual=None,
        columns=None,
        objective=lambda guess: jnp.sum(jnp.sqrt(guess.labels)),
        answer=lambda guess, value: types.Answer(guess.labels, guess.labels > 0.5, None, value),
    )
    solver = inversion.descent(optax.adam(0.1))
    assert np.isnan(inversion.invert(problem, solver, jax.random.key(0), 5).objective)
