"""Solvers of a `Problem`, and the loop that runs a solver with restarts on one client."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import distances
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Guess, Key, PyTree


class State(NamedTuple):
    """The state of a solver.

    Attributes:
        guess: the guess of least objective so far.
        objective: `[]`, the objective of that guess; inf before the first finite one.
        done: bool `[]`; a state that is done no longer changes.
        memory: what else the solver needs from one iteration to the next.
    """

    guess: Guess
    objective: Array
    done: Array
    memory: Any


class Inversion(NamedTuple):
    """A solver as a pair of pure functions.

    Attributes:
        init: `init(problem, key) -> state`.
        update: `update(problem, state) -> state`, one iteration.
    """

    init: Callable[[Problem, Key], State]
    update: Callable[[Problem, State], State]


def keep_best(state: State, guess: Guess, objective: Array) -> State:
    """The state, with a proposed guess and its objective `[]` if that objective is lower.

    Example:
        >>> state = State(jnp.zeros(2), jnp.array(1.0), jnp.array(False), ())
        >>> [keep_best(state, jnp.ones(2), x).objective.item() for x in (0.5, 2.0, jnp.nan)]
        [0.5, 1.0, 1.0]
    """
    better = objective < state.objective
    return state._replace(
        guess=optax.tree.where(better, guess, state.guess),
        objective=jnp.where(better, objective, state.objective),
    )


def advance(state: State, new: State, finite: Array) -> State:
    """The state after an iteration with the result `new`.

    A state that is done does not change. The result of an iteration that was not finite (`finite`
    is bool `[]`) is dropped, and the state is done.
    """
    next_ = optax.tree.where(state.done | ~finite, state, new)
    return next_._replace(done=next_.done | ~finite)


def largest(values: PyTree) -> Array:
    """The largest absolute entry of a pytree, `[]`; 0 for an empty one.

    Example:
        >>> largest({'a': jnp.array([1.0, -3.0]), 'b': ()}).item()
        3.0
    """
    return optax.tree.norm(values, ord='inf')


class Descent(NamedTuple):
    """Memory of `descent`: the optimiser's current point and state, and the previous objective."""

    point: Guess
    optimizer: optax.OptState
    value: Array


Slope = Callable[[Problem, Guess], tuple[Array, Guess]]


def _slope(problem: Problem, point: Guess) -> tuple[Array, Guess]:
    return jax.value_and_grad(problem.objective)(point)


def _searched(memory: optax.OptState) -> tuple[Array, Guess] | None:
    """The objective and its gradient at the point where a line search ended; None without one."""
    value, gradient = optax.tree.get(memory, 'value'), optax.tree.get(memory, 'grad')
    return None if value is None or gradient is None else (value, gradient)


def descent(
    optimizer: optax.GradientTransformation,
    tolerance: tuple[float, float] = (0.0, 0.0),
    slope: Slope = _slope,
    stop_below: float = 0.0,
) -> Inversion:
    """A solver that descends the objective with any optax optimiser, `optax.lbfgs()` included.

    The state keeps the best point visited, whatever a later line search does. An objective or a
    gradient that is not finite ends the run. If this happens at the first point, the objective of
    the state stays inf.

    Args:
        optimizer: a gradient transformation; a line search is given the objective.
        tolerance: `(gradient, change)`: the run ends where no entry of the gradient exceeds the
            first, no entry of the point changes by more than the second, or the objective changes
            by less than the second; 0 switches a test off.
        slope: `slope(problem, point) -> (value, gradient)`, those of the objective by default. With
            a line search it is called at the start only: the search returns the later slopes.
        stop_below: the run ends at a point whose objective is at most this; 0: it does not.

    Example:
        >>> solver = descent(optax.adam(0.1))
        >>> quadratic = Problem(
        ...     init=lambda key: Guess(jnp.ones(2), None, ()), predict=None, whiten=None,
        ...     residual=None, objective=lambda guess: jnp.sum(guess.labels**2),
        ...     answer=lambda guess, value: Answer(guess.labels, guess.labels > 0.5, None, value))
        >>> invert(quadratic, solver, jax.random.key(0), num_iterations=100).labels.tolist()
        [False, False]
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(problem: Problem, key: Key) -> State:
        point = problem.init(key)
        # The dtype of the objective, without computing it.
        dtype = jax.eval_shape(problem.objective, point).dtype
        memory = optimizer.init(point)
        if _searched(memory):  # every later slope comes from the search that led there
            value, gradient = slope(problem, point)
            memory = optax.tree.set(memory, value=value, grad=gradient)
        memory = Descent(point, memory, jnp.asarray(jnp.inf, dtype))
        return State(point, jnp.asarray(jnp.inf, dtype), jnp.asarray(False), memory)

    def update(problem: Problem, state: State) -> State:
        point, memory, _ = state.memory
        value, gradient = _searched(memory) or slope(problem, point)
        updates, memory = optimizer.update(
            gradient, memory, point, value=value, grad=gradient, value_fn=problem.objective
        )
        finite = jnp.isfinite(value) & jnp.isfinite(distances.squared_norm(gradient))
        least, change = tolerance
        done = value <= stop_below if stop_below else jnp.asarray(False)
        if least:
            done |= largest(gradient) <= least
        if change:
            done |= largest(updates) <= change
            done |= jnp.abs(value - state.memory.value) < change
        new = keep_best(state, point, value)._replace(
            done=done, memory=Descent(optax.apply_updates(point, updates), memory, value)
        )
        return advance(state, new, finite)

    return Inversion(init, update)


def search(problem: Problem, inversion: Inversion, key: Key, most: int | Array) -> State:
    """The state of a solver when it is done, or after `most` iterations."""
    return jax.lax.while_loop(
        lambda carry: ~carry[0].done & (carry[1] < most),
        lambda carry: (inversion.update(problem, carry[0]), carry[1] + 1),
        (inversion.init(problem, key), 0),
    )[0]


def invert(
    problem: Problem,
    inversion: Inversion,
    key: Key,
    num_iterations: int | Array,
    num_restarts: int = 1,
) -> Answer:
    """The answer of least objective among runs of a solver from `num_restarts` starting points.

    Args:
        problem: what to solve, for one client.
        inversion: the solver.
        key: PRNG key.
        num_iterations: most iterations of each restart, >= 1; if it is an array, one compiled
            function serves any number.
        num_restarts: R >= 1.

    Returns:
        The answer of the best restart; its objective is NaN when no restart ever had a finite one.

    Raises:
        ValueError: if a count is below 1.
    """
    for name, value in (('num_iterations', num_iterations), ('num_restarts', num_restarts)):
        if isinstance(value, int) and value < 1:
            raise ValueError(f'Expected {name}={value} > 0.')

    states = jax.vmap(lambda key: search(problem, inversion, key, num_iterations))(
        jax.random.split(key, num_restarts)
    )
    return best(problem, states)


def best(problem: Problem, states: State) -> Answer:
    """The answer of the restart of least objective, given the states `[R, ...]` of all restarts."""
    best = jnp.argmin(states.objective)
    objective = states.objective[best]
    return problem.answer(
        tree.take(states.guess, best), jnp.where(jnp.isfinite(objective), objective, jnp.nan)
    )
