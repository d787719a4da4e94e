"""Metrics of ONE victim whose labels are explicit ratings; see `metrics` for binary labels.

Scores and labels are in [0, 1], from the lowest rating to the highest. `where` is 0 on padding,
whose values have no effect.
"""

import chex
import jax.numpy as jnp

from fedinv_jax import metrics, types
from fedinv_jax.types import Array


def rmse(scores: Array, truth: Array, where: Array, low: float = 0.0, high: float = 1.0) -> Array:
    """Root mean squared error of ratings, in their unit.

    Args:
        scores: float `[K]` in [0, 1], ratings from `low` to `high` as labels.
        truth: float `[K]`, the true labels.
        where: bool or 0-1 `[K]`, 0 for padding.
        low: the lowest rating.
        high: the highest rating.

    Returns:
        float `[]` >= 0; NaN when nothing is evaluated.

    Example:
        >>> float(rmse(jnp.array([0.5, 1.0]), jnp.array([1.0, 1.0]), jnp.array([1, 0]), 1.0, 5.0))
        2.0
    """
    return (high - low) * jnp.sqrt(metrics.label_mse(scores, truth, where))


def accuracy(scores: Array, truth: Array, where: Array, grid: float) -> Array:
    """Share of the ratings that are right once the scores are rounded to the grid of ratings.

    Args:
        scores: float `[K]` in [0, 1], ratings as labels.
        truth: float `[K]`, the true labels, on the grid.
        where: bool or 0-1 `[K]`, 0 for padding.
        grid: the distance between the labels of neighbouring ratings.

    Returns:
        float `[]` in [0, 1]; NaN when nothing is evaluated.

    Example:
        >>> float(accuracy(jnp.array([0.3, 0.6]), jnp.array([0.25, 0.75]), jnp.ones(2), 0.25))
        0.5
    """
    where = jnp.asarray(where) > 0
    right = jnp.round(jnp.asarray(scores, float) / grid) == jnp.round(truth / grid)
    return jnp.sum(right & where) / jnp.sum(where)


def evaluate(
    answer: types.Answer, truth: types.GroundTruth, scale: tuple[float, float, float]
) -> dict[str, Array]:
    """All metrics of one victim whose labels are explicit ratings.

    Args:
        answer: of the attack, over K candidates; its scores are ratings as labels in [0, 1].
        truth: of the simulator, over the same K candidates.
        scale: the lowest rating, the highest, and the step between ratings.

    Returns:
        float `[]` each: rmse, accuracy, exact (1 if all ratings are right after rounding),
        private_error, private_cosine.

    Example:
        >>> answer = types.Answer(jnp.array([0.7, 0.1]), jnp.array([True, False]), None, 0.0)
        >>> truth = types.GroundTruth(
        ...     user=0, labels=jnp.array([0.75, 0.0]), weights=jnp.ones(2), private=jnp.ones((1, 4))
        ... )
        >>> found = evaluate(answer, truth, (1.0, 5.0, 1.0))
        >>> float(found['exact']), round(float(found['rmse']), 3)
        (1.0, 0.316)
    """
    chex.assert_equal_shape([answer.scores, truth.labels, truth.weights])
    low, high, step = scale
    compared, where = (answer.scores, truth.labels), truth.weights > 0
    found = accuracy(*compared, where, step / (high - low))
    return {
        'rmse': rmse(*compared, where, low, high),
        'accuracy': found,
        'exact': jnp.where(jnp.isnan(found), jnp.nan, found == 1),
        **metrics.private_metrics(answer, truth),
    }
