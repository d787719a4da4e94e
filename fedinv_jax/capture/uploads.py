"""Uploads of one captured client, as a transcript that every attack reads.

An upload is what the server subtracts: `sent - returned`, or a gradient. The items of a batch are
those whose rows moved, where item rows came back.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import ml_dtypes
import numpy as np

from fedinv_jax.capture import folder, names
from fedinv_jax.types import Transcript

LEFT_OUT = 'left out, round'
"""Beginning of a note on a round that cannot be used."""
_MOST_MOVED = 0.9  # share of rows that no batch reaches: more move for another reason
_FEWEST_ALONE = 0.02  # share of rows that shrink and do nothing else, under weight decay
_ROUNDING = 8.0  # multiples of the rounding of a weight that are no movement


class Captured(NamedTuple):
    """One client's uploads.

    Attributes:
        transcript: all of them, with the candidates' rows.
        kind: what the client returned, one of `folder.KINDS`.
        decay: by how much of itself each item row shrinks in a round, whether or not an item is in
            the batch; 0: not at all, or all items are in the batch.
        coarsest: name of the coarsest dtype that was returned.
        lost: share of the numbers of the uploads, those of the batch's rows, that are 0: where
            weights came back in half precision, training moved them by less than their rounding.
        notes: what is to be known of the transcript, in sentences.
    """

    transcript: Transcript
    kind: str
    decay: float
    coarsest: str
    lost: float
    notes: tuple[str, ...]


def layout(capture: folder.Capture, user_first: bool | None = None) -> names.Layout:
    """The model of a capture, by what its server sent first and what capture.json says.

    Args:
        capture: the capture.
        user_first: as in `names.recognise`; None: what capture.json says, or True.
    """
    known = capture.known
    return names.recognise(
        first_sent(capture),
        known.get('model'),
        known.get('item_leaves'),
        known.get('user_first', True) if user_first is None else user_first,
    )


def first_sent(capture: folder.Capture) -> dict[str, np.ndarray]:
    """What the server sent first, of the files that can be read, by the framework's names."""
    files = [
        *((folder.exchange, name, round_) for name, of in capture.clients.items() for round_ in of),
        *((_of_sum, name, round_) for round_, of in capture.sums.items() for name in of),
    ]
    for read, name, round_ in files:
        try:
            return read(capture, name, round_).sent
        except ValueError as error:
            refused = error
    raise refused


def _of_sum(capture: folder.Capture, name: str, round_: int) -> folder.Exchange:
    return folder.sum_of(capture, name, round_).exchange


def captured(
    capture: folder.Capture, client: str, layout: names.Layout, most: int | None = None
) -> Captured:
    """The uploads of a client, as the server saw them.

    Args:
        capture: the capture.
        client: id of the client.
        layout: of the model.
        most: number of uploads, the first ones; None: all.

    Returns:
        The uploads, in the dtypes that were sent and returned: leaves `[T, ...]`, item rows
        `[T, K, ...]` of the K items of all batches, or of the catalogue if they are not known.

    Raises:
        ValueError: if what was sent or returned changes from round to round, nothing of the model
            came back, or no round can be read.
    """
    rounds, found, notes = _readable(capture, client, layout, capture.clients[client][:most])
    kinds = {each.kind for each in found}
    if len(kinds) > 1:
        raise ValueError(f'Client {client!r} returned {" and ".join(sorted(kinds))}: expected one.')
    (kind,) = kinds
    sent = [names.take(layout, each.sent) for each in found]
    seen = [upload(layout, each) for each in found]
    shapes = {tuple((name, leaf.shape) for name, leaf in each.items()) for each in seen}
    if len(shapes) > 1 or len({tuple(each) for each in sent}) > 1:
        raise ValueError(
            f'Client {client!r} returned other arrays in some rounds than in others: '
            'capture the rounds of one model only.'
        )
    if not seen[0]:
        raise ValueError(f'Client {client!r} returned no array of the model.')
    if missing := [name for name in layout.leaves if name not in sent[0]]:
        raise ValueError(
            f'{layout.leaves[missing[0]].name} was not sent: expected all that the clients share.'
        )
    rows = [name for name in seen[0] if name.startswith('items/')]
    shrinks = 0.0
    batches: list[np.ndarray | None]
    if rows:
        shrinks = decay(sent[0], seen[0], rows)
        batches = [_moved(*both, rows, shrinks) for both in zip(sent, seen, strict=True)]
        if shrinks:
            notes.append(
                f'every item row shrinks by {shrinks:.3g} of itself in a round (weight decay): '
                'the batch is the rows that move otherwise'
            )
    else:
        batches = [each.items for each in found]
    known = [batch for batch in batches if batch is not None]
    if len(known) < len(batches):
        notes.append('no item rows were returned and no items recorded: the batch is not known')
    for round_, each, batch in zip(rounds, found, batches, strict=True):
        if batch is not None and each.num_examples and len(batch) > each.num_examples:
            notes.append(
                f'round {round_}: {len(batch)} item rows moved, and the client has '
                f'{each.num_examples} examples'
            )
        elif (
            batch is not None and each.num_examples and len(batch) < _MOST_MOVED * each.num_examples
        ):
            notes.append(
                f'round {round_}: {len(batch)} item rows moved, of {each.num_examples} examples: '
                'the others are no candidates'
            )
    coarsest = min((leaf.dtype for leaf in seen[0].values()), key=lambda dtype: dtype.itemsize)
    transcript = _transcript(
        rounds, sent, seen, known if len(known) == len(batches) else None, layout.num_items
    )
    return Captured(transcript, kind, shrinks, coarsest.name, _lost(seen, batches), tuple(notes))


def _readable(
    capture: folder.Capture, client: str, layout: names.Layout, rounds: Sequence[int]
) -> tuple[list[int], list[folder.Exchange], list[str]]:
    """The rounds whose files are whole and finite, and notes on the others."""
    found: list[folder.Exchange] = []
    kept, notes = [], []
    for round_ in rounds:
        try:
            each = folder.exchange(capture, client, round_)
            check_finite(layout, each)
        except ValueError as error:
            refused = error
            notes.append(f'{LEFT_OUT} {round_}: {error}')
            continue
        kept.append(round_)
        found.append(each)
    if not found:
        raise refused
    return kept, found, notes


def check_finite(layout: names.Layout, exchange: folder.Exchange) -> None:
    """Refuses arrays of the model that are not finite.

    Raises:
        ValueError: naming the array.
    """
    for name in {source.name for source in layout.leaves.values()}:
        both = (part[name] for part in (exchange.sent, exchange.returned) if name in part)
        if not all(np.all(np.isfinite(_wide(leaf))) for leaf in both):
            raise ValueError(
                f'{name} has NaN or infinity: that training went wrong, or the file did.'
            )


def _lost(seen: Sequence[Mapping[str, np.ndarray]], batches: Sequence[np.ndarray | None]) -> float:
    """The share of numbers that are 0, of the rows of the batches and the scorer."""
    leaves = [
        leaf[batch] if name.startswith('items/') and batch is not None else leaf
        for each, batch in zip(seen, batches, strict=True)
        for name, leaf in each.items()
    ]
    return 1 - float(sum(map(np.count_nonzero, leaves)) / sum(leaf.size for leaf in leaves))


def _wide(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(np.float64)


def upload(layout: names.Layout, exchange: folder.Exchange) -> dict[str, np.ndarray]:
    """What the server subtracts, by the model's names, in the dtype that was returned."""
    returned = names.take(layout, exchange.returned)
    if exchange.kind == 'gradient':
        return returned
    if exchange.kind == 'delta':
        return {name: -leaf for name, leaf in returned.items()}
    sent = names.take(layout, exchange.sent)
    for name, leaf in returned.items():
        if name in sent and sent[name].shape != leaf.shape:
            raise ValueError(
                f'{layout.leaves[name].name} was sent with shape {sent[name].shape} and returned '
                f'with {leaf.shape}.'
            )
    return {
        name: (_wide(sent[name]) - _wide(leaf)).astype(leaf.dtype)
        for name, leaf in returned.items()
        if name in sent
    }


def unflatten(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The tree of leaves by the model's names.

    Example:
        >>> unflatten({'items/a': 1, 'scorer/b/c': 2})
        {'items': {'a': 1}, 'scorer': {'b': {'c': 2}}}
    """
    found: dict[str, Any] = flax.traverse_util.unflatten_dict(leaves, sep='/')
    return found


def _row_norms(leaf: np.ndarray) -> np.ndarray:
    return np.linalg.norm(_wide(leaf).reshape(len(leaf), -1), axis=1)


def _rounding(leaf: np.ndarray) -> np.ndarray:
    """The rounding of each row of weights."""
    return _ROUNDING * float(ml_dtypes.finfo(leaf.dtype).eps) * _row_norms(leaf)


def decay(
    sent: Mapping[str, np.ndarray], seen: Mapping[str, np.ndarray], rows: Sequence[str]
) -> float:
    """The share of itself by which rows shrink that do nothing else; 0 where rows stay."""
    name = max(rows, key=lambda name: sent[name].ndim)
    start, moved = (_wide(of[name]).reshape(len(of[name]), -1) for of in (sent, seen))
    if np.mean(np.any(moved != 0, axis=1)) < _MOST_MOVED:
        return 0.0
    squares = np.maximum(np.sum(start**2, axis=1), np.finfo(float).tiny)
    shares = np.sum(start * moved, axis=1) / squares
    rounding = _rounding(sent[name])
    alone = _row_norms(moved - shares[:, None] * start) <= rounding
    alone &= _row_norms(moved) > rounding
    return float(np.median(shares[alone])) if np.mean(alone) > _FEWEST_ALONE else 0.0


def _moved(
    sent: Mapping[str, np.ndarray],
    seen: Mapping[str, np.ndarray],
    rows: Sequence[str],
    decay: float,
) -> np.ndarray:
    """The items whose rows move, other than by the decay."""
    moved = np.zeros(len(seen[rows[0]]), bool)
    for name in rows:
        left = _wide(seen[name]) - decay * _wide(sent[name])
        if decay:
            moved |= _row_norms(left) > _rounding(sent[name])
        else:
            moved |= np.any(left.reshape(len(left), -1) != 0, axis=1)
    return np.nonzero(moved)[0]


def _transcript(
    rounds: Sequence[int],
    sent: Sequence[Mapping[str, np.ndarray]],
    seen: Sequence[Mapping[str, np.ndarray]],
    batches: Sequence[np.ndarray] | None,
    num_items: int,
) -> Transcript:
    """The rows of all batches' items, and where each batch has them."""
    items = np.arange(num_items) if batches is None else np.unique(np.concatenate(batches))
    weights = slot = None
    if batches is not None:
        if not len(items):
            raise ValueError('No item row moved in any round: nothing was learned, or lost.')
        size = max(map(len, batches))
        slot = np.zeros((len(rounds), size), np.int32)
        weights = np.zeros((len(rounds), size))
        for step, batch in enumerate(batches):
            slot[step, : len(batch)] = np.searchsorted(items, batch)
            weights[step, : len(batch)] = 1
        if all(np.array_equal(batch, items) for batch in batches):
            slot = None

    def stack(leaves: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        stacked = {}
        for name in leaves[0]:
            parts = [each[name] for each in leaves]
            if name.startswith('items/'):
                parts = [part[items] for part in parts]
            stacked[name] = np.stack(parts)
        return unflatten(stacked)

    return Transcript(
        shared={'items': {}, 'scorer': {}, **stack(sent)},
        seen=stack(seen),
        rounds=np.asarray(rounds, np.int32),
        participated=np.ones(len(rounds), bool),
        items=items.astype(np.int32),
        slot=slot,
        weights=weights,
        log_odds=np.zeros(len(items)),
    )
