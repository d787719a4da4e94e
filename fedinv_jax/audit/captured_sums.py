"""Attacks on clients that a capture shows only in sums (secure aggregation)."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax.attack import unmix
from fedinv_jax.attack.exact import item_rows
from fedinv_jax.audit import captured, described, member, readings, training, unmixing
from fedinv_jax.audit import config as config_lib
from fedinv_jax.capture import sums as sums_lib
from fedinv_jax.types import Answer, Array, ClientUpdate, Leaf, Model, PyTree, Sums, Transcript

_STILL = (
    'no item moved in the sums: the movement is below the rounding of what was recorded, or this '
    'client was not in them'
)


class Separated(NamedTuple):
    """The answers for the clients of sums.

    Attributes:
        found: by client; a sentence where there is no answer.
        why: sentences for the report: what was seen and how it was read.
        modelled: whether the model was used.
        contradicts: whether far more or fewer interactions were found than the sums can be of.
        seconds: that it took, for each client.
    """

    found: dict[str, captured.Found | str]
    why: tuple[str, ...]
    modelled: bool = False
    contradicts: bool = False
    seconds: float = 0.0


def separate(
    subject: captured.Subject,
    summed: sums_lib.Summed,
    update: Callable[[int, int], None] = lambda done, total: None,
) -> Separated:
    """Labels of all clients of the sums, whose batches are not known.

    What a client may have is bounded by what its sums do not move (`unmix.possible`). Where the
    rows of items are alike for all clients and clients take a single step of known size, each
    round is replayed (`unmix.catalogue_labels`); elsewhere the mean rows of each client are read
    (`unmix.mean_rows`, `item_rows.projection`).

    Args:
        subject: what is attacked.
        summed: the sums of the capture.
        update: called with (done, in total).

    Returns:
        The answers; none is certified.
    """
    sums, known = summed.sums, subject.known
    if 'items' not in sums.seen[0]:
        why = 'no item rows are in the sums, and nothing else is read from sums'
        return Separated(dict.fromkeys(summed.clients, why), (why,))
    start = time.perf_counter()
    number, size = summed.moved.shape[2], batch_size(summed)
    interactions = max(size / (1 + captured.num_negatives(known)), 1.0)
    with jax.enable_x64():
        replay = _replay(subject, number)
        # That a row stays says nothing where all units of a ReLU may be off.
        alive = jax.jit(functools.partial(unmix.alive, replay.of_bce, replay.privates))
        moved = summed.moved | ~np.stack([alive(shared) for shared in sums.shared])[:, None]
        possible = unmix.possible(np.asarray(sums.members), moved)
        if not possible.any():
            return Separated(dict.fromkeys(summed.clients, _STILL), (_STILL, *summed.notes))
        if refusal := _refusal(subject, summed.kind, replay):
            reader, why = 'projection', f' (not replayed: {refusal})'
            answers = _projected(summed, possible, interactions, update)
        else:
            reader, why = 'replay', ''
            answers = _replayed(subject, summed, replay, possible, size, update)
    answers = jax.device_get(answers)
    found: dict[str, captured.Found | str] = {}
    for column, (client, alike) in enumerate(zip(summed.clients, _alike(sums), strict=True)):
        if len(alike) > 1:
            other = next(each for each in alike if each != column)
            found[client] = (
                f'always in the same sums as {len(alike) - 1} others, such as '
                f'{summed.clients[other]!r}: nothing tells their uploads apart'
            )
            continue
        items = np.flatnonzero(possible[column])
        if not items.size:
            found[client] = _STILL
            continue
        one = jax.tree.map(lambda leaf, column=column: leaf[column], answers)
        own = one._replace(scores=one.scores[items], labels=one.labels[items])
        rounds = np.asarray(sums.rounds)[np.asarray(sums.members)[:, column] >= 0]
        seen = dataclasses.replace(
            _transcript(possible[column], None), items=items, rounds=rounds, weights=None
        )
        found[client] = captured.Found(seen, own, f'unmix, {reader}', None, None)
    counts = [np.sum(each.answer.labels) for each in found.values() if not isinstance(each, str)]
    many = float(np.mean(counts)) if counts else interactions
    wrong = not 0.5 < many / interactions < 2
    said = (_about(summed, possible, reader) + why, *summed.notes)
    if wrong:
        said += (
            f'**{many:.0f} interactions are found of a client, where the rows that move let expect '
            f'{interactions:.0f}**: the sign, the learning rate or the reduction is not what the '
            'capture says, or something else moves the rows. The answers are not to be relied on',
        )
    seconds = (time.perf_counter() - start) / len(summed.clients)
    return Separated(found, said, reader == 'replay', wrong, seconds)


def _alike(sums: Sums) -> list[np.ndarray]:
    """For each client, those that are always in the same sums, itself too."""
    which = np.unique(np.asarray(sums.members), axis=1, return_inverse=True)[1].ravel()
    return [np.flatnonzero(which == own) for own in which]


def _transcript(possible: Leaf, rows: Leaf) -> Transcript:
    """One round of a client with the items `[N]` that it may have, and rows `[N, F]` of them."""
    return Transcript(
        shared={},
        seen={} if rows is None else {'items': {'label': rows[None]}},
        rounds=np.zeros(1, int),
        participated=np.ones(1, bool),
        items=np.arange(len(possible)),
        slot=None,
        weights=possible[None],
        log_odds=np.zeros(len(possible)),
    )


def batch_size(summed: sums_lib.Summed) -> float:
    """The mean number of items of a client's batch.

    By the share f of rows that a sum of n clients moves, `f = 1 - (1 - b/N)^n`: an underestimate
    where clients have the same items.
    """
    counts = np.stack(
        [
            np.sum(np.asarray(summed.sums.members) == g, axis=1)
            for g in range(summed.moved.shape[1])
        ],
        axis=1,
    )
    number = summed.moved.shape[2]
    stay = np.maximum(1 - summed.moved.mean(axis=2), 0.5 / number)
    each = 1 - stay ** (1 / np.maximum(counts, 1))
    return float(number * np.mean(each[counts > 0]))


class _Replay(NamedTuple):
    """What replays a single gradient of a mean client.

    Attributes:
        config: that describes the client.
        model: of the catalogue.
        client_update: one client, one gradient.
        of_bce: the same with the loss BCE, whose rows move whatever the labels are.
        privates: draws of the private parameters.
    """

    config: config_lib.Config
    model: Model
    client_update: ClientUpdate
    of_bce: ClientUpdate
    privates: PyTree


def _replay(subject: captured.Subject, number: int) -> _Replay:
    """What replays a gradient of a client of the capture on a catalogue of `number` items."""
    meta = {'client': {'name': 'gradient_step', 'loss': subject.known.get('loss', 'bce')}}
    if subject.make_model is None:
        meta['model'] = dict(subject.layout.model)
    config = described.configured(config_lib.default_config(), meta)
    recognised = functools.partial(training.make_model, config.model)
    model = (subject.make_model or recognised)(number)
    drawn = jax.vmap(model.init_private)(jax.random.split(jax.random.key(0), unmixing.PRIVATES))
    bce = described.configured(config, {'client': {'loss': 'bce'}})
    own, of_bce = (member.mean_gradient(each, model) for each in (config, bce))
    return _Replay(config, model, own, of_bce, drawn)


def _refusal(subject: captured.Subject, kind: str, replay: _Replay) -> str:
    """Why a round cannot be replayed; '' where it can."""
    if kind != 'gradient' and not readings.is_one_step(subject.known):
        return 'clients do other than a single step of gradient descent'
    if kind != 'gradient' and 'learning_rate' not in subject.known:
        return 'the learning rate is not known'
    try:
        member.check_agreement(replay.config, replay.model)
    except ValueError:
        return 'rows are not alike for all clients'
    return ''


def _replayed(
    subject: captured.Subject,
    summed: sums_lib.Summed,
    replay: _Replay,
    possible: np.ndarray,
    size: float,
    update: Callable[[int, int], None],
) -> Answer:
    """Answers of all clients, each round replayed."""
    known, weights = subject.known, summed.weights
    summed_loss = known.get('reduction') == 'sum'
    if not summed_loss:  # by the size of a batch, which is estimated with the labels
        weights = np.full(len(weights), np.mean(weights) / size)
    negatives = captured.num_negatives(known)
    share = size / (1 + negatives) / possible.shape[1]
    labels = unmix.catalogue_labels(
        summed.sums,
        range(len(weights)),
        functools.partial(unmix.replayed_rows, replay.client_update, replay.privates),
        share,
        negatives * share,
        captured.rate(known, summed.kind) * weights,
        unmixing.BOUNDED,
        update,
        possible,
        sizes_known=summed_loss,
    )
    read = jax.vmap(lambda own, able: unmix.read_labels(_transcript(able, own)))
    return read(labels[..., None], possible)


def _projected(
    summed: sums_lib.Summed,
    possible: np.ndarray,
    interactions: float,
    update: Callable[[int, int], None],
) -> Answer:
    """Answers of all clients, of the mean rows of the items that each may have."""
    count, number = possible.shape
    sums = summed.sums._replace(
        items=np.broadcast_to(np.arange(number), possible.shape), weights=possible.astype(float)
    )
    rows = unmix.mean_rows(sums, range(count), None, update)

    def one(own: tuple[Array, Array]) -> Answer:
        rows, able = own
        share = interactions / jnp.maximum(jnp.sum(able), 1)
        return item_rows.projection(_transcript(able, rows), share)

    answers: Answer = jax.jit(lambda own: jax.lax.map(one, own))((rows, possible))
    return answers


def _about(summed: sums_lib.Summed, possible: np.ndarray, reader: str) -> str:
    """What was seen, in a sentence."""
    members = np.asarray(summed.sums.members)
    sizes = [int(np.sum(of == g)) for of in members for g in np.unique(of[of >= 0])]
    return (
        f'{len(summed.clients)} clients are seen only in sums: {len(sizes)} sums of '
        f'{min(sizes)} to {max(sizes)} clients in {len(members)} rounds, read by unmix ({reader}); '
        "what stays in its sums is not a client's, which leaves "
        f'{possible.mean():.0%} of the items'
    )
