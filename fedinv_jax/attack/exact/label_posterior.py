"""Probabilities of binary labels where the equations alone do not determine them.

With fewer equations than labels, many labels in the box fit but few binary ones, and the public
popularity of the items makes few of those likely. Expectation propagation finds their marginals.
"""

import jax
import jax.numpy as jnp

from fedinv_jax.attack.exact import expectation_propagation, label_solve, normal_equations
from fedinv_jax.attack.exact.expectation_propagation import Point, Proposal
from fedinv_jax.attack.exact.normal_equations import Normal
from fedinv_jax.types import Array

_PLENTY = 2.0  # equations per label with which the label solve needs no prior
_MOST = 1024  # most equations for which marginals are computed
_COOLING = 0.85  # factor of the noise level per iteration, from the size of what was seen
_ITERATIONS = 100


def marginals(columns: Array, seen: Array, log_odds: Array) -> tuple[Array, Array]:
    """Probabilities of binary labels y in `seen = y' columns + noise`, noise of unit variance.

    By `expectation_propagation`, with a one-dimensional Gaussian factor for each label.

    Args:
        columns: float `[K, M]`, a row of zeros for padding.
        seen: float `[M]`.
        log_odds: float `[K]`, prior log odds of a label.

    Returns:
        Probabilities `[K]` of the iteration that is kept, and the mean squared residual `[]` of its
        likeliest labels.

    Example:
        >>> import numpy as np
        >>> columns = 1e4 * jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)))
        >>> found, _ = marginals(columns, columns[3] + columns[7], jnp.full(12, -1.5))
        >>> jnp.flatnonzero(found > 0.5).tolist()
        [3, 7]
    """
    unit = jnp.maximum(jnp.sqrt(jnp.mean(seen**2)), 1)
    matrix, target = columns.T / unit, seen / unit

    def left(probabilities: Array) -> Array:
        return jnp.mean((unit * (matrix @ jnp.round(probabilities) - target)) ** 2)

    def update(point: Point, level: Array) -> Proposal:
        noise = jnp.maximum(level, 1 / unit)
        variance, mean = 1 / point.precision, point.shift / point.precision
        covariance = (matrix * variance) @ matrix.T + noise**2 * jnp.eye(len(target))
        factor = jnp.linalg.cholesky(covariance)
        image, error = (
            jax.scipy.linalg.solve_triangular(factor, right, lower=True)
            for right in (matrix, target - matrix @ mean)
        )
        # The cavity distribution of a label: exp(-cut y^2 / 2 + pull y).
        information = jnp.sum(image**2, axis=0)
        remaining = 1 - information * variance
        cut, pull = information / remaining, (information * mean + error @ image) / remaining
        likely = jax.nn.sigmoid(log_odds + pull - cut / 2)
        least = expectation_propagation.LEAST
        inverse = 1 / (likely * (1 - likely) + least + expectation_propagation.SOFT * level**2)
        new, new_shift = inverse - cut, inverse * likely - pull
        likely = jnp.where(jnp.isfinite(likely), likely, point.found)
        return Proposal(
            new - point.precision,
            new_shift - point.shift,
            (new > 0) & jnp.isfinite(new_shift),
            (),
            likely,
            left(likely),
        )

    prior = jax.nn.sigmoid(log_odds)
    precision = 1 / (prior * (1 - prior) + expectation_propagation.LEAST)
    infinite = jnp.full((), jnp.inf, columns.dtype)
    start = Point(precision, precision * prior, (), prior, infinite)
    end = expectation_propagation.propagate(update, start, _COOLING, _ITERATIONS)
    return end.found, end.residual


def estimate(equations: Normal, log_odds: Array) -> Array:
    """Labels `[K]` from `label_solve.estimate`, or from `marginals` if those fit better.

    Marginals are computed only if there are fewer than two equations per label and the labels of
    `label_solve.estimate` do not explain what was seen.

    Args:
        equations: see `normal_equations.equations`.
        log_odds: float `[K]`, prior log odds.
    """
    found, columns, origin = label_solve.estimate(equations), equations.columns, equations.origin
    seen = jnp.concatenate([origin.flat, *(origin.outer[k].ravel() for k in columns.factors)])
    if origin.own.size or len(seen) > _MOST:
        return found
    scarce = len(seen) < _PLENTY * jnp.sum(jnp.isfinite(log_odds))  # -inf is padding

    def likelier() -> Array:
        products = [jax.vmap(jax.vmap(jnp.outer))(x, d) for x, d in columns.factors.values()]
        matrix = [columns.flat, *(leaf.reshape(len(leaf), -1) for leaf in products)]
        likely = marginals(jnp.concatenate(matrix, 1), -seen, log_odds)[0]
        return jnp.where(left(likely) < left(found), likely, found)

    def left(labels: Array) -> Array:
        return normal_equations.fit(equations, jnp.round(labels))

    enough = ~scarce | (left(found) < label_solve.EXPLAINED)
    return jax.lax.cond(enough, lambda: found, likelier)
