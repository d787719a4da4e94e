"""The item table: the rows that a client takes of it, and private rows that it puts back."""

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.types import Array, Leaf, PyTree


def gather(parameters: PyTree, items: Leaf) -> PyTree:
    """Returns what a client trains: `parameters` with only the rows `items [B]` of an item table.

    A `client_update` on these rows with `Batch(items=None, ...)` uploads `[B, ...]` rows instead of
    a table; the server scatter-adds them at `items`. Private parameters that are a dict with an
    entry 'items' have an item table too; others are returned unchanged.

    Args:
        parameters: `{'items': leaves [N, ...], ...}`, or private parameters without a table.
        items: int `[B]`.

    Returns:
        The same with leaves `[B, ...]` in 'items'.

    Example:
        >>> shared = {'items': jnp.array([[1.0], [2.0], [3.0]]), 'scorer': {}}
        >>> gather(shared, jnp.array([2, 0]))['items'].tolist()
        [[3.0], [1.0]]
    """
    if not has_items(parameters):
        return parameters
    return {**parameters, 'items': tree.take(parameters['items'], items)}


def gather_both(shared: PyTree, private: PyTree, items: Leaf) -> tuple[PyTree, PyTree]:
    """Returns `gather` of the shared and of the private parameters of a client.

    Example:
        >>> shared = {'items': jnp.array([[1.0], [2.0]]), 'scorer': {}}
        >>> gather_both(shared, jnp.array([5.0]), jnp.array([1]))[1].tolist()
        [5.0]
    """
    return gather(shared, items), gather(private, items)


def scatter(parameters: PyTree, rows: PyTree, items: Array, weights: Array) -> PyTree:
    """Returns a client's private parameters with the rows that it trained put back.

    Args:
        parameters: private parameters before the round, with the whole item table if they have one.
        rows: the same after the round, with the rows of the batch only.
        items: int32 `[B]`, rows of the table; rows of weight 0 are not put back.
        weights: float `[B]`.

    Returns:
        Private parameters with the whole table; `rows` where they have none.

    Example:
        >>> table = {'items': jnp.array([[1.0], [2.0], [3.0]])}
        >>> rows = {'items': jnp.array([[5.0], [6.0]])}
        >>> scatter(table, rows, jnp.array([2, 0]), jnp.array([1.0, 0.0]))['items'].tolist()
        [[1.0], [2.0], [5.0]]
    """
    if not has_items(parameters):
        return rows
    count = len(jax.tree.leaves(parameters['items'])[0])
    index = jnp.where(weights > 0, items, count)
    put = jax.tree.map(
        lambda leaf, new: leaf.at[index].set(new, mode='drop'), parameters['items'], rows['items']
    )
    return {**rows, 'items': put}


def has_items(parameters: PyTree) -> bool:
    """Whether parameters are a dict with an item table, `{'items': leaves [N, ...], ...}`.

    Example:
        >>> has_items({'items': jnp.ones((3, 2)), 'bias': jnp.ones(())}), has_items(jnp.ones(2))
        (True, False)
    """
    return isinstance(parameters, dict) and bool(jax.tree.leaves(parameters.get('items')))
