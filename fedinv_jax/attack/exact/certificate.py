"""Certificates: whether an answer is the only one at the given noise, found without the truth."""

import jax
import jax.flatten_util
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import candidates, objective
from fedinv_jax.attack.exact import identifiability, label_solve, normal_equations
from fedinv_jax.attack.exact.known import Known
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Array, Certificate, Guess, PyTree, Transcript


def project_gram(
    problem: Problem, guess: Guess, gram: Array, tangents: PyTree
) -> tuple[Array, Array]:
    """`A'A` without changes that the private states could cause along some directions.

    `A'A - A'J (J'J)^+ J'A`, as `analysis.project` but without forming A.

    Args:
        problem: of the whitened residual.
        guess: where to linearise.
        gram: float64 `[K, K]`, `A'A`.
        tangents: leaves `[P, ...]`, directions of the latent.

    Returns:
        The matrix `[K, K]`, and how many of the directions stand out from the noise, `[]`.
    """

    def residual(labels: Array, latent: PyTree) -> Array:
        return tree.ravel(problem.residual(guess._replace(labels=labels, latent=latent)))

    jacobian = jax.vmap(
        lambda tangent: jax.jvp(
            lambda latent: residual(guess.labels, latent), (guess.latent,), (tangent,)
        )[1]
    )(tangents)
    known = jnp.sum(jnp.linalg.eigvalsh(jacobian @ jacobian.T) > identifiability.STANDS_OUT)
    norms = jnp.linalg.norm(jacobian, axis=1, keepdims=True)
    jacobian = jacobian / jnp.where(norms > 0, norms, 1)
    pullback = jax.vjp(lambda labels: residual(labels, guess.latent), guess.labels)[1]
    cross = jax.vmap(lambda row: pullback(row)[0])(jacobian)
    inverse = jnp.linalg.pinv(jacobian @ jacobian.T, rtol=1e-12, hermitian=True)
    return gram - cross.T @ inverse @ cross, known


def certify(
    problem: Problem,
    guess: Guess,
    gram: Array,
    factor: Array,
    where: Array,
    extra: float | Array = 0.0,
    num_private: int | Array = 0,
    grid: float = 1.0,
) -> Certificate:
    """The certificate of an answer: whether other labels in the box explain the uploads too.

    The uploads of the truth y0 differ from what was seen by the noise e, those of the answer y by
    its residual r: `A (y0 - y) = r - e` to first order, so `|A (y0 - y)| <= |r| + |e|`. If every
    other vector on the grid moves the uploads by more (`identifiability.margins` for binary labels,
    `grid_margins` for ratings), y0 is y. This holds near the true private states only, so an answer
    is certified only if noise can explain its residual. For M numbers of unit variance, `|e|^2` is
    below `M + 3 sqrt(2 M)` except in one case of a thousand.

    Args:
        problem: of the whitened residual, in units of the noise.
        guess: the answer; its labels are rounded to the grid.
        gram: float64 `[K, K]`, `A'A` at the guess, from `project_gram` if private states are
            uncertain.
        factor: float64 `[K, K]`, `identifiability.factor(gram)`.
        where: bool `[K]`, False for padding.
        extra: norm that errors of the private states may add to the noise.
        num_private: number of determined private parameters, added to the rank.
        grid: see `known.Known`.

    Returns:
        The certificate, `locally_unique` at most; relative to the noise's standard deviation.
    """
    rounded = guess._replace(labels=label_solve.nearest(guess.labels, grid))
    residual = tree.ravel(problem.residual(rounded))
    noise = noise_bound(residual) + extra
    # The rounding of the Gram matrix hides smaller changes of the uploads.
    noise += 1e-7 * jnp.sqrt(jnp.max(jnp.diag(gram), initial=0))
    if grid == 1:
        each = identifiability.margins(gram, factor, rounded.labels > 0.5, where, 2 * noise)
    else:
        each = identifiability.grid_margins(gram, factor, where, grid)
    margin = jnp.min(each, initial=jnp.inf, where=where)
    unique = (margin > noise) & is_explained(residual) & jnp.any(where)
    rank = identifiability.noise_rank(gram, factor)
    determined = jnp.sum((each > noise) & where)
    return Certificate(jnp.asarray(False), unique, margin, noise, rank + num_private, determined)


def noise_bound(residual: Array) -> Array:
    """`|r| + |e|` `[]` of a whitened residual r `[M]` and noise e, see `certify`.

    Example:
        >>> round(noise_bound(jnp.array([3.0, 4.0])).item(), 3)  # 5 + sqrt(2 + 3 sqrt(4))
        7.828
    """
    count = jnp.sum(residual != 0)
    return jnp.linalg.norm(residual) + jnp.sqrt(count + 3 * jnp.sqrt(2.0 * count))


def is_explained(residual: Array) -> Array:
    """Whether noise can explain a whitened residual `[M]`: bool `[]`.

    Example:
        >>> [is_explained(jnp.array(r)).item() for r in ([1.0, 1.0], [9.0, 9.0])]
        [True, False]
    """
    return jnp.sum(residual**2) <= label_solve.EXPLAINED * jnp.sum(residual != 0)


def for_all_private_states(found: Certificate) -> Certificate:
    """A certificate where the uploads allow one value of the private states, the answer's."""
    return found._replace(certified=found.locally_unique, locally_unique=jnp.asarray(False))


def unless(found: Certificate, ambiguous: Array) -> Certificate:
    """A certificate withdrawn where other labels are known to explain the uploads as well."""
    return found._replace(
        certified=found.certified & ~ambiguous,
        locally_unique=found.locally_unique & ~ambiguous,
        margin=jnp.where(ambiguous, jnp.zeros_like(found.margin), found.margin),
        determined=jnp.where(ambiguous, jnp.zeros_like(found.determined), found.determined),
    )


def certify_unknown_private(
    known: Known, problem: objective.Problem, guess: Guess, transcript: Transcript
) -> Certificate | None:
    """The certificate of a guess whose private states are unknown in every direction.

    None if there are more than `known.max_dense_candidates` candidates.

    Args:
        known: what the attacker knows.
        problem: from `problems.whitened_problem`.
        guess: labels `[K]` on the grid and private states, leaves `[T, ...]`.
        transcript: what the server holds.
    """
    if len(guess.labels) > known.max_dense_candidates:
        return None
    flat, unravel = jax.flatten_util.ravel_pytree(guess.latent)
    gram = normal_equations.equations(problem, guess, known.structure.outer).gram
    tangents = jax.vmap(unravel)(jnp.eye(flat.size, dtype=flat.dtype))
    gram, num_private = project_gram(problem, guess, gram, tangents)
    factor, where = identifiability.factor(gram), candidates.mask(transcript)
    return certify(problem, guess, gram, factor, where, num_private=num_private, grid=known.grid)
