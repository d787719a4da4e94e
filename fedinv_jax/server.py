"""The server: aggregates uploads leaf by leaf and applies an optax optimiser."""

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
        items: int32 `[C, B]`, the row of the item table that each uploaded row belongs to.
        touched: bool `[C, B]`, False where an uploaded row is padding.
        active: bool `[C]`, whether the client took part.
    """

    uploads: PyTree
    items: Array
    touched: Array
    active: Array


class Server(NamedTuple):
    """How a round changes the shared parameters.

    Attributes:
        aggregation: per top-level part of the parameters: 'sum', 'mean' (over the participants)
            or 'mean_over_touched' (over the participants that had the row in their batch).
        optimizer: applied to the aggregate as if it were a gradient; `optax.sgd(rate)` on
            gradients is FedSGD, `optax.sgd(1.0)` on weight differences is FedAvg.
    """

    aggregation: Mapping[str, str]
    optimizer: optax.GradientTransformation


def server(
    optimizer: optax.GradientTransformation, items: str = 'sum', scorer: str = 'mean'
) -> Server:
    """Returns a server; by default it sums item rows and averages the scorer.

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
    """The sum of a round's uploads, and the counts by which means divide it.

    Attributes:
        uploads: the sum, in the structure of the parameters, zero in leaves that are not uploaded;
            under secure aggregation one sum for each of G cohorts, leaves `[G, ...]`.
        clients: int `[]`, number of participants.
        touched: int `[N]`, number of participants that had the item in their batch.
    """

    uploads: PyTree
    clients: Array
    touched: Array


def zero_total(shared: PyTree, number: int | None = None) -> Aggregate:
    """Returns the aggregate of no uploads, which is zero.

    Args:
        shared: current parameters; only their structure, shapes and dtypes are used.
        number: G, the number of cohorts; None: one sum over all clients.
    """
    leading = () if number is None else (number,)
    num_items = jax.tree.leaves(shared['items'])[0].shape[0]
    return Aggregate(
        jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), shared),
        jnp.zeros((), int),
        jnp.zeros(num_items, int),
    )


def accumulate(aggregate: Aggregate, seen: Uploads, cohorts: Leaf | None = None) -> Aggregate:
    """Adds uploads to an aggregate; reads and writes only the item rows that they touch.

    Args:
        aggregate: the sum so far, from `zero_total` or a previous call.
        seen: the uploads to add; inactive clients and padding add nothing.
        cohorts: int `[C]`, the cohort of each client; None: one sum over all clients.

    Example:
        >>> shared = {'items': jnp.zeros((3, 1)), 'scorer': {}}
        >>> uploads = {'items': jnp.ones((2, 2, 1)), 'scorer': {}}
        >>> seen = Uploads(uploads, jnp.array([[0, 1], [1, 0]]),
        ...                jnp.array([[True, True], [True, False]]), jnp.array([True, True]))
        >>> one = accumulate(zero_total(shared), seen)
        >>> one.uploads['items'].ravel().tolist(), one.touched.tolist(), int(one.clients)
        ([1.0, 2.0, 0.0], [1, 2, 0], 2)
        >>> by_cohort = accumulate(zero_total(shared, 2), seen, jnp.array([0, 1]))
        >>> by_cohort.uploads['items'][..., 0].tolist()
        [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    uploads = dict(flax.traverse_util.flatten_dict(seen.uploads, sep='/'))
    touched = seen.active[:, None] & seen.touched

    def add(path: tuple, total: Array) -> Array:
        upload = uploads.get(jax.tree_util.keystr(path, simple=True, separator='/'))
        if upload is None:
            return total
        rows = path[0].key == 'items'
        kept = touched if rows else seen.active
        upload = jnp.where(kept.reshape(kept.shape + (1,) * (upload.ndim - kept.ndim)), upload, 0)
        if rows:
            cohort = () if cohorts is None else (cohorts[:, None],)
            return total.at[(*cohort, seen.items)].add(upload)
        return total + jnp.sum(upload, axis=0) if cohorts is None else total.at[cohorts].add(upload)

    return Aggregate(
        jax.tree_util.tree_map_with_path(add, aggregate.uploads),
        aggregate.clients + jnp.sum(seen.active),
        aggregate.touched.at[seen.items].add(touched),
    )


def average(aggregate: Aggregate, aggregation: Mapping[str, str]) -> PyTree:
    """Returns the sums of an aggregate, divided by its counts where `aggregation` asks for a mean.

    Args:
        aggregate: of one round, with one sum over all clients.
        aggregation: see `Server`.

    Example:
        >>> summed = {'items': jnp.array([[1.0], [2.0], [0.0]]), 'scorer': {}}
        >>> aggregate = Aggregate(summed, jnp.array(2), jnp.array([1, 2, 0]))
        >>> average(aggregate, {'items': 'mean_over_touched'})['items'].ravel().tolist()
        [1.0, 1.0, 0.0]
    """

    def divide(path: tuple, total: Array) -> Array:
        how = aggregation[path[0].key]
        if how == 'sum':
            return total
        if how == 'mean_over_touched' and path[0].key == 'items':
            count = jnp.maximum(aggregate.touched, 1)
            return total / count.reshape(-1, *(1,) * (total.ndim - 1)).astype(total.dtype)
        return total / jnp.maximum(aggregate.clients, 1)

    return jax.tree_util.tree_map_with_path(divide, aggregate.uploads)


def apply(
    server: Server, shared: PyTree, state: optax.OptState, aggregate: Aggregate
) -> tuple[PyTree, optax.OptState]:
    """Returns the shared parameters and the server optimiser's state after one round."""
    updates, state = server.optimizer.update(average(aggregate, server.aggregation), state, shared)
    return optax.apply_updates(shared, updates), state


def init(server: Server, shared: PyTree) -> optax.OptState:
    """Returns the server optimiser's initial state."""
    return server.optimizer.init(shared)
