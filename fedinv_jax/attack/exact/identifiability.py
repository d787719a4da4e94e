"""How much the uploads determine, for certificates; see also `analysis`.

All functions take the whitened Jacobian `A [M, K]` of the stacked uploads in the labels, or `A'A`,
at some point, in units of the noise's standard deviation. Other binary labels `y'` move the uploads
by `|A (y' - y)|`. If every other y' in the box moves them by more than the noise can, y is
determined.
"""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as linalg

from fedinv_jax.attack import box_qp
from fedinv_jax.types import Array

STANDS_OUT = 9.0
"""Squared singular values above this, three standard deviations, stand out from the noise."""


def _noise_level(gram: Array) -> Array:
    """Squared singular values above this exceed the noise and the rounding of `A'A`."""
    return jnp.maximum(STANDS_OUT, 1e-14 * jnp.trace(gram))


def factor(gram: Array) -> Array:
    """`box_qp.cholesky` of G minus the noise level.

    Its diagonal holds NaN unless A has full rank above the noise, zero columns aside.

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
    """
    return box_qp.cholesky(gram, _noise_level(gram))


def noise_rank(gram: Array, factor: Array) -> Array:
    """The number of directions of the labels that stand out from the noise, `[]`.

    Counts the singular values of A that are above 3 and above 1e-7 of the root of their sum of
    squares; the rounding of `A'A` hides smaller ones. Eigenvalues are computed only if `factor`
    does not already show full rank.

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


def variances(gram: Array, factor: Array, where: Array) -> Array:
    """Upper bounds `[K]` on the variance `(G^-1)_kk` of each label of least squares.

    That is the diagonal of the inverse of G minus the noise level, NaN unless A has full rank above
    the noise.

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
        factor: float64 `[K, K]`, `factor(gram)`.
        where: bool `[K]`, False for padding.

    Example:
        >>> gram = jnp.diag(jnp.array([25.0, 109.0]))
        >>> found = variances(gram, factor(gram), jnp.ones(2, bool))
        >>> [round(variance, 4) for variance in found.tolist()]  # 1/16, 1/100
        [0.0625, 0.01]
    """
    inverse = linalg.solve_triangular(factor, jnp.eye(len(factor), dtype=factor.dtype), lower=True)
    return jnp.sum(inverse**2, axis=0) / jnp.where(where, jnp.diag(gram), 1)


def grid_margins(gram: Array, factor: Array, where: Array, grid: float) -> Array:
    """Lower bounds `[K]` on how far the uploads move if that label is another one of a grid.

    Other labels differ from y by `d = y' - y` with `|d_k| >= grid` where `d_k != 0`, and
    `|A d|^2 >= min {d'G d: d_k given} = d_k^2 / (G^-1)_kk`. Unlike `margins`, the bound does not
    need to know on which side of y_k the other labels are.

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
        factor: float64 `[K, K]`, `factor(gram)`.
        where: bool `[K]`, False for padding.
        grid: distance between neighbouring labels.

    Returns:
        float `[K]` >= 0: 0 where nothing is known, inf for padding.

    Example:
        >>> gram = jnp.diag(jnp.array([25.0, 109.0]))
        >>> grid_margins(gram, factor(gram), jnp.ones(2, bool), 0.25).round(4).tolist()
        [1.0, 2.5]
    """
    found = grid / jnp.sqrt(variances(gram, factor, where))
    return jnp.where(where, jnp.nan_to_num(found, posinf=0.0), jnp.inf)


def margins(
    gram: Array,
    factor: Array,
    labels: Array,
    where: Array,
    sufficient: float | Array = jnp.inf,
) -> Array:
    """Lower bounds `[K]`, one per label, on how far the uploads move if that label is wrong.

    For any labels y' in the box, `d = y' - y` has `s_i d_i = |d_i|` with `s = 1 - 2y`. For any w,
    `|w| |A d| >= w'A d = sum_i a_i |d_i|` with `a_i = s_i (A'w)_i`, so that for binary y'
    with `d_i != 0`: `|A d| >= (a_i - sum_j max(-a_j, 0)) / |w|`. Two w are tried: `w = A G^-1 s`,
    which gives every label `1 / |w|`, and the w of the largest margin, the point `A S x` of least
    norm in the convex hull of the signed columns (`x >= 0`, `sum x = 1` up to a factor).

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
        factor: float64 `[K, K]`, `factor(gram)`.
        labels: bool `[K]`.
        where: bool `[K]`, False for padding.
        sufficient: if the first w gives every label a margin above this, the second is not tried.

    Returns:
        float `[K]` >= 0: 0 where nothing is known, inf for padding. The smallest entry is a lower
        bound (up to rounding, a millionth of the largest column) on the change of the uploads by
        any other labels.

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
