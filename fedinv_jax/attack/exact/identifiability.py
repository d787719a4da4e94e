"""How much the uploads determine: what certificates are made of, see also `analysis`.

Everything is a function of the whitened Jacobian `A [M, K]` of the stacked uploads in the labels,
or of `A'A`, in units of the noise's standard deviation, at a point that is passed in. Other binary
labels `y'` move the uploads by `|A (y' - y)|`; if no y' in the box moves them by less than the
noise may, y is determined.
"""

import jax
import jax.numpy as jnp

from fedinv_jax.attack.exact import box_qp
from fedinv_jax.types import Array

STANDS_OUT = 9.0
"""Squared singular values above it, three standard deviations, stand out of the noise."""


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
