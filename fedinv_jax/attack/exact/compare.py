"""Several solvers on one client: the labels that explain best what was seen are kept.

If a client is not quite as described, or noise hides much, a solver that reads item rows without
a model can be right where the solver with the model is wrong.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import certificate, label_solve, private_fit, problems
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.types import Answer, Array, Key, PyTree, Transcript

_ITERATIONS = 8  # of the private states, from those of the first solver


def best_of(known: Known, first: Attack, others: Mapping[str, Attack]) -> Attack:
    """The first solver's answer, or that of another one whose labels explain more.

    Every answer's labels are given private states of their own, fitted from those that the first
    solver found; the labels that then leave least of the whitened uploads are kept. Where the first
    answer explains what was seen up to rounding, and the channel is lossless, it is kept as it is.

    Args:
        known: what the attacker knows.
        first: makes certificates, or none; finds private states.
        others: by name; they read item rows only. Their answers are never certified.

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
