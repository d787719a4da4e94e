"""The private embedding in closed form, where an upload gives it away.

A first layer that multiplies the private embedding p uploads `p ⊗ e` for its kernel and `e`, the
sum of what is sent back to it, for its bias: `p = (kernel · e) / |e|^2`. Without a bias the
kernel's upload is still of rank one and gives p up to one scalar; so do the item rows `c_i p` of
matrix factorisation. Which leaves do so is not known from the model but found on random draws.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax.types import Array, Batch, ClientUpdate, Observation, PyTree


class Draw(NamedTuple):
    """One random client, for probing what holds of every client: shared, private, batch."""

    shared: PyTree
    private: PyTree
    batch: Batch


class Leak(NamedTuple):
    """Leaves of the seen upload that give the private embedding away.

    Attributes:
        kernel: name of a leaf `[D, H]` (`axis` 0) or `[H, D]` (`axis` 1) of rank one along p.
        axis: the axis of p.
        bias: name of the leaf `[H]` that is its other factor, so that p is exact; None: p is known
            up to one scalar.
    """

    kernel: str
    axis: int
    bias: str | None


def upload_of(
    client_update: ClientUpdate, observation: Observation, draw: Draw, seen: PyTree | None = None
) -> PyTree:
    """What the attacker predicts that is seen of a client it knows everything of.

    Args:
        client_update: the client's own update.
        observation: the channel; its `predict` is used.
        draw: the client.
        seen: what was seen, by which a stage may tell what is left of an upload; None: all of it.
    """
    upload = client_update(*draw)[0]
    seen = upload if seen is None else seen
    predicted, _ = observation.predict(upload, seen, observation.init(upload))
    return predicted


def find(
    client_update: ClientUpdate,
    observation: Observation,
    draws: Sequence[Draw],
    tolerance: float = 1e-5,
    scaled: bool = False,
) -> Leak | None:
    """The leak that holds on every draw, the exact kind first; None when there is none.

    Args:
        client_update: the client's own update.
        observation: the channel; its `predict` is used.
        draws: two or more random clients; the private state must be one vector `[D]`.
        tolerance: how far, relative to the leaf, it may be from the product.
        scaled: from any positive multiple of the product (an adaptive optimiser turns steps of any
            length into steps of one length): p's length is then not known.

    Returns:
        The leak.

    Example:
        >>> def update(shared, private, batch):
        ...     return {'kernel': jnp.outer(private, batch.labels), 'bias': batch.labels}, private
        >>> from fedinv_jax import observe
        >>> keys = jax.random.split(jax.random.key(0))
        >>> draws = [Draw({}, jax.random.normal(key, (3,)),
        ...          Batch(None, jax.random.normal(key, (4,)), jnp.ones(4))) for key in keys]
        >>> find(update, observe.chain(), draws)
        Leak(kernel='kernel', axis=0, bias='bias')
    """
    if any(jnp.ndim(draw.private) != 1 for draw in draws):
        return None
    upload = jax.jit(partial(upload_of, client_update, observation))
    seen = [
        flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, upload(draw)), sep='/')
        for draw in draws
    ]
    privates = [np.asarray(draw.private) for draw in draws]
    directions = [
        Leak(name, axis, None)
        for name, leaf in seen[0].items()
        for axis in (0, 1)
        if leaf.ndim == 2
        and leaf.shape[axis] == len(privates[0])
        and all(
            _along(np.moveaxis(upload[name], axis, 0), private, tolerance)
            for upload, private in zip(seen, privates, strict=True)
        )
    ]
    for leak in directions:
        for name in seen[0]:
            if all(
                _is_product(
                    np.moveaxis(upload[leak.kernel], leak.axis, 0),
                    private,
                    upload[name],
                    tolerance,
                    scaled,
                )
                for upload, private in zip(seen, privates, strict=True)
            ):
                return leak._replace(bias=name)
    return directions[0] if directions else None


def exact(leak: Leak, seen: PyTree) -> Array:
    """`p = kernel · bias / |bias|^2`, `[D]`, of one step's upload; NaN at a zero bias.

    Where the channel left entries out, the sums are over the entries of a row that are there, and a
    row without any has p = 0.

    Args:
        leak: with a bias.
        seen: the upload of one step.

    Raises:
        ValueError: if the leak has no bias.
    """
    if leak.bias is None:
        raise ValueError(f'Expected a leak with a bias, got {leak}.')
    leaves = flax.traverse_util.flatten_dict(seen, sep='/')
    kernel, bias = jnp.moveaxis(leaves[leak.kernel], leak.axis, 0), leaves[leak.bias]
    squares = jnp.sum(jnp.where(kernel != 0, bias**2, 0), axis=1)
    known = squares > 0
    size = jnp.where(jnp.any(bias != 0), 1.0, jnp.nan)
    return size * jnp.where(known, kernel @ bias / jnp.where(known, squares, 1), 0)


def direction(leak: Leak, seen: PyTree) -> Array:
    """The unit vector `[D]` along p, of one step's upload, up to its sign.

    The first left singular vector of the leak's leaf; zero where that leaf is.
    """
    leaves = flax.traverse_util.flatten_dict(seen, sep='/')
    kernel = jnp.moveaxis(leaves[leak.kernel], leak.axis, 0)
    size = jnp.max(jnp.abs(kernel))
    scaled = kernel / jnp.where(size > 0, size, 1)
    vector = jnp.linalg.eigh(scaled @ scaled.T)[1][:, -1]
    return jnp.where(size > 0, vector, 0)


def _along(matrix: np.ndarray, private: np.ndarray, tolerance: float) -> bool:
    """Whether a matrix `[D, H]` is `private ⊗ something`, not zero."""
    other = private @ matrix / (private @ private)
    size = np.linalg.norm(matrix)
    return bool(np.linalg.norm(matrix - np.outer(private, other)) < tolerance * size)


def _is_product(
    matrix: np.ndarray, private: np.ndarray, bias: np.ndarray, tolerance: float, scaled: bool
) -> bool:
    """Whether a matrix `[D, H]` is `private ⊗ bias`, or a positive multiple of it."""
    if bias.shape != matrix.shape[1:]:
        return False
    product = np.outer(private, bias)
    if scaled:
        square = max(np.vdot(product, product), np.finfo(float).tiny)
        product *= max(np.vdot(matrix, product), 0) / square
    return bool(np.linalg.norm(matrix - product) < tolerance * np.linalg.norm(matrix))
