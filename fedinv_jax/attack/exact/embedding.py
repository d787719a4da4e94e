"""The private embedding in closed form, where an upload gives it away.

A first layer that multiplies the private embedding p uploads `p ⊗ e` for its kernel and `e`, the
sum of what is sent back to it, for its bias: `p = (kernel · e) / |e|^2`. Without a bias the
kernel's upload is still of rank one and gives p up to one scalar; so do the item rows `c_i p` of
matrix factorisation. `probing.find_recovery` finds which leaves do so.
"""

import flax.traverse_util
import jax.numpy as jnp

from fedinv_jax.attack.exact.known import EmbeddingRecovery
from fedinv_jax.types import Array, PyTree


def exact(recovery: EmbeddingRecovery, seen: PyTree) -> Array:
    """`p = kernel · bias / |bias|^2`, `[D]`, of one step's upload; NaN at a zero bias.

    Where the channel left entries out, the sums are over the entries of a row that are there, and a
    row without any has p = 0.

    Args:
        recovery: with a bias.
        seen: the upload of one step.

    Raises:
        ValueError: if the leak has no bias.
    """
    if recovery.bias is None:
        raise ValueError(f'Expected a leak with a bias, got {recovery}.')
    leaves = flax.traverse_util.flatten_dict(seen, sep='/')
    kernel, bias = jnp.moveaxis(leaves[recovery.kernel], recovery.axis, 0), leaves[recovery.bias]
    squares = jnp.sum(jnp.where(kernel != 0, bias**2, 0), axis=1)
    known = squares > 0
    size = jnp.where(jnp.any(bias != 0), 1.0, jnp.nan)
    return size * jnp.where(known, kernel @ bias / jnp.where(known, squares, 1), 0)


def direction(recovery: EmbeddingRecovery, seen: PyTree) -> Array:
    """The unit vector `[D]` along p, of one step's upload, up to its sign.

    The first left singular vector of the leak's leaf; zero where that leaf is.
    """
    leaves = flax.traverse_util.flatten_dict(seen, sep='/')
    kernel = jnp.moveaxis(leaves[recovery.kernel], recovery.axis, 0)
    size = jnp.max(jnp.abs(kernel))
    scaled = kernel / jnp.where(size > 0, size, 1)
    vector = jnp.linalg.eigh(scaled @ scaled.T)[1][:, -1]
    return jnp.where(size > 0, vector, 0)
