"""Metrics of ONE victim; `report` averages over victims.

All have the signature `metric(scores [K], truth [K], where [K]) -> float []`. `truth` and `where`
are bool or 0-1; `where` is 0 on padding, whose values (even NaN) have no effect. `precision`,
`recall`, `f1` and `exact_match` take predicted labels instead of scores. All work under jit and
vmap. An undefined metric is NaN, never 0; a NaN among the scores makes a metric of scores NaN.
"""

import chex
import jax
import jax.numpy as jnp

from fedinv_jax import tree, types
from fedinv_jax.types import Array, PyTree


def _classes(truth: Array, where: Array) -> tuple[Array, Array]:
    """Masks bool `[K]` of the positives and of the negatives among the evaluated candidates."""
    truth, where = jnp.asarray(truth) > 0, jnp.asarray(where) > 0
    return truth & where, ~truth & where


def _ranks(scores: Array, among: Array) -> tuple[Array, Array]:
    """Counts for each score the scores in the mask `among` below it, and those at or below it."""
    count = jnp.sum(among)
    ordered = jnp.sort(jnp.where(among, scores, jnp.inf))
    below = jnp.searchsorted(ordered, scores, side='left')
    at_most = jnp.searchsorted(ordered, scores, side='right')
    # Scores outside the mask are infinite.
    return jnp.minimum(below, count), jnp.minimum(at_most, count)


def _unless_nan(value: Array, scores: Array, where: Array) -> Array:
    """The value, or NaN if an evaluated score is NaN, which sorting would rank highest."""
    return jnp.where(jnp.any(jnp.isnan(scores) & (jnp.asarray(where) > 0)), jnp.nan, value)


def auc(scores: Array, truth: Array, where: Array) -> Array:
    """Area under the ROC curve: the probability that a positive outscores a negative.

    `mean_{i positive, j negative} [s_i > s_j] + [s_i = s_j] / 2`, in O(K log K).

    Args:
        scores: float `[K]`, in any monotone unit.
        truth: bool or 0-1 `[K]`.
        where: bool or 0-1 `[K]`, 0 for padding.

    Returns:
        float `[]` in [0, 1]; NaN when a class is missing.

    Example:
        >>> scores, truth = jnp.array([0.9, 0.5, 0.5, 0.1]), jnp.array([1, 1, 0, 0])
        >>> float(auc(scores, truth, jnp.ones(4)))  # One of four pairs is a tie.
        0.875
    """
    scores = jnp.asarray(scores, float)
    positive, negative = _classes(truth, where)
    below, at_most = _ranks(scores, negative)
    share = (below + at_most) / 2 / jnp.sum(negative)
    value = jnp.sum(jnp.where(positive, share, 0)) / jnp.sum(positive)
    return _unless_nan(value, scores, where)


def average_precision(scores: Array, truth: Array, where: Array) -> Array:
    """Average precision: precision at every threshold, weighted by the recall it adds.

    `mean_{i positive} #{j positive: s_j >= s_i} / #{j: s_j >= s_i}`; tied items count together,
    so that their order does not matter (as in scikit-learn).

    Args:
        scores: float `[K]`, in any monotone unit.
        truth: bool or 0-1 `[K]`.
        where: bool or 0-1 `[K]`, 0 for padding.

    Returns:
        float `[]` in (0, 1]; NaN when nothing is positive.

    Example:
        >>> scores, truth = jnp.array([0.9, 0.5, 0.5, 0.1]), jnp.array([1, 0, 1, 0])
        >>> print(f'{average_precision(scores, truth, jnp.ones(4)):.4f}')  # (1/1 + 2/3) / 2
        0.8333
    """
    scores = jnp.asarray(scores, float)
    positive, negative = _classes(truth, where)
    _, positives_above = _ranks(-scores, positive)
    _, all_above = _ranks(-scores, positive | negative)
    precisions = jnp.where(positive, positives_above / jnp.maximum(all_above, 1), 0)
    return _unless_nan(jnp.sum(precisions) / jnp.sum(positive), scores, where)


def recovered_at_known_count(scores: Array, truth: Array, where: Array) -> Array:
    """Share of the n true interactions that are among the n highest scores, for known n.

    `#(positives in the top n) / n`; in a tie the negatives come first, so that constant
    scores recover nothing as long as there are n negatives.

    Args:
        scores: float `[K]`, in any monotone unit.
        truth: bool or 0-1 `[K]`.
        where: bool or 0-1 `[K]`, 0 for padding.

    Returns:
        float `[]` in [0, 1]; NaN when nothing is positive.

    Example:
        >>> scores, truth = jnp.array([0.9, 0.5, 0.5, 0.1]), jnp.array([1, 0, 1, 0])
        >>> float(recovered_at_known_count(scores, truth, jnp.ones(4)))
        0.5
    """
    scores = jnp.asarray(scores, float)
    positive, negative = _classes(truth, where)
    count = jnp.sum(positive)
    order = jnp.lexsort((positive, -scores, ~(positive | negative)))
    hits = jnp.sum(positive[order] & (jnp.arange(order.size) < count))
    return _unless_nan(hits / count, scores, where)


def _hits(labels: Array, truth: Array, where: Array) -> tuple[Array, Array, Array]:
    """Counts: true positives, predicted positives, positives."""
    predicted, _ = _classes(labels, where)
    positive, _ = _classes(truth, where)
    return jnp.sum(predicted & positive), jnp.sum(predicted), jnp.sum(positive)


def precision(labels: Array, truth: Array, where: Array) -> Array:
    """Share of the predicted positives that are true: `TP / (TP + FP)`.

    Args:
        labels: bool or 0-1 `[K]`, the predicted labels.
        truth: bool or 0-1 `[K]`.
        where: bool or 0-1 `[K]`, 0 for padding.

    Returns:
        float `[]` in [0, 1]; NaN when nothing is predicted positive.

    Example:
        >>> float(precision(jnp.array([1, 1, 0]), jnp.array([1, 0, 0]), jnp.ones(3)))
        0.5
    """
    hits, predicted, _ = _hits(labels, truth, where)
    return hits / predicted


def recall(labels: Array, truth: Array, where: Array) -> Array:
    """Share of the positives that are predicted: `TP / (TP + FN)`.

    Args:
        labels: bool or 0-1 `[K]`, the predicted labels.
        truth: bool or 0-1 `[K]`.
        where: bool or 0-1 `[K]`, 0 for padding.

    Returns:
        float `[]` in [0, 1]; NaN when nothing is positive.

    Example:
        >>> float(recall(jnp.array([1, 1, 0]), jnp.array([1, 0, 0]), jnp.ones(3)))
        1.0
    """
    hits, _, positives = _hits(labels, truth, where)
    return hits / positives


def f1(labels: Array, truth: Array, where: Array) -> Array:
    """Harmonic mean of precision and recall: `2 TP / (2 TP + FP + FN)`.

    Args:
        labels: bool or 0-1 `[K]`, the predicted labels.
        truth: bool or 0-1 `[K]`.
        where: bool or 0-1 `[K]`, 0 for padding.

    Returns:
        float `[]` in [0, 1]; NaN only when there are neither positives nor predicted positives.

    Example:
        >>> float(f1(jnp.array([1, 1, 1, 0]), jnp.array([1, 0, 0, 0]), jnp.ones(4)))
        0.5
    """
    hits, predicted, positives = _hits(labels, truth, where)
    return 2 * hits / (predicted + positives)


def exact_match(labels: Array, truth: Array, where: Array) -> Array:
    """1 if every label is correct, else 0: `min_k [label_k = truth_k]`.

    Args:
        labels: bool or 0-1 `[K]`, the predicted labels.
        truth: bool or 0-1 `[K]`.
        where: bool or 0-1 `[K]`, 0 for padding.

    Returns:
        float `[]`, 0 or 1; NaN when nothing is evaluated.

    Example:
        >>> float(exact_match(jnp.array([1, 0, 1]), jnp.array([1, 0, 0]), jnp.array([1, 1, 0])))
        1.0
    """
    where = jnp.asarray(where) > 0
    correct = (jnp.asarray(labels) > 0) == (jnp.asarray(truth) > 0)
    return jnp.where(jnp.any(where), jnp.all(correct | ~where).astype(float), jnp.nan)


def label_mse(scores: Array, truth: Array, where: Array) -> Array:
    """Mean squared error of the scores as estimates of the labels.

    Args:
        scores: float `[K]`, beliefs in [0, 1].
        truth: float `[K]`, the true labels, which may be fractions.
        where: bool or 0-1 `[K]`, 0 for padding.

    Returns:
        float `[]` >= 0; NaN when nothing is evaluated.

    Example:
        >>> float(label_mse(jnp.array([0.5, 1.0]), jnp.array([1.0, 1.0]), jnp.ones(2)))
        0.125
    """
    where = jnp.asarray(where) > 0
    error = jnp.asarray(scores, float) - truth
    return jnp.sum(jnp.where(where, error**2, 0)) / jnp.sum(where)


def private_error(estimate: PyTree, truth: PyTree) -> Array:
    """Relative error of the private parameters: `|p̂ - p| / |p|`, over all leaves.

    Args:
        estimate: pytree of float leaves.
        truth: pytree of the same structure and shapes.

    Returns:
        float `[]` >= 0, 1 for an estimate of zero; NaN if the truth is zero.

    Example:
        >>> float(private_error(jnp.array([4.0, 1.0]), jnp.array([4.0, 0.0])))
        0.25
    """
    chex.assert_trees_all_equal_shapes(estimate, truth)
    estimate, truth = tree.ravel(estimate), tree.ravel(truth)
    norm = jnp.linalg.norm(truth)
    return jnp.where(norm > 0, jnp.linalg.norm(estimate - truth) / norm, jnp.nan)


def private_cosine(estimate: PyTree, truth: PyTree) -> Array:
    """Cosine between private parameters: `<p̂, p> / (|p̂| |p|)`, over all leaves.

    Args:
        estimate: pytree of float leaves.
        truth: pytree of the same structure and shapes.

    Returns:
        float `[]` in [-1, 1]; NaN when either is zero.

    Example:
        >>> float(private_cosine(jnp.array([0.0, -2.0]), jnp.array([0.0, 4.0])))
        -1.0
    """
    chex.assert_trees_all_equal_shapes(estimate, truth)
    estimate, truth = tree.ravel(estimate), tree.ravel(truth)
    # Each is divided by its own norm: the product of two small norms may underflow.
    units = (estimate / jnp.linalg.norm(estimate), truth / jnp.linalg.norm(truth))
    return jnp.clip(jnp.vdot(*units), -1, 1)


def drift(private_first: PyTree, private_last: PyTree) -> Array:
    """How far the private parameters moved over the observed steps: `|p_T - p_1| / |p_1|`.

    Args:
        private_first: pytree, before the first observed step.
        private_last: pytree, before the last one.

    Returns:
        float `[]` >= 0; NaN when the first is zero.

    Example:
        >>> float(drift(jnp.array([4.0, 0.0]), jnp.array([4.0, 1.0])))
        0.25
    """
    return private_error(private_last, private_first)


def private_metrics(answer: types.Answer, truth: types.GroundTruth) -> dict[str, Array]:
    """`private_error` and `private_cosine`, NaN if the attack does not estimate them."""
    private = tree.take(truth.private, 0)
    no_estimate = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), private)
    estimate = no_estimate if answer.private is None else answer.private
    return {
        'private_error': private_error(estimate, private),
        'private_cosine': private_cosine(estimate, private),
    }


def evaluate(answer: types.Answer, truth: types.GroundTruth) -> dict[str, Array]:
    """All metrics of one victim.

    Ranking metrics read the answer's scores, classification metrics its labels; a label above 0
    is an interaction. The private estimate is compared with the truth at the FIRST observed step.

    Args:
        answer: of the attack, over K candidates.
        truth: of the simulator, over the same K candidates.

    Returns:
        float `[]` each: auc, average_precision, f1, precision, recall, exact,
        recovered_at_known_count, label_mse, private_error, private_cosine; the last two are NaN
        if the attack does not estimate the private parameters.

    Example:
        >>> answer = types.Answer(jnp.array([0.9, 0.2]), jnp.array([True, False]), None, 0.0)
        >>> truth = types.GroundTruth(
        ...     user=0, labels=jnp.array([1.0, 0.0]), weights=jnp.ones(2), private=jnp.ones((1, 4))
        ... )
        >>> metrics = evaluate(answer, truth)
        >>> float(metrics['exact']), float(metrics['private_error'])
        (1.0, nan)
    """
    chex.assert_equal_shape([answer.scores, answer.labels, truth.labels, truth.weights])
    interacted, where = truth.labels > 0, truth.weights > 0
    return {
        'auc': auc(answer.scores, interacted, where),
        'average_precision': average_precision(answer.scores, interacted, where),
        'f1': f1(answer.labels, interacted, where),
        'precision': precision(answer.labels, interacted, where),
        'recall': recall(answer.labels, interacted, where),
        'exact': exact_match(answer.labels, interacted, where),
        'recovered_at_known_count': recovered_at_known_count(answer.scores, interacted, where),
        'label_mse': label_mse(answer.scores, truth.labels, where),
        **private_metrics(answer, truth),
    }
