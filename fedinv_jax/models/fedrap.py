"""FedRAP: the sum of a shared and a private item table under a private score function."""

import jax

from fedinv_jax import tree
from fedinv_jax.models import embeddings
from fedinv_jax.models.pfedrec import private_head
from fedinv_jax.types import Array, Key, Model, PyTree


def fedrap(num_items: int, dim: int, scale: float = 0.1) -> Model:
    """FedRAP, `z_i = <w, C_i + D_i> + b`: C is shared; the item table D, w and b are private.

    Shared parameters: `{'items': {'embedding': C [N, D]}, 'scorer': {}}`; private:
    `{'items': {'embedding': [N, D]}, 'weight': [D], 'bias': []}`. A client takes the rows of its
    batch from both tables. An item row uploads a multiple of w, whatever D is, and the terms of
    `regularizers.additive_personalization` besides.

    Args:
        num_items: N.
        dim: D.
        scale: standard deviation of the initial tables. The score function starts from
            `U(-1/sqrt(D), 1/sqrt(D))`.

    Returns:
        The model; parameters are float32.

    Raises:
        ValueError: if a size is not positive, or `scale` negative or not finite.

    Example:
        >>> model = fedrap(num_items=5, dim=2)
        >>> tree.names(model.init_private(jax.random.key(0)))
        ('bias', 'items/embedding', 'weight')

    References:
        Li, Long, Zhou, Federated recommendation with additive personalization, ICLR 2024,
        arXiv:2301.09109, section 3.
    """
    embeddings.check(scale, num_items=num_items, dim=dim)

    def init_private(key: Key) -> PyTree:
        table_key, head_key = jax.random.split(key)
        items = {'embedding': embeddings.normal(table_key, scale, num_items, dim)}
        return {'items': items, **private_head(head_key, dim)}

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        common, own = (tree.take(part['items'], items)['embedding'] for part in (shared, private))
        return (common + own) @ private['weight'] + private['bias']

    return Model(embeddings.item_table(num_items, dim, scale), init_private, score)
