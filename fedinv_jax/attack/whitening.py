"""Standard deviations of the noise of uploads, as an attacker knows it: channel and rounding."""

from functools import partial

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import candidates, distances, objective
from fedinv_jax.attack.dynamics import Dynamics
from fedinv_jax.types import Array, ClientUpdate, Observation, PyTree, Transcript

_SAFETY = 4.0


def _mean_squares(tree_: PyTree, where: Array, least: float | Array = 0.0) -> PyTree:
    """The mean square of each leaf, `[]`; of item rows, over the candidates `where [K]` only.

    Each leaf's sum of squares is at least `least`.
    """

    def mean(path: tuple, leaf: Array) -> Array:
        rows = path[0].key == 'items'
        size = leaf.size / len(where) * jnp.sum(where) if rows else leaf.size
        return jnp.maximum(jnp.sum(leaf**2), least) / jnp.maximum(size, 1)

    return jax.tree_util.tree_map_with_path(mean, tree_)


def _sizes(seen: PyTree, where: Array) -> PyTree:
    """The mean square of each leaf, `[]`; its norm is at least 1e-6 of the whole upload's."""
    least = distances.floor(1e-12 * distances.squared_norm(seen))
    return _mean_squares(seen, where, least)


def deviations(
    transcript: Transcript,
    client_update: ClientUpdate,
    observation: Observation,
    hypothesis: Dynamics,
    latent: PyTree,
    rounding: float = 2.0**-24,
) -> PyTree:
    """Standard deviations `[T]` by leaf of the difference between a seen upload and the exact one.

    Two sources: the channel's known variance, and rounding. For the rounding the attacker replays
    the client's step in float32 and in float64 at four made-up label vectors and takes four times
    the root mean square difference (another order of summation gave differences up to three times
    as large). For uploads of another dtype the difference is scaled by the unit roundoff.

    Args:
        transcript: what the server holds of one client, in float64.
        client_update: the client's own update.
        observation: the channel.
        hypothesis: about the private parameters.
        latent: an estimate; only the sizes of the terms depend on it.
        rounding: unit roundoff of the uploads; `2**-24` is float32's.

    Returns:
        A tree with the structure of what is seen.
    """

    def replay(phase: Array, dtype: str) -> PyTree:
        ranks = jnp.arange(1, transcript.items.shape[0] + 1)
        labels = (ranks * 0.6180339887498949 * phase) % 1.0
        weights = jnp.ones(labels.shape) if transcript.weights is None else None
        cast = partial(tree.cast_floats, dtype=dtype)
        uploads = hypothesis.rollout(
            client_update,
            cast(latent),
            cast(transcript.shared),
            cast(objective.batches(transcript, labels, weights)),
            transcript.participated,
        )
        return jax.vmap(
            lambda upload, seen: observation.predict(upload, seen, observation.init(upload))[0]
        )(uploads, cast(transcript.seen))

    where = candidates.mask(transcript)

    def gap(phase: Array) -> PyTree:
        single, double = replay(phase, 'float32'), replay(phase, 'float64')
        error = jax.tree.map(lambda a, b: a.astype(b.dtype) - b, single, double)
        return jax.vmap(lambda step: _mean_squares(step, where))(error)

    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(gap)(jnp.arange(1.0, 5.0)))
    known = jax.vmap(observation.variance)(transcript.seen)
    floors = jax.vmap(lambda seen: _sizes(seen, where))(transcript.seen)
    return jax.tree.map(
        lambda square, variance, size: jnp.sqrt(
            jax.vmap(jnp.mean)(variance)
            + _SAFETY**2 * ((rounding * 2**24) ** 2 * square + rounding**2 * size)
        ),
        mean, known, floors,
    )  # fmt: skip
