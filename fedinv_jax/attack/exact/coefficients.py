"""The exact attack on one gradient of any loss: coefficients of the logits, whose signs are labels.

An upload of one gradient is `sum_i c_i dz_i/dtheta` with `c_i = dL/dz_i`, whatever the loss. Where
the private state is determined, the coefficients are those of linear least squares. Under BCE, BPR
and other losses that raise an interaction and lower a negative, the label is 1 where `c_i < 0`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import candidates, step_sizes
from fedinv_jax.attack.exact import certificate, consistency, embedding, normal_equations, problems
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.types import Answer, Array, Certificate, Guess, Key, PyTree, Transcript

_RANK = 1e-11  # eigenvalues of the scaled Gram matrix, relative to the largest, that count
_OUTSIDE = 1e-3  # share of a coefficient in what the uploads do not determine that is too much


def coefficients(known: Known) -> Attack:
    """The coefficients of each step by linear least squares, and the labels by their signs.

    The private states are those of a first layer with bias. Such a layer may determine one of
    several private leaves only: uploaded leaves that depend on the others are then left out. Each
    step has coefficients of its own, and each part of it where step sizes are unknown; they share
    signs. A coefficient counts as many standard deviations as it is away from 0; one that the
    upload does not determine does not count. One that the error of the private state may explain is
    taken for a negative's where the channel is lossless: clients that are trained upload next to
    nothing for most negatives, and much for most interactions.

    The answer is certified where the loss is known to be one whose signs are labels, uploads are
    lossless, nothing exchanges the labels, and each sign is sure at some step: the coefficients of
    the truth differ by at most `sqrt((G^-1)_ii) (|r| + |e|)`, r the residual, e the rounding,
    that of the private state included, as in `certificate.certify`.

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
        off = jax.vmap(partial(embedding.mismatch, found))(transcript.seen, vectors)
        moved = vectors + embedding.error(vectors, off, known.rounding)
        error = moved - vectors
        if linear.leaf is not None:
            error = jax.tree.map(jnp.subtract, _filled(known, transcript, moved), latent)
        names = tree.names(transcript.seen)
        groups: list[tuple[str, ...]] = [()]  # of leaves that are left out besides
        if not known.step_sizes_known:  # the coefficients of each part have a factor of its own
            groups = [
                tuple(name for name in names if name.split('/')[0] != part)
                for part in step_sizes.parts(transcript.seen)
            ]

        def step(t: int, others: tuple[str, ...]) -> Step:
            one = problems.steps(transcript, slice(t, t + 1))
            own, moved = tree.take((latent, error), slice(t, t + 1))
            return _solve(client, one, own, moved, (found.kernel, *linear.excluded, *others))

        solved = [step(t, others) for others in groups for t in range(len(transcript.rounds))]
        steps: Step = jax.tree.map(lambda *leaves: jnp.stack(leaves), *solved)
        apart = jnp.where(jnp.tile(finite, len(groups))[:, None], steps.apart, 0)
        total = jnp.sum(apart, axis=0) / jnp.sqrt(len(apart))
        if not known.lossy:
            total += jnp.max(steps.moved)
        where = candidates.mask(transcript)
        scores = jnp.where(where, 0.5 - jnp.arctan(total) / jnp.pi, 0)
        labels = (scores > 0.5) & where
        fits = _fits(known, transcript, vectors, labels)
        return Answer(
            scores,
            labels,
            vectors[0] if linear.leaf is None else None,
            jnp.mean(steps.residual**2),
            certificate=certify(known, steps, apart, labels, where, fits),
            fits=fits,
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


class Step(NamedTuple):
    """What one step's upload says of the coefficients.

    Attributes:
        apart: float `[K]`, the coefficients in standard deviations; 0 if not determined.
        residual: float `[M]`, what is left of the upload, whitened.
        noise: float `[]`, what the residual, rounding and the error of the private state may be.
        moved: float `[]`, the part of the latter.
        rank: int `[]`, the number of directions that the upload determines.
        full: bool `[]`, whether these are all.
    """

    apart: Array
    residual: Array
    noise: Array
    moved: Array
    rank: Array
    full: Array


def _solve(
    known: Known, step: Transcript, latent: PyTree, error: PyTree, excluded: tuple[str, ...]
) -> Step:
    """The coefficients of one step by least squares, at private states `latent` +- `error`."""
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
    guess = guess._replace(labels=solved / scale)

    def residual(latent: PyTree) -> Array:
        return tree.ravel(problem.residual(guess._replace(latent=latent)))

    left, moved = jax.jvp(residual, (latent,), (error,))
    rank = jnp.sum(counted)
    return Step(
        jnp.where(determined, solved / jnp.sqrt(jnp.where(determined, variance, 1)), 0),
        left,
        certificate.noise_bound(left) + jnp.linalg.norm(moved),
        jnp.linalg.norm(moved),
        rank,
        rank == jnp.sum(diagonal > 0),
    )


def certify(
    known: Known, steps: Step, apart: Array, labels: Array, where: Array, fits: Array
) -> Certificate:
    """The certificate of labels `[K]` by the signs of the coefficients `apart [T, K]`.

    Args:
        known: what the attacker knows.
        steps: of all steps, leaves `[T, ...]`; with unknown step sizes, of each part at each step.
        apart: float `[T, K]`, as many, `steps.apart`; 0 at steps that do not determine the private
            state.
        labels: bool `[K]`, the answer.
        where: bool `[K]`, False for padding.
        fits: int `[]`, `Answer.fits`.
    """
    explained = jax.vmap(certificate.is_explained)(steps.residual)
    sure = jnp.abs(apart) / steps.noise[:, None]
    sure = jnp.where((steps.full & explained)[:, None], sure, 0)
    agrees = jnp.all((sure <= 1) | ((apart < 0) == labels), axis=0)
    each = jnp.max(sure, axis=0) * agrees
    noise = jnp.max(steps.noise)
    margin = noise * jnp.min(each, initial=jnp.inf, where=where)
    told = known.signs and not known.lossy and not known.symmetries
    return Certificate(
        certified=told & (margin > noise) & (fits != 0) & jnp.any(where),
        locally_unique=jnp.asarray(False),
        margin=margin,
        noise=noise,
        rank=jnp.max(steps.rank),
        determined=jnp.sum((each > 1) & where),
    )
