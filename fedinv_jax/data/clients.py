"""Builds clients from interactions: fixed negatives, padding, groups by size; item popularity."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedinv_jax import _validate
from fedinv_jax.data import grouping
from fedinv_jax.data import interactions as interactions_lib
from fedinv_jax.data import ratings as ratings_lib

LABELS = ('implicit', 'ratings', 'explicit')


@dataclasses.dataclass(frozen=True, eq=False)
class Clients:
    """A group of C clients of similar size, padded to B interactions.

    The items of a client are distinct where `weights > 0`; padding comes last, with item 0,
    label 0, weight 0. Positives and negatives are shuffled, so that consecutive blocks mix them.
    Explicit ratings are all positives, whatever their labels.

    Attributes:
        users: int32 `[C]`, user indices of the data set.
        items: int32 `[C, B]`.
        labels: float32 `[C, B]` in [0, 1]; unless they are explicit ratings, above 0 exactly where
            the user interacted.
        weights: float32 `[C, B]`, 1 for items of the batch, 0 for padding.
        num_positives: int32 `[C]`.
        num_negatives: int32 `[C]`, `min(negatives_per_positive * n, N - n)` for n positives; 0
            with explicit ratings.
    """

    users: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    num_positives: np.ndarray
    num_negatives: np.ndarray


def sample_negatives(
    interactions: interactions_lib.Interactions, negatives_per_positive: int = 4, seed: int = 0
) -> dict[int, np.ndarray]:
    """Draws fixed negatives for every user who has positives.

    A user with n positives gets `min(negatives_per_positive * n, N - n)` distinct items, uniform
    among the N - n others. They depend only on `(seed, user index)`, N and the user's positives,
    not on other users or on filters.

    Args:
        interactions: of all users, with distinct pairs.
        negatives_per_positive: negatives for each positive, at least 1.
        seed: at least 0.

    Returns:
        User index -> int32 negatives, in the order of user indices.

    Raises:
        ValueError: if `negatives_per_positive < 1`, or a user interacted with every item.

    Example:
        >>> data = interactions_lib.make([1, 2, 2], [7, 8, 9])
        >>> [negatives.tolist() for negatives in sample_negatives(data).values()]
        [[1, 2], [0]]
    """
    if not negatives_per_positive >= 1:
        raise ValueError(f'Expected {negatives_per_positive=} >= 1.')
    num_items = interactions.num_items
    negatives = {}
    for user, span in _spans(interactions):
        positives = np.sort(interactions.items[span])
        others = num_items - len(positives)
        if not others:
            raise ValueError(
                f'Expected an item that user {interactions.user_ids[user]!r} has not interacted '
                f'with, as a negative; all {num_items} are positives.'
            )
        rng = np.random.default_rng([seed, user])
        size = min(negatives_per_positive * len(positives), others)
        rank = rng.choice(others, size, replace=False)
        # The rank-th item that is not a positive: skip the positives before it.
        before = np.searchsorted(positives - np.arange(len(positives)), rank, side='right')
        negatives[user] = (rank + before).astype(np.int32)
    return negatives


def negatives_hash(negatives: Mapping[int, np.ndarray]) -> str:
    """Returns a SHA-256 of all users' negatives; their order does not matter.

    Args:
        negatives: user index -> items, from `sample_negatives` or `negatives_of`.

    Returns:
        64 hexadecimal digits, from user, count and sorted items as little-endian int32.

    Example:
        >>> negatives_hash({0: np.array([2, 1])}) == negatives_hash({0: np.array([1, 2])})
        True
    """
    digest = hashlib.sha256()
    for user in sorted(negatives):
        items = np.sort(negatives[user])
        digest.update(np.concatenate([[user, len(items)], items]).astype('<i4').tobytes())
    return digest.hexdigest()


def negatives_of(clients: Iterable[Clients]) -> dict[int, np.ndarray]:
    """Returns user index -> int32 negatives of clients from `build`; see `negatives_hash`.

    Example:
        >>> data = interactions_lib.make([1, 2, 2], [7, 8, 9])
        >>> sorted(negatives_of(build(data))[0].tolist())
        [1, 2]
    """
    return {
        int(user): items[(weights > 0) & (labels == 0) & (number > 0)]
        for group in clients
        for user, items, labels, weights, number in zip(
            group.users, group.items, group.labels, group.weights, group.num_negatives, strict=True
        )
    }


def build(
    interactions: interactions_lib.Interactions,
    negatives_per_positive: int = 4,
    seed: int = 0,
    labels: str = 'implicit',
    min_positives: int = 1,
    max_positives: int | None = None,
    max_waste: float = 0.3,
    rating_scale: Sequence[float] = (1.0, 5.0, 1.0),
) -> tuple[Clients, ...]:
    """Builds clients from positives and fixed negatives, padded in groups of similar size.

    A group holds clients of neighbouring sizes, by falling size, then by user. There are as few
    groups as `max_waste` allows, and the padding is the least possible with this number of groups.

    Args:
        interactions: training interactions of all users.
        negatives_per_positive: negatives for each positive, at least 1.
        seed: of the negatives and of the order within a client.
        labels: 'implicit': 1 for a positive; 'ratings': `(1 + r / max r) / 2`, in (1/2, 1],
            so that 1/2 separates interactions with any rating from negatives; 'explicit': the
            ratings alone, without negatives, see `ratings.labels`.
        min_positives: users with fewer are left out; those of `interactions.left_out` always are.
        max_positives: users with more are left out; None: no limit.
        max_waste: largest share of padding in the sum of squared batch sizes, in [0, 1).
        rating_scale: `ratings.Scale` of explicit ratings.

    Returns:
        The groups, by falling B.

    Raises:
        ValueError: if no user is left, `labels='ratings'` with ratings that are not positive,
            `labels='explicit'` with ratings off the scale, or an argument is out of range.

    Example:
        >>> data = interactions_lib.make([1, 2, 2, 3], [7, 7, 8, 9])
        >>> [group.users.tolist() for group in build(data, negatives_per_positive=1)]
        [[1], [0, 2]]
        >>> [group.num_negatives.tolist() for group in build(data, negatives_per_positive=1)]
        [[1], [1, 1]]
    """
    _validate.lookup('labels', labels, LABELS)
    if not 0 <= max_waste < 1:
        raise ValueError(f'Expected 0 <= {max_waste=} < 1.')
    explicit = labels == 'explicit'
    interactions = _filter(interactions, min_positives, max_positives, not explicit)
    values = np.ones_like(interactions.ratings)
    if labels == 'ratings':
        if not interactions.ratings.min() > 0:
            raise ValueError(
                f"Expected ratings > 0 for labels='ratings', found {interactions.ratings.min()}: "
                'label 0 means no interaction. Set data.rating_threshold above 0.'
            )
        values = (1 + interactions.ratings / interactions.ratings.max()) / 2
    if explicit:
        values = ratings_lib.labels(interactions.ratings, ratings_lib.Scale(*rating_scale))

    spans = dict(_spans(interactions))
    negatives = dict.fromkeys(spans, np.zeros(0, np.int32))
    if not explicit:
        negatives = sample_negatives(interactions, negatives_per_positive, seed)
    users = np.array(list(spans), np.int32)
    num_positives = np.array([span.stop - span.start for span in spans.values()], np.int32)
    num_negatives = np.array([len(negatives[user]) for user in spans], np.int32)
    sizes = num_positives + num_negatives
    groups = []
    for members in grouping.by_size(sizes, max_waste):
        shape = (len(members), int(sizes[members[0]]))
        group = Clients(
            users=users[members],
            items=np.zeros(shape, np.int32),
            labels=np.zeros(shape, np.float32),
            weights=np.zeros(shape, np.float32),
            num_positives=num_positives[members],
            num_negatives=num_negatives[members],
        )
        for row, user in enumerate(group.users.tolist()):
            span, others = spans[user], negatives[user]
            batch_items = np.concatenate([interactions.items[span], others])
            batch_labels = np.concatenate([values[span], np.zeros(len(others), np.float32)])
            size = len(batch_items)
            order = np.random.default_rng([seed, user, 1]).permutation(size)
            group.items[row, :size] = batch_items[order]
            group.labels[row, :size] = batch_labels[order]
            group.weights[row, :size] = 1
        groups.append(group)
    return tuple(groups)


def cohorts(
    clients: Sequence[Clients], size: int, seed: int = 0
) -> tuple[tuple[np.ndarray, ...], int]:
    """Splits every group of clients at random into cohorts of at most `size`, as equal as possible.

    Members of a cohort belong to one group and thus have batches of similar size.

    Args:
        clients: groups of clients.
        size: M, the largest number of members of a cohort, at least 1.
        seed: of the draw.

    Returns:
        Per group int `[C]`, the cohort of each client, numbered over all groups; the number of
        cohorts.

    Raises:
        ValueError: if `size < 1`.

    Example:
        >>> of, number = cohorts(build(interactions_lib.make([1, 2, 3], [7, 8, 9])), size=2)
        >>> np.bincount(of[0]).tolist(), number
        ([2, 1], 2)
    """
    if not size >= 1:
        raise ValueError(f'Expected {size=} >= 1.')
    rng = np.random.default_rng([seed, 0, 5])  # not the stream of `plan.choose_victims`
    counts = [-(-len(group.users) // size) for group in clients]
    of = [
        rng.permutation(np.arange(len(group.users)) % count) + sum(counts[:index])
        for index, (group, count) in enumerate(zip(clients, counts, strict=True))
    ]
    return tuple(of), sum(counts)


def item_counts(interactions: interactions_lib.Interactions) -> np.ndarray:
    """Returns the number of users of each item, int64 `[N]`.

    Example:
        >>> item_counts(interactions_lib.make([1, 2, 2], [7, 7, 8])).tolist()
        [2, 1]
    """
    return np.bincount(interactions.items, minlength=interactions.num_items)


def log_odds(
    counts_of_others: np.ndarray, num_others: int | np.ndarray, mean: float = 0.5
) -> np.ndarray:
    """Public popularity of items: smoothed log odds that a user interacted with each.

    `log((c + m) / (U - c + 1 - m))` for c of U other users and m = 1/2. For a victim, first
    subtract the victim's own interactions from `item_counts`, and the victim from the number of
    users:

        counts = item_counts(train)
        counts[positives_of_victim] -= 1
        prior = log_odds(counts, num_users_with_interactions - 1)

    Of explicit ratings, c is the sum of the labels that the item has from others, U their number
    and m the mean label: the sigmoid is the item's mean, with one more rating of the mean.

    Args:
        counts_of_others: numbers `[N]`, c of each item.
        num_others: U, one number or `[N]`.
        mean: m, in (0, 1).

    Returns:
        float32 `[N]`.

    Raises:
        ValueError: if a count is not in [0, U].

    Example:
        >>> log_odds(np.array([0, 1, 2]), 2).round(2).tolist()
        [-1.6100000143051147, 0.0, 1.6100000143051147]
    """
    counts = np.asarray(counts_of_others, np.float64)
    if not ((counts >= 0) & (counts <= num_others)).all():
        raise ValueError(
            f'Expected counts_of_others in [0, num_others={np.max(num_others)}], found '
            f'{counts.min():g} to {counts.max():g}.'
        )
    return np.log((counts + mean) / (num_others - counts + 1 - mean)).astype(np.float32)


def public_share(clients: Iterable[Clients]) -> float:
    """Returns the share of positives in the batches of all clients, of explicit ratings their mean.

    Example:
        >>> public_share(build(interactions_lib.make([1, 2], [7, 8])))
        0.5
    """
    clients = tuple(clients)
    positives = sum(int(group.num_positives.sum()) for group in clients)
    negatives = sum(int(group.num_negatives.sum()) for group in clients)
    if not negatives:
        return float(sum(group.labels.sum(dtype=float) for group in clients)) / positives
    return positives / (positives + negatives)


def _spans(interactions: interactions_lib.Interactions) -> list[tuple[int, slice]]:
    """Pairs each user who has interactions with the slice that holds them."""
    users, starts = np.unique(interactions.users, return_index=True)
    stops = [*starts[1:].tolist(), len(interactions.users)]
    return list(zip(users.tolist(), map(slice, starts.tolist(), stops), strict=True))


def _filter(
    interactions: interactions_lib.Interactions,
    min_positives: int,
    max_positives: int | None,
    negatives: bool,
) -> interactions_lib.Interactions:
    """Drops users by their number of positives; an error names the limit that leaves no user."""
    counts = np.bincount(interactions.users, minlength=interactions.num_users)
    keep = counts > 0
    reason = f'data set {interactions.name!r} has no interactions (after its filters)'
    if keep.any():
        reason = f'every user has {", or ".join(interactions_lib.left_out(interactions))}'
        keep &= (counts < interactions.num_items) | (not negatives)
    for limit, passed in {
        f'{min_positives=}': counts >= min_positives,
        f'{max_positives=}': counts <= (np.inf if max_positives is None else max_positives),
    }.items():
        if keep.any() and not (keep & passed).any():
            reason = (
                f'{limit} leaves none of {keep.sum()} users, who have {counts[keep].min()} to '
                f'{counts[keep].max()} positives'
            )
        keep &= passed
    if not keep.any():
        raise ValueError(f'Expected at least one client: {reason}.')
    return interactions_lib.take(interactions, keep[interactions.users])
