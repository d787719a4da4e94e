"""Two towers: a private network for the user, embeddings for the items."""

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.models import embeddings
from fedinv_jax.types import Array, Key, Model, PyTree


def two_tower(num_items: int, dim: int, width: int = 32, scale: float = 0.1) -> Model:
    """Two towers, `z_i = <u, q_i>`, `u = W relu(V p + a) + b`: p and the user tower are private.

    Shared parameters: `{'items': {'embedding': [N, D]}, 'scorer': {}}`; private:
    `{'embedding': [D], 'hidden': {'kernel': [D, H], 'bias': [H]}, 'output': {'kernel': [H, D],
    'bias': [D]}}`. An item row uploads a multiple of u, and depends on the tower through u only.

    Args:
        num_items: N.
        dim: D.
        width: H, of the user tower's hidden layer.
        scale: standard deviation of the initial embeddings.

    Returns:
        The model; parameters are float32.

    Raises:
        ValueError: if a size is not positive, or `scale` negative or not finite.

    Example:
        >>> model = two_tower(num_items=5, dim=2, width=3)
        >>> tree.names(model.init_private(jax.random.key(0)))
        ('embedding', 'hidden/bias', 'hidden/kernel', 'output/bias', 'output/kernel')

    References:
        Covington, Adams, Sargin, Deep neural networks for YouTube recommendations, RecSys 2016,
        doi:10.1145/2959100.2959190, section 3 (a user tower against item embeddings).
    """
    embeddings.check(scale, num_items=num_items, dim=dim, width=width)

    def init_private(key: Key) -> PyTree:
        keys = jax.random.split(key, 3)

        def dense(key: Key, fan_in: int, size: int) -> PyTree:
            kernel = embeddings.normal(key, (2 / fan_in) ** 0.5, fan_in, size)
            return {'kernel': kernel, 'bias': jnp.zeros(size, jnp.float32)}

        embedding = embeddings.normal(keys[0], scale, dim)
        hidden, output = dense(keys[1], dim, width), dense(keys[2], width, dim)
        return {'embedding': embedding, 'hidden': hidden, 'output': output}

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        rows = tree.take(shared['items'], items)['embedding']
        hidden = private['embedding'] @ private['hidden']['kernel'] + private['hidden']['bias']
        output = private['output']
        return rows @ (jax.nn.relu(hidden) @ output['kernel'] + output['bias'])

    return Model(embeddings.item_table(num_items, dim, scale), init_private, score)
