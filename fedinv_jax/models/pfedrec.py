"""PFedRec: a private score function on shared item embeddings."""

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.models import embeddings
from fedinv_jax.types import Array, Key, Model, PyTree


def pfedrec(num_items: int, dim: int, scale: float = 0.1) -> Model:
    """PFedRec, `z_i = <w, q_i> + b`: there is no user embedding, w and b are private.

    Shared parameters: `{'items': {'embedding': [N, D]}, 'scorer': {}}`; private:
    `{'weight': [D], 'bias': []}`. An item row uploads a multiple of w. With BCE, `(y, w, b)` and
    `(1 - y, -w, -b)` upload the same.

    The authors' code removes only the weight from what a client sends, and so uploads the bias;
    here the whole score function stays on the device, as the paper says.

    Args:
        num_items: N.
        dim: D.
        scale: standard deviation of the initial item embeddings. The score function starts from
            `U(-1/sqrt(D), 1/sqrt(D))`.

    Returns:
        The model; parameters are float32.

    Raises:
        ValueError: if a size is not positive, or `scale` negative or not finite.

    Example:
        >>> model = pfedrec(num_items=5, dim=2)
        >>> tree.names(model.init_private(jax.random.key(0)))
        ('bias', 'weight')

    References:
        Zhang, Long, Zhou, Yan, Zhang, Zhang, Yang, Dual personalization on federated
        recommendation, IJCAI 2023, arXiv:2301.08143, section 3.
    """
    embeddings.check(scale, num_items=num_items, dim=dim)

    def score(shared: PyTree, private: PyTree, items: Array | None) -> Array:
        rows = tree.take(shared['items'], items)['embedding']
        return rows @ private['weight'] + private['bias']

    return Model(
        embeddings.item_table(num_items, dim, scale), lambda key: private_head(key, dim), score
    )


def private_head(key: Key, dim: int) -> PyTree:
    """A private linear score function, `{'weight': [D], 'bias': []}`, from U(+-1/sqrt(D))."""
    weight_key, bias_key = jax.random.split(key)
    bound = dim**-0.5
    return {
        'weight': jax.random.uniform(weight_key, (dim,), jnp.float32, -bound, bound),
        'bias': jax.random.uniform(bias_key, (), jnp.float32, -bound, bound),
    }
