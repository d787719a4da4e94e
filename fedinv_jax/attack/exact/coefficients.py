"""The exact attack on one gradient of any loss: coefficients of the logits, whose signs are labels.

An upload of one gradient is `sum_i c_i dz_i/dtheta` with `c_i = dL/dz_i`, whatever the loss. Where
the private state is determined, the coefficients are those of linear least squares. Under BCE, BPR
and other losses that raise an interaction and lower a negative, the label is 1 where `c_i < 0`.
"""

from functools import partial

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import consistency, embedding, normal_equations, problems
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.types import Answer, Array, Guess, Key, PyTree, Transcript

_RANK = 1e-11  # eigenvalues of the scaled Gram matrix, relative to the largest, that count
_OUTSIDE = 1e-3  # share of a coefficient in what the uploads do not determine that is too much


def coefficients(known: Known) -> Attack:
    """The coefficients of each step by linear least squares, and the labels by their signs.

    The private states are those of a first layer with bias. Such a layer may determine one of
    several private leaves only: uploaded leaves that depend on the others are then left out. Each
    step has coefficients of its own; the steps share signs. A coefficient counts as many standard
    deviations as it is away from 0; one that the upload does not determine does not count.

    Raises:
        ValueError: if the client uploads no sum of the logits' gradients, or does not determine p.
    """
    if known.linear is None:
        raise ValueError('coefficients needs uploads that are one gradient of a loss.')
    found, linear = known.linear.recovery, known.linear
    if found is None or found.bias is None:
        raise ValueError('coefficients needs the kernel and the bias of a layer that multiplies p.')
    client = known._replace(client_update=linear.client_update, structure=linear.structure)

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        if len(transcript.items) > known.max_dense_candidates:
            raise ValueError(
                f'coefficients forms matrices [K, K]: {len(transcript.items)} candidates are more '
                f'than attack.max_dense_candidates={known.max_dense_candidates}.'
            )
        vectors = jax.vmap(partial(embedding.exact, found))(transcript.seen)
        finite = jnp.all(jnp.isfinite(vectors), axis=1)  # not at a step whose bias is zero
        vectors = jnp.nan_to_num(vectors)
        latent = vectors if linear.leaf is None else _filled(known, transcript, vectors)
        apart, residuals = [], []
        for t in range(len(transcript.rounds)):
            one = problems.steps(transcript, slice(t, t + 1))
            own = tree.take(latent, slice(t, t + 1))
            away, residual = _solve(client, one, own, (found.kernel, *linear.excluded))
            apart.append(jnp.where(finite[t], away, 0))
            residuals.append(residual)
        total = sum(apart) / jnp.sqrt(len(apart))
        where = candidates.mask(transcript)
        scores = jnp.where(where, 0.5 - jnp.arctan(total) / jnp.pi, 0)
        labels = (scores > 0.5) & where
        return Answer(
            scores,
            labels,
            vectors[0] if linear.leaf is None else None,
            jnp.mean(jnp.concatenate(residuals) ** 2),
            fits=_fits(known, transcript, vectors, labels),
        )

    return attack


def _fits(known: Known, transcript: Transcript, vectors: Array, labels: Array) -> Array:
    """Whether the client with its own loss uploads what was seen, for the labels found.

    The coefficients explain any loss, so that they say nothing about it. -1 where a part of the
    private state is not determined.
    """
    if known.linear is None or known.linear.leaf is not None or known.linear.recovery is None:
        return jnp.asarray(-1)
    kernel = known.linear.recovery.kernel
    problem = problems.whitened_problem(known, transcript, vectors, (kernel,))
    guess = Guess(labels.astype(vectors.dtype), None, vectors)
    residual = tree.ravel(problem.residual(guess))
    return consistency.fits(residual, len(labels) + vectors.size, determined=True)


def _filled(known: Known, transcript: Transcript, vectors: Array) -> PyTree:
    """Private states `[T, ...]` with the leaf that is determined; the others are fresh."""
    drawn = candidates.init_private(known.init_private, transcript)(jax.random.key(0))
    names = jax.tree.unflatten(jax.tree.structure(drawn), tree.names(drawn))

    def fill(name: str, leaf: Array) -> Array:
        leaf = jnp.broadcast_to(leaf, (len(vectors), *leaf.shape)).astype(vectors.dtype)
        return vectors if known.linear is not None and name == known.linear.leaf else leaf

    return jax.tree.map(fill, names, drawn)


def _solve(
    known: Known, step: Transcript, latent: PyTree, excluded: tuple[str, ...]
) -> tuple[Array, Array]:
    """The coefficients `[K]` of one step in standard deviations, and the residual that is left."""
    problem = problems.whitened_problem(known, step, latent, excluded)
    guess = problem.init(jax.random.key(0))
    equations = normal_equations.equations(problem, guess, known.structure.outer, excluded)
    diagonal = jnp.diag(equations.gram)
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    values, vectors = jnp.linalg.eigh(equations.gram / scale / scale[:, None])
    counted = values > _RANK * jnp.max(values)
    inverse = jnp.where(counted, 1 / jnp.where(counted, values, 1), 0)
    solved = vectors @ (inverse * (vectors.T @ (equations.rhs / scale)))
    variance = vectors**2 @ inverse
    outside = vectors**2 @ (~counted).astype(variance.dtype)
    determined = (outside < _OUTSIDE) & (diagonal > 0)
    apart = jnp.where(determined, solved / jnp.sqrt(jnp.where(determined, variance, 1)), 0)
    residual = tree.ravel(problem.residual(guess._replace(labels=solved / scale)))
    return apart, residual
