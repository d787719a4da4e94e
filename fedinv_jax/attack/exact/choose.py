"""The strongest attack that applies: what the seen uploads determine, solved for directly.

`probing.probe` finds out, once, what holds of every client; `choose` takes the member that follows.
"""

from collections.abc import Callable
from typing import NamedTuple

from fedinv_jax.attack.exact import (
    alignment,
    closed_form,
    gauss_newton,
    item_rows,
    unknown_batch,
    unknown_scale,
)
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.types import Answer, Transcript


class Choice(NamedTuple):
    """A member, why it was taken, and the attack: `attack(transcript, key) -> Answer`.

    `why` is empty where the member was asked for.
    """

    solver: str
    why: str
    attack: Attack


def choose(known: Known, batch_known: bool = True, solver: str = 'auto') -> Choice:
    """The strongest member that applies, with the reason, or the one that is asked for.

    Args:
        known: from `probing.probe`.
        batch_known: whether the transcripts hold the batch's items.
        solver: 'auto' or a member's name.

    Raises:
        ValueError: if the member does not apply, or does not exist.
    """
    name, why = _strongest(known, batch_known) if solver == 'auto' else (solver, '')
    if name not in MEMBERS:
        raise ValueError(f'Unknown solver={solver!r}; choices: auto, {", ".join(sorted(MEMBERS))}.')
    return Choice(name, why, MEMBERS[name](known))


def _by_rows(attack: Callable[[Transcript, float, bool], Answer]) -> Callable[[Known], Attack]:
    """The member that reads item rows, neither the model nor the loss, nor anything at random."""
    return lambda known: lambda transcript, key: attack(transcript, known.positives, known.largest)


MEMBERS: dict[str, Callable[[Known], Attack]] = {
    'aligned': alignment.aligned,
    'closed_form': closed_form.closed_form,
    'levels': _by_rows(item_rows.levels),
    'approximate_embedding': alignment.approximate_embedding,
    'scaled': unknown_scale.scaled,
    'sign': alignment.sign,
    'sparse': unknown_batch.unknown_batch,
    'spectral': _by_rows(item_rows.spectral),
    'summed': _by_rows(item_rows.summed),
    'variable_projection': gauss_newton.variable_projection,
}


def _strongest(known: Known, batch_known: bool) -> tuple[str, str]:
    found = known.recovery
    if not batch_known:
        return (
            'sparse',
            'the batch is unknown: p is exact at every step, and the upload is a sparse sum of '
            'what each item of the catalogue alone would upload; public popularity is a prior',
        )
    if known.structure.affine and found is not None:
        if found.bias is not None:
            return (
                'closed_form',
                f'{found.kernel} is p times {found.bias}: p is exact at every step, and the upload '
                'is affine in the labels; where equations are scarce, public popularity tells '
                'labels apart',
            )
        return (
            'scaled',
            f'{found.kernel} is of rank one along p: p is known up to a scalar, searched for; if '
            'both signs fit, fewer interactions than negatives are taken',
        )
    if known.structure.items and not known.structure.affine:
        near = known.approximate_recovery
        if near is not None and near.bias is not None:
            return (
                'approximate_embedding',
                'the upload is not affine in the labels (several local steps, clipping): '
                f'{near.kernel} and {near.bias} give p away roughly, which tells the two '
                'directions of each item row apart',
            )
        return 'levels', 'several local steps, item rows only: the rows fall into two classes'
    if known.structure.items:
        return (
            'aligned',
            'no leaf gives p away, but each item row is along a direction that p turns only '
            'roughly: p is searched for that aligns them',
        )
    if not known.structure.affine:
        return (
            'variable_projection',
            'several local steps, no item rows: the upload is not affine in the labels, which '
            'Gauss-Newton on the replayed client finds together with p',
        )
    raise ValueError(
        'No member of the exact attack applies: neither item rows nor a leaf that is the private '
        'embedding times something are seen (a kernel over concatenated inputs is not taken '
        "apart); use attack.name='mgradinv'."
    )
