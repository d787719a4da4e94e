"""The server: aggregates what it sees, leaf by leaf, and applies an optax optimiser."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from fedinv_jax.types import Array, Leaf, PyTree

AGGREGATIONS = ('sum', 'mean', 'mean_over_touched')


class Seen(NamedTuple):
    """One round's uploads of a group of clients, as the server sees them.

    Attributes:
        uploads: leaves `[C, ...]`; those below 'items' hold rows `[C, B, ...]`.
        items: int32 `[C, B]`, the table's rows that they belong to.
        touched: bool `[C, B]`, False where a row is padding.
        active: bool `[C]`, whether the client took part.
    """

    uploads: PyTree
    items: Array
    touched: Array
    active: Array


class Server(NamedTuple):
    """How a round changes the shared parameters.

    Attributes:
        aggregation: per top-level part of the parameters: 'sum', 'mean' (over the round's
            clients) or 'mean_over_touched' (over the clients that had the row in their batch).
        optimizer: applied to the aggregate as if it were a gradient; `optax.sgd(rate)` on
            gradients is FedSGD, `optax.sgd(1.0)` on weight differences FedAvg.
    """

    aggregation: Mapping[str, str]
    optimizer: optax.GradientTransformation


def server(
    optimizer: optax.GradientTransformation, items: str = 'sum', scorer: str = 'mean'
) -> Server:
    """A server; item rows are summed and the scorer averaged unless told otherwise.

    Raises:
        ValueError: if an aggregation is unknown.

    References:
        Reddi et al., Adaptive federated optimization, ICLR 2021, arXiv:2003.00295, algorithm 1.
    """
    for name, value in (('items', items), ('scorer', scorer)):
        if value not in AGGREGATIONS:
            raise ValueError(f'Expected {name}={value!r} to be one of {", ".join(AGGREGATIONS)}.')
    return Server({'items': items, 'scorer': scorer}, optimizer)


def total(shared: PyTree, groups: Sequence[Seen]) -> PyTree:
    """The sum of the round's uploads, in the structure of `shared`; zero where nothing is seen.

    Args:
        shared: current parameters (structure and shapes only).
        groups: the round's uploads; inactive clients and padding count for nothing.

    Example:
        >>> shared = {'items': jnp.zeros((3, 1)), 'scorer': {}}
        >>> seen = Seen({'items': jnp.ones((2, 2, 1)), 'scorer': {}}, jnp.array([[0, 1], [1, 0]]),
        ...             jnp.array([[True, True], [True, False]]), jnp.array([True, True]))
        >>> total(shared, [seen])['items'].ravel().tolist()
        [1.0, 2.0, 0.0]
    """
    return _scatter(shared, groups, [() for _ in groups], ())


def total_by_cohort(
    shared: PyTree, groups: Sequence[Seen], of: Sequence[Leaf], number: int
) -> PyTree:
    """The sum of each cohort's uploads, leaves `[G, ...]`: what secure aggregation lets through.

    Args:
        shared: see `total`.
        groups: see `total`.
        of: per group int `[C]`, the cohort of each client, below `number`.
        number: G.

    Example:
        >>> shared = {'items': jnp.zeros((2, 1)), 'scorer': {}}
        >>> seen = Seen({'items': jnp.ones((3, 1, 1)), 'scorer': {}}, jnp.array([[0], [0], [1]]),
        ...             jnp.ones((3, 1), bool), jnp.ones(3, bool))
        >>> total_by_cohort(shared, [seen], [jnp.array([0, 0, 1])], 2)['items'][..., 0].tolist()
        [[2.0, 0.0], [0.0, 1.0]]
    """
    return _scatter(shared, groups, [(cohort,) for cohort in of], (number,))


def _scatter(
    shared: PyTree, groups: Sequence[Seen], places: Sequence[tuple], leading: tuple[int, ...]
) -> PyTree:
    """Uploads summed at `places` (an index `[C]` each) of leaves `[*leading, ...]`."""
    leaves = flax.traverse_util.flatten_dict(shared, sep='/', keep_empty_nodes=True)
    uploads = [flax.traverse_util.flatten_dict(group.uploads, sep='/') for group in groups]

    def one(name: str, like: Array) -> Array:
        rows = name.split('/')[0] == 'items'
        value = jnp.zeros((*leading, *like.shape), like.dtype)
        for group, upload, place in zip(groups, uploads, places, strict=True):
            if name not in upload:
                continue
            kept = group.active[:, None] & group.touched if rows else group.active
            shape = kept.shape + (1,) * (upload[name].ndim - kept.ndim)
            kept_upload = jnp.where(kept.reshape(shape), upload[name], 0)
            if rows:
                value = value.at[(*(index[:, None] for index in place), group.items)].add(
                    kept_upload
                )
            elif place:
                value = value.at[place].add(kept_upload)
            else:
                value += jnp.sum(kept_upload, axis=0)
        return value

    summed = {
        name: leaf if isinstance(leaf, dict) or not hasattr(leaf, 'shape') else one(name, leaf)
        for name, leaf in leaves.items()
    }
    return flax.traverse_util.unflatten_dict(summed, sep='/')


def average(total: PyTree, groups: Sequence[Seen], aggregation: Mapping[str, str]) -> PyTree:
    """A round's total, divided as `Server.aggregation` says.

    Args:
        total: from `total`.
        groups: the round's uploads, of which only who took part and which rows count.
        aggregation: see `Server`.

    Example:
        >>> seen = Seen({}, jnp.array([[0, 1], [1, 0]]),
        ...             jnp.array([[True, True], [True, False]]), jnp.array([True, True]))
        >>> summed = {'items': jnp.array([[1.0], [2.0], [0.0]]), 'scorer': {}}
        >>> average(summed, [seen], {'items': 'mean_over_touched'})['items'].ravel().tolist()
        [1.0, 1.0, 0.0]
    """
    num_active = sum(jnp.sum(group.active) for group in groups)

    def one(path: tuple, value: Array) -> Array:
        how = aggregation[path[0].key]
        if how == 'sum':
            return value
        if how == 'mean_over_touched' and path[0].key == 'items':
            count = jnp.zeros(value.shape[:1])
            for group in groups:
                count = count.at[group.items].add(group.active[:, None] & group.touched)
            return value / jnp.maximum(count, 1).reshape(-1, *(1,) * (value.ndim - 1))
        return value / jnp.maximum(num_active, 1)

    return jax.tree_util.tree_map_with_path(one, total)


def apply(
    server: Server, shared: PyTree, state: optax.OptState, total: PyTree, groups: Sequence[Seen]
) -> tuple[PyTree, optax.OptState]:
    """The shared parameters and the server's state after one round."""
    aggregated = average(total, groups, server.aggregation)
    updates, state = server.optimizer.update(aggregated, state, shared)
    return optax.apply_updates(shared, updates), state


def init(server: Server, shared: PyTree) -> optax.OptState:
    """The server optimiser's state at the start."""
    return server.optimizer.init(shared)
