"""Several solvers on one client: the labels that explain best what was seen are kept.

If a client is not quite as described, or noise hides much, a solver that reads item rows alone can
be right where the solver that reads all leaves is wrong.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import certificate, item_rows, label_solve, private_fit, problems
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Guess, Key, PyTree, Transcript

_ITERATIONS = 8  # of the private states, from those of the first solver


def best_of(known: Known, first: Attack, others: Mapping[str, Attack]) -> Attack:
    """The first solver's answer, or that of another one whose labels explain more.

    Every answer's labels are given private states of their own, fitted from those that the first
    solver found; the labels that then leave least of the whitened uploads are kept. Where the first
    answer explains what was seen up to rounding, and the channel is lossless, it is kept as it is.

    Args:
        known: what the attacker knows.
        first: makes certificates, or none; finds private states.
        others: by name; they read item rows. Their answers are never certified.

    Returns:
        The attack; `kept` of its answer is 0 for the first, else the place among the others.
    """

    def attack(transcript: Transcript, key: Key) -> Answer:
        answer = first(transcript, key)
        answer = answer._replace(kept=jnp.zeros((), int))
        latent = _every_step(answer.private, len(transcript.rounds))
        problem = problems.whitened_problem(known, transcript, latent)
        where = candidates.mask(transcript)

        def left(labels: Array) -> Array:
            return private_fit.fit(problem, labels, latent, _ITERATIONS).square

        def compared() -> Answer:
            found = [solver(transcript, key) for solver in others.values()]
            labels = jnp.stack([one.labels & where for one in (answer, *found)])
            values = jax.lax.map(lambda own: left(own.astype(answer.scores.dtype)), labels)
            best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
            chosen = answer
            for index, one in enumerate(found, start=1):
                chosen = optax.tree.where(best == index, _as(answer, one, index), chosen)
            return chosen

        if known.lossy:
            return compared()
        explained = left(answer.labels.astype(answer.scores.dtype)) <= label_solve.EXPLAINED
        return jax.lax.cond(explained, lambda: answer, compared)

    return attack


def likeliest(
    known: Known, transcript: Transcript, problem: Problem, own: Guess, drawn: PyTree
) -> tuple[Guess, Array]:
    """The labels that explain most, and whether their flip is refuted.

    Compared are the labels found, and where these do not explain what was seen the signs of
    `item_rows.spectral`; and the flips of both. Each has the private states that suit it best
    (`private_fit.around`); of several that explain as much those with the public share of
    positives are taken. A flip is refuted where its fit converged and explains less.

    Args:
        known: what the attacker knows.
        transcript: what the server holds.
        problem: from `problems.whitened_problem`.
        own: binary labels `[K]` and private states, leaves `[T, ...]`, that were found.
        drawn: fresh private states.

    Returns:
        The guess, and a bool `[]`.
    """
    where, left = candidates.mask(transcript), label_solve.fit(problem, own)
    side = item_rows.spectral(transcript, known.positives).labels.astype(left.dtype)
    labels = jnp.stack([own.labels, where - own.labels, side, where - side])
    explained = left <= label_solve.EXPLAINED
    needed = jnp.stack([~explained, jnp.asarray(True), ~explained, ~explained])
    skipped = private_fit.Fit(own.latent, jnp.full_like(left, jnp.inf), jnp.asarray(True))
    around = partial(private_fit.around, problem, own.latent, drawn)
    fits = jax.lax.map(
        lambda pair: jax.lax.cond(pair[1], around, lambda _: skipped, pair[0]), (labels, needed)
    )
    squares = fits.square.at[0].min(left)
    shares = jnp.sum(labels, axis=1) / jnp.maximum(jnp.sum(where), 1)
    best = private_fit.likeliest(squares, jnp.abs(shares - known.positives))
    flip = best ^ 1
    refuted = fits.converged[flip]
    refuted &= squares[flip] > jnp.maximum(label_solve.EXPLAINED, squares[best])
    return own._replace(labels=labels[best], latent=tree.take(fits.latent, best)), refuted


def _every_step(private: PyTree, steps: int) -> PyTree:
    """Private states of the first step for each of the T steps; zeros where they are not finite."""
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(jnp.nan_to_num(leaf), (steps, *leaf.shape)), private
    )


def _as(first: Answer, other: Answer, index: int) -> Answer:
    """Another solver's answer with what the first answer has besides: nothing is certified."""
    found = first.certificate
    return first._replace(
        scores=other.scores.astype(first.scores.dtype),
        labels=other.labels,
        objective=other.objective.astype(first.objective.dtype),
        certificate=found and certificate.unless(found, jnp.asarray(True)),
        kept=jnp.asarray(index),
    )
