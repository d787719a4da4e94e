"""Whose item is which candidate: batches that change between rounds, uploads of another client."""

from typing import NamedTuple

import jax
import numpy as np

from fedinv_jax.types import PyTree, Transcript


class Union(NamedTuple):
    """The items of V clients in any of their T batches, as their candidates.

    Attributes:
        items: int32 `[V, K]`, in increasing order, K = T B; item 0 pads.
        member: bool `[V, T, K]`, whether a candidate is in each batch.
        place: int `[V, T, B]`, candidate of each batch entry; K for padding.
    """

    items: np.ndarray
    member: np.ndarray
    place: np.ndarray


def union(items: np.ndarray, real: np.ndarray) -> Union:
    """The candidates of clients whose batches differ between rounds.

    Args:
        items: int32 `[V, T, B]`, the items of each batch.
        real: bool `[V, B]`, False for padding.

    Example:
        >>> found = union(np.array([[[7, 5, 0], [2, 5, 0]]]), np.array([[True, True, False]]))
        >>> found.items.tolist(), found.member[0, :, :3].tolist()
        ([[2, 5, 7, 0, 0, 0]], [[False, True, True], [True, True, False]])
    """
    number, steps, batch = items.shape
    found = np.zeros((number, steps * batch), items.dtype)
    place = np.full(items.shape, found.shape[1])
    member = np.zeros((number, steps, found.shape[1] + 1), bool)
    for v in range(number):
        own = items[v][:, real[v]]
        distinct = np.unique(own)
        found[v, : len(distinct)] = distinct
        place[v][:, real[v]] = np.searchsorted(distinct, own)
        member[v][np.arange(steps)[:, None], place[v]] = True
    return Union(found, member[..., :-1], place)


def spread(rows: PyTree, of: Union) -> PyTree:
    """Item rows `[V, T, B, ...]` of batches as rows `[V, T, K, ...]` of candidates, 0 elsewhere."""
    number, steps, count = of.member.shape
    client, step = np.arange(number)[:, None, None], np.arange(steps)[:, None]

    def one(leaf: np.ndarray) -> np.ndarray:
        wide = np.zeros((number, steps, count + 1, *leaf.shape[3:]), leaf.dtype)
        wide[client, step, of.place] = leaf
        return wide[:, :, :-1]

    return jax.tree.map(one, rows)


def seen_of_another(own: Transcript, other: Transcript) -> PyTree:
    """The uploads of another client, as they look to an attacker who takes them for the client's.

    An item row is that of the other client where the item is a candidate of both, 0 elsewhere.

    Args:
        own: of one client, who is not in a cohort.
        other: of another client of the same recording, in the same rounds.

    Returns:
        `seen` in the structure and shapes of `own.seen`.
    """
    if 'items' not in other.seen:
        return other.seen
    same = (own.items[:, None] == other.items) & (own.weights > 0).any(0)[:, None]
    same &= (other.weights > 0).any(0)
    index = np.where(same.any(1), same.argmax(1), 0)

    def rows(leaf: np.ndarray) -> np.ndarray:
        known = same.any(1).reshape(-1, *[1] * (leaf.ndim - 2))
        return np.where(known, leaf[:, index], 0)

    return {**other.seen, 'items': jax.tree.map(rows, other.seen['items'])}
