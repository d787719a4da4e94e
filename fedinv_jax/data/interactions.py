"""The data structure of every data set: which user interacted with which item, and when."""

import dataclasses
import re
from typing import Any

import numpy as np

from fedinv_jax import _validate
from fedinv_jax.data.provenance import Source

_INTEGER = re.compile(r'0|-?[1-9][0-9]*', re.ASCII)


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """M distinct (user, item) pairs, sorted by (user, time, item).

    Indices are contiguous in the whole data set, not in a selection of it: filters and splits
    keep `user_ids` and `item_ids`, so a user may lose all interactions but keeps the index.

    Attributes:
        users: int32 `[M]`, user indices, non-decreasing.
        items: int32 `[M]`, item indices.
        ratings: float32 `[M]`, 1 where the data has none.
        timestamps: int64 `[M]`, seconds or any other numbers in order of time; position in the
            file where the data has none.
        user_ids: original id of each user index.
        item_ids: original id of each item index.
        name: of the data set.
        source: how its file was read; None: it is from no file.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    timestamps: np.ndarray
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    name: str
    source: Source | None = None

    @property
    def num_users(self) -> int:
        """Number of user indices, with or without interactions."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of item indices N, with or without interactions."""
        return len(self.item_ids)


def make(
    users: Any,
    items: Any,
    ratings: Any = None,
    timestamps: Any = None,
    name: str = 'unnamed',
    where: np.ndarray | None = None,
) -> Interactions:
    """Maps raw ids to contiguous indices, sorts, and keeps the latest of repeated pairs.

    Indices follow the sorted ids (by number if all are plain integers, else by text), not the
    order of the rows. Ids are compared as text: `'1'` and `'01'` differ. Of repeated pairs with
    equal times, the one with the highest rating is kept.

    Args:
        users: `[M]` raw user ids, integers or text.
        items: `[M]` raw item ids, integers or text.
        ratings: `[M]` finite numbers, or None for ones.
        timestamps: `[M]` integers, or None for the order of appearance.
        name: of the data set.
        where: bool `[M]`, the rows that count; the ids of the others stay. None: all.

    Returns:
        The interactions, at most M of them.

    Raises:
        ValueError: if lengths differ or a rating is not finite.

    Example:
        >>> data = make(['bo', 'al', 'al'], [10, 9, 10], timestamps=[3, 2, 1])
        >>> data.user_ids, data.item_ids
        (('al', 'bo'), ('9', '10'))
        >>> data.users.tolist(), data.items.tolist()
        ([0, 0, 1], [1, 0, 1])
    """
    user_indices, user_ids = _index(users)
    item_indices, item_ids = _index(items)
    size = len(user_indices)
    ratings = np.ones(size) if ratings is None else np.asarray(ratings)
    timestamps = np.arange(size) if timestamps is None else np.asarray(timestamps)
    lengths = [len(user_indices), len(item_indices), len(ratings), len(timestamps)]
    if len(set(lengths)) > 1:
        raise ValueError(
            f'Expected users, items, ratings, timestamps of one length, got {lengths}.'
        )
    ratings, timestamps = ratings.astype(np.float32), timestamps.astype(np.int64)
    if not np.isfinite(ratings).all():
        bad = int(np.flatnonzero(~np.isfinite(ratings))[0])
        raise ValueError(f'Expected finite ratings, got {ratings[bad]} at position {bad}.')

    order = np.lexsort((ratings, item_indices, timestamps, user_indices))
    order = order if where is None else order[where[order]]
    pairs = user_indices.astype(np.int64)[order] * len(item_ids) + item_indices[order]
    _, from_end = np.unique(pairs[::-1], return_index=True)
    order = order[np.sort(len(order) - 1 - from_end)]
    return Interactions(
        users=user_indices[order],
        items=item_indices[order],
        ratings=ratings[order],
        timestamps=timestamps[order],
        user_ids=user_ids,
        item_ids=item_ids,
        name=name,
    )


def take(interactions: Interactions, index: np.ndarray) -> Interactions:
    """Keeps the interactions at increasing positions or in a mask `[M]`, with the same indices.

    Example:
        >>> take(make([1, 2], [3, 4]), np.array([False, True])).users.tolist()
        [1]
    """
    return dataclasses.replace(
        interactions,
        users=interactions.users[index],
        items=interactions.items[index],
        ratings=interactions.ratings[index],
        timestamps=interactions.timestamps[index],
    )


def binarize(interactions: Interactions, threshold: float | None = None) -> Interactions:
    """Keeps the interactions with `rating >= threshold`, and their ratings.

    Args:
        interactions: M of them.
        threshold: lowest rating that is kept; None: all ratings are.

    Returns:
        The interactions that are kept, with the same ids and indices.

    Raises:
        ValueError: if the threshold is not finite.

    Example:
        >>> binarize(make([1, 2], [3, 3], ratings=[2, 4]), threshold=4).users.tolist()
        [1]
    """
    if threshold is None:
        return interactions
    _validate.check_finite('threshold', threshold)
    return take(interactions, interactions.ratings >= threshold)


def k_core(interactions: Interactions, k: int) -> Interactions:
    """Keeps the largest set in which every user and every item has at least k interactions.

    Args:
        interactions: M of them.
        k: at least 0; 0 and 1 keep everything.

    Returns:
        The k-core, which may be empty, with the same ids and indices.

    Raises:
        ValueError: if k is negative.

    Example:
        >>> k_core(make([1, 1, 2, 2, 3], [1, 2, 1, 2, 3]), k=2).users.tolist()
        [0, 0, 1, 1]
    """
    if not k >= 0:
        raise ValueError(f'Expected {k=} >= 0.')
    while True:
        users, items = interactions.users, interactions.items
        keep = (np.bincount(users)[users] >= k) & (np.bincount(items)[items] >= k)
        if keep.all():
            return interactions
        interactions = take(interactions, keep)


def drop_unused_items(interactions: Interactions) -> Interactions:
    """Removes items without interactions from the catalogue.

    After a filter, such items could be drawn as negatives although no user ever chose them. Users
    keep their indices; items are renumbered in the same order.

    Example:
        >>> data = take(make([1, 1, 2], ['a', 'b', 'c']), np.array([0, 2]))
        >>> drop_unused_items(data).item_ids, drop_unused_items(data).items.tolist()
        (('a', 'c'), [0, 1])
    """
    used, items = np.unique(interactions.items, return_inverse=True)
    return dataclasses.replace(
        interactions,
        items=items.astype(np.int32),
        item_ids=tuple(interactions.item_ids[item] for item in used),
    )


def left_out(interactions: Interactions, negatives: bool = True) -> dict[str, np.ndarray]:
    """Users who cannot be clients, whatever the limits: by reason, their indices.

    Args:
        interactions: training interactions of all users, after the filters.
        negatives: whether a client needs negatives, as it does unless its labels are explicit
            ratings.

    Example:
        >>> data = make([1, 1, 2, 3], [7, 8, 7, 8])
        >>> data = take(data, np.array([True, True, True, False]))
        >>> {reason: users.tolist() for reason, users in left_out(data).items()}
        {'no interaction that counts': [2], 'all 2 items, hence no possible negative': [0]}
    """
    counts = np.bincount(interactions.users, minlength=interactions.num_users)
    number = interactions.num_items
    reasons = {
        'no interaction that counts': counts == 0,
        f'all {number} items, hence no possible negative': (counts == number)
        & (counts > 0)
        & negatives,
    }
    return {reason: np.flatnonzero(users) for reason, users in reasons.items() if users.any()}


def leave_one_out(
    interactions: Interactions, seed: int | None = None
) -> tuple[Interactions, Interactions]:
    """Splits off the last interaction of each user by (time, item).

    Args:
        interactions: M of them.
        seed: of the draw among a user's last interactions with equal times; None: the last item.
            Many data sets give a list of ratings one time, where a fixed order favours some items.

    Returns:
        `(train, test)`, with the same ids and indices. A user's only interaction stays in
        train.

    Example:
        >>> train, test = leave_one_out(make([1, 1, 2], [7, 8, 7], timestamps=[5, 5, 5]))
        >>> train.items.tolist(), test.items.tolist()
        ([0, 0], [1])
    """
    counts = np.bincount(interactions.users, minlength=interactions.num_users)
    order = np.arange(len(interactions.users))
    if seed is not None:  # not a stream of a single user, [seed, user, ...]
        draws = np.random.default_rng([seed, 0, 6]).random(len(order))
        order = np.lexsort((draws, interactions.timestamps, interactions.users))
    last = np.zeros(len(interactions.users), bool)
    last[order[np.cumsum(counts)[counts > 1] - 1]] = True
    return take(interactions, ~last), take(interactions, last)


def _index(ids: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Contiguous indices int32 `[M]` of raw ids, and the id of each index."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in 'iu':
        ids = ids.astype(str)
    values, indices = np.unique(ids, return_inverse=True)
    names = [str(value) for value in values.tolist()]
    if ids.dtype.kind == 'U' and all(map(_INTEGER.fullmatch, names)):
        order = sorted(range(len(names)), key=lambda index: int(names[index]))
        names = [names[index] for index in order]
        indices = np.argsort(order)[indices]
    return indices.astype(np.int32), tuple(names)
