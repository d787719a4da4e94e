"""The strongest attack that applies: what the seen uploads determine, solved for directly.

`probe` finds out, once, what holds of every client; `choose` takes the member that follows.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedinv_jax.attack import (
    gauss_newton,
    labels,
    leak,
    members,
    members_rows,
    members_scaled,
    sparse,
)
from fedinv_jax.attack.members import Attack, Known
from fedinv_jax.types import ClientUpdate, InitPrivate, Observation

_ROUGH = 0.9  # how far from a multiple of a product a leaf may be, relative to it


class Choice(NamedTuple):
    """A member, why it was taken, and the attack: `attack(transcript, key) -> Answer`."""

    solver: str
    why: str
    attack: Attack


def probe(
    client_update: ClientUpdate,
    observation: Observation,
    init_private: InitPrivate,
    draws: Sequence[leak.Draw],
    rounding: float = 2.0**-24,
    positives: float = 0.2,
) -> Known:
    """Finds out what holds of every client, on random draws, in float64 as a rule."""
    return Known(
        client_update,
        observation,
        init_private,
        labels.probe(client_update, observation, draws),
        leak.find(client_update, observation, draws),
        leak.find(client_update, observation, draws, _ROUGH, scaled=True),
        rounding,
        positives,
        labels.is_lossy(client_update, observation, draws[0]),
    )


def unprobed(
    client_update: ClientUpdate,
    observation: Observation,
    init_private: InitPrivate,
    rounding: float = 2.0**-24,
    positives: float = 0.2,
) -> Known:
    """Nothing is taken for granted: for attacks on the rows of a sum of several clients."""
    nothing = labels.Structure(affine=False, separable=False, outer=(), items=False)
    return Known(client_update, observation, init_private, nothing, None, None, rounding, positives)


def choose(known: Known, batch_known: bool = True, solver: str = 'auto') -> Choice:
    """The strongest member that applies, with the reason, or the one that is asked for.

    Args:
        known: from `probe`.
        batch_known: whether the transcripts hold the batch's items.
        solver: 'auto' or a member's name.

    Raises:
        ValueError: if the member does not apply, or does not exist.
    """
    name, why = _strongest(known, batch_known) if solver == 'auto' else (solver, 'asked for')
    if name not in MEMBERS:
        raise ValueError(f'Unknown solver={solver!r}; choices: auto, {", ".join(sorted(MEMBERS))}.')
    return Choice(name, why, MEMBERS[name](known))


MEMBERS: dict[str, Callable[[Known], Attack]] = {
    'aligned': members_rows.aligned,
    'closed_form': members.closed_form,
    'levels': members_rows.levels,
    'rough': members_rows.rough,
    'scaled': members_scaled.scaled,
    'sign': members_rows.sign,
    'sparse': sparse.unknown_batch,
    'spectral': members_rows.spectral,
    'summed': members_rows.summed,
    'variable_projection': gauss_newton.variable_projection,
}


def _strongest(known: Known, batch_known: bool) -> tuple[str, str]:
    found = known.leak
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
        if known.rough is not None and known.rough.bias is not None:
            return (
                'rough',
                'the upload is not affine in the labels (several local steps, clipping): '
                f'{known.rough.kernel} and {known.rough.bias} give p away roughly, which tells the '
                'two directions of each item row apart',
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
