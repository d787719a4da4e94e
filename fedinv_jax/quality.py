"""Recommendation quality: hit rate and NDCG of held-out items, named after their protocol.

| protocol | a user's held-out item is ranked among |
|---|---|
| `loo99` | 99 fixed items that the user never interacted with |
| `full` | all items that are not in the user's training interactions |

Ties count against the held-out item: a model that scores all items equally has hit rate 0. Random
scores have HR@10 .100 and NDCG@10 .0454 under `loo99`. Of explicit ratings, `held_out_rmse` is the
error of the ratings predicted for held-out items.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import client, item_table, tree
from fedinv_jax.data.clients import Clients
from fedinv_jax.data.held_out import Held
from fedinv_jax.types import Array, Batch, Leaf, Model, PyTree

PROTOCOLS = ('loo99', 'full')
K = 10
_USERS = 64  # users scored at a time


def rank(scores: Array, target: Leaf, where: Array) -> Array:
    """Counts the other items that score at least as high as the target: rank 0 is the best.

    Args:
        scores: float `[N]`; a NaN ranks above all numbers, and a target with a NaN ranks last.
        target: int `[]`, index of the target.
        where: bool `[N]`, the items that the target is ranked among; the target is not counted.

    Example:
        >>> int(rank(jnp.array([0.1, 0.5, 0.5, 0.9]), 1, jnp.array([True, True, True, False])))
        1
    """
    better = ~(scores < scores[target]) & where
    return jnp.sum(better.at[target].set(False))


def hit_rate(rank: Array, k: int = K) -> Array:
    """1 if the held-out item is among the first k, else 0: `[rank < k]`.

    Example:
        >>> hit_rate(jnp.array([0, 9, 10])).tolist()
        [1.0, 1.0, 0.0]
    """
    return (rank < k).astype(float)


def ndcg(rank: Array, k: int = K) -> Array:
    """NDCG of one relevant item, `[rank < k] / log2(rank + 2)`.

    Example:
        >>> ndcg(jnp.array([0, 2, 10])).tolist()
        [1.0, 0.5, 0.0]

    References:
        He et al., Neural collaborative filtering, WWW 2017, arXiv:1708.05031, section 4.1.
    """
    return jnp.where(rank < k, 1 / jnp.log2(rank + 2.0), 0)


def comparable(held: Held, num_items: int) -> dict[str, np.ndarray]:
    """By protocol, bool `[E]`: the users whose rank means what the protocol says.

    Under `loo99` those with 99 negatives; under `full` those whose item is ranked among more than
    K, as it is among the first K otherwise, whatever the model.

    Args:
        held: from `data.held_out.held_out`.
        num_items: N.

    Example:
        >>> held = Held(np.array([0]), np.array([1]), np.array([[2, -1]]), np.array([[0]]))
        >>> {name: users.tolist() for name, users in comparable(held, 3).items()}
        {'loo99': [False], 'full': [False]}
    """
    return {
        'loo99': (held.negatives >= 0).all(1),
        'full': num_items - (held.known >= 0).sum(1) > K,
    }


def evaluate(
    model: Model, shared: PyTree, private: Sequence[PyTree], clients: Sequence[Clients], held: Held
) -> dict[str, float | None]:
    """Mean hit rates and NDCGs over the clients with a held-out item that the protocol fits.

    Args:
        model: the recommender.
        shared: the server's parameters.
        private: per group of clients, their private parameters, leaves `[C, ...]`.
        clients: the groups.
        held: from `data.held_out.held_out`; users who are not clients are ignored.

    Returns:
        `{'hr@10_loo99': ..., 'ndcg@10_loo99': ..., 'hr@10_full': ..., 'ndcg@10_full': ...}`; None
        where no client is `comparable` under the protocol.

    Raises:
        ValueError: if no client has a held-out item.
    """
    num_items = jax.tree.leaves(shared['items'])[0].shape[0]

    @jax.jit
    def ranks(shared: PyTree, private: PyTree, held: Held) -> tuple[Array, Array]:
        def one(pair: tuple[PyTree, Held]) -> tuple[Array, Array]:
            own, user = pair
            among, known = _mask(user.negatives, num_items), _mask(user.known, num_items)
            # A model on the client's own graph has the training interactions in its scores.
            batch = Batch(None, known.astype(float), jnp.ones(num_items))
            rows = item_table.gather_both(shared, own, jnp.arange(num_items))
            scores, unseen = client.scores(model, *rows, batch), ~known
            return rank(scores, user.items, among), rank(scores, user.items, unseen)

        return jax.lax.map(one, (private, held), batch_size=_USERS)

    found, rows = [], []
    for own, of_group, of_held in _held_out(private, clients, held):
        found.append(ranks(shared, tree.take(own, of_group), tree.take(held, of_held)))
        rows.append(of_held)
    of, who = np.concatenate(rows), comparable(held, num_items)
    means: dict[str, float | None] = {}
    for protocol, all_ranks in zip(PROTOCOLS, zip(*found, strict=True), strict=True):
        counted = jnp.concatenate(all_ranks)[who[protocol][of]]
        for name, metric in (('hr', hit_rate), ('ndcg', ndcg)):
            mean = float(jnp.mean(metric(counted))) if len(counted) else None
            means[f'{name}@{K}_{protocol}'] = mean
    return means


def rmse(
    model: Model, shared: PyTree, private: Sequence[PyTree], clients: Sequence[Clients], held: Held
) -> dict[str, float | None]:
    """Root mean squared error of the ratings predicted for the clients' held-out items.

    Args:
        model: a recommender whose scores are ratings.
        shared: the server's parameters.
        private: per group of clients, their private parameters, leaves `[C, ...]`.
        clients: the groups.
        held: from `data.held_out.held_out`, with ratings; users who are not clients are ignored.

    Returns:
        `{'held_out_rmse': ...}`.

    Raises:
        ValueError: if no client has a held-out item.
    """

    @jax.jit
    def predict(shared: PyTree, private: PyTree, items: Leaf) -> Array:
        def one(pair: tuple[PyTree, Leaf]) -> Array:
            rows = item_table.gather_both(shared, pair[0], pair[1][None])
            return client.scores(model, *rows, Batch(None, jnp.zeros(1), jnp.ones(1)))[0]

        return jax.lax.map(one, (private, items), batch_size=_USERS)

    errors = [
        predict(shared, tree.take(own, of_group), held.items[of_held])
        - np.asarray(held.ratings)[of_held]
        for own, of_group, of_held in _held_out(private, clients, held)
    ]
    return {'held_out_rmse': float(jnp.sqrt(jnp.mean(jnp.concatenate(errors) ** 2)))}


def _held_out(
    private: Sequence[PyTree], clients: Sequence[Clients], held: Held
) -> list[tuple[PyTree, np.ndarray, np.ndarray]]:
    """Per group with held-out items: private parameters, and places in the group and in `held`."""
    found = []
    for group, own in zip(clients, private, strict=True):
        _, of_group, of_held = np.intersect1d(group.users, held.users, return_indices=True)
        if len(of_held):
            found.append((own, of_group, of_held))
    if not found:
        raise ValueError(
            'Expected a client with a held-out item, to evaluate the model on: raise '
            'data.max_users, or set data.leave_one_out=False.'
        )
    return found


def _mask(items: Leaf, num_items: int) -> Array:
    """Bool `[N]`, True for the given items; -1 is ignored."""
    index = jnp.where(items < 0, num_items, items)
    return jnp.zeros(num_items, bool).at[index].set(True, mode='drop')
