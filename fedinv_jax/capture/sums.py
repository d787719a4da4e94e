"""Means of several clients' uploads in a capture, as sums that every attack on sums reads."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

from fedinv_jax.capture import folder, names, uploads
from fedinv_jax.types import Sums

_ROUNDING = 4.0  # multiples of the rounding of a weight that a mean of weights may be off


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
            two sums of a round.
    """
    notes: list[str] = []
    found = {
        round_: list(_readable(capture, layout, round_, of, notes))
        for round_, of in capture.sums.items()
    }
    rounds = [round_ for round_, of in found.items() if of]
    if not rounds:
        raise ValueError(f'{capture.folder}: no sum can be read: {notes[0]}.')
    every = [
        (row, g, each) for row, name in enumerate(rounds) for g, each in enumerate(found[name])
    ]
    means = [uploads.upload(layout, each.exchange) for *_, each in every]
    if (
        len(
            {
                (each.exchange.kind, _shapes(mean))
                for (*_, each), mean in zip(every, means, strict=True)
            }
        )
        > 1
    ):
        raise ValueError(f'{capture.folder}: sums have other arrays in some rounds than in others.')
    clients = tuple(dict.fromkeys(name for *_, each in every for name in each.clients))
    place = {name: column for column, name in enumerate(clients)}
    cohorts = 1 + max(g for _, g, _ in every)
    weights = np.full((len(rounds), len(clients)), np.nan)
    members = np.full((len(rounds), len(clients)), -1)
    moved = np.zeros((len(rounds), cohorts, layout.num_items), bool)
    seen = [
        {name: np.zeros((cohorts, *leaf.shape)) for name, leaf in means[0].items()} for _ in rounds
    ]
    shared = [names.take(layout, found[round_][0].exchange.sent) for round_ in rounds]
    for (row, g, each), mean in zip(every, means, strict=True):
        columns = [place[name] for name in each.clients]
        if np.any(members[row, columns] >= 0):
            raise ValueError(f'{capture.folder}, round {rounds[row]}: a client is in two sums.')
        members[row, columns] = g
        weights[row, columns] = 1.0 if each.weights is None else each.weights
        moved[row, g] = _moved(shared[row], mean, each.exchange.kind == 'returned')
        for name, leaf in mean.items():
            seen[row][name][g] = leaf.astype(float) * np.nansum(weights[row, columns])
    if np.any(np.nanmax(weights, axis=0) > np.nanmin(weights, axis=0)):
        notes.append('the weight of a client changes from round to round: its mean is used')
    return Summed(
        Sums(
            [{'items': {}, 'scorer': {}, **uploads.unflatten(sent)} for sent in shared],
            [uploads.unflatten(leaves) for leaves in seen],
            members,
            np.array(rounds),
            np.arange(len(clients)),
        ),
        clients,
        np.nanmean(weights, axis=0),
        moved,
        every[0][2].exchange.kind,
        tuple(notes),
    )


def _readable(
    capture: folder.Capture,
    layout: names.Layout,
    round_: int,
    of: tuple[str, ...],
    notes: list[str],
) -> Iterator[folder.Sum]:
    """The sums of a round whose files are whole and finite; notes on the others."""
    for name in of:
        try:
            found = folder.sum_of(capture, name, round_)
            uploads.check_finite(layout, found.exchange)
            yield found
        except ValueError as error:
            notes.append(f'{uploads.LEFT_OUT} {round_}, sum {name!r}: {error}')


def _moved(
    sent: Mapping[str, np.ndarray], mean: Mapping[str, np.ndarray], rounded: bool
) -> np.ndarray:
    """Bool `[N]`, or `[]` without item rows: the items whose rows move beyond rounding."""
    found = np.zeros((), bool)
    rows = [name for name in mean if name.startswith('items/')]
    for name in rows:
        eps = float(ml_dtypes.finfo(mean[name].dtype).eps) if rounded else 0.0
        off = np.abs(mean[name].astype(float)) > _ROUNDING * eps * np.abs(sent[name].astype(float))
        found = found | off.reshape(len(off), -1).any(axis=1)
    return found if rows else np.ones((), bool)


def _shapes(leaves: Mapping[str, np.ndarray]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, leaf.shape) for name, leaf in leaves.items())
