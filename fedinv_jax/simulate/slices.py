"""Slices clients out of a recording: transcripts and, separately, their ground truth."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from fedinv_jax import item_table, observe, tree
from fedinv_jax.simulate import matching
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
    """Returns the transcript of one client, sliced out of a recording.

    Arguments, result and errors are those of `transcripts` without the leading axis, except
    `log_odds`: float `[N]`, the public popularity for this user; None: zeros.
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
    """Returns the truth of the `transcript` with the same arguments, see `truths`."""
    return tree.take(truths(recording, [user], rounds, batch_known, cohort_size), 0)


def axes(transcripts: Transcript) -> Transcript:
    """Returns the `vmap` axes of several clients' transcripts: None for what all clients share.

    They share the rounds and the scorer's parameters and, if the batch is not known, the item
    table, since all items are candidates.
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
    believe: Callable[[np.ndarray], np.ndarray] = lambda items: items,
) -> Transcript:
    """Returns the transcripts of several clients, sliced out of a recording.

    Args:
        recording: from `record`.
        users: V victims of one group of clients.
        rounds: the T observed rounds, increasing.
        seen: names of the leaves of an upload that the attacker sees (`observe.share`); may be
            empty.
        every_round: keep the parameters of the rounds in between as well (S = last - first + 1).
        batch_known: whether the attacker knows the items of the batch; if not, the candidates
            are the whole catalogue (K = N).
        cohort_size: M, under secure aggregation; smaller cohorts are padded with members without
            a batch, so that all victims have the same number of candidates.
        believe: `believe(items [V, K]) -> items`, which the attacker takes the candidates for.

    Returns:
        The transcripts, stacked along `axes`, with log odds of zero; NumPy leaves. If the negatives
        differ between rounds and the batches are known, the candidates are the items of all T
        batches, `[T B]`, and weights are 0 where one is not in the batch. Under secure aggregation
        each is the transcript of a whole cohort: the candidates are those of its M members,
        `[M B]`, the victim's first; weights are 0 where a member did not take part.

    Raises:
        ValueError: if `rounds` do not increase or were not recorded, if the users are not recorded
            clients of one group, if item rows or sums are seen although the batch is not known, or
            if the negatives differ between rounds and those in between are to be kept.
    """
    snapshots = _snapshots(recording, rounds, every_round)
    if not batch_known and any(name.split('/')[0] == 'items' for name in seen):
        raise ValueError('Item rows reveal the batch: seen=items needs batch_known=True.')
    g, members = _members(recording, users, batch_known, cohort_size)
    group = recording.clients[g]
    items, real = _side_by_side(group.items, members), _side_by_side(group.weights, members)
    present = np.stack([s.participated[g][members] & (members >= 0) for s in snapshots], axis=1)
    rows, in_sum = None, np.ones_like(present)
    if recording.cohorts is not None:
        rows = np.stack([_first_rows(*pair) for pair in zip(items, real, strict=True)])
        in_sum = present
    weights = np.repeat(in_sum, group.weights.shape[1], axis=2) * real[:, None]
    uploads = _seen(recording, rounds, seen, g, members[:, 0], items, real, rows) if seen else {}
    if batch_known and (union := _union(recording, rounds, g, members[:, 0])) is not None:
        if every_round:
            raise ValueError(
                'With other negatives in each round, the batches of the rounds in between are not '
                'candidates: every_round=True needs the same negatives in all rounds.'
            )
        items, weights = union.items, union.member.astype(weights.dtype)
        uploads = {name: matching.spread(part, union) if name == 'items' else part
                   for name, part in uploads.items()}  # fmt: skip
    if not batch_known:
        items, weights = np.arange(_num_items(recording), dtype=np.int32), None
    items = believe(items)
    parameters = [item_table.gather(s.shared, items) for s in snapshots]
    # Where clients have their own item rows, the clients' axis comes first and the steps' second.
    step_axes = {'items': 1} if batch_known else {}
    return Transcript(
        shared={
            name: _stacked([part[name] for part in parameters], step_axes.get(name, 0))
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
    """Returns the truths of the `transcripts` with the same arguments, for metrics only.

    Returns:
        The truths, stacked along axis 0; NumPy leaves. Under secure aggregation only the victim's
        own candidates are evaluated, and the private parameters are those of all members, leaves
        `[V, T, M, ...]`.

    Raises:
        ValueError: see `transcripts`.
    """
    snapshots = _snapshots(recording, rounds)
    g, members = _members(recording, users, batch_known, cohort_size)
    group = recording.clients[g]
    labels, real = _side_by_side(group.labels, members), _side_by_side(group.weights, members)
    items = _side_by_side(group.items, members)
    evaluated = (real > 0) & (np.arange(real.shape[1]) < group.weights.shape[1])
    if batch_known and (union := _union(recording, rounds, g, members[:, 0])) is not None:
        labels = matching.spread(np.repeat(labels[:, None], len(rounds), axis=1), union).max(1)
        items, evaluated = union.items, union.member.any(1)
    if not batch_known:
        which, where = np.nonzero(evaluated)
        known, labels = labels, np.zeros((len(users), _num_items(recording)), labels.dtype)
        labels[which, group.items[members[which, 0], where]] = known[which, where]
        evaluated = np.ones(labels.shape, bool)
        items = np.broadcast_to(np.arange(labels.shape[1]), labels.shape)
    who = members[:, 0] if recording.cohorts is None else np.maximum(members, 0)
    return GroundTruth(
        user=np.asarray(users, np.int32),
        labels=labels,
        weights=evaluated.astype(labels.dtype),
        private=_stacked([_private(tree.take(s.private[g], who), items) for s in snapshots], 1),
    )


def _private(private: PyTree, items: np.ndarray) -> PyTree:
    """Private parameters of V victims, with the rows of their candidates `[V, K]` of a table."""
    if not item_table.has_items(private):
        return private
    return jax.vmap(item_table.gather)(private, items)


def _snapshots(
    recording: Recording, rounds: Sequence[int], every_round: bool = False
) -> list[Snapshot]:
    """The snapshots of the given rounds, or of every round from the first to the last of them."""
    rounds = [int(round_) for round_ in rounds]
    if not rounds or any(b <= a for a, b in itertools.pairwise(rounds)):
        raise ValueError(f'Expected rounds={rounds} to be one or more, increasing.')
    kept = range(rounds[0], rounds[-1] + 1) if every_round else rounds
    if missing := [round_ for round_ in kept if round_ not in recording.snapshots]:
        raise ValueError(f'Expected recorded rounds; {missing[:5]} were not recorded.')
    return [recording.snapshots[round_] for round_ in kept]


def _members(
    recording: Recording, users: Sequence[int], batch_known: bool, size: int
) -> tuple[int, np.ndarray]:
    """The group of the victims, and the positions `[V, M]` of each one's cohort, the victim first.

    -1 pads cohorts with fewer than `size` members; M = 1 without cohorts.
    """
    g, positions = _positions(recording, users)
    if recording.cohorts is None:
        return g, positions[:, None]
    if not batch_known:
        raise ValueError('Secure aggregation needs batch_known=True.')
    of = recording.cohorts[g]
    return g, np.stack([_cohort(of, position, size) for position in positions])


def _cohort(of: np.ndarray, victim: int, size: int) -> np.ndarray:
    """Positions `[M]` of a victim's cohort, the victim first, padded with -1 to `size`."""
    members = np.flatnonzero(of == of[victim])
    members = np.r_[victim, members[members != victim]]
    return np.r_[members, np.full(max(size - len(members), 0), -1)]


def _positions(recording: Recording, users: Sequence[int]) -> tuple[int, np.ndarray]:
    """The group of the victims, and their positions `[V]` in it."""
    for g, group in enumerate(recording.clients):
        position = {int(user): v for v, user in enumerate(group.users)}
        if position.keys() >= set(users):
            return g, np.array([position[user] for user in users])
    raise ValueError(f'Expected recorded victims of one group; users {[*users][:5]} are not.')


def _union(
    recording: Recording, rounds: Sequence[int], g: int, positions: np.ndarray
) -> matching.Union | None:
    """The items of clients' batches in these rounds; None if all batches are the same."""
    if recording.items is None:
        return None
    items = np.stack([recording.items(int(round_), g, positions) for round_ in rounds], axis=1)
    return matching.union(items, recording.clients[g].weights[positions] > 0)


def _side_by_side(leaf: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Concatenates the members' rows of a leaf `[C, B]` to `[V, M B]`; zeros for padding (-1)."""
    rows = np.where(members[..., None] >= 0, leaf[members], 0).astype(leaf.dtype)
    return rows.reshape(len(members), -1)


def _num_items(recording: Recording) -> int:
    """N, the number of rows of the item table."""
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
    """What is seen of clients or, under secure aggregation, their cohorts, leaves `[V, T, ...]`.

    Item rows are set to zero for padding, where the channel adds noise too, and for candidates
    whose item has an earlier candidate.
    """
    real = real > 0
    if recording.cohorts is None:
        uploads = [recording.uploads(int(round_), g, positions) for round_ in rounds]
    else:
        real = real & (rows == np.arange(items.shape[1]))
        cohorts = recording.cohorts[g][positions]
        uploads = [
            _stacked([item_table.gather(tree.take(recording.snapshots[round_].sums, cohort), own)
                      for cohort, own in zip(cohorts, items, strict=True)])
            for round_ in rounds
        ]  # fmt: skip
    share = observe.share(*seen).observe
    sent = [share(_masked(upload, real), (), jax.random.key(0))[0] for upload in uploads]
    return _stacked(sent, 1)


def _stacked(values: Sequence[PyTree], axis: int = 0) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis), *values)


def _first_rows(items: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int32 `[K]`, index of the first candidate with the same item; padding has its own index."""
    rows = np.arange(len(items), dtype=np.int32)
    real = np.flatnonzero(weights > 0)
    _, first, inverse = np.unique(items[real], return_index=True, return_inverse=True)
    rows[real] = real[first][inverse]
    return rows


def _masked(upload: PyTree, where: np.ndarray) -> PyTree:
    """Uploads `[V, ...]` with item rows set to zero where `where [V, B]` is False."""
    rows = {name: part for name, part in upload.items() if name == 'items'}
    return upload | jax.tree.map(
        lambda leaf: np.where(np.expand_dims(where, tuple(range(2, leaf.ndim))), leaf, 0), rows
    )
