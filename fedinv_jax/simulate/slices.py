"""Slices clients out of a recording: what the server holds and, apart from it, the truth."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np

from fedinv_jax import client, observe, tree
from fedinv_jax.simulate.recording import Recording, Snapshot
from fedinv_jax.types import GroundTruth, PyTree, Transcript


def transcript(
    recording: Recording,
    user: int,
    rounds: Sequence[int],
    seen: Sequence[str],
    every_round: bool = False,
    batch_known: bool = True,
    cohort_size: int = 1,
    log_odds: np.ndarray | None = None,
) -> Transcript:
    """What the server holds of one client, sliced out of a recording.

    Args, errors and what is returned are those of `transcripts`, without the leading axis, but for
    `log_odds`: float `[N]`, public popularity for this user; None: zeros.
    """
    found = transcripts(recording, [user], rounds, seen, every_round, batch_known, cohort_size)
    one = tree.take_along(found, axes(found), 0)
    return one if log_odds is None else dataclasses.replace(one, log_odds=log_odds[one.items])


def truth(
    recording: Recording,
    user: int,
    rounds: Sequence[int],
    batch_known: bool = True,
    cohort_size: int = 1,
) -> GroundTruth:
    """The truth behind the `transcript` of the same arguments, see `truths`."""
    return tree.take(truths(recording, [user], rounds, batch_known, cohort_size), 0)


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
) -> Transcript:
    """What the server holds of some clients, sliced out of a recording.

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
        The transcripts, along `axes`, with log odds of zero; NumPy leaves. Under secure aggregation
        a transcript is one of the whole cohort: the candidates are those of its M members,
        `[M B]`, the user's first, with weights where a member took part.

    Raises:
        ValueError: if `rounds` do not increase or were not recorded, or a user is no victim or of
            another group, or item rows or sums are seen of a batch that is not known.
    """
    snapshots = _snapshots(recording, rounds, every_round)
    if not batch_known and any(name.split('/')[0] == 'items' for name in seen):
        raise ValueError('Item rows reveal the batch: seen=items needs batch_known=True.')
    g, members = _members(recording, users, batch_known, cohort_size)
    group = recording.clients[g]
    items, real = _side_by_side(group.items, members), _side_by_side(group.weights, members)
    present = np.stack([s.participated[g][members] & (members >= 0) for s in snapshots], axis=1)
    rows, there = None, np.ones_like(present)
    if recording.cohorts is not None:
        rows = np.stack([_first_rows(*pair) for pair in zip(items, real, strict=True)])
        there = present
    weights = np.repeat(there, group.weights.shape[1], axis=2) * real[:, None]
    uploads = _seen(recording, rounds, seen, g, members[:, 0], items, real, rows) if seen else {}
    if not batch_known:
        items, weights = np.arange(_num_items(recording), dtype=np.int32), None
    parameters = [client.gather(s.shared, items) for s in snapshots]
    # Item rows of each client's own: their first axis is the clients', the steps' comes behind.
    behind = {'items': 1} if batch_known else {}
    return Transcript(
        shared={
            name: _stacked([part[name] for part in parameters], behind.get(name, 0))
            for name in parameters[0]
        },
        seen=uploads,
        rounds=np.asarray(rounds, np.int32),
        participated=present.any(axis=2),
        items=items,
        slot=None,
        weights=weights,
        log_odds=np.zeros((len(users), items.shape[-1]), np.float32),
        rows=rows,
    )


def truths(
    recording: Recording,
    users: Sequence[int],
    rounds: Sequence[int],
    batch_known: bool = True,
    cohort_size: int = 1,
) -> GroundTruth:
    """The truths behind the `transcripts` of the same arguments, for metrics only.

    Returns:
        The truths, along 0; NumPy leaves. Under secure aggregation only the user's own candidates
        count, and the private parameters are those of all members, leaves `[V, T, M, ...]`.

    Raises:
        ValueError: as `transcripts`.
    """
    snapshots = _snapshots(recording, rounds)
    g, members = _members(recording, users, batch_known, cohort_size)
    group = recording.clients[g]
    labels, real = _side_by_side(group.labels, members), _side_by_side(group.weights, members)
    evaluated = (real > 0) & (np.arange(real.shape[1]) < group.weights.shape[1])
    if not batch_known:
        which, where = np.nonzero(evaluated)
        known, labels = labels, np.zeros((len(users), _num_items(recording)), labels.dtype)
        labels[which, group.items[members[which, 0], where]] = known[which, where]
        evaluated = np.ones(labels.shape, bool)
    who = members[:, 0] if recording.cohorts is None else np.maximum(members, 0)
    return GroundTruth(
        user=np.asarray(users, np.int32),
        labels=labels,
        weights=evaluated.astype(labels.dtype),
        private=_stacked([tree.take(s.private[g], who) for s in snapshots], 1),
    )


def _snapshots(
    recording: Recording, rounds: Sequence[int], every_round: bool = False
) -> list[Snapshot]:
    """Those of some rounds, or of every round from the first to the last."""
    rounds = [int(round_) for round_ in rounds]
    if not rounds or any(b <= a for a, b in itertools.pairwise(rounds)):
        raise ValueError(f'Expected rounds={rounds} to be one or more, increasing.')
    kept = range(rounds[0], rounds[-1] + 1) if every_round else rounds
    if missing := [round_ for round_ in kept if round_ not in recording.snapshots]:
        raise ValueError(f'Expected recorded rounds; {missing[:5]} are not among them.')
    return [recording.snapshots[round_] for round_ in kept]


def _members(
    recording: Recording, users: Sequence[int], batch_known: bool, size: int
) -> tuple[int, np.ndarray]:
    """The group of some victims and, for each, the places `[V, M]` of its cohort, its own first.

    -1 stands for members that a cohort of fewer than `size` lacks; M = 1 without cohorts.
    """
    g, positions = _places(recording, users)
    if recording.cohorts is None:
        return g, positions[:, None]
    if not batch_known:
        raise ValueError('Secure aggregation needs batch_known=True.')
    of = recording.cohorts[g]
    return g, np.stack([_cohort(of, place, size) for place in positions])


def _cohort(of: np.ndarray, victim: int, size: int) -> np.ndarray:
    """Places `[M]` of a victim's cohort, the victim first; -1 where it has fewer than `size`."""
    members = np.flatnonzero(of == of[victim])
    members = np.r_[victim, members[members != victim]]
    return np.r_[members, np.full(max(size - len(members), 0), -1)]


def _places(recording: Recording, users: Sequence[int]) -> tuple[int, np.ndarray]:
    """The group that holds some victims, and their places `[V]` in it."""
    for g, group in enumerate(recording.clients):
        place = {int(user): v for v, user in enumerate(group.users)}
        if place.keys() >= set(users):
            return g, np.array([place[user] for user in users])
    raise ValueError(f'Expected recorded victims of one group; users {[*users][:5]} are not.')


def _side_by_side(leaf: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Members' rows `[V, M B]` of a leaf `[C, B]`; zeros where there is no member."""
    rows = np.where(members[..., None] >= 0, leaf[members], 0).astype(leaf.dtype)
    return rows.reshape(len(members), -1)


def _num_items(recording: Recording) -> int:
    """N, the rows of the item table."""
    any_round = next(iter(recording.snapshots.values()))
    return jax.tree.leaves(any_round.shared['items'])[0].shape[0]


def _seen(
    recording: Recording,
    rounds: Sequence[int],
    seen: Sequence[str],
    g: int,
    positions: np.ndarray,
    items: np.ndarray,
    real: np.ndarray,
    rows: np.ndarray | None,
) -> PyTree:
    """What is seen of clients or, where `rows` are shared, of their cohorts, leaves `[V, T, ...]`.

    Item rows are zero where there is padding (noise falls on it too, though no client has it), and
    where a candidate before has the same row.
    """
    real = real > 0
    if recording.cohorts is None:
        uploads = [recording.uploads(int(round_), g, positions) for round_ in rounds]
    else:
        real = real & (rows == np.arange(items.shape[1]))
        cohorts = recording.cohorts[g][positions]
        uploads = [
            _stacked([client.gather(tree.take(recording.snapshots[round_].sums, cohort), own)
                      for cohort, own in zip(cohorts, items, strict=True)])
            for round_ in rounds
        ]  # fmt: skip
    share = observe.share(*seen).observe
    sent = [share(_masked(upload, real), (), jax.random.key(0))[0] for upload in uploads]
    return _stacked(sent, 1)


def _stacked(values: Sequence[PyTree], axis: int = 0) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis), *values)


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
