"""Groups of clients of similar size, so that little padding is needed."""

from collections.abc import Sequence

import numpy as np


def by_size(sizes: np.ndarray, max_waste: float) -> Sequence[np.ndarray]:
    """Returns the positions of the clients of each group, largest first.

    Dynamic programming: the number of groups grows until `max_waste` holds. `cost[i]` is the least
    padded sum of squares of the distinct sizes from the i-th on with the current number of groups.

    Args:
        sizes: integers `[C]`, the clients' batch sizes.
        max_waste: largest share of padding in the sum of squared batch sizes, in [0, 1).

    Example:
        >>> [group.tolist() for group in by_size(np.array([2, 9, 2, 8]), max_waste=0.3)]
        [[1, 3], [0, 2]]
    """
    order = np.argsort(-sizes, kind='stable')
    distinct, counts = np.unique(-sizes, return_counts=True)
    starts, squares = np.append(0, np.cumsum(counts)), distinct.astype(float) ** 2
    bound = np.sum(counts * squares) / (1 - max_waste) * (1 + 1e-12)
    cost, choices = np.append(np.full(len(distinct), np.inf), 0.0), []
    while cost[0] > bound:
        following, cost = cost, cost.copy()
        choice = np.zeros(len(distinct), int)
        for first in range(len(distinct)):
            group = (starts[first + 1 :] - starts[first]) * squares[first]
            totals = group + following[first + 1 :]
            choice[first] = first + 1 + np.argmin(totals)
            cost[first] = np.min(totals)
        choices.append(choice)
    groups, first = [], 0
    for choice in reversed(choices):
        if first < len(distinct):
            groups.append(order[starts[first] : starts[choice[first]]])
            first = choice[first]
    return groups
