"""Losses of single interactions, and regularisers of a client's loss.

The client takes the weighted mean over its batch (`client.mean_loss`).
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import _validate
from fedinv_jax.types import Array, PyTree

Regularizer: TypeAlias = Callable[[PyTree, PyTree, Array], Array]
"""`regularizer(shared, start, size) -> []`: current and initial parameters, total batch weight."""


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


def item_drift(weight: float) -> Regularizer:
    """L1 penalty on how far the item rows move within a round: `weight mean |q - q^start|`.

    A defence: the batch's item rows stay close to the rows that the server sent, so that their
    upload reveals less. The mean is over the entries of the batch's rows, as in RAIFLE's
    implementation (a mean `l1_loss`). The derivative at an entry that has not moved is 0.

    Args:
        weight: >= 0.

    Returns:
        `regularizer(shared, start, size)`, where `size` is the total weight of the client's batch.

    Raises:
        ValueError: if the weight is negative.

    Example:
        >>> start, now = {'items': jnp.zeros((2, 2))}, {'items': jnp.array([[1.0, -2.0], [0, 0]])}
        >>> float(item_drift(0.5)(now, start, jnp.array(2.0)))
        0.375

    References:
        Yuan, Yang, Nguyen, Cui, He, Yin, Interaction-level membership inference attack against
        federated recommender systems, WWW 2023, arXiv:2301.10964 (IMIA, the defence).
        Pham et al., RAIFLE: reconstruction attacks on interaction-based federated learning with
        adversarial data manipulation, NDSS 2025, arXiv:2310.19163 (the mean).
    """
    _validate.check_range('weight', weight)

    def regularizer(shared: PyTree, start: PyTree, size: Array) -> Array:
        moved = optax.tree.sub(shared['items'], start['items'])
        # |x| as x sign(x), whose derivative at 0 is 0: that of jnp.abs is 1.
        total = optax.tree.sum(jax.tree.map(lambda leaf: leaf * jnp.sign(leaf), moved))
        width = sum(leaf.size // len(leaf) for leaf in jax.tree.leaves(moved))
        return weight / width * total / jnp.where(size > 0, size, 1)

    return regularizer
