"""Attacks on the clients of a capture: what it says of the training, what fits, and the answers.

A capture rarely says everything. What it leaves open (mean or sum of the loss, the sign of a
difference, the halves of a first layer, the size of a step) is decided by the residual: a reading
is taken where the uploads of most of the first clients are explained by it to rounding.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedinv_jax import compilation, tree
from fedinv_jax.attack.exact import item_rows
from fedinv_jax.audit import (
    changed_uploads,
    described,
    misfit,
    padding,
    readings,
    registry,
    scoring,
)
from fedinv_jax.audit.config import Config
from fedinv_jax.capture import folder, names, uploads
from fedinv_jax.capture import own as own_model
from fedinv_jax.types import Answer, Model, Transcript

_JUDGES = 3  # clients whose uploads decide between readings, those with the fewest candidates
_AMONG = 30  # of the first clients
_HALF, _MOST_LOST = ('float16', 'bfloat16'), 0.5  # of the numbers, in the rounding of weights
_NEGATIVES = 4  # for each interaction, where the capture does not say it
_OTHERWISE = (
    '**This is not what the capture says**: learning_rate or reduction of capture.json, or the '
    'sign of what was recorded, is wrong; correct it and audit again'
)
WITHOUT_A_MODEL = 'levels'
"""The attack on item rows where no description of the client fits."""


class Found(NamedTuple):
    """The answer for one client.

    Attributes:
        seen: the transcript that was attacked, without padding.
        answer: of the attack, without padding.
        solver: what solved it.
        kept: the solver whose answer was kept, where several were compared; None elsewhere.
        fits: whether the uploads are what the reading says of the client; None if unknown.
    """

    seen: Transcript
    answer: Answer
    solver: str | None
    kept: str | None
    fits: bool | None


Attack = Callable[[uploads.Captured], Found]


class Subject(NamedTuple):
    """What is attacked.

    Attributes:
        known: the fields of capture.json, and the weight decay that was found.
        layout: of the model.
        make_model: `make_model(K) -> Model` of the user's own; None for a model that is recognised.
    """

    known: Mapping[str, Any]
    layout: names.Layout
    make_model: Callable[[int], Model] | None


def subject(
    capture: folder.Capture, own: own_model.Own | None, user_first: bool | None = None
) -> Subject:
    """What is attacked of a capture.

    Args:
        capture: the capture.
        own: the user's own model; None: it is recognised by names and shapes.
        user_first: as in `names.recognise`; None: what capture.json says, or True.

    Raises:
        ValueError: if no model has these arrays.
    """
    if own is None:
        return Subject(capture.known, uploads.layout(capture, user_first), None)
    sent = uploads.first_sent(capture)
    layout = own_model.layout(own, sent, capture.known.get('item_leaves'))
    return Subject(capture.known, layout, own_model.model(own, layout, sent))


def attack_of(
    config: Config, subject: Subject, reading: readings.Reading, kept: dict[Any, Any]
) -> Attack:
    """The attack on the clients of a capture that are read in one way.

    Clients whose batches have about the same size share what is compiled, and so do readings.

    Args:
        config: whose first attack is used.
        subject: what is attacked.
        reading: how uploads are read.
        kept: what was compiled so far.

    Raises:
        ValueError: (from the attack) if no attack applies.
    """

    def attack(found: uploads.Captured) -> Found:
        config_of = config.copy_and_resolve_references()
        config_of.attack.step_sizes_known = reading.sized
        config_of.data.negatives_per_positive = num_negatives(subject.known)
        changes = found.transcript.slot is not None
        config_of.data.resample_negatives = changes or bool(subject.known.get('resample_negatives'))
        size = padding.size(len(found.transcript.items), subject.layout.num_items)
        factor = reading.sign / (_num_examples(found.transcript) if reading.summed else 1)
        alone = _without_decay(found, subject.known, reading.sign)
        seen = padding.padded(changed_uploads.scaled(alone, factor), size)
        meta = readings.description(subject.known, subject.layout, found.kind, reading)
        what = json.dumps([meta, reading.sized, list(config.attack.name)])
        key = what, size, len(seen.rounds), None if seen.slot is None else seen.slot.shape[1]
        if key not in kept:
            target, seen = described.target(config_of, seen, meta, subject.make_model)
            # What is probed depends on no size.
            probe = kept.setdefault(what, target.probe)
            choice = registry.ATTACKS[target.attack].make(target._replace(probe=probe))
            kept[key] = choice, misfit.solver(target, choice)
        choice, solve = kept[key]
        with jax.enable_x64():
            answer = solve(tree.cast_floats(seen, np.dtype('float64')))
        there = bool(np.isfinite(answer.objective))
        return _unpadded(found.transcript, answer)._replace(
            solver=choice.solver,
            kept=None if answer.kept is None else choice.compared[int(answer.kept)],
            fits=scoring.fits_of(answer.fits) if there else None,
        )

    return attack


def num_negatives(known: Mapping[str, Any]) -> int:
    """Negatives for each interaction."""
    return int(known.get('negatives_per_positive', _NEGATIVES))


def rate(known: Mapping[str, Any], kind: str) -> float:
    """The size of a step, by which an upload of that kind is multiplied."""
    return 1.0 if kind == 'gradient' else float(known.get('learning_rate', 1.0))


def _without_decay(found: uploads.Captured, known: Mapping[str, Any], sign: float) -> Transcript:
    """A single step without what it owes to weight decay."""
    seen = found.transcript
    if not known['weight_decay'] or not readings.is_one_step(known):
        return seen
    share = sign * known['weight_decay'] * rate(known, found.kind)
    left = jax.tree.map(
        lambda leaf, sent: leaf - share * sent, seen.seen, changed_uploads.like(seen)
    )
    return dataclasses.replace(seen, seen=left)


def _num_examples(seen: Transcript) -> float:
    """Of one batch."""
    return float(np.sum(seen.weights[0])) if seen.weights is not None else 1.0


def without_a_model(found: uploads.Captured, share: float, num_items: int) -> Found:
    """The answer of the attack that needs item rows and no model.

    Args:
        found: the uploads of a client.
        share: of interactions among the candidates.
        num_items: of the catalogue.

    Raises:
        ValueError: if no item rows are seen.
    """
    seen = padding.padded(found.transcript, padding.size(len(found.transcript.items), num_items))
    with jax.enable_x64():
        answer = jax.device_get(_levels(tree.cast_floats(seen, np.dtype('float64')), share))
    return _unpadded(found.transcript, answer)._replace(solver=WITHOUT_A_MODEL)


_levels = compilation.jit(item_rows.levels)


class Decision(NamedTuple):
    """How a capture is read.

    Attributes:
        reading: the one that fits, or the first one.
        attack: on a client; None where no attack on the described client applies.
        fits: whether the uploads of most of the first clients are what the reading says; None if
            that cannot be told.
        why: sentences for the report: what was assumed or tried, and what did not fit.
        subject: what is attacked, in this reading.
        contradicts: whether the reading that fits is another one than the capture says: uploads of
            the other sign, or a step of another size than its learning rate.
    """

    reading: readings.Reading
    attack: Attack | None
    fits: bool | None
    why: tuple[str, ...]
    subject: Subject
    contradicts: bool = False


def decide(
    config: Config, capture: folder.Capture, most: int, own: own_model.Own | None = None
) -> Decision:
    """The first reading that explains the uploads of most of the first clients.

    MGradInv is taken where no exact attack applies.

    Args:
        config: of the attacks; its `attack.name` is replaced.
        capture: the capture.
        most: number of uploads of a client.
        own: the user's own model; None: it is recognised by names and shapes.
    """
    exact = _decide(config, capture, most, own, 'exact')
    if exact.attack is not None:
        return exact
    search = _decide(config, capture, most, own, 'mgradinv')
    return search._replace(why=(*exact.why, *search.why))


def _decide(
    config: Config, capture: folder.Capture, most: int, own: own_model.Own | None, name: str
) -> Decision:
    """`decide` for one attack."""
    config = config.copy_and_resolve_references()
    config.attack.name = (name,)
    base = subject(capture, own)
    splits = any(source.inputs for source in base.layout.leaves.values())
    first, judges = _judges(capture, base.layout, most)
    kept: dict[Any, Any] = {}
    kind, known = judges[0].kind, _with_decay(capture.known, judges)
    tried: list[Decision] = []
    for reading in readings.readings(known, kind, splits):
        read = base if own is not None else subject(capture, None, reading.user_first)
        read = read._replace(known=known)
        attack = attack_of(config, read, reading, kept)
        found = Decision(reading, attack, None, (), read)
        try:
            fits = [attack(uploads.captured(capture, who, read.layout, most)).fits for who in first]
        except ValueError as error:
            refused = (f'{name} does not apply: {error}',)
            tried.append(found._replace(attack=None, why=refused))
            continue
        is_told, refuted = {True, False} & set(fits), any(each.attack for each in tried)
        if not is_told and not refuted:
            return found
        if fits.count(True) > fits.count(False):
            assumed: tuple[str, ...]
            assumed = (f'read with {reading.words}: nothing else fits',) * bool(reading.words)
            other = reading.sign < 0 or (not reading.sized and 'learning_rate' in known)
            assumed += (_OTHERWISE,) * other
            return found._replace(fits=True, why=assumed, contradicts=other)
        tried.append(found)
    if all(each.attack is None for each in tried):
        return tried[0]
    words = '; '.join(each.reading.words or 'as described' for each in tried)
    why = f'none of these readings is seen to fit: {words}'
    return tried[0]._replace(fits=False, why=(why,))


def _with_decay(known: Mapping[str, Any], judges: Sequence[uploads.Captured]) -> Mapping[str, Any]:
    """What is known, and where it is not said, the weight decay by which rows shrink."""
    share = max(abs(each.decay) for each in judges)
    return {'weight_decay': share / rate(known, judges[0].kind), **known}


def _judges(
    capture: folder.Capture, layout: names.Layout, most: int
) -> tuple[list[str], list[uploads.Captured]]:
    """Clients whose uploads decide, of the first ones: small batches are solved fast.

    Raises:
        ValueError: if the uploads of none of them can be read.
    """
    found: list[tuple[int, str, uploads.Captured]] = []
    for who in list(capture.clients)[:_AMONG]:
        try:
            each = uploads.captured(capture, who, layout, most)
        except ValueError as error:  # the row of that client will say it
            refused = error
            continue
        found.append((len(each.transcript.items), who, each))
    if not found:
        raise refused
    found.sort(key=lambda each: each[:2])
    return [who for _, who, _ in found[:_JUDGES]], [each for *_, each in found[:_JUDGES]]


def answer(decision: Decision, found: uploads.Captured) -> Found:
    """The answer for one client, of the attack that was decided on, or of one without a model.

    Args:
        decision: how the capture is read.
        found: the uploads of the client.

    Raises:
        ValueError: if no attack applies: none is made for the described client, and no item rows
            are seen; most of the upload is lost in the rounding of weights; or the objective is
            not finite.
    """
    if found.kind == 'returned' and found.coarsest in _HALF and found.lost > _MOST_LOST:
        raise ValueError(
            f'{found.lost:.0%} of the numbers came back as they were sent: training moved them by '
            f'less than the rounding of {found.coarsest} weights. What is left does not tell the '
            'interactions'
        )
    if decision.attack is not None and decision.fits is not False:
        result = decision.attack(found)
        if not np.isfinite(result.answer.objective):
            raise ValueError('the objective is not finite')
        return result
    if 'items' not in found.transcript.seen:
        raise ValueError(f'no item rows are seen, and {"; ".join(decision.why)}')
    known, layout = decision.subject.known, decision.subject.layout
    result = without_a_model(found, 1 / (1 + num_negatives(known)), layout.num_items)
    return result._replace(fits=decision.fits)


def _unpadded(seen: Transcript, answer: Answer) -> Found:
    """An answer without the scores and labels of padding."""
    count = len(seen.items)
    kept = answer._replace(scores=answer.scores[:count], labels=answer.labels[:count])
    return Found(seen, kept, None, None, None)
