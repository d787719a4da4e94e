"""What a client draws anew in each round."""

import jax
import jax.numpy as jnp

from fedinv_jax import _validate
from fedinv_jax.types import Array, Batch, ClientUpdate, Key, PyTree


def resample_negatives(
    items: Array, labels: Array, weights: Array, num_items: int, key: Key
) -> Array:
    """Replaces a batch's negatives by as many distinct items, drawn from all but its positives.

    Args:
        items: int32 `[B]`, distinct where `weights > 0`.
        labels: float `[B]`, above 0 for positives.
        weights: float `[B]`, 0 for padding, whose items are not changed.
        num_items: N.
        key: PRNG key.

    Returns:
        The new items, int32 `[B]`.

    Example:
        >>> args = jnp.array([4, 0, 1]), jnp.array([0.0, 1.0, 0.0]), jnp.ones(3)
        >>> resample_negatives(*args, num_items=3, key=jax.random.key(0)).tolist()
        [2, 0, 1]
    """
    negative = (weights > 0) & (labels == 0)
    draw = jax.random.uniform(key, (num_items,), 'float32')
    positive = jnp.where((weights > 0) & (labels > 0), items, num_items)
    order = jnp.argsort(draw.at[positive].set(jnp.inf, mode='drop'))
    rank = jnp.clip(jnp.cumsum(negative) - 1, 0, num_items - 1)
    return jnp.where(negative, order[rank].astype(items.dtype), items)


def subsampled(client_update: ClientUpdate, share: float) -> ClientUpdate:
    """A client that trains on a random part of its batch in each round.

    Each interaction is drawn with probability `share`, from the batch's key. A replay without the
    key trains on all.

    Args:
        client_update: of the client that trains on all.
        share: in (0, 1].

    Raises:
        ValueError: if the share is out of range.

    Example:
        >>> update = subsampled(lambda shared, private, batch: (batch.weights, private), 0.5)
        >>> batch = Batch(None, jnp.zeros(4), jnp.ones(4), jax.random.key(0))
        >>> [float(update(None, None, b)[0].sum()) for b in (batch, batch._replace(key=None))]
        [3.0, 4.0]
    """
    _validate.check_range('share', share, 0, 1, above=True)

    def part(shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        if batch.key is not None:
            own, key = jax.random.split(batch.key)
            drawn = jax.random.uniform(own, batch.weights.shape, 'float32') < share
            batch = batch._replace(weights=jnp.where(drawn, batch.weights, 0), key=key)
        return client_update(shared, private, batch)

    return part
