"""Secure aggregation: which clients' uploads are summed before the server sees them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax.data.clients import Clients
from fedinv_jax.types import Array, Key, Leaf, Observation

_DRAW = (
    3  # stream of a round's key for the cohorts; 0 and 1 are taken by the clients, 2 by the sums
)


class Cohorts(NamedTuple):
    """Secure aggregation: the server sees the sum of each cohort's uploads, but no upload.

    The sum is over whole item tables, so that it hides which rows a client touched. The server
    knows who is in which cohort.

    Attributes:
        of: `of(round, key) -> cohorts`, per group of clients int `[C]`: the cohort of each client
            in a round, below `number`, whether it takes part or not.
        number: G, the number of cohorts in all groups.
        after: the channel after the sum, a stage without state, such as noise.
        fixed: what `of` returns, where the cohorts are the same in all rounds; else None.
    """

    of: Callable[[Leaf, Key], list[Array]]
    number: int
    after: Observation
    fixed: tuple[np.ndarray, ...] | None = None


def fixed(of: Sequence[np.ndarray], number: int, after: Observation) -> Cohorts:
    """Cohorts that stay together.

    Args:
        of: per group int `[C]`, the cohort of each client, see `data.clients.cohorts`.
        number: G.
        after: the channel after the sum.
    """
    return Cohorts(lambda *_: [jnp.asarray(own) for own in of], number, after, tuple(of))


def redrawn(clients: Sequence[Clients], size: int, after: Observation) -> Cohorts:
    """In each round all clients are spread at random over cohorts of at most `size`.

    The sizes differ by at most one. If a round samples clients, a cohort's participants are those
    of its members that take part.

    Args:
        clients: groups of clients.
        size: M, the largest number of members, at least 1.
        after: the channel after the sum.

    Raises:
        ValueError: if `size < 1`.
    """
    if not size >= 1:
        raise ValueError(f'Expected {size=} >= 1.')
    ends = np.cumsum([len(group.users) for group in clients])
    number = -(-int(ends[-1]) // size)

    def of(round_: Leaf, key: Key) -> list[Array]:
        own = jax.random.fold_in(jax.random.fold_in(key, round_), _DRAW)
        order = jax.random.permutation(own, int(ends[-1]))
        return jnp.split(order % number, ends[:-1])

    return Cohorts(of, number, after)


def sampled(clients: Sequence[Clients], after: Observation) -> Cohorts:
    """One cohort: the participants of the round.

    Args:
        clients: groups of clients.
        after: the channel after the sum.
    """
    sizes = [len(group.users) for group in clients]
    return Cohorts(lambda *_: [jnp.zeros(size, int) for size in sizes], 1, after)
