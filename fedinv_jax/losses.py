"""Losses of single interactions and of batches.

The client takes the weighted mean over its batch of a loss of single interactions.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from fedinv_jax import _validate
from fedinv_jax.types import Array, BatchLoss, Loss

AnyLoss: TypeAlias = Loss | BatchLoss
"""A loss of single interactions, whose weighted mean is taken, or of a batch."""


def bce(logits: Array, labels: Array) -> Array:
    r"""Binary cross-entropy with logits, `softplus(z) - y z`.

    Its gradient in z, `sigmoid(z) - y`, is affine in y, and so is the upload of a gradient step.

    Args:
        logits: float `[B]`.
        labels: float `[B]` in [0, 1]; fractions are allowed (relaxed labels).

    Returns:
        float `[B]`, in nats.

    Example:
        >>> bce(jax.numpy.zeros(2), jax.numpy.array([0.0, 1.0])).round(4).tolist()
        [0.6930999755859375, 0.6930999755859375]
    """
    return jax.nn.softplus(logits) - labels * logits


def squared_error(logits: Array, labels: Array) -> Array:
    """Squared error `(z - y)^2`, for ratings beside negatives (`labels='ratings'`).

    Args:
        logits: float `[B]`, the predicted rating itself.
        labels: float `[B]`.

    Returns:
        float `[B]`.

    Example:
        >>> squared_error(jax.numpy.array([0.5]), jax.numpy.array([1.0])).tolist()
        [0.25]
    """
    return (logits - labels) ** 2


def rating_error(low: float, high: float) -> Loss:
    """Squared error of explicit ratings, `(z - r)^2` with `r = low + (high - low) x` for label x.

    Labels in [0, 1] thus stand for ratings from the lowest to the highest. The gradient in z is
    affine in x, and so is the upload of a gradient step.

    Args:
        low: the lowest rating, that of label 0.
        high: the highest rating, that of label 1.

    Returns:
        The loss; logits are predicted ratings.

    Raises:
        ValueError: if the lowest rating is not below the highest, or one is not finite.

    Example:
        >>> rating_error(1.0, 5.0)(jnp.array([3.5]), jnp.array([0.75])).tolist()  # 4 stars
        [0.25]

    References:
        Koren, Bell, Volinsky, Matrix factorization techniques for recommender systems, IEEE
        Computer 42(8), 2009, doi:10.1109/MC.2009.263, equation 2.
    """
    _validate.check_finite('low', low)
    _validate.check_range('high', high, low, above=True)
    return lambda logits, labels: squared_error(logits, low + (high - low) * labels)


def linear(logits: Array, labels: Array) -> Array:
    """`y z`, with which an upload is `sum_i y_i dz_i/dtheta`; not a loss to train with.

    Attackers use it to write any upload as such a sum (`attack.exact.coefficients`). Logits, labels
    (the coefficients) and the result are float `[B]`.

    Example:
        >>> linear(jnp.array([2.0, 3.0]), jnp.array([-1.0, 0.5])).tolist()
        [-2.0, 1.5]
    """
    return labels * logits


def smoothed(loss: Loss, share: float) -> Loss:
    """Label smoothing: the loss at `(1 - share) y + share / 2`.

    Args:
        loss: of labels in [0, 1].
        share: in [0, 1]; 0 changes nothing.

    Raises:
        ValueError: if the share is out of range.

    Example:
        >>> target = smoothed(lambda logits, labels: labels, 0.25)(0, jnp.array([0.0, 1.0]))
        >>> target.tolist()
        [0.125, 0.875]

    References:
        Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, Rethinking the Inception architecture for computer
        vision, CVPR 2016, arXiv:1512.00567, section 7.
    """
    _validate.check_range('share', share, 0, 1)
    return lambda logits, labels: loss(logits, (1 - share) * labels + share / 2)


def weighted_positives(loss: Loss, weight: float) -> Loss:
    """Positives count `weight` times: `y weight loss(z, 1) + (1 - y) loss(z, 0)`.

    The same as `loss` for binary labels and weight 1. It is affine in y, whatever the loss, and so
    is the upload of a gradient step.

    Args:
        loss: of labels in [0, 1].
        weight: of a positive, >= 0; a negative has 1.

    Raises:
        ValueError: if the weight is negative or not finite.

    Example:
        >>> loss = weighted_positives(squared_error, 4.0)
        >>> loss(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])).tolist()
        [0.25, 1.0]
    """
    _validate.check_range('weight', weight)

    def weighted(logits: Array, labels: Array) -> Array:
        one, zero = (loss(logits, jnp.full_like(labels, y)) for y in (1, 0))
        return weight * labels * one + (1 - labels) * zero

    return weighted


def hinge(logits: Array, labels: Array) -> Array:
    """Hinge loss, `y max(0, 1 - z) + (1 - y) max(0, 1 + z)`.

    It is affine in y. An interaction beyond the margin, `z >= 1`, or a negative with `z <= -1`
    uploads nothing.

    Args:
        logits: float `[B]`.
        labels: float `[B]` in [0, 1].

    Returns:
        float `[B]`.

    Example:
        >>> hinge(jnp.array([0.5, 0.5, 2.0]), jnp.array([1.0, 0.0, 1.0])).tolist()
        [0.5, 1.5, 0.0]
    """
    return labels * jax.nn.relu(1 - logits) + (1 - labels) * jax.nn.relu(1 + logits)


def bpr() -> BatchLoss:
    """Bayesian personalised ranking: each interaction of a batch against each of its negatives.

    `L = sum_ij v_ij softplus(z_j - z_i) / sum_ij v_ij` with `v_ij = w_i y_i w_j (1 - y_j)`. The
    batch's negatives are the sample: 4 for each interaction as a rule, drawn once or anew each
    round (`data.resample_negatives`), and an interaction is paired with all of them, not only with
    the 4 drawn for it. This is the mean over all ways to pair them. 0 without a pair.

    `dL/dz_i` is negative for interactions and positive for negatives: the signs are the labels.

    Returns:
        The loss; a batch of B entries costs `B^2` numbers.

    Example:
        >>> logits, labels = jnp.array([1.0, 1.0, 9.0]), jnp.array([1.0, 0.0, 0.0])
        >>> round(bpr().value(logits, labels, jnp.array([1.0, 1.0, 0.0])).item(), 4)  # log 2
        0.6931

    References:
        Rendle, Freudenthaler, Gantner, Schmidt-Thieme, BPR: Bayesian personalized ranking from
        implicit feedback, UAI 2009, arXiv:1205.2618, section 4.1.
    """

    def value(logits: Array, labels: Array, weights: Array) -> Array:
        pairs = (weights * labels)[:, None] * (weights * (1 - labels))[None]
        total = jnp.sum(pairs)
        losses = jax.nn.softplus(logits[None] - logits[:, None])
        return jnp.sum(pairs * losses) / jnp.where(total > 0, total, 1)

    return BatchLoss(value)


def sampled_softmax() -> BatchLoss:
    """Softmax cross-entropy of each interaction among itself and all negatives of the batch.

    `L = sum_i u_i (log(e^z_i + sum_j w_j (1 - y_j) e^z_j) - z_i) / sum_i u_i` with `u_i = w_i y_i`.
    Other interactions are not in the sum, so that `dL/dz_i` is negative for interactions and
    positive for negatives. 0 without an interaction.

    Example:
        >>> logits, labels = jnp.zeros(3), jnp.array([1.0, 0.0, 0.0])
        >>> round(sampled_softmax().value(logits, labels, jnp.ones(3)).item(), 4)  # log 3
        1.0986

    References:
        Wu, Wang, Gao, Chen, Fu, Qiu, On the effectiveness of sampled softmax loss for item
        recommendation, ACM TOIS 42(4), 2024, arXiv:2201.02327, equation 1.
    """

    def value(logits: Array, labels: Array, weights: Array) -> Array:
        negatives = _log_sum(logits, weights * (1 - labels))
        own = weights * labels
        total = jnp.sum(own)
        losses = jnp.logaddexp(logits, negatives) - logits
        return jnp.sum(own * losses) / jnp.where(total > 0, total, 1)

    return BatchLoss(value)


def softmax() -> BatchLoss:
    """Multinomial cross-entropy over the batch, the interactions sharing one softmax.

    `L = sum_i u_i (log(sum_k w_k e^z_k) - z_i) / sum_i u_i` with `u_i = w_i y_i`. An interaction
    whose softmax share is above its share of the interactions has `dL/dz_i > 0`: signs are not
    labels. 0 without an interaction.

    Example:
        >>> logits, labels = jnp.zeros(3), jnp.array([1.0, 1.0, 0.0])
        >>> round(softmax().value(logits, labels, jnp.ones(3)).item(), 4)  # log 3
        1.0986

    References:
        Liang, Krishnan, Hoffman, Jebara, Variational autoencoders for collaborative filtering, WWW
        2018, arXiv:1802.05814, equation 2 (the multinomial likelihood).
    """

    def value(logits: Array, labels: Array, weights: Array) -> Array:
        own = weights * labels
        total = jnp.sum(own)
        losses = _log_sum(logits, weights) - logits
        return jnp.sum(own * losses) / jnp.where(total > 0, total, 1)

    return BatchLoss(value)


def _log_sum(logits: Array, weights: Array) -> Array:
    """`log(sum_k w_k e^z_k)` `[]`, with finite derivatives where no weight is positive."""
    shift = jax.lax.stop_gradient(jnp.max(logits))
    total = jnp.sum(weights * jnp.exp(logits - shift))
    return shift + jnp.log(jnp.maximum(total, jnp.finfo(logits.dtype).tiny))
