"""Matrix factorisation."""

import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.models import embeddings
from fedinv_jax.types import Array, Key, Model, PyTree


def matrix_factorization(
    num_items: int, dim: int, item_bias: bool = False, scale: float = 0.1
) -> Model:
    """Matrix factorisation `z_i = <p, q_i> (+ b_i)`.

    Shared parameters: `{'items': {'embedding': [N, D], ('bias': [N])}, 'scorer': {}}`; private:
    the user embedding `[D]`. Embeddings start from `N(0, scale^2)`, biases at 0.

    With BCE and no item bias, `(y, p)` and `(1 - y, -p)` give the same item gradients: no attack
    can distinguish the two without a prior on the labels.

    Args:
        num_items: N.
        dim: D.
        item_bias: whether each item has a bias.
        scale: standard deviation of the initial embeddings.

    Returns:
        The model; parameters are float32.

    Raises:
        ValueError: if a size is not positive, or `scale` negative or not finite.

    Example:
        >>> import jax
        >>> model = matrix_factorization(num_items=5, dim=2)
        >>> shared = model.init_shared(jax.random.key(0))
        >>> model.score(shared, jnp.zeros(2), jnp.array([3, 4])).tolist()
        [0.0, 0.0]

    References:
        Koren, Bell, Volinsky, Matrix factorization techniques for recommender systems,
        Computer 42(8), 2009, doi:10.1109/MC.2009.263.
    """
    embeddings.check(scale, num_items=num_items, dim=dim)

    def init_shared(key: Key) -> PyTree:
        items = {'embedding': embeddings.normal(key, scale, num_items, dim)}
        if item_bias:
            items['bias'] = jnp.zeros(num_items, jnp.float32)
        return {'items': items, 'scorer': {}}

    def init_private(key: Key) -> Array:
        return embeddings.normal(key, scale, dim)

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        rows = tree.take(shared['items'], items)
        logits = rows['embedding'] @ private
        return logits + rows['bias'] if item_bias else logits

    return Model(init_shared, init_private, score)
