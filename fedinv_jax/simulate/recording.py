"""Trains a federation and keeps what attacks need: the state at the requested rounds.

Clients' uploads are recomputed from these states; only the sums of cohorts are stored.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import compilation, train, tree
from fedinv_jax.data.clients import Clients
from fedinv_jax.train import Federation, State
from fedinv_jax.types import Array, Key, PyTree

_ROUNDS_PER_CALL = 50  # between two progress reports


class Snapshot(NamedTuple):
    """One kept round, on the host.

    Attributes:
        shared: the parameters that the server sent.
        private: per group, the kept clients' private parameters before the round, leaves
            `[V, ...]`.
        channel: per group, the kept clients' channel states, `[V, ...]`; with error feedback each
            is as large as an upload.
        participated: per group, bool `[V]`, whether each kept client took part.
        loss: `[]`, the mean over all clients of their loss before the round.
        sums: under secure aggregation the sums seen of the kept cohorts, leaves `[G, ...]` like the
            parameters; else None.
        members: int `[C]`, where the cohorts change: the cohort of every client of the federation
            in this round, group after group; -1: it did not take part. Else None.
    """

    shared: PyTree
    private: tuple[PyTree, ...]
    channel: tuple[PyTree, ...]
    participated: tuple[Array, ...]
    loss: Array
    sums: PyTree = None
    members: Array | None = None


class Recording(NamedTuple):
    """The kept rounds of one training run.

    Attributes:
        clients: per group, the kept clients: the victims and, under secure aggregation with fixed
            cohorts, the other members of their cohorts.
        cohorts: per group, int `[V]`, index of each kept client's cohort among the kept cohorts;
            None without fixed cohorts.
        everyone: per group, all clients of the federation, where the cohorts change; else None.
        snapshots: kept round -> snapshot.
        uploads: `uploads(round, group, positions) -> seen`: the uploads, after the channel, of a
            group's kept clients at `positions` if they take part in a kept round, leaves
            `[len(positions), ...]`.
        items: `items(round, group, positions) -> int32 [len(positions), B]`: the items of their
            batches in that round; None if a client has the same batch in all rounds.
        end: the state at the end of the training.
    """

    clients: tuple[Clients, ...]
    cohorts: tuple[np.ndarray, ...] | None
    everyone: tuple[Clients, ...] | None
    snapshots: dict[int, Snapshot]
    uploads: Callable[[int, int, np.ndarray], PyTree]
    items: Callable[[int, int, np.ndarray], np.ndarray] | None
    end: State


def record(
    federation: Federation,
    key: Key,
    victims: Sequence[int],
    observed: Sequence[int],
    between: Sequence[int] = (),
    num_rounds: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recording:
    """Trains a federation and keeps the states that attacks on `victims` need.

    Args:
        federation: the federation.
        key: PRNG key of the whole run.
        victims: user indices; they take part in every observed round, beside the sampled clients,
            except where cohorts change: there the sums of many rounds with and without them tell
            more than their presence.
        observed: the rounds, counted from 0, in which the victims upload.
        between: further rounds whose parameters and participation are kept, for `unrolled`.
        num_rounds: least number of rounds; the training also reaches the last kept round.
        progress: called with (rounds done, rounds in total).

    Returns:
        The recording.

    Raises:
        ValueError: if a victim is not a client, a round is negative, or there is no round to keep.
    """
    kept = sorted({*observed, *between})
    if not kept or kept[0] < 0:
        raise ValueError(f'Expected rounds >= 0 to observe, got {list(kept)}.')
    known = {int(user) for group in federation.clients for user in group.users}
    if missing := sorted(set(map(int, victims)) - known):
        raise ValueError(f'Expected victims to be clients; users {missing[:5]} are not.')
    wanted = [np.isin(group.users, victims) for group in federation.clients]
    always_sampled = tuple(map(jnp.asarray, wanted))
    nobody = tuple(jnp.zeros_like(mask) for mask in always_sampled)
    summed = federation.cohorts is not None
    changing = federation.cohorts is not None and federation.cohorts.fixed is None
    if changing:
        always_sampled = nobody
    chosen, cohorts, sums_kept = _chosen(federation, wanted)
    advance, keep = _advance(federation), _keep(federation, chosen)
    init_key, run_key = jax.random.split(key)
    state, snapshots = compilation.jit(federation.init)(init_key), {}
    # The last kept round need not be trained, except for its sums.
    last = max(kept[-1] + summed, num_rounds)
    for stop in sorted({*kept, last}):
        while (done := int(state.round)) < stop:
            rounds = min(stop - done, _ROUNDS_PER_CALL)
            state, _ = jax.block_until_ready(advance(state, run_key, nobody, rounds))
            progress(done + rounds, last)
        if stop not in kept:
            break
        must = always_sampled if stop in observed else nobody
        snapshots[stop] = jax.device_get(keep(state, run_key, must))
        if stop < last:
            state, sums = advance(state, run_key, must, 1)
            progress(stop + 1, last)
            if summed and stop in observed:
                own = jax.device_get(tree.take(sums, sums_kept))
                members = federation.members(stop, run_key, must) if changing else None
                snapshots[stop] = snapshots[stop]._replace(
                    sums=own, members=jax.device_get(members)
                )
    clients = tuple(
        dataclasses.replace(group, **{name: leaf[index] for name, leaf in vars(group).items()})
        for group, index in zip(federation.clients, chosen, strict=True)
    )
    recompute = train.uploads(federation, run_key)
    sent = partial(_sent, recompute, clients, snapshots)
    items = (lambda *of: sent(*of)[1]) if federation.resample_negatives else None
    everyone = federation.clients if changing else None
    return Recording(clients, cohorts, everyone, snapshots, lambda *of: sent(*of)[0], items, state)


def _chosen(
    federation: Federation, victims: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], tuple[np.ndarray, ...] | None, np.ndarray]:
    """Chooses the clients and cohorts to keep.

    Returns:
        Per group, the positions of the kept clients; `Recording.cohorts`; the kept cohorts.
    """
    if federation.cohorts is None or federation.cohorts.fixed is None:
        number = 0 if federation.cohorts is None else federation.cohorts.number
        return [np.flatnonzero(mask) for mask in victims], None, np.arange(number)
    every = federation.cohorts.fixed
    kept = np.unique(np.concatenate([of[mask] for of, mask in zip(every, victims, strict=True)]))
    chosen = [np.flatnonzero(np.isin(of, kept)) for of in every]
    cohorts = tuple(
        np.searchsorted(kept, of[positions]) for of, positions in zip(every, chosen, strict=True)
    )
    return chosen, cohorts, kept


def _advance(federation: Federation) -> Callable:
    """`advance(state, key, always_sampled, rounds) -> (state, sums of the last round)`."""

    @partial(jax.jit, donate_argnames='state')
    def advance(
        state: State, key: Key, always_sampled: tuple[Array, ...], rounds: Array
    ) -> tuple[State, PyTree]:
        no_sums = jax.tree.map(
            jnp.zeros_like, jax.eval_shape(federation.step, state, key, always_sampled)[1]
        )
        return jax.lax.fori_loop(
            0,
            rounds,
            lambda _, carry: federation.step(carry[0], key, always_sampled),
            (state, no_sums),
        )

    return advance


def _keep(federation: Federation, chosen: Sequence[np.ndarray]) -> Callable:
    """`keep(state, key, always_sampled) -> snapshot`, in which `sums` is None."""

    @compilation.jit
    def keep(state: State, key: Key, always_sampled: tuple[Array, ...]) -> Snapshot:
        parts = state.private, state.channel, federation.active(state.round, key, always_sampled)
        private, channel, active = (tuple(map(tree.take, part, chosen)) for part in parts)
        return Snapshot(state.shared, private, channel, active, federation.loss(state))

    return keep


def _sent(
    recompute: Callable[[PyTree, int, train.Local, int], tuple[PyTree, np.ndarray]],
    clients: Sequence[Clients],
    snapshots: Mapping[int, Snapshot],
    round_: int,
    g: int,
    positions: np.ndarray,
) -> tuple[PyTree, np.ndarray]:
    """`Recording.uploads` and `.items`; `recompute` is a function from `train.uploads`."""
    own, kept = clients[g], snapshots[round_]
    data = own.users, own.items, own.labels, own.weights, kept.private[g], kept.channel[g]
    return recompute(kept.shared, round_, train.Local(*tree.take(data, positions)), len(own.users))
