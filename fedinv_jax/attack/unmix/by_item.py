"""A system for each item, whose unknowns are those of the clients that have the item."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.attack import candidates
from fedinv_jax.attack.unmix import filters
from fedinv_jax.types import Array, PyTree, Sums

_ENTRIES = 2**22  # of the mixtures that one compiled call works on
_MOST_STAYS = 0.05  # share of a client's sums in which a row of its batch may stay
Progress = Callable[[int, int], None]


def mean_rows(
    sums: Sums,
    clients: Sequence[int],
    weights: np.ndarray | None = None,
    progress: Progress = lambda done, total: None,
) -> np.ndarray:
    """Estimates the mean item rows of clients' batches, with a system for each item.

    An item's sums are mixtures of the rows of those clients whose batches hold the item; the server
    knows them.

    Args:
        sums: what the server sees, with batches, item rows seen.
        clients: V columns of `sums.members`.
        weights: `[C]`, see `memberships`. Where a client's loss is a mean over its batch, its rows
            are the smaller the larger the batch: with weights of 1 / batch size the unknowns have
            one scale, and a ridge fits all of them.
        progress: called with (items done, items in total).

    Returns:
        float `[V, B, F]`, all leaves of an item concatenated, of unit weight (x where a sum holds
        w x); 0 for padding, NaN for a client that is in no sum.

    Raises:
        ValueError: if no item rows are seen, or no batches known.
    """
    check_batches(sums)
    mixture = filters.mixture(sums, weights)

    def data(items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = [jax.tree.map(lambda leaf: leaf[:, items], _items(part)) for part in sums.seen]
        rows = np.concatenate([candidates.rows(part, 2) for part in own])
        return np.ones((len(items), len(rows))), np.moveaxis(rows, 1, 0)

    return solve(sums, clients, mixture, data, False, progress)


def possible(members: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Which items a client may have in all of its rounds, by elimination: bool `[C, N]`.

    An item whose row stays as it is in a sum is in no batch of its members, or moves by less than
    rounding. An item is excluded that stays in more than a twentieth of a client's sums.

    Args:
        members: int `[T, C]`, the cohort of each client; -1: in none.
        moved: bool `[T, G, N]`, whether a cohort's sum moves an item's row.

    Returns:
        False where the sums exclude the item; True for all of a client that is in no sum.

    Example:
        >>> members = np.array([[0, 0, -1], [0, -1, 0]])
        >>> moved = np.array([[[True, True, False, True]], [[True, False, True, False]]])
        >>> possible(members, moved).astype(int).tolist()
        [[1, 0, 0, 0], [1, 1, 0, 1], [1, 0, 1, 0]]
    """
    stays = np.zeros((members.shape[1], moved.shape[2]), np.int32)
    for of, rows in zip(members, moved, strict=True):
        there = np.flatnonzero(of >= 0)
        stays[there] += ~rows[of[there]]
    return stays <= _MOST_STAYS * np.sum(members >= 0, axis=0)[:, None]


def _items(part: PyTree) -> PyTree:
    return {name: leaves for name, leaves in part.items() if name == 'items'}


class _Entries(NamedTuple):
    """All clients' batch entries, ordered by item and client; item i's are from `starts[i]` on."""

    clients: np.ndarray
    weights: np.ndarray
    starts: np.ndarray


def _entries(sums: Sums) -> _Entries:
    who, where = np.nonzero(sums.weights > 0)
    items = sums.items[who, where]
    order = np.lexsort((who, items))
    starts = np.searchsorted(items[order], np.arange(items.max() + 2))
    return _Entries(who[order], sums.weights[who, where][order], starts)


def solve(
    sums: Sums,
    clients: Sequence[int],
    mixture: np.ndarray,
    data: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    weighted: bool,
    progress: Progress = lambda done, total: None,
) -> np.ndarray:
    """Solves a ridge regression for each item of the clients' batches.

    Args:
        sums: what the server sees, with batches.
        clients: V columns of the mixture.
        mixture: `[S, C]`.
        data: `data(items [n]) -> scale [n, S], sums [n, S, F]`; item i's system has the mixture
            `scale_i * mixture`, of the columns of the clients that have the item.
        weighted: whether a column counts with the weight of the client's batch entry.
        progress: called with (items done, items in total).

    Returns:
        float `[V, B, F]`, 0 for padding, NaN for a client that is in no sum.
    """
    entries, chosen = _entries(sums), np.asarray(clients)
    absent = ~mixture[:, chosen].any(axis=0)
    v, b = np.nonzero((sums.weights[chosen] > 0) & ~np.asarray(absent)[:, None])
    items = sums.items[chosen[v], b]
    sizes = np.maximum(np.diff(entries.starts)[items], 8)
    buckets = np.minimum(2 ** np.ceil(np.log2(sizes)).astype(int), len(sums.items))
    with_nobody = jnp.asarray(np.pad(mixture, [(0, 0), (0, 1)]))  # a column of zeros for padding
    done, total = 0, len(np.unique(items))
    found = np.zeros((*sums.items[chosen].shape, data(np.zeros(1, int))[1].shape[2]))
    for size in np.unique(buckets):
        wanted = np.unique(items[buckets == size])
        step = max(_ENTRIES // (len(mixture) * int(size)), jax.local_device_count())
        step -= step % jax.local_device_count()
        for start in range(0, len(wanted), step):
            part = wanted[start : start + step]
            fill = -len(part) % (step if len(wanted) > step else jax.local_device_count())
            part = np.pad(part, (0, fill), mode='edge')
            columns, weights = _columns(entries, part, int(size), mixture.shape[1])
            counted = weights if weighted else np.sign(weights)
            solved = np.asarray(_solve(with_nobody, columns, counted, *data(part)))
            here = np.isin(items, part)
            row = np.searchsorted(part, items[here])
            column = np.argmax(columns[row] == chosen[v[here], None], axis=1)
            found[v[here], b[here]] = solved[row, column]
            done += len(np.unique(part))
            progress(done, total)
    found[absent] = np.nan
    return found


def _columns(
    entries: _Entries, items: np.ndarray, size: int, nobody: int
) -> tuple[np.ndarray, np.ndarray]:
    """The clients that have each item and the weights of their entries, `[n, size]`; padded."""
    columns, weights = np.full((len(items), size), nobody), np.zeros((len(items), size))
    for row, item in enumerate(items):
        own = slice(entries.starts[item], entries.starts[item + 1])
        columns[row, : own.stop - own.start] = entries.clients[own]
        weights[row, : own.stop - own.start] = entries.weights[own]
    return columns, weights


@jax.jit
def _solve(mixture: Array, columns: Array, weights: Array, scale: Array, sums: Array) -> Array:
    """`ridge_solve` of n items with c columns each: float `[n, c, F]`, sharded over the items."""

    def one(columns: Array, weights: Array, scale: Array, sums: Array) -> Array:
        return filters.ridge_solve(scale[:, None] * mixture[:, columns] * weights, sums)

    def part(*items: Array) -> Array:
        return jax.lax.map(lambda item: one(*item), items)

    own = jax.sharding.PartitionSpec('rows')
    mapped = jax.shard_map(part, mesh=tree.device_mesh('rows'), in_specs=own, out_specs=own)
    return mapped(columns, weights, scale, sums)


def check_batches(sums: Sums) -> None:
    """Refuses sums without batches.

    Raises:
        ValueError: if no batches are known.
    """
    if sums.items is None or sums.weights is None:
        raise ValueError('Expected sums with batches: this attack needs observation.batch_known.')
