"""Losses of single interactions and of batches, and regularisers of a client's loss.

The client takes the weighted mean over its batch of a loss of single interactions.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import _validate
from fedinv_jax.types import Array, Batch, BatchLoss, Loss, PyTree

AnyLoss: TypeAlias = Loss | BatchLoss
"""A loss of single interactions, whose weighted mean is taken, or of a batch."""

Regularizer: TypeAlias = Callable[[PyTree, PyTree, PyTree, Batch], Array]
"""`regularizer(shared, private, start, batch) -> []`: the current parameters, the shared ones that
the client received, and its whole batch."""


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
    """Squared error `(z - y)^2`, for explicit ratings (`labels='ratings'`).

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


def item_drift(weight: float) -> Regularizer:
    """L1 penalty on how far the item rows move within a round: `weight mean |q - q^start|`.

    A defence: the batch's item rows stay close to the rows that the server sent, so that their
    upload reveals less. The mean is over the entries of the batch's rows, as in RAIFLE's
    implementation (a mean `l1_loss`). The derivative at an entry that has not moved is 0.

    Args:
        weight: >= 0.

    Returns:
        The regulariser.

    Raises:
        ValueError: if the weight is negative.

    Example:
        >>> start, now = {'items': jnp.zeros((2, 2))}, {'items': jnp.array([[1.0, -2.0], [0, 0]])}
        >>> float(item_drift(0.5)(now, None, start, Batch(None, jnp.zeros(2), jnp.ones(2))))
        0.375

    References:
        Yuan, Yang, Nguyen, Cui, He, Yin, Interaction-level membership inference attack against
        federated recommender systems, WWW 2023, arXiv:2301.10964 (IMIA, the defence).
        Pham et al., RAIFLE: reconstruction attacks on interaction-based federated learning with
        adversarial data manipulation, NDSS 2025, arXiv:2310.19163 (the mean).
    """
    _validate.check_range('weight', weight)

    def regularizer(shared: PyTree, private: PyTree, start: PyTree, batch: Batch) -> Array:
        moved = optax.tree.sub(shared['items'], start['items'])
        # |x| as x sign(x), whose derivative at 0 is 0: that of jnp.abs is 1.
        total = optax.tree.sum(jax.tree.map(lambda leaf: leaf * jnp.sign(leaf), moved))
        width = sum(leaf.size // len(leaf) for leaf in jax.tree.leaves(moved))
        size = jnp.sum(batch.weights)
        return weight / width * total / jnp.where(size > 0, size, 1)

    return regularizer


def weight_decay(rate: float) -> Regularizer:
    """L2 term of all parameters that the client trains, `rate / 2 (|shared|^2 + |private|^2)`.

    Item rows count once if a weighted interaction has them, and not at all else. Their upload then
    is `gradient + rate row`.

    Args:
        rate: >= 0.

    Raises:
        ValueError: if the rate is negative or not finite.

    Example:
        >>> shared = {'items': jnp.array([[1.0], [3.0]]), 'scorer': jnp.array(2.0)}
        >>> batch = Batch(None, jnp.zeros(2), jnp.array([1.0, 0.0]))
        >>> float(weight_decay(0.5)(shared, jnp.array([1.0]), shared, batch))
        1.5
    """
    _validate.check_range('rate', rate)

    def regularizer(shared: PyTree, private: PyTree, start: PyTree, batch: Batch) -> Array:
        used = _rows_used(batch, len(jax.tree.leaves(shared['items'])[0]))
        squares = optax.tree.norm((private, shared['scorer']), squared=True)
        for leaf in jax.tree.leaves(shared['items']):
            squares += jnp.sum(jax.vmap(jnp.multiply)(used, leaf) ** 2)
        return rate / 2 * squares

    return regularizer


def _rows_used(batch: Batch, count: int) -> Array:
    """Bool `[count]`: the item rows that a weighted interaction of the batch has."""
    used = batch.weights > 0
    return used if batch.items is None else jnp.zeros(count, bool).at[batch.items].max(used)


def additive_personalization(distance: float, sparsity: float) -> Regularizer:
    """FedRAP's regulariser: private rows unlike the shared ones, and sparse shared rows.

    `-distance mean (C - D)^2 + sparsity mean |C|` over the entries of the batch's rows, C the
    shared and D the private item table. For M entries, the upload of row i has
    `(-2 distance (C_i - D_i) + sparsity sign(C_i)) / M` besides the gradient of the loss.

    Args:
        distance: >= 0.
        sparsity: >= 0.

    Returns:
        The regulariser; the private parameters must have an item table.

    Raises:
        ValueError: if a weight is negative or not finite.

    Example:
        >>> rows = {'items': {'embedding': jnp.array([[1.0], [-3.0]])}}
        >>> own = {'items': {'embedding': jnp.array([[1.0], [-3.0]])}}
        >>> batch = Batch(None, jnp.zeros(2), jnp.ones(2))
        >>> float(additive_personalization(1.0, 0.5)(rows, own, rows, batch))
        1.0

    References:
        Li, Long, Zhou, Federated recommendation with additive personalization, ICLR 2024,
        arXiv:2301.09109, equation 3.
    """
    _validate.check_range('distance', distance)
    _validate.check_range('sparsity', sparsity)

    def regularizer(shared: PyTree, private: PyTree, start: PyTree, batch: Batch) -> Array:
        common, own = shared['items']['embedding'], private['items']['embedding']
        used = _rows_used(batch, len(common)).astype(common.dtype)[:, None]
        size = jnp.maximum(jnp.sum(used) * common.shape[1], 1)
        far = jnp.sum(used * (common - own) ** 2) / size
        small = jnp.sum(used * common * jnp.sign(common)) / size  # |x|, with derivative 0 at 0
        return sparsity * small - distance * far

    return regularizer
