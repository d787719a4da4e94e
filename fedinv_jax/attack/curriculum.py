"""A solver that meets the observed steps a few at a time.

An objective over many steps has more local optima than one over few: each step has private
parameters of its own, and all start wrong. A curriculum solves the first steps, and goes on from
there to more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import _validate
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Array, Guess, Key


def doubling(num_steps: int, first: int = 2) -> tuple[int, ...]:
    """Stages of `first` steps, which come twice, then twice as many, ... and all steps.

    All later stages start from the answer of the first ones, which therefore get more iterations.
    docs/mgradinv.md has how the stages were chosen.

    Example:
        >>> doubling(8), doubling(5), doubling(2), doubling(1)
        ((2, 2, 4, 8), (2, 2, 4, 5), (2,), (1,))
    """
    if num_steps <= first:
        return (num_steps,)
    stages = [first, first]
    while stages[-1] < num_steps:
        stages.append(min(2 * stages[-1], num_steps))
    return tuple(stages)


class Memory(NamedTuple):
    """Memory of `curriculum`: the stage, its iterations so far, and the state of its solver."""

    stage: Array
    iterations: Array
    state: State


def curriculum(solver: Inversion, stages: Sequence[int], num_iterations: int) -> Inversion:
    """A solver that runs another one on the first steps of a problem, then on more, then on all.

    Each stage starts anew from the best guess of the stage before, in which the private parameters
    of the new steps are those of the nearest known step (`Problem.extend`). A stage ends after
    `num_iterations` iterations, or when its solver is done; the last one goes on. An iteration
    computes all T steps at every stage.

    Args:
        solver: runs each stage from its beginning.
        stages: numbers of steps, at least one, none smaller than the one before; the last one is T.
        num_iterations: of each stage, >= 1.

    Returns:
        The solver; `guess` and `objective` of its state are those of the present stage. With one
        stage, its states have those of `solver`.

    Raises:
        ValueError: if a stage is below 1 or the one before, or `num_iterations` is below 1.

    References:
        Bengio, Louradour, Collobert, Weston, Curriculum learning, ICML 2009,
        doi:10.1145/1553374.1553380.
    """
    if not stages or any(a > b for a, b in zip((1, *stages), stages, strict=False)):
        raise ValueError(
            f'Expected stages={tuple(stages)} to start at 1 or more and not to decrease.'
        )
    _validate.check_range('num_iterations', num_iterations, above=True)
    lengths = jnp.asarray(stages)

    def counted(problem: Problem, stage: int | Array) -> Problem:
        if problem.first is None:
            raise ValueError('Expected a problem that can count its first steps (Problem.first).')
        return problem.first(lengths[stage])

    def begin(problem: Problem, stage: int | Array, guess: Guess) -> State:
        at_guess = counted(problem, stage)._replace(init=lambda key: guess)
        return solver.init(at_guess, jax.random.key(0))

    def outer(stage: Array, iterations: Array, state: State) -> State:
        done = state.done & (stage == len(stages) - 1)
        return State(state.guess, state.objective, done, Memory(stage, iterations, state))

    def init(problem: Problem, key: Key) -> State:
        zero = jnp.asarray(0)
        return outer(zero, zero, begin(problem, 0, problem.init(key)))

    def update(problem: Problem, state: State) -> State:
        stage, iterations, inner = state.memory
        inner = solver.update(counted(problem, stage), inner)
        ends = (inner.done | (iterations + 1 >= num_iterations)) & (stage < len(stages) - 1)
        following = begin(problem, stage + 1, problem.extend(inner.guess, lengths[stage]))
        inner = optax.tree.where(ends, following, inner)
        return outer(stage + ends, jnp.where(ends, 0, iterations + 1), inner)

    return Inversion(init, update)
