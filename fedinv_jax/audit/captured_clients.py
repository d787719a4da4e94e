"""What attacks each client of a capture: its own uploads, or the sums that it is in."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from fedinv_jax.audit import captured, captured_sums, progress
from fedinv_jax.audit import config as config_lib
from fedinv_jax.capture import folder as folder_lib
from fedinv_jax.capture import own as own_model
from fedinv_jax.capture import sums as sums_lib
from fedinv_jax.capture import uploads

Attack = Callable[[], tuple[captured.Found | str, Sequence[str]]]
"""An answer for a client, or why there is none; and notes on its uploads."""
_RESTARTS = 4  # of MGradInv, where no exact attack applies


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
    said: dict[str, Any] = {'why': [], 'contradicts': False, 'letter': _letter(details=True)}
    if summed is not None:
        log('separating sums ...')
        with progress.bar('separating sums', on=True) as update:
            separated = captured_sums.separate(captured.subject(capture, own), summed, update)
        log(separated.why)
        said['why'].append(separated.why)
        for client, answer in separated.found.items():
            found[client] = functools.partial(_same, answer, summed.notes)
    if capture.clients:
        decision = _decide(capture, most, own, log)
        model_fits = decision.attack is not None and decision.fits is not False
        said['why'] += decision.why
        said |= {'contradicts': decision.contradicts}
        said |= {'letter': _letter(details=model_fits and decision.reading.sized)}
        for client in capture.clients:
            found[client] = functools.partial(_of_uploads, capture, client, decision, most)
    return found, said


def _of_uploads(
    capture: folder_lib.Capture, client: str, decision: captured.Decision, most: int
) -> tuple[captured.Found | str, Sequence[str]]:
    """The answer for a client whose uploads are seen, or why there is none; and notes."""
    notes: Sequence[str] = ()
    try:
        found = uploads.captured(capture, client, decision.subject.layout, most)
        notes = found.notes
        return captured.answer(decision, found), notes
    except ValueError as error:
        return str(error), notes


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
    """How the capture is read, in words as well."""
    config = config_lib.default_config()
    config.attack.num_restarts = _RESTARTS
    log(
        'trying how the capture is to be read, on up to three clients; each attack is compiled, '
        'which takes a minute or more ...'
    )
    decision = captured.decide(config, capture, most, own)
    for line in decision.why:
        log(line)
    return decision


def _same(
    found: captured.Found | str, notes: Sequence[str]
) -> tuple[captured.Found | str, Sequence[str]]:
    return found, notes
