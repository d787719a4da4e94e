"""An attack that descends, on one client or on many in step."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import inversion
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Key, Transcript


class Descent(NamedTuple):
    """An attack that descends: `run` does it on one client, `stream` on many.

    Attributes:
        pose: `pose(transcript, key, num_iterations) -> (problem, solver)`, of one client.
        num_restarts: R >= 1.
    """

    pose: Callable[[Transcript, Key, int | Array], tuple[Problem, Inversion]]
    num_restarts: int = 1


def run(descent: Descent, transcript: Transcript, key: Key, num_iterations: int | Array) -> Answer:
    """What a search answers on one client, see `inversion.invert`."""
    problem, solver = descent.pose(transcript, key, num_iterations)
    return inversion.invert(problem, solver, key, num_iterations, descent.num_restarts)


class _InFlight(NamedTuple):
    """Of L lanes, the places of their clients, iterations done, states `[L, R, ...]`."""

    place: Array
    iterations: Array
    states: State


def stream(
    descent: Descent,
    transcripts: Transcript,
    axes: Transcript,
    keys: Array,
    num_iterations: int | Array,
    count: int | Array,
    parallel_victims: int,
) -> Answer:
    """What a search answers on the first `count` of V clients, some of them in step.

    A lane whose client is done, all its restarts, takes the next one of the queue; nothing leaves
    the device meanwhile. Lanes do not act upon each other: a client's answer is that of `run`
    but for rounding. Between two such changes the lanes' clients are constants of the inner loop,
    so that the compiler computes once what an iteration does not change.

    Args:
        descent: of one client.
        transcripts: of V clients.
        axes: `vmap` axes of the transcripts, 0 or None.
        keys: `[V]`.
        num_iterations: most iterations of each restart.
        count: clients that are attacked; the answers behind them are zeros.
        parallel_victims: L >= 1, clients in step.

    Returns:
        Answers, leaves `[V, ...]`.
    """
    size = len(keys)

    def client(place: Array) -> tuple[Transcript, Key]:
        return tree.take_along(transcripts, axes, place), keys[place]

    def begin(place: Array) -> State:
        seen, key = client(place)
        problem, solver = descent.pose(seen, key, num_iterations)
        starts = jax.random.split(key, descent.num_restarts)
        return jax.vmap(partial(solver.init, problem))(starts)

    def update(seen: Transcript, key: Key, states: State) -> State:
        problem, solver = descent.pose(seen, key, num_iterations)
        return jax.vmap(partial(solver.update, problem))(states)

    def end(seen: Transcript, key: Key, states: State) -> Answer:
        return inversion.best(descent.pose(seen, key, num_iterations)[0], states)

    in_axes = (axes, 0, 0)
    in_step, ending = jax.vmap(update, in_axes), jax.vmap(end, in_axes)
    starts = tree.map_first(begin, size, count)

    def finished(now: _InFlight) -> Array:
        done = jnp.all(now.states.done, axis=1) | (now.iterations >= num_iterations)
        return done & (now.place < count)

    def turn(carry: tuple[_InFlight, Array, Answer]) -> tuple[_InFlight, Array, Answer]:
        now, following, answers = carry
        seen, key = client(jnp.minimum(now.place, size - 1))
        now = jax.lax.while_loop(
            lambda now: ~jnp.any(finished(now)),
            lambda now: now._replace(
                iterations=now.iterations + 1, states=in_step(seen, key, now.states)
            ),
            now,
        )
        free = finished(now)
        answers = jax.tree.map(
            lambda all_, new: all_.at[jnp.where(free, now.place, size)].set(new, mode='drop'),
            answers, ending(seen, key, now.states),
        )  # fmt: skip
        place = jnp.where(free, following + jnp.cumsum(free) - 1, now.place)
        fresh = tree.take(starts, jnp.minimum(place, size - 1))
        states = jax.tree.map(
            lambda new, old: jnp.where(free.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
            fresh, now.states,
        )  # fmt: skip
        iterations = jnp.where(free, 0, now.iterations)
        return _InFlight(place, iterations, states), following + jnp.sum(free), answers

    slots = jnp.arange(parallel_victims)
    first = _InFlight(
        slots, jnp.zeros(parallel_victims, int), tree.take(starts, jnp.minimum(slots, size - 1))
    )
    like = jax.eval_shape(ending, *client(slots), first.states)
    answers = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), like)
    return jax.lax.while_loop(
        lambda carry: jnp.any(carry[0].place < count),
        turn,
        (first, jnp.asarray(parallel_victims), answers),
    )[2]
