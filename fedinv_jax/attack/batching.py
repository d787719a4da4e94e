"""Descent attacks on one client, or on several in parallel."""

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


class Batched(NamedTuple):
    """A descent attack: `run` attacks one client, `stream` many.

    Attributes:
        pose: `pose(transcript, key, num_iterations) -> (problem, solver)`, for one client.
        num_restarts: R >= 1.
    """

    pose: Callable[[Transcript, Key, int | Array], tuple[Problem, Inversion]]
    num_restarts: int = 1


def run(batched: Batched, transcript: Transcript, key: Key, num_iterations: int | Array) -> Answer:
    """The answer of a descent attack on one client, see `inversion.invert`."""
    problem, solver = batched.pose(transcript, key, num_iterations)
    return inversion.invert(problem, solver, key, num_iterations, batched.num_restarts)


class _InFlight(NamedTuple):
    """The L slots: indices of their victims, iterations done, states `[L, R, ...]`."""

    victim: Array
    iterations: Array
    states: State


def stream(
    batched: Batched,
    transcripts: Transcript,
    axes: Transcript,
    keys: Array,
    num_iterations: int | Array,
    count: int | Array,
    parallel_victims: int,
) -> Answer:
    """The answers of a descent attack on the first `count` of V clients, L of them in parallel.

    A slot takes the next client of the queue when all restarts of its client are done; nothing
    leaves the device meanwhile. Slots are independent: a client's answer equals that of `run` up to
    rounding. The inner loop ends when a slot changes its client. The clients are thus constants of
    that loop, and the compiler computes once what its iterations do not change.

    Args:
        batched: the attack on one client.
        transcripts: of V clients.
        axes: `vmap` axes of the transcripts, 0 or None.
        keys: `[V]`.
        num_iterations: most iterations of each restart.
        count: number of clients that are attacked; the answers of the others are zeros.
        parallel_victims: L >= 1, clients attacked in parallel.

    Returns:
        Answers, leaves `[V, ...]`.
    """
    size = len(keys)

    def client(index: Array) -> tuple[Transcript, Key]:
        return tree.take_along(transcripts, axes, index), keys[index]

    def begin(index: Array) -> State:
        seen, key = client(index)
        problem, solver = batched.pose(seen, key, num_iterations)
        starts = jax.random.split(key, batched.num_restarts)
        return jax.vmap(partial(solver.init, problem))(starts)

    def update(seen: Transcript, key: Key, states: State) -> State:
        problem, solver = batched.pose(seen, key, num_iterations)
        return jax.vmap(partial(solver.update, problem))(states)

    def end(seen: Transcript, key: Key, states: State) -> Answer:
        return inversion.best(batched.pose(seen, key, num_iterations)[0], states)

    in_axes = (axes, 0, 0)
    update_all, end_all = jax.vmap(update, in_axes), jax.vmap(end, in_axes)
    starts = tree.map_first(begin, size, count)

    def finished(now: _InFlight) -> Array:
        done = jnp.all(now.states.done, axis=1) | (now.iterations >= num_iterations)
        return done & (now.victim < count)

    def turn(carry: tuple[_InFlight, Array, Answer]) -> tuple[_InFlight, Array, Answer]:
        now, following, answers = carry
        seen, key = client(jnp.minimum(now.victim, size - 1))
        now = jax.lax.while_loop(
            lambda now: ~jnp.any(finished(now)),
            lambda now: now._replace(
                iterations=now.iterations + 1, states=update_all(seen, key, now.states)
            ),
            now,
        )
        free = finished(now)
        answers = jax.tree.map(
            lambda all_, new: all_.at[jnp.where(free, now.victim, size)].set(new, mode='drop'),
            answers, end_all(seen, key, now.states),
        )  # fmt: skip
        index = jnp.where(free, following + jnp.cumsum(free) - 1, now.victim)
        fresh = tree.take(starts, jnp.minimum(index, size - 1))
        states = jax.tree.map(
            lambda new, old: jnp.where(free.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
            fresh, now.states,
        )  # fmt: skip
        iterations = jnp.where(free, 0, now.iterations)
        return _InFlight(index, iterations, states), following + jnp.sum(free), answers

    slots = jnp.arange(parallel_victims)
    first = _InFlight(
        slots, jnp.zeros(parallel_victims, int), tree.take(starts, jnp.minimum(slots, size - 1))
    )
    like = jax.eval_shape(end_all, *client(slots), first.states)
    answers = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), like)
    return jax.lax.while_loop(
        lambda carry: jnp.any(carry[0].victim < count),
        turn,
        (first, jnp.asarray(parallel_victims), answers),
    )[2]
