"""Pytree functions that `optax.tree` lacks: rows, named leaves, sharding, maps over chunks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp

from fedinv_jax.types import Array, PyTree


def take(tree: PyTree, index: Any) -> PyTree:
    """Indexes the leading axis of every leaf; the index None returns the tree itself.

    Example:
        >>> take({'a': jnp.arange(3)}, jnp.array([2, 0]))['a'].tolist()
        [2, 0]
        >>> take({'a': jnp.arange(3)}, None)['a'].tolist()
        [0, 1, 2]
    """
    if index is None:
        return tree
    return jax.tree.map(lambda leaf: leaf[index], tree)


def take_along(tree: PyTree, axes: PyTree, index: Any) -> PyTree:
    """Indexes the leaves whose `vmap` axis is 0; leaves with axis None are not changed.

    Example:
        >>> take_along({'a': jnp.arange(3), 'b': jnp.ones(2)}, {'a': 0, 'b': None}, 2)['a'].item()
        2
    """
    return jax.tree.map(
        lambda axis, part: part if axis is None else take(part, index),
        axes, tree, is_leaf=lambda axis: axis is None,
    )  # fmt: skip


def names(tree: PyTree) -> tuple[str, ...]:
    """Returns slash-separated names of the leaves of nested dicts, in leaf order.

    Example:
        >>> names({'items': {'bias': 0, 'embedding': 0}, 'scorer': {}})
        ('items/bias', 'items/embedding')
    """
    return tuple(
        jax.tree_util.keystr(path, simple=True, separator='/')
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    )


def ravel(tree: PyTree) -> Array:
    """Returns all leaves of a tree as one vector `[size]`; it is empty for an empty tree."""
    return jax.flatten_util.ravel_pytree(tree)[0]


def cast_floats(tree: PyTree, dtype: Any) -> PyTree:
    """Casts floating leaves to `dtype`; integers, booleans and keys are not changed.

    Example:
        >>> cast_floats((jnp.ones(1, jnp.float16), jnp.ones(1, int)), jnp.float32)[1].dtype
        dtype('int32')
    """
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def device_mesh(axis: str) -> jax.sharding.Mesh:
    """Returns a one-dimensional mesh of this process's devices."""
    devices = jax.local_devices()
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (axis,), auto, devices=devices)


def shard_rows(tree: PyTree) -> PyTree:
    """Shards the rows over this process's devices; zero rows make their number divisible.

    Example:
        >>> shard_rows(jnp.ones((jax.local_device_count(), 2))).shape[1]
        2
    """
    rows = jax.sharding.NamedSharding(device_mesh('rows'), jax.sharding.PartitionSpec('rows'))

    def one(leaf: Array) -> Array:
        more = -len(leaf) % rows.mesh.size
        filled = jnp.pad(leaf, [(0, more), *[(0, 0)] * (leaf.ndim - 1)]) if more else leaf
        return jax.lax.with_sharding_constraint(filled, rows)

    return jax.tree.map(one, tree)


def replicate(tree: PyTree) -> PyTree:
    """Replicates every leaf on each device of this process."""
    whole = jax.sharding.NamedSharding(device_mesh('rows'), jax.sharding.PartitionSpec())
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, whole), tree)


def map_chunks(function: Callable[[PyTree], PyTree], values: PyTree, size: int = 64) -> PyTree:
    """Computes `vmap(function)(values)` in chunks, whose intermediate arrays fit the caches.

    Args:
        function: of one element, without the leading axis.
        values: leaves `[K, ...]`.
        size: elements per chunk; the last chunk is padded.

    Example:
        >>> map_chunks(lambda x: 2 * x, jnp.arange(3), size=2).tolist()
        [0, 2, 4]
    """
    count = len(jax.tree.leaves(values)[0])
    size = min(size, count)
    index = jnp.minimum(jnp.arange(count + -count % size), count - 1).reshape(-1, size)
    chunks = jax.lax.map(lambda chunk: jax.vmap(function)(take(values, chunk)), index)
    return jax.tree.map(lambda leaf: leaf.reshape(index.size, *leaf.shape[2:])[:count], chunks)


def map_first(function: Callable[[Array], PyTree], size: int, count: int | Array) -> PyTree:
    """Stacks `function(0), ..., function(count - 1)`, one after the other; zeros up to `size`.

    Example:
        >>> map_first(lambda i: 2 * i + 1, 4, jnp.asarray(2)).tolist()
        [1, 3, 0, 0]
    """
    count, once = jnp.minimum(count, size), jax.jit(function)  # traced once
    like = jax.eval_shape(once, jnp.zeros_like(count))
    empty = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), like)
    return jax.lax.fori_loop(
        jnp.zeros_like(count),
        count,
        lambda i, all_: jax.tree.map(lambda x, new: x.at[i].set(new), all_, once(i)),
        empty,
    )
