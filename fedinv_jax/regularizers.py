"""Regularisers: what a client adds to its loss."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import _validate
from fedinv_jax.types import Array, Batch, PyTree

Regularizer: TypeAlias = Callable[[PyTree, PyTree, PyTree, Batch], Array]
"""`regularizer(shared, private, start, batch) -> []`: the current parameters, the shared ones that
the client received, and its whole batch."""


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
