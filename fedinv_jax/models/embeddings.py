"""What the models share: initial embeddings, and checks of sizes."""

import jax
import jax.numpy as jnp

from fedinv_jax import _validate
from fedinv_jax.types import Array, InitShared, Key


def check(scale: float, **sizes: int) -> None:
    """Refuses sizes that are not positive, and a scale that is negative or not finite.

    Raises:
        ValueError: with the name of the argument.
    """
    for name, value in sizes.items():
        _validate.check_range(name, value, above=True)
    _validate.check_range('scale', scale)


def normal(key: Key, scale: float, *shape: int) -> Array:
    """Draws float32 `[*shape]` from `N(0, scale^2)`."""
    return scale * jax.random.normal(key, shape, jnp.float32)


def item_table(num_items: int, dim: int, scale: float) -> InitShared:
    """The initialisation of a model whose only shared parameters are `items/embedding [N, D]`."""
    return lambda key: {'items': {'embedding': normal(key, scale, num_items, dim)}, 'scorer': {}}
