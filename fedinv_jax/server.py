"""The server: aggregates what it sees, leaf by leaf, and applies an optax optimiser."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import optax

from fedinv_jax.types import Array, PyTree

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


def aggregate(shared: PyTree, groups: Sequence[Seen], aggregation: Mapping[str, str]) -> PyTree:
    """One aggregate in the structure of `shared`; leaves that are not seen get zero.

    Args:
        shared: current parameters (structure and shapes only).
        groups: the round's uploads; inactive clients and padding count for nothing.
        aggregation: see `Server`.

    Example:
        >>> shared = {'items': jnp.zeros((3, 1)), 'scorer': {}}
        >>> seen = Seen({'items': jnp.ones((2, 2, 1)), 'scorer': {}}, jnp.array([[0, 1], [1, 0]]),
        ...             jnp.array([[True, True], [True, False]]), jnp.array([True, True]))
        >>> aggregate(shared, [seen], {'items': 'sum'})['items'].ravel().tolist()
        [1.0, 2.0, 0.0]
    """
    num_active = sum(jnp.sum(group.active) for group in groups)
    leaves = flax.traverse_util.flatten_dict(shared, sep='/', keep_empty_nodes=True)
    uploads = [flax.traverse_util.flatten_dict(group.uploads, sep='/') for group in groups]

    def total(name: str, like: Array) -> Array:
        rows = name.split('/')[0] == 'items'
        how = aggregation[name.split('/')[0]]
        value = jnp.zeros_like(like)
        count = jnp.zeros(like.shape[:1])
        for group, upload in zip(groups, uploads, strict=True):
            if name not in upload:
                continue
            kept = group.active[:, None] & group.touched if rows else group.active
            shape = kept.shape + (1,) * (upload[name].ndim - kept.ndim)
            kept_upload = jnp.where(kept.reshape(shape), upload[name], 0)
            if rows:
                value = value.at[group.items].add(kept_upload)
                count = count.at[group.items].add(kept)
            else:
                value += jnp.sum(kept_upload, axis=0)
        if how == 'sum':
            return value
        if how == 'mean_over_touched' and rows:
            return value / jnp.maximum(count, 1).reshape(-1, *(1,) * (value.ndim - 1))
        return value / jnp.maximum(num_active, 1)

    aggregated = {
        name: leaf if isinstance(leaf, dict) or not hasattr(leaf, 'shape') else total(name, leaf)
        for name, leaf in leaves.items()
    }
    return flax.traverse_util.unflatten_dict(aggregated, sep='/')


def apply(
    server: Server, shared: PyTree, state: optax.OptState, groups: Sequence[Seen]
) -> tuple[PyTree, optax.OptState]:
    """The shared parameters and the server's state after one round."""
    aggregated = aggregate(shared, groups, server.aggregation)
    updates, state = server.optimizer.update(aggregated, state, shared)
    return optax.apply_updates(shared, updates), state


def init(server: Server, shared: PyTree) -> optax.OptState:
    """The server optimiser's state at the start."""
    return server.optimizer.init(shared)
