"""What attacks each client of a capture: its own uploads, or the sums that it is in."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fedinv_jax.audit import captured, captured_sums, progress
from fedinv_jax.audit import config as config_lib
from fedinv_jax.capture import folder as folder_lib
from fedinv_jax.capture import own as own_model
from fedinv_jax.capture import sums as sums_lib
from fedinv_jax.capture import uploads

_RESTARTS = 4  # of MGradInv, where no exact attack applies


class Outcome(NamedTuple):
    """What came out for a client.

    Attributes:
        found: the answer, or why there is none.
        notes: on its uploads.
        seconds: that it took.
    """

    found: captured.Found | str
    notes: Sequence[str]
    seconds: float


Attack = Callable[[], Outcome]


def attacks(
    capture: folder_lib.Capture,
    summed: sums_lib.Summed | None,
    most: int,
    own: own_model.Own | None,
    log: Callable[[str], None],
) -> tuple[dict[str, Attack], dict[str, Any]]:
    """By client what attacks it, and what is said of that: `reading.json`.

    Args:
        capture: the capture.
        summed: what is seen of clients only in sums; None: nothing.
        most: number of uploads that are used of a client, the first ones.
        own: the user's own model; None: it is recognised.
        log: prints a line.
    """
    found: dict[str, Attack] = {}
    why: list[str] = []
    contradicts, details = False, False
    if summed is not None:
        log('separating sums ...')
        with progress.bar('separating sums', on=True) as update:
            separated = captured_sums.separate(captured.subject(capture, own), summed, update)
        why += separated.why
        contradicts, details = separated.contradicts, separated.modelled
        for client, answer in separated.found.items():
            found[client] = functools.partial(Outcome, answer, (), separated.seconds)
    if capture.clients:
        try:
            decision = _decide(capture, most, own, log)
        except ValueError as error:
            if summed is None:
                raise
            found |= dict.fromkeys(capture.clients, functools.partial(Outcome, str(error), (), 0.0))
        else:
            why += decision.why
            contradicts |= decision.contradicts
            fits = decision.attack is not None and decision.fits is not False
            details |= fits and decision.reading.sized
            for client in capture.clients:
                found[client] = functools.partial(_of_uploads, capture, client, decision, most)
    for line in why:
        log(line.replace('**', ''))
    return found, {'why': why, 'contradicts': contradicts, 'letter': _letter(details)}


def _of_uploads(
    capture: folder_lib.Capture, client: str, decision: captured.Decision, most: int
) -> Outcome:
    """The answer for a client whose uploads are seen, or why there is none; and notes."""
    notes: Sequence[str] = ()
    start = time.perf_counter()
    found: captured.Found | str
    try:
        seen = uploads.captured(capture, client, decision.subject.layout, most)
        notes = seen.notes
        found = captured.answer(decision, seen)
    except ValueError as error:
        found = str(error)
    return Outcome(found, notes, time.perf_counter() - start)


def _letter(details: bool) -> str:
    """The threat model of Carletti et al. (USENIX Security 2025), by its table of knowledge.

    Args:
        details: whether details of the training are used, not the model alone.
    """
    if details:
        words = 'C, parameter-aware eavesdropper: uploads, the model, details of the training'
    else:
        words = 'B, informed eavesdropper: uploads and the model'
    return (
        f'threat model {words} (Carletti et al., USENIX Security 2025); '
        'popularity, where the truth is given, is of D, which has data of others'
    )


def _decide(
    capture: folder_lib.Capture,
    most: int,
    own: own_model.Own | None,
    log: Callable[[str], None],
) -> captured.Decision:
    """How the uploads of the capture are read."""
    config = config_lib.default_config()
    config.attack.num_restarts = _RESTARTS
    log(
        'trying how the capture is to be read, on up to three clients; each attack is compiled, '
        'which takes a minute or more ...'
    )
    return captured.decide(config, capture, most, own)
