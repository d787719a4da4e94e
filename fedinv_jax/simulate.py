"""What a training run leaves in the server's hands, and apart from it the only source of truth.

One run serves every attack on it: `record` keeps the state at the rounds asked for, `transcript`
slices one client out of them. What it uploaded is computed anew from there; only sums are kept.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import client, compilation, observe, train, tree
from fedinv_jax.data.clients import Clients
from fedinv_jax.train import Federation, State
from fedinv_jax.types import Array, GroundTruth, Key, PyTree, Transcript

_ROUNDS_PER_CALL = 50  # between two progress reports


class Snapshot(NamedTuple):
    """One kept round, on the host.

    Attributes:
        shared: the parameters that the server sent.
        private: per group, the kept clients' private parameters before the round, leaves
            `[V, ...]`.
        channel: per group, their channel's state, `[V, ...]`; with error feedback upload-sized.
        participated: per group, bool `[V]`.
        loss: `[]`, the mean over all clients of their loss before the round.
        sums: under secure aggregation what is seen of the kept cohorts, as the parameters, leaves
            `[G, ...]`; else None.
    """

    shared: PyTree
    private: tuple[PyTree, ...]
    channel: tuple[PyTree, ...]
    participated: tuple[Array, ...]
    loss: Array
    sums: PyTree = None


class Recording(NamedTuple):
    """The kept rounds of one training run.

    Attributes:
        clients: per group, the clients that were kept: the victims and, under secure aggregation,
            the others of their cohorts.
        cohorts: per group, int `[V]`, the cohort of each kept client among the kept ones; None
            without secure aggregation.
        snapshots: kept round -> snapshot.
        uploads: `uploads(round, group, places) -> seen`, what some of a group's kept clients send
            through their channels in a kept round if they take part, leaves `[len(places), ...]`.
        end: the state at the end of the training.
    """

    clients: tuple[Clients, ...]
    cohorts: tuple[np.ndarray, ...] | None
    snapshots: dict[int, Snapshot]
    uploads: Callable[[int, int, np.ndarray], PyTree]
    end: State


def record(
    run: Federation,
    key: Key,
    victims: Sequence[int],
    observed: Sequence[int],
    between: Sequence[int] = (),
    num_rounds: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recording:
    """Trains and keeps what the attacks on `victims` need, the state of the kept rounds.

    Args:
        run: the federation.
        key: PRNG key of the whole run.
        victims: user indices; they take part in every observed round, beside the clients drawn.
        observed: rounds (0 is the first) in which they upload.
        between: further rounds whose parameters and participation are kept, for `unrolled`.
        num_rounds: least length of the training; as a rule it ends at the last kept round.
        progress: called with (rounds done, rounds in all).

    Returns:
        The recording.

    Raises:
        ValueError: if a victim is not a client, or no or a negative round is asked for.
    """
    kept = sorted({*observed, *between})
    if not kept or kept[0] < 0:
        raise ValueError(f'Expected rounds >= 0 to observe, got {list(kept)}.')
    known = {int(user) for group in run.clients for user in group.users}
    if missing := sorted(set(map(int, victims)) - known):
        raise ValueError(f'Expected victims to be clients; users {missing[:5]} are not.')
    wanted = [np.isin(group.users, victims) for group in run.clients]
    forced = tuple(map(jnp.asarray, wanted))
    cohorts, kept_cohorts = None, np.zeros(0, int)
    if run.cohorts is not None:
        pairs = list(zip(run.cohorts.of, wanted, strict=True))
        kept_cohorts = np.unique(np.concatenate([of[mask] for of, mask in pairs]))
        wanted = [np.isin(of, kept_cohorts) for of, _ in pairs]
        cohorts = tuple(
            np.searchsorted(kept_cohorts, of[mask])
            for of, mask in zip(run.cohorts.of, wanted, strict=True)
        )
    chosen = [np.flatnonzero(mask) for mask in wanted]
    nobody = tuple(jnp.zeros_like(mask) for mask in forced)

    @partial(jax.jit, donate_argnames='state')
    def advance(
        state: State, key: Key, forced: tuple[Array, ...], rounds: Array
    ) -> tuple[State, PyTree]:
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(run.step, state, key, forced)[1])
        return jax.lax.fori_loop(
            0, rounds, lambda _, carry: run.step(carry[0], key, forced), (state, nothing)
        )

    @compilation.jit
    def keep(state: State, key: Key, forced: tuple[Array, ...]) -> Snapshot:
        parts = state.private, state.channel, run.active(state.round, key, forced)
        private, channel, there = (tuple(map(tree.take, part, chosen)) for part in parts)
        return Snapshot(state.shared, private, channel, there, run.loss(state))

    init_key, run_key = jax.random.split(key)
    state, snapshots, done = compilation.jit(run.init)(init_key), {}, 0
    # What becomes of the last kept round nobody asks, but for the sums that it makes.
    last = max(kept[-1] + (cohorts is not None), num_rounds)
    for stop in [*kept, last]:
        while done < stop:
            rounds = min(stop - done, _ROUNDS_PER_CALL)
            state, _ = jax.block_until_ready(advance(state, run_key, nobody, rounds))
            done += rounds
            progress(done, last)
        if stop in snapshots or stop not in kept:
            continue
        must = forced if stop in observed else nobody
        snapshots[stop] = jax.device_get(keep(state, run_key, must))
        if stop < last:
            state, sums = advance(state, run_key, must, 1)
            done += 1
            progress(done, last)
            if cohorts is not None and stop in observed:
                sums = jax.device_get(tree.take(sums, kept_cohorts))
                snapshots[stop] = snapshots[stop]._replace(sums=sums)
    clients = tuple(
        dataclasses.replace(group, **{name: leaf[index] for name, leaf in vars(group).items()})
        for group, index in zip(run.clients, chosen, strict=True)
    )
    again = train.uploads(run, run_key)

    def uploads(round_: int, g: int, places: np.ndarray) -> PyTree:
        own, s = clients[g], snapshots[round_]
        data = own.users, own.items, own.labels, own.weights, s.private[g], s.channel[g]
        return again(s.shared, round_, train.Local(*tree.take(data, places)), len(own.users))

    return Recording(clients, cohorts, snapshots, uploads, state)


def transcript(
    recording: Recording,
    user: int,
    rounds: Sequence[int],
    seen: Sequence[str],
    every_round: bool = False,
    batch_known: bool = True,
    log_odds: np.ndarray | None = None,
    cohort_size: int = 1,
) -> tuple[Transcript, GroundTruth]:
    """Slices one client out of a recording: what the server holds, and apart from it the truth.

    Args, errors and what is returned are those of `transcripts`, without the leading axis, but for
    `log_odds`: float `[N]`, public popularity for this user; None: zeros.
    """
    found, truths = transcripts(
        recording, [user], rounds, seen, every_round, batch_known, cohort_size
    )
    one, truth = tree.take_along(found, axes(found), 0), tree.take(truths, 0)
    if log_odds is not None:
        one = dataclasses.replace(one, log_odds=log_odds[one.items])
    return one, truth


def axes(transcripts: Transcript) -> Transcript:
    """The `vmap` axes of many clients' transcripts: what all share is there once.

    The scorer's parameters; where the batch is not known the item table too, of which all items
    are candidates.
    """
    own = None if transcripts.weights is None else 0
    return Transcript(
        shared={name: own if name == 'items' else None for name in transcripts.shared},
        seen=0,
        rounds=None,
        participated=0,
        items=own,
        slot=None,
        weights=own,
        log_odds=0,
        rows=None if transcripts.rows is None else 0,
    )


def transcripts(
    recording: Recording,
    users: Sequence[int],
    rounds: Sequence[int],
    seen: Sequence[str],
    every_round: bool = False,
    batch_known: bool = True,
    cohort_size: int = 1,
) -> tuple[Transcript, GroundTruth]:
    """Slices clients out of a recording: what the server holds, and apart from it the truths.

    Args:
        recording: from `record`.
        users: V victims of one group of clients.
        rounds: the T observed rounds, increasing.
        seen: names of what the server looks at in an upload (`observe.share`); none: no upload.
        every_round: keep the parameters of the rounds in between as well (S = last - first + 1).
        batch_known: whether the attacker knows the items of the batch; if not, the candidates
            are the whole catalogue (K = N).
        cohort_size: M, under secure aggregation: smaller cohorts are filled up with members that
            have no batch, so that all victims have as many candidates.

    Returns:
        The transcripts, along `axes`, with log odds of zero, and the truths, along 0; NumPy leaves.
        Under secure aggregation a transcript is one of the whole cohort: the candidates are those
        of its M members, `[M B]`, the user's first, with weights where a member took part; only
        the user's own count in the truth, whose private parameters are those of all members,
        leaves `[T, M, ...]`.

    Raises:
        ValueError: if `rounds` do not increase or were not recorded, or a user is no victim or of
            another group, or item rows or sums are seen of a batch that is not known.
    """
    rounds = [int(round_) for round_ in rounds]
    if not rounds or any(b <= a for a, b in itertools.pairwise(rounds)):
        raise ValueError(f'Expected rounds={rounds} to be one or more, increasing.')
    kept = list(range(rounds[0], rounds[-1] + 1)) if every_round else rounds
    if missing := [round_ for round_ in kept if round_ not in recording.snapshots]:
        raise ValueError(f'Expected recorded rounds; {missing[:5]} are not among them.')
    if not batch_known and any(name.split('/')[0] == 'items' for name in seen):
        raise ValueError('Item rows reveal the batch: seen=items needs batch_known=True.')
    if not batch_known and recording.cohorts is not None:
        raise ValueError('Secure aggregation needs batch_known=True.')
    g, places = _places(recording, users)
    group = recording.clients[g]
    snapshots = [recording.snapshots[round_] for round_ in kept]
    observed = [recording.snapshots[round_] for round_ in rounds]
    items, labels, real = (leaf[places] for leaf in (group.items, group.labels, group.weights))
    rows, evaluated = None, real
    if recording.cohorts is not None:
        members = np.stack([_members(recording.cohorts[g], v, cohort_size) for v in places])
        there, size = members >= 0, real.shape[1]
        items, labels, real = (
            np.where(there[..., None], leaf[members], 0).astype(leaf.dtype).reshape(len(places), -1)
            for leaf in (group.items, group.labels, group.weights)
        )
        present = np.stack([s.participated[g][members] & there for s in snapshots], axis=1)
        weights = np.repeat(present, size, axis=2) * real[:, None]
        evaluated = np.where(np.arange(items.shape[1]) < size, real, 0)
        rows = np.stack([_first_rows(*pair) for pair in zip(items, real, strict=True)])
        kept_rows = (rows == np.arange(items.shape[1])) & (real > 0)
        cohorts = recording.cohorts[g][places]
        uploads = [
            _masked(_stacked([client.gather(tree.take(s.sums, cohort), own)
                              for cohort, own in zip(cohorts, items, strict=True)]), kept_rows)
            for s in observed
        ]  # fmt: skip
        participated = present.any(axis=2)
        private = [tree.take(s.private[g], np.maximum(members, 0)) for s in observed]
    else:
        # The channel's noise falls on padding too, which no client has.
        uploads = [_masked(recording.uploads(r, g, places), real > 0) for r in rounds if seen]
        participated = np.stack([s.participated[g][places] for s in snapshots], axis=1)
        private = [tree.take(s.private[g], places) for s in observed]
        weights = np.tile(real[:, None], (1, len(kept), 1))
    if not batch_known:
        num_items = jax.tree.leaves(snapshots[0].shared['items'])[0].shape[0]
        which, where = np.nonzero(real > 0)
        truth = np.zeros((len(places), num_items), group.labels.dtype)
        truth[which, items[which, where]] = labels[which, where]
        labels, evaluated = truth, np.ones(truth.shape, group.weights.dtype)
        items, weights = np.arange(num_items, dtype=np.int32), None
    parameters = [client.gather(s.shared, items) for s in snapshots]
    own = 1 if batch_known else 0  # of the rows of its own a client is the first axis
    sent = [observe.share(*seen).observe(u, (), jax.random.key(0))[0] for u in uploads if seen]
    return (
        Transcript(
            shared={name: _stacked([p[name] for p in parameters], own if name == 'items' else 0)
                    for name in parameters[0]},
            seen=_stacked(sent, 1) if sent else {},
            rounds=np.asarray(rounds, np.int32),
            participated=participated,
            items=items,
            slot=None,
            weights=weights,
            log_odds=np.zeros(labels.shape, np.float32),
            rows=rows,
        ),
        GroundTruth(
            user=np.asarray(users, np.int32),
            labels=labels,
            weights=(evaluated > 0).astype(labels.dtype),
            private=_stacked(private, 1),
        ),
    )  # fmt: skip


def _places(recording: Recording, users: Sequence[int]) -> tuple[int, np.ndarray]:
    """The group that holds some victims, and their places `[V]` in it."""
    for g, group in enumerate(recording.clients):
        place = {int(user): v for v, user in enumerate(group.users)}
        if place.keys() >= set(users):
            return g, np.array([place[user] for user in users])
    raise ValueError(f'Expected recorded victims of one group; users {[*users][:5]} are not.')


def _stacked(values: Sequence[PyTree], axis: int = 0) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis), *values)


def _members(cohorts: np.ndarray, victim: int, size: int) -> np.ndarray:
    """Positions `[M]` of a victim's cohort, the victim first; -1 where it has fewer than `size`."""
    members = np.flatnonzero(cohorts == cohorts[victim])
    members = np.r_[victim, members[members != victim]]
    return np.r_[members, np.full(max(size - len(members), 0), -1)]


def _first_rows(items: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int32 `[K]`, for each candidate the first one of the same item; padding is its own."""
    rows = np.arange(len(items), dtype=np.int32)
    real = np.flatnonzero(weights > 0)
    _, first, inverse = np.unique(items[real], return_index=True, return_inverse=True)
    rows[real] = real[first][inverse]
    return rows


def _masked(upload: PyTree, where: np.ndarray) -> PyTree:
    """Uploads `[V, ...]` with zeros in the item rows that are not in `where [V, B]`."""
    rows = {name: part for name, part in upload.items() if name == 'items'}
    return upload | jax.tree.map(
        lambda leaf: np.where(np.expand_dims(where, tuple(range(2, leaf.ndim))), leaf, 0), rows
    )
