"""The server: aggregates what it sees, leaf by leaf, and applies an optax optimiser."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from fedinv_jax.types import Array, Leaf, PyTree

AGGREGATIONS = ('sum', 'mean', 'mean_over_touched')


class Uploads(NamedTuple):
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


class Aggregate(NamedTuple):
    """The sum of a round's uploads, and the counts that their means are over.

    Attributes:
        uploads: in the structure of the parameters, zero where nothing is seen; of cohorts, leaves
            `[G, ...]`, the sum of each: what secure aggregation lets through.
        clients: int `[]`, the clients that took part.
        touched: int `[N]`, those of them that had the item in their batch.
    """

    uploads: PyTree
    clients: Array
    touched: Array


def zero_total(shared: PyTree, number: int | None = None) -> Aggregate:
    """The total of no upload.

    Args:
        shared: current parameters, of which structure and shapes count.
        number: G, where uploads are summed by cohort.
    """
    leading = () if number is None else (number,)
    num_items = jax.tree.leaves(shared['items'])[0].shape[0]
    return Aggregate(
        jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), shared),
        jnp.zeros((), int),
        jnp.zeros(num_items, int),
    )


def accumulate(aggregate: Aggregate, seen: Uploads, cohorts: Leaf | None = None) -> Aggregate:
    """A total with further uploads; only the rows that they touch are read and written.

    Args:
        aggregate: from `zero_total`, and so on.
        seen: the uploads; inactive clients and padding count for nothing.
        cohorts: int `[C]`, the cohort of each client, where they are summed by cohort.

    Example:
        >>> shared = {'items': jnp.zeros((3, 1)), 'scorer': {}}
        >>> uploads = {'items': jnp.ones((2, 2, 1)), 'scorer': {}}
        >>> seen = Uploads(uploads, jnp.array([[0, 1], [1, 0]]),
        ...                jnp.array([[True, True], [True, False]]), jnp.array([True, True]))
        >>> total = accumulate(zero_total(shared), seen)
        >>> total.uploads['items'].ravel().tolist(), total.touched.tolist(), int(total.clients)
        ([1.0, 2.0, 0.0], [1, 2, 0], 2)
        >>> by_cohort = accumulate(zero_total(shared, 2), seen, jnp.array([0, 1]))
        >>> by_cohort.uploads['items'][..., 0].tolist()
        [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    own = dict(flax.traverse_util.flatten_dict(seen.uploads, sep='/'))
    touched = seen.active[:, None] & seen.touched

    def one(path: tuple, value: Array) -> Array:
        upload = own.get(jax.tree_util.keystr(path, simple=True, separator='/'))
        if upload is None:
            return value
        rows = path[0].key == 'items'
        kept = touched if rows else seen.active
        upload = jnp.where(kept.reshape(kept.shape + (1,) * (upload.ndim - kept.ndim)), upload, 0)
        if rows:
            place = () if cohorts is None else (cohorts[:, None],)
            return value.at[(*place, seen.items)].add(upload)
        return value + jnp.sum(upload, axis=0) if cohorts is None else value.at[cohorts].add(upload)

    return Aggregate(
        jax.tree_util.tree_map_with_path(one, aggregate.uploads),
        aggregate.clients + jnp.sum(seen.active),
        aggregate.touched.at[seen.items].add(touched),
    )


def average(aggregate: Aggregate, aggregation: Mapping[str, str]) -> PyTree:
    """A round's uploads, summed over all clients, divided as `Server.aggregation` says.

    Args:
        aggregate: of the round, its uploads as the parameters.
        aggregation: see `Server`.

    Example:
        >>> summed = {'items': jnp.array([[1.0], [2.0], [0.0]]), 'scorer': {}}
        >>> aggregate = Aggregate(summed, jnp.array(2), jnp.array([1, 2, 0]))
        >>> average(aggregate, {'items': 'mean_over_touched'})['items'].ravel().tolist()
        [1.0, 1.0, 0.0]
    """

    def one(path: tuple, value: Array) -> Array:
        how = aggregation[path[0].key]
        if how == 'sum':
            return value
        if how == 'mean_over_touched' and path[0].key == 'items':
            count = jnp.maximum(aggregate.touched, 1)
            return value / count.reshape(-1, *(1,) * (value.ndim - 1)).astype(value.dtype)
        return value / jnp.maximum(aggregate.clients, 1)

    return jax.tree_util.tree_map_with_path(one, aggregate.uploads)


def apply(
    server: Server, shared: PyTree, state: optax.OptState, aggregate: Aggregate
) -> tuple[PyTree, optax.OptState]:
    """The shared parameters and the server's state after one round."""
    updates, state = server.optimizer.update(average(aggregate, server.aggregation), state, shared)
    return optax.apply_updates(shared, updates), state


def init(server: Server, shared: PyTree) -> optax.OptState:
    """The server optimiser's state at the start."""
    return server.optimizer.init(shared)
