"""LightGCN on a client's own interactions."""

import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.models import embeddings
from fedinv_jax.types import Array, Batch, Key, Model, PyTree


def lightgcn(num_items: int, dim: int, num_layers: int = 1, scale: float = 0.1) -> Model:
    """LightGCN on the star graph of one user and its interactions.

    With n interactions, layer l + 1 has the user `p^{l+1} = sum_i y_i q_i^l / sqrt(n)` and the
    items `q_i^{l+1} = y_i p^l / sqrt(n)`, from `p^0 = p`, `q_i^0 = q_i`. The score is the inner
    product of the means over the layers 0, ..., L:

    `z_i = <mean_l p^l, mean_l q_i^l>`.

    The labels are in the score (`Model.batch_score`), and an upload is not affine in them. `score`
    is that of a user without interactions, `<p, q_i> / (L + 1)^2`.

    Shared parameters: `{'items': {'embedding': [N, D]}, 'scorer': {}}`; private: p `[D]`.

    Args:
        num_items: N.
        dim: D.
        num_layers: L, at least 1.
        scale: standard deviation of the initial embeddings.

    Returns:
        The model; parameters are float32.

    Raises:
        ValueError: if a size is not positive, or `scale` negative or not finite.

    Example:
        >>> model = lightgcn(num_items=2, dim=1)
        >>> shared = {'items': {'embedding': jnp.array([[1.0], [3.0]])}, 'scorer': {}}
        >>> batch = Batch(None, jnp.array([1.0, 0.0]), jnp.ones(2))  # n = 1: p, q_0 -> p + q_0
        >>> model.batch_score(shared, jnp.array([2.0]), batch).tolist()  # (2 + 1)(1 + 2)/4, 3 3/4
        [2.25, 2.25]

    References:
        He, Deng, Wang, Li, Zhang, Wang, LightGCN: simplifying and powering graph convolution
        network for recommendation, SIGIR 2020, arXiv:2002.02126, equations 3 and 4.
        Wu, Wu, Cao, Huang, Xie, FedGNN: federated graph neural network for
        privacy-preserving recommendation, 2021, arXiv:2102.04925 (a client's own graph).
    """
    embeddings.check(scale, num_items=num_items, dim=dim, num_layers=num_layers)

    def init_private(key: Key) -> Array:
        return embeddings.normal(key, scale, dim)

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        rows = tree.take(shared['items'], items)['embedding']
        return rows @ private / (num_layers + 1) ** 2

    def batch_score(shared: PyTree, private: PyTree, batch: Batch) -> Array:
        rows = tree.take(shared['items'], batch.items)['embedding']
        linked = (batch.labels * (batch.weights > 0)).astype(rows.dtype)
        count = jnp.sum(linked)
        edges = linked / jnp.sqrt(jnp.where(count > 0, count, 1))
        user, items = private, rows
        users, tables = user, items
        for _ in range(num_layers):
            user, items = edges @ items, edges[:, None] * user
            users, tables = users + user, tables + items
        return tables @ users / (num_layers + 1) ** 2

    return Model(embeddings.item_table(num_items, dim, scale), init_private, score, batch_score)
