"""What the attacker assumes about the private parameters between the observed steps.

A hypothesis is a choice of the JAX combinator that maps ONE `client_update` over the steps:

| hypothesis | combinator | unknown | exact when |
|---|---|---|---|
| `static` | `vmap(client_update, in_axes=(0, None, 0))` | one private state | it hardly moves |
| `free` | `vmap(client_update, in_axes=(0, 0, 0))` | one per step | always; the weakest |
| `unrolled` | `lax.scan` carrying the state | the first one | every kept round is known |
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.types import Array, Batch, ClientUpdate, InitPrivate, Key, PyTree

Rollout = Callable[[ClientUpdate, PyTree, PyTree, Batch, Array], PyTree]


class Dynamics(NamedTuple):
    """A hypothesis about the private parameters.

    Attributes:
        init: `init(key) -> latent`, a draw from the known initialisation.
        rollout: `rollout(client_update, latent, shared [S, ...], batches [S, ...],
            participated [S]) -> uploads [T, ...]`.
        private: `private(latent) -> private` parameters at the first observed step.
        extend: `extend(latent, steps) -> latent`, in which all later steps have the private state
            of the last of the first `steps`, where steps have states of their own.
    """

    init: Callable[[Key], PyTree]
    rollout: Rollout
    private: Callable[[PyTree], PyTree]
    extend: Callable[[PyTree, int | Array], PyTree] = lambda latent, steps: latent


def static(init_private: InitPrivate) -> Dynamics:
    """One private state for all steps; exact if the state does not move between the steps."""

    def rollout(
        client_update: ClientUpdate,
        latent: PyTree,
        shared: PyTree,
        batches: Batch,
        participated: Array,
    ) -> PyTree:
        del participated
        return jax.vmap(client_update, in_axes=(0, None, 0))(shared, latent, batches)[0]

    return Dynamics(init_private, rollout, lambda latent: latent)


def free(init_private: InitPrivate, num_steps: int) -> Dynamics:
    """T independent private states, all started at the same draw; valid for every client.

    Raises:
        ValueError: if `num_steps` (T) is below 1.
    """
    if not num_steps >= 1:
        raise ValueError(f'Expected num_steps={num_steps} > 0.')

    def init(key: Key) -> PyTree:
        first = init_private(key)
        return jax.tree.map(lambda leaf: jnp.tile(leaf, (num_steps,) + (1,) * leaf.ndim), first)

    def rollout(
        client_update: ClientUpdate,
        latent: PyTree,
        shared: PyTree,
        batches: Batch,
        participated: Array,
    ) -> PyTree:
        del participated
        return jax.vmap(client_update)(shared, latent, batches)[0]

    def extend(latent: PyTree, steps: int | Array) -> PyTree:
        return tree.take(latent, jnp.minimum(jnp.arange(num_steps), steps - 1))

    return Dynamics(init, rollout, lambda latent: tree.take(latent, 0), extend)


def unrolled(init_private: InitPrivate, observed: Sequence[int]) -> Dynamics:
    """The first private state is unknown; the client's own update gives those of later steps.

    No upload is computed between the observed rounds, and rounds without the client change nothing.
    The backward pass recomputes every step (`jax.checkpoint`), so that memory grows by only one
    private state per round.

    Args:
        init_private: draws the first private state.
        observed: positions of the T observed rounds among the S kept ones, increasing from 0 to
            S - 1.

    Returns:
        The hypothesis; its rollout needs the shared parameters of all S kept rounds.

    Raises:
        ValueError: if `observed` does not increase from 0.
    """
    positions = np.asarray(observed, int)
    if positions.size == 0 or positions[0] != 0 or np.any(np.diff(positions) < 1):
        raise ValueError(f'Expected observed={tuple(observed)} to increase from 0.')
    gaps = np.diff(positions)
    # between[t, l]: the l-th round strictly between observed rounds t and t + 1, where it exists.
    offsets = np.arange(1, max(gaps, default=1))
    exists = offsets[None, :] < gaps[:, None]
    between = np.where(exists, positions[:-1, None] + offsets[None, :], 0)

    def rollout(
        client_update: ClientUpdate,
        latent: PyTree,
        shared: PyTree,
        batches: Batch,
        participated: Array,
    ) -> PyTree:
        def moved(private: PyTree, round_: tuple) -> tuple[PyTree, None]:
            parameters, batch, took_part = round_
            after = client_update(parameters, private, batch)[1]
            return jax.tree.map(lambda a, b: jnp.where(took_part, a, b), after, private), None

        def segment(private: PyTree, rounds: tuple) -> tuple[PyTree, PyTree]:
            (parameters, batch), later = rounds
            upload, private = client_update(parameters, private, batch)
            return jax.lax.scan(jax.checkpoint(moved), private, later)[0], upload

        kept = (shared, batches)
        now = tree.take(kept, positions[:-1])
        later = (*tree.take(kept, between), participated[between] & exists)
        private, uploads = jax.lax.scan(jax.checkpoint(segment), latent, (now, later))
        last_shared, last_batch = tree.take(kept, int(positions[-1]))
        last = client_update(last_shared, private, last_batch)[0]
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), uploads, last)

    return Dynamics(init_private, rollout, lambda latent: latent)
