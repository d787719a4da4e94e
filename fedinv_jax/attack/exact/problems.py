"""The problems that exact attacks solve: with free private states, or with whitened residuals."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.flatten_util
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import dynamics, objective, relax, whitening
from fedinv_jax.attack.exact.known import Known
from fedinv_jax.types import Array, Guess, PyTree, Transcript


def whitened_problem(
    known: Known, transcript: Transcript, latent: PyTree, excluded: Sequence[str] = ()
) -> objective.Problem:
    """The whitened problem without the `excluded` leaves, started at private states `[T, ...]`."""
    hypothesis = dynamics.free(known.init_private, transcript.rounds.shape[0])
    arguments = (transcript, known.client_update, known.observation, hypothesis)
    deviation = whitening.deviations(*arguments, latent, known.rounding, known.smallest)
    if excluded:
        deviation = replace_leaves(deviation, excluded, jnp.inf)
    problem = objective.problem(
        *arguments,
        relaxation=relax.identity(),
        deviation=deviation,
        separable=known.structure.separable,
    )
    half = jnp.full(transcript.items.shape, 0.5, jnp.result_type(float))
    return problem._replace(init=lambda key: Guess(half, None, latent))


def steps(transcript: Transcript, index: Any) -> Transcript:
    """The transcript of some of the observed steps, for a transcript without rounds in between.

    Args:
        transcript: what the server holds, S = T.
        index: of the steps, a slice or an integer array.
    """
    taken = {
        name: tree.take(getattr(transcript, name), index)
        for name in ('shared', 'seen', 'rounds', 'participated', 'slot', 'weights')
        if getattr(transcript, name) is not None
    }
    return dataclasses.replace(transcript, **taken)


def typical_norm(known: Known) -> Array:
    """The norm of a fresh private state, a root mean square over 64 draws."""
    draws = jax.vmap(known.init_private)(jax.random.split(jax.random.key(0), 64))
    return jnp.sqrt(jnp.mean(jax.vmap(lambda p: jnp.sum(tree.ravel(p) ** 2))(draws)))


def free_problem(known: Known, transcript: Transcript) -> objective.Problem:
    """The problem with one unknown private state per step; each step is divided by its norm."""
    return objective.free_problem(
        transcript,
        known.client_update,
        known.observation,
        known.init_private,
        relaxation=relax.identity(),
        separable=known.structure.separable,
    )


def replace_leaves(values: PyTree, names: Sequence[str], value: float) -> PyTree:
    """A tree of nested dicts whose leaves of these names are filled with `value`."""
    leaves = flax.traverse_util.flatten_dict(values, sep='/')
    new = {k: jnp.full_like(v, value) if k in names else v for k, v in leaves.items()}
    return flax.traverse_util.unflatten_dict(new, sep='/')
