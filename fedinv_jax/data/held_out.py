"""Evaluation data of a recommender: each user's held-out item, and items to rank it among."""

from typing import NamedTuple

import numpy as np

from fedinv_jax.data import interactions as interactions_lib

NEGATIVES = 99
"""Number of negatives in the protocol `loo99`."""


class Held(NamedTuple):
    """One held-out interaction of each of E users, and the items that it is ranked among.

    Attributes:
        users: int32 `[E]`, user indices.
        items: int32 `[E]`, the held-out items.
        negatives: int32 `[E, 99]`, fixed items that the user never interacted with, padded with -1.
        known: int32 `[E, P]`, the items of the user's training interactions, padded with -1.
        ratings: float32 `[E]`, of the held-out items; None: not known.
    """

    users: np.ndarray
    items: np.ndarray
    negatives: np.ndarray
    known: np.ndarray
    ratings: np.ndarray | None = None


def held_out(
    train: interactions_lib.Interactions, test: interactions_lib.Interactions, seed: int = 0
) -> Held:
    """Returns the held-out interactions of `interactions.leave_one_out`, with negatives.

    A user's negatives are drawn uniformly without replacement among the items that the user has in
    neither part. They depend only on `(seed, user index)`, N and the user's items.

    Args:
        train: the interactions that the recommender is trained on.
        test: the held-out interactions, at most one for each user.
        seed: of the negatives, at least 0.

    Returns:
        The held-out interactions of all users of `test`.

    Raises:
        ValueError: if `test` is empty, or a user has two interactions in it.

    Example:
        >>> data = interactions_lib.make([1, 1, 2, 2], ['a', 'b', 'b', 'c'])
        >>> held = held_out(*interactions_lib.leave_one_out(data))
        >>> held.items.tolist(), held.negatives[:, :2].tolist(), held.known.tolist()
        ([1, 2], [[2, -1], [0, -1]], [[0], [1]])
    """
    users, items = test.users, test.items
    if not len(users):
        raise ValueError(
            'Expected held-out interactions, but every user has a single interaction or all items: '
            'set data.leave_one_out=False.'
        )
    if len(np.unique(users)) < len(users):
        raise ValueError('Expected one held-out interaction per user; some users have several.')
    negatives = np.full((len(users), NEGATIVES), -1, np.int32)
    own = [train.items[slice(*np.searchsorted(train.users, [user, user + 1]))] for user in users]
    known = np.full((len(users), max(map(len, own))), -1, np.int32)
    for row, (user, item) in enumerate(zip(users, items, strict=True)):
        known[row, : len(own[row])] = own[row]
        others = np.setdiff1d(np.arange(train.num_items), [*own[row], item])
        # Not a stream of `clients` or `synthetic`.
        rng = np.random.default_rng([seed, int(user), 4])
        drawn = rng.choice(others, min(NEGATIVES, len(others)), replace=False)
        negatives[row, : len(drawn)] = drawn
    return Held(users, items, negatives, known, test.ratings)
