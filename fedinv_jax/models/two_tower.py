"""Two towers: a private network for the user, embeddings for the items."""

import jax
import jax.numpy as jnp

from fedinv_jax import _validate, tree
from fedinv_jax.types import Array, Key, Model, PyTree


def two_tower(num_items: int, dim: int, width: int = 32, scale: float = 0.1) -> Model:
    """Two towers, `z_i = <u, q_i>`, `u = W relu(V p + a) + b`: p and the user tower are private.

    Shared parameters: `{'items': {'embedding': [N, D]}, 'scorer': {}}`; private:
    `{'embedding': [D], 'hidden': {'kernel': [D, H], 'bias': [H]}, 'output': {'kernel': [H, D],
    'bias': [D]}}`. An item row uploads a multiple of u; what is inside the tower no upload touches.

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
    for name, value in (('num_items', num_items), ('dim', dim), ('width', width)):
        _validate.check_range(name, value, above=True)
    _validate.check_range('scale', scale)

    def init_shared(key: Key) -> PyTree:
        embedding = scale * jax.random.normal(key, (num_items, dim), jnp.float32)
        return {'items': {'embedding': embedding}, 'scorer': {}}

    def init_private(key: Key) -> PyTree:
        keys = jax.random.split(key, 3)

        def dense(key: Key, fan_in: int, size: int) -> PyTree:
            kernel = (2 / fan_in) ** 0.5 * jax.random.normal(key, (fan_in, size), jnp.float32)
            return {'kernel': kernel, 'bias': jnp.zeros(size, jnp.float32)}

        embedding = scale * jax.random.normal(keys[0], (dim,), jnp.float32)
        hidden, output = dense(keys[1], dim, width), dense(keys[2], width, dim)
        return {'embedding': embedding, 'hidden': hidden, 'output': output}

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        rows = tree.take(shared['items'], items)['embedding']
        hidden = private['embedding'] @ private['hidden']['kernel'] + private['hidden']['bias']
        output = private['output']
        return rows @ (jax.nn.relu(hidden) @ output['kernel'] + output['bias'])

    return Model(init_shared, init_private, score)
