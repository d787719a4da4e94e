"""How much the uploads determine, without any attack: 'insufficient constraints' in numbers.

Everything is a function of the whitened Jacobian `A [M, K]` of the stacked uploads in the labels,
in units of the noise's standard deviation, at a point that is passed in: the attacker's own
estimate, or the truth in an auditor's line that says so. Other binary labels `y'` move the uploads
by `|A (y' - y)|`; if no y' in the box moves them by less than the noise may, y is determined.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.scipy.stats
import numpy as np
import scipy.optimize

from fedinv_jax.attack.exact import box_qp
from fedinv_jax.types import Array

STANDS_OUT = 9.0
"""Squared singular values above it, three standard deviations, stand out of the noise."""


def project(jacobian: Array, private: Array) -> Array:
    """The labels' Jacobian with what the private parameters can imitate taken out.

    `(I - Q Q') A` for an orthonormal basis Q of the range of J: what follows of it holds, to first
    order, whatever the private parameters are. A column of which only rounding is left is zero.

    Args:
        jacobian: float `[M, K]`, A.
        private: float `[M, P]`, J, the derivatives in the private parameters of all steps.

    Returns:
        float `[M, K]`.

    Example:
        >>> project(jnp.eye(2), jnp.array([[1.0], [0.0]])).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    scale = jnp.linalg.norm(private, axis=0)
    scaled = private / jnp.where(scale > 0, scale, 1)
    basis, values, _ = jnp.linalg.svd(scaled, full_matrices=False)
    least = jnp.max(values) * max(private.shape) * jnp.finfo(private.dtype).eps
    basis = jnp.where(values > least, basis, 0)
    rest = jacobian - basis @ (basis.T @ jacobian)
    before, after = (jnp.linalg.norm(matrix, axis=0) for matrix in (jacobian, rest))
    rounding = max(jacobian.shape[0], private.shape[1]) * jnp.finfo(jacobian.dtype).eps
    return jnp.where(after > rounding * before, rest, 0)


def spectrum(jacobian: Array) -> Array:
    """Singular values `[min(M, K)]` of a Jacobian with columns of norm 1, from the largest down.

    Example:
        >>> spectrum(jnp.array([[2.0, 0.0], [0.0, 5.0]])).tolist()
        [1.0, 1.0]
    """
    norms = jnp.linalg.norm(jacobian, axis=0)
    return jnp.linalg.svd(jacobian / jnp.where(norms > 0, norms, 1), compute_uv=False)


def rank(jacobian: Array, tolerance: float) -> Array:
    """The number of singular values, `spectrum`, above `tolerance` times the largest.

    Args:
        jacobian: float `[M, K]`.
        tolerance: relative; about 1e-6 for uploads in float32. Read it from float64 only.

    Example:
        >>> rank(jnp.array([[1.0, 1.0], [1.0, 1.0]]), 1e-4).item()
        1
    """
    values = spectrum(jacobian)
    return jnp.sum(values > tolerance * jnp.max(values, initial=0))


def _noise_level(gram: Array) -> Array:
    """Squared singular values above it stand out of the noise, and of the rounding of `A'A`."""
    return jnp.maximum(STANDS_OUT, 1e-14 * jnp.trace(gram))


def factor(gram: Array) -> Array:
    """`box_qp.cholesky` of G less the noise.

    NaN on its diagonal unless all columns that are not 0 stand out.

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
    """
    return box_qp.cholesky(gram, _noise_level(gram))


def noise_rank(gram: Array, factor: Array) -> Array:
    """Directions of the labels that stand out of the noise, `[]`.

    Those of singular values of A above 3, and above 1e-7 of the root of their sum of squares, below
    which the rounding of `A'A` hides them. Counted only where `factor` does not say that it is all.

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
        factor: float64 `[K, K]`, `factor(gram)`.

    Example:
        >>> gram = jnp.diag(jnp.array([100.0, 16.0, 1.0]))
        >>> noise_rank(gram, factor(gram)).item()
        2
    """
    return jax.lax.cond(
        jnp.all(jnp.isfinite(jnp.diag(factor))),
        lambda: jnp.sum(jnp.diag(gram) > 0),
        lambda: jnp.sum(jnp.linalg.eigvalsh(gram) > _noise_level(gram)),
    )


def box_unique(jacobian: np.ndarray, labels: np.ndarray, where: np.ndarray | None = None) -> bool:
    """Whether binary labels are the only ones in the box with these uploads, without noise.

    They are iff some w has `(A'w)_i > 0` wherever y_i = 0 and `< 0` wherever y_i = 1: one linear
    program, `max t` over `s_i (A'w)_i >= t, |w_m| <= 1`, on columns of norm 1; unique iff t > 0.

    Args:
        jacobian: float `[M, K]`, on the host.
        labels: 0-1 `[K]`.
        where: 0-1 `[K]`, 0 for padding.

    Example:
        >>> box_unique(np.array([[1.0, 1.0]]), np.array([1, 1]))  # only both ones add up to 2
        True
        >>> box_unique(np.array([[1.0, 1.0]]), np.array([1, 0]))
        False
    """
    kept = np.ones(len(labels), bool) if where is None else np.asarray(where) > 0
    matrix = np.asarray(jacobian, np.float64)[:, kept]
    if not matrix.shape[1]:
        return True
    norms = np.linalg.norm(matrix, axis=0)
    if not np.all(norms > 0):
        return False
    # In a basis of the range: as many unknowns as the rank, and well scaled.
    basis, values, _ = np.linalg.svd(matrix / norms, full_matrices=False)
    matrix = basis[:, values > 1e-12 * values[0]].T @ (matrix / norms)
    signed = (1 - 2 * (np.asarray(labels, float)[kept] > 0.5)) * matrix
    size = len(signed)
    result = scipy.optimize.linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=np.column_stack([-signed.T, np.ones(signed.shape[1])]),
        b_ub=np.zeros(signed.shape[1]),
        bounds=[(-1, 1)] * size + [(0, None)],
        method='highs',
    )
    # The solver's own optimum is true to 1e-7 only: w proves what it says, or it does not.
    return bool(result.status == 0 and np.min(result.x[:size] @ signed) > 1e-9)


def margins(
    gram: Array,
    factor: Array,
    labels: Array,
    where: Array,
    sufficient: float | Array = jnp.inf,
) -> Array:
    """How far the uploads move, at least, if a label is wrong: one lower bound a label, `[K]`.

    Of any labels y' in the box, `d = y' - y` has `s_i d_i = |d_i|` for `s = 1 - 2y`. For any w,
    `|w| |A d| >= w'A d = sum_i a_i |d_i|` with `a_i = s_i (A'w)_i`, so that for binary y'
    with `d_i != 0`: `|A d| >= (a_i - sum_j max(-a_j, 0)) / |w|`. Tried are `w = A G^-1 s`, which
    gives all labels `1 / |w|`, and the w of the largest margin: the point `A S x` of least norm in
    the convex hull of the signed columns (`x >= 0`, `sum x = 1` up to a factor).

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
        factor: float64 `[K, K]`, `factor(gram)`.
        labels: bool `[K]`.
        where: bool `[K]`, False for padding.
        sufficient: a margin beyond which a larger one is not looked for.

    Returns:
        float `[K]` >= 0, 0 where nothing is known, inf on padding. The smallest bounds the least
        change of the uploads by any other labels: exact in the limit, a lower bound always (to
        rounding: a millionth of the largest column).

    Example:
        >>> gram = jnp.diag(jnp.array([400.0, 900.0]))
        >>> labels, where = jnp.array([True, False]), jnp.ones(2, bool)
        >>> (margins(gram, factor(gram), labels, where) > 16).tolist()
        [True, True]

    References:
        Wolfe, Finding the nearest point in a polytope, Mathematical Programming 11,
        1976, doi:10.1007/BF01580381.
    """
    sign = (1 - 2 * labels.astype(gram.dtype)) * where

    def bound(weights: Array) -> Array:
        image = sign * (gram @ (sign * weights))
        length = jnp.sqrt(jnp.maximum(weights @ image, 0))
        against = jnp.sum(jnp.where(where, jnp.maximum(-image, 0), 0))
        value = (image - against) / jnp.where(length > 0, length, 1)
        return jnp.where((length > 0) & jnp.isfinite(value), jnp.maximum(value, 0), 0)

    plain = bound(sign * box_qp.approximate(gram, factor, sign))
    enough = jnp.all(jnp.where(where, plain > sufficient, True))

    def separated() -> Array:
        pull = jnp.max(jnp.diag(gram), initial=0, where=where) * where
        signed = sign[:, None] * gram * sign[None, :] + pull[:, None] * where
        weights = box_qp.box_least_squares(signed, pull)
        return jnp.maximum(plain, bound(weights))

    return jnp.where(where, jax.lax.cond(enough, lambda: plain, separated), jnp.inf)


def predicted_error(gram: Array, where: Array) -> Array:
    """Standard deviation `[K]` of each label's least-squares estimate, `sqrt((G^-1)_ii)`.

    Labels that the uploads do not determine have inf; padding 0.

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
        where: bool `[K]`, False for padding.

    Example:
        >>> predicted_error(jnp.diag(jnp.array([4.0, 0.0])), jnp.ones(2, bool)).tolist()
        [0.5, inf]
    """
    values, vectors = jnp.linalg.eigh(gram)
    known = values > jnp.max(values) * 1e-13
    inverse = jnp.where(known, 1 / jnp.where(known, values, 1), 0)
    variance = vectors**2 @ inverse
    outside = vectors**2 @ (~known).astype(gram.dtype)
    return jnp.where(where, jnp.where(outside > 1e-9, jnp.inf, jnp.sqrt(variance)), 0)


def predicted_flips(gram: Array, where: Array) -> Array:
    """The share of labels, `[]`, that rounding the least-squares estimate is expected to get wrong.

    The mean over labels of `Phi(-1 / (2 std))`: what the spectrum predicts at this noise. Box and
    prior do better.

    Args:
        gram: see `predicted_error`.
        where: bool `[K]`, False for padding.

    Example:
        >>> predicted_flips(jnp.diag(jnp.array([1e6, 0.0])), jnp.ones(2, bool)).item()
        0.25
    """
    deviation = predicted_error(gram, where)
    flips = jax.scipy.stats.norm.cdf(-0.5 / jnp.where(deviation > 0, deviation, 1))
    return jnp.sum(jnp.where(where, flips, 0)) / jnp.maximum(jnp.sum(where), 1)


def smallest_num_gradients(
    jacobians: Sequence[np.ndarray], labels: np.ndarray, where: np.ndarray | None = None
) -> int | None:
    """The fewest of the first gradients that determine the labels in their box, without noise.

    Args:
        jacobians: A of each step, `[M, K]`, in the order of the steps.
        labels: 0-1 `[K]`.
        where: 0-1 `[K]`, 0 for padding.

    Returns:
        T, or None when all of them do not.

    Example:
        >>> steps = [np.array([[1.0, 1.0]]), np.array([[1.0, -1.0]])]
        >>> smallest_num_gradients(steps, np.array([1, 0]))
        2
    """
    for steps in range(1, len(jacobians) + 1):
        if box_unique(np.concatenate(list(jacobians)[:steps]), labels, where):
            return steps
    return None
