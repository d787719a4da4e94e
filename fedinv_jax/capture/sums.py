"""Means of several clients' uploads in a capture, as sums that every attack on sums reads."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from fedinv_jax.capture import folder, names, uploads
from fedinv_jax.types import Sums

_ROUNDING = 2.0  # multiples of the rounding of a weight, times sqrt(n), that a mean of n is off
_FAINT = 0.5  # share of rows that move by hardly more
_MOST_MOVED = 0.999  # share of rows that move in a sum, on average


class Summed(NamedTuple):
    """What is seen of clients only in sums.

    Attributes:
        sums: of all rounds, batches not known; a sum is the mean times the weights of its clients.
        clients: ids, C of them: the columns of `sums.members`.
        weights: float `[C]`, the weight of each client's upload in a sum.
        moved: bool `[T, G, N]`, whether a sum moves an item's row; all, if no rows came back.
        kind: what clients return, one of `folder.KINDS`.
        notes: what is to be known of the sums, in sentences.
    """

    sums: Sums
    clients: tuple[str, ...]
    weights: np.ndarray
    moved: np.ndarray
    kind: str
    notes: tuple[str, ...]


def summed(capture: folder.Capture, layout: names.Layout) -> Summed:
    """The sums of a capture.

    Args:
        capture: the capture, with sums.
        layout: of the model.

    Raises:
        ValueError: if no sum can be read, or sums do not have the same arrays; if a client is in
            two sums of a round, or the clients of a round were sent different parameters.
    """
    notes: list[str] = []
    found: dict[int, list[_Mean]] = {}
    for round_, of in capture.sums.items():
        if means := list(_readable(capture, layout, round_, of, notes)):
            found[round_] = means
    if not found:
        raise ValueError(f'no sum can be read: {notes[0]}')
    every = [(row, g, mean) for row, of in enumerate(found.values()) for g, mean in enumerate(of)]
    if len({(mean.kind, _shapes(mean.upload)) for *_, mean in every}) > 1:
        raise ValueError(f'{capture.folder}: sums have other arrays in some rounds than in others.')
    clients = tuple(dict.fromkeys(name for *_, mean in every for name in mean.clients))
    place = {name: column for column, name in enumerate(clients)}
    rounds, cohorts = list(found), max(map(len, found.values()))
    weights = np.full((len(rounds), len(clients)), np.nan)
    members = np.full((len(rounds), len(clients)), -1)
    moved = np.zeros((len(rounds), cohorts, layout.num_items), bool)
    shapes = {name: leaf.shape for name, leaf in every[0][2].upload.items()}
    seen = [
        {name: np.zeros((cohorts, *shape), np.float32) for name, shape in shapes.items()}
        for _ in rounds
    ]
    for row, g, mean in every:
        first = found[rounds[row]][0]
        if any(not np.array_equal(mean.sent[name], leaf) for name, leaf in first.sent.items()):
            raise ValueError(
                f'{capture.folder}, round {rounds[row]}: the clients of its sums were sent '
                'different parameters.'
            )
        columns = [place[name] for name in mean.clients]
        if np.any(members[row, columns] >= 0):
            raise ValueError(f'{capture.folder}, round {rounds[row]}: a client is in two sums.')
        members[row, columns] = g
        weights[row, columns] = 1.0 if mean.weights is None else mean.weights
        moved[row, g] = mean.moved
        for name, leaf in mean.upload.items():
            seen[row][name][g] = leaf * np.sum(weights[row, columns])
    if np.mean([mean.faint for *_, mean in every]) > _FAINT:
        moved[:] = True
        notes.append(
            'most rows move by little more than the rounding of weights: what stays is not excluded'
        )
    notes += _notes(every, weights)
    return Summed(
        Sums(
            [{'items': {}, 'scorer': {}, **uploads.unflatten(of[0].sent)} for of in found.values()],
            [uploads.unflatten(leaves) for leaves in seen],
            members,
            np.array(rounds),
            np.arange(len(clients)),
        ),
        clients,
        np.nanmean(weights, axis=0),
        moved,
        every[0][2].kind,
        tuple(notes),
    )


class _Mean(NamedTuple):
    """One sum as it is read.

    Attributes:
        clients: their ids.
        weights: `[n]`; None: 1.
        kind: what clients return.
        sent: the parameters, by the model's names.
        upload: the mean upload, by the model's names, item rows without weight decay.
        decay: the share of themselves by which item rows shrink.
        moved: bool `[N]`, the items whose rows move beyond rounding.
        faint: the share of them that move by less than ten times as much; 0 if none moves.
    """

    clients: tuple[str, ...]
    weights: np.ndarray | None
    kind: str
    sent: dict[str, np.ndarray]
    upload: dict[str, np.ndarray]
    decay: float
    moved: np.ndarray
    faint: float


def _readable(
    capture: folder.Capture,
    layout: names.Layout,
    round_: int,
    of: tuple[str, ...],
    notes: list[str],
) -> Iterator[_Mean]:
    """The sums of a round whose files are whole and finite; notes on the others."""
    for name in of:
        try:
            yield _mean(folder.sum_of(capture, name, round_), layout)
        except ValueError as error:
            notes.append(f'{uploads.LEFT_OUT} {round_}, sum {name!r}: {error}')


def _mean(found: folder.Sum, layout: names.Layout) -> _Mean:
    uploads.check_finite(layout, found.exchange)
    kind, sent = found.exchange.kind, names.take(layout, found.exchange.sent)
    upload = uploads.upload(layout, found.exchange)
    eps = max(float(ml_dtypes.finfo(leaf.dtype).eps) for leaf in upload.values())
    rows = [name for name in upload if name.startswith('items/')]
    decay = uploads.decay(sent, upload, rows) if rows else 0.0
    for name in rows:
        upload[name] = upload[name].astype(np.float64) - decay * sent[name].astype(np.float64)
    # A mean of what is the same is rounded; a mean of zeros is zero.
    times = eps * _ROUNDING * np.sqrt(len(found.clients)) if kind == 'returned' or decay else 0.0
    largest = np.full(layout.num_items if rows else 1, np.inf if not rows else 0.0)
    for name in rows:
        off, leaf = np.abs(upload[name]), np.abs(sent[name].astype(np.float64))
        ratio = off / np.maximum(times * leaf, np.finfo(float).tiny)
        largest = np.maximum(largest, ratio.reshape(len(ratio), -1).max(axis=1))
    moved = largest > 1
    faint = float(np.mean(largest[moved] < 10)) if moved.any() else 0.0
    return _Mean(found.clients, found.weights, kind, sent, upload, decay, moved, faint)


def _notes(every: Sequence[tuple[int, int, _Mean]], weights: np.ndarray) -> Iterator[str]:
    """What is to be known of the sums."""
    decay = float(np.median([mean.decay for *_, mean in every]))
    if decay:
        yield f'every item row shrinks by {decay:.3g} of itself in a round (weight decay)'
    if np.mean([mean.moved.mean() for *_, mean in every]) > _MOST_MOVED:
        yield 'all item rows move in every sum: no item is excluded'
    if np.any(np.nanmax(weights, axis=0) > 1.01 * np.nanmin(weights, axis=0)):
        yield 'the weight of a client changes from round to round: its mean is used'
    if any(len(mean.clients) == 1 for *_, mean in every):
        yield "some sums are of one client: record those as that client's upload"


def _shapes(leaves: Mapping[str, np.ndarray]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, leaf.shape) for name, leaf in leaves.items())
