"""The choice of the strongest exact attack that applies.

`probing.probe` finds out once what holds for every client; `choose` then takes the strongest solver
whose conditions hold.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from fedinv_jax.attack.exact import (
    alignment,
    blocks,
    closed_form,
    coefficients,
    compare,
    item_rows,
    rank_one,
    row_lines,
    unknown_batch,
    unknown_scale,
    unknown_step_sizes,
    variable_projection,
)
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.types import Answer, Key, Transcript


class Choice(NamedTuple):
    """The attack that was chosen.

    Attributes:
        solver: the solver's name.
        why: why it was chosen; empty if the caller named the solver.
        attack: `attack(transcript, key) -> Answer`.
        compared: names of the solvers whose answers are compared, by `Answer.kept`; empty if there
            is only one.
        symmetries: of the client, see `symmetry.flips`: other labels explain every upload as well.
    """

    solver: str
    why: str
    attack: Attack
    compared: tuple[str, ...] = ()
    symmetries: tuple[str, ...] = ()


def choose(known: Known, batch_known: bool = True, solver: str = 'auto') -> Choice:
    """The strongest solver that applies, with the reason, or the one that `solver` names.

    Args:
        known: from `probing.probe`.
        batch_known: whether the transcripts hold the items of the batch.
        solver: 'auto' or a solver's name.

    Raises:
        ValueError: if the solver does not apply, or does not exist.
    """
    if solver != 'auto':
        if solver not in MEMBERS:
            names = ', '.join(sorted(MEMBERS))
            raise ValueError(f'Unknown solver={solver!r}; choices: auto, {names}.')
        if known.grid < 1 and solver not in _OF_RATINGS:
            raise ValueError(
                f'{solver} finds binary labels, not ratings; use {", ".join(_OF_RATINGS)} or auto.'
            )
        return Choice(solver, '', _made(known, solver), (), known.symmetries)
    if known.grid < 1:
        name, why = _of_ratings(known)
        return Choice(name, why, _made(known, name), (), known.symmetries)
    name, why = _strongest(known, batch_known)
    estimates = name != 'coefficients' or (known.linear is not None and known.linear.leaf is None)
    if name not in _COMPARED or not known.structure.items or not estimates:
        return Choice(name, why, _made(known, name), (), known.symmetries)
    # Where entries are dropped or noisy, a search for p by the rows alone can find more.
    searched = name == 'closed_form' and known.lossy and not known.smallest
    compared = (*_WITHOUT_A_MODEL, 'aligned') if searched else _WITHOUT_A_MODEL
    why = f'{why}; where it explains less than {" or ".join(compared)}, theirs are the labels'
    return Choice(name, why, _made(known, name, compared), (name, *compared), known.symmetries)


def _made(known: Known, name: str, compared: Sequence[str] = ()) -> Attack:
    """A solver, compared with others, on uploads of which the leaf `known.block` is split."""

    def finish(known: Known, attack: Attack) -> Attack:
        others = {other: MEMBERS[other](known) for other in compared}
        return compare.best_of(known, attack, others) if others else attack

    if known.step_sizes_known or name in _WITHOUT_STEP_SIZES:
        attack = finish(known, MEMBERS[name](known))
    elif name in ('closed_form', 'coefficients'):
        attack = unknown_step_sizes.estimating(known, finish)
    else:
        raise ValueError(
            f'{name} needs the step sizes of the client: attack.step_sizes_known=True.'
        )

    def precise(transcript: Transcript, key: Key) -> Answer:
        with jax.default_matmul_precision('highest'):  # a GPU's default keeps 11 bits of a float32
            return attack(blocks.split_seen(known.block, transcript), key)

    return precise


def _by_rows(attack: Callable[[Transcript, float, bool], Answer]) -> Callable[[Known], Attack]:
    """A solver that reads item rows only: no model, no loss, no random numbers."""
    return lambda known: lambda transcript, key: attack(transcript, known.positives, known.largest)


MEMBERS: dict[str, Callable[[Known], Attack]] = {
    'aligned': alignment.aligned,
    'closed_form': closed_form.closed_form,
    'coefficients': coefficients.coefficients,
    'levels': _by_rows(item_rows.levels),
    'one_line': row_lines.one_line,
    'approximate_embedding': alignment.approximate_embedding,
    'rank_one': rank_one.rank_one,
    'scaled': unknown_scale.scaled,
    'sign': alignment.sign,
    'sparse': unknown_batch.unknown_batch,
    'spectral': _by_rows(item_rows.spectral),
    'summed': _by_rows(item_rows.summed),
    'two_lines': row_lines.two_lines,
    'variable_projection': variable_projection.variable_projection,
}


# Solvers whose labels may have any value in [0, 1]. The others find signs or classes.
_OF_RATINGS = ('closed_form', 'scaled', 'variable_projection')
_WITHOUT_STEP_SIZES = (
    'levels', 'one_line', 'rank_one', 'sign', 'spectral', 'summed', 'two_lines',
)  # fmt: skip
# Solvers that are compared with those that read item rows only, where rows are seen.
_COMPARED = ('approximate_embedding', 'closed_form', 'coefficients', 'scaled')
_WITHOUT_A_MODEL = ('spectral', 'levels')


def _of_ratings(known: Known) -> tuple[str, str]:
    """The strongest solver for ratings: labels of a grid in place of binary ones."""
    found = known.recovery
    if known.structure.affine and found is not None:
        if found.bias is not None:
            return (
                'closed_form',
                f'{found.kernel} is p times {found.bias}: p is determined exactly at every step, '
                'and the upload is affine in the ratings',
            )
        return (
            'scaled',
            f'{found.kernel} is of rank one along p: p is determined up to a scalar, and that one '
            'is taken whose ratings are nearest to the scale',
        )
    return (
        'variable_projection',
        'no leaf determines p, or the upload is not affine in the ratings: Gauss-Newton on the '
        'replayed client finds ratings and p together',
    )


def _strongest(known: Known, batch_known: bool) -> tuple[str, str]:
    found = known.recovery
    if not batch_known:
        return (
            'sparse',
            'the batch is unknown: p is determined exactly at every step, and the upload is a '
            'sparse sum of the uploads of single items of the catalogue; public popularity, where '
            'it is given, is the prior',
        )
    if known.structure.affine and found is not None and found.bias is not None:
        return (
            'closed_form',
            f'{found.kernel} is p times {found.bias}: p is determined exactly at every step, '
            'and the upload is affine in the labels; if there are too few equations, public '
            'popularity, where it is given, is the prior',
        )
    if known.structure.affine and found is not None and known.step_sizes_known:
        return (
            'scaled',
            f'{found.kernel} is of rank one along p: p is determined up to a scalar, which is '
            'searched for; if both signs fit, the one with fewer interactions is taken',
        )
    sign = 'is the label'
    if not known.signs:
        sign = 'is a guess at the label, as the derivative of this loss may have either sign'
    if known.structure.on_line:
        told = 'the side with fewer rows is that of the interactions'
        if known.structure.signed:
            told = f'{known.structure.signed[0]} says which side is that of the interactions'
        return (
            'one_line',
            f'the rows of {" and ".join(known.structure.on_line)} are multiples of one vector: the '
            f'side on which a row lies {sign}, and {told}',
        )
    if known.structure.on_plane and not known.lossy:
        return (
            'two_lines',
            'the rows of negatives are multiples of one vector, and those of interactions are '
            'displaced by another: two lines in a plane',
        )
    found = None if known.linear is None else known.linear.recovery
    if found is not None and found.bias is not None:
        return (
            'coefficients',
            f'{found.kernel} is p times {found.bias}: p is determined exactly at every step, and '
            "the upload is a linear function of the loss's derivatives in the logits, whose sign "
            f'{sign}',
        )
    mixture = None if known.linear is None else known.linear.mixture
    if mixture is not None and not known.structure.items:
        return (
            'rank_one',
            f'{mixture} is a known mixture of multiples of one vector: it determines '
            "the loss's derivatives in the logits up to a factor, as far as the mixtures of the "
            f'items are independent; the sign {sign}, and the side with fewer items is that of the '
            'interactions',
        )
    if not known.step_sizes_known:
        if known.structure.items:
            return (
                'levels',
                'step sizes are unknown, and no leaf determines p: the rows are split into two '
                'classes',
            )
        raise ValueError(
            'No member of the exact attack applies where step sizes are unknown: neither item rows '
            'are seen nor a layer with bias that multiplies the private embedding; use '
            "attack.name='mgradinv'."
        )
    if known.structure.items and not known.structure.affine:
        near = known.approximate_recovery
        if near is not None and near.bias is not None:
            return (
                'approximate_embedding',
                'the upload is not affine in the labels (several local steps, clipping): '
                f'{near.kernel} and {near.bias} determine p approximately, which is enough to '
                'distinguish the two directions of each item row',
            )
        return (
            'levels',
            'the upload is not affine in the labels (several local steps, or a loss of the batch), '
            'and only item rows are seen: the rows are split into two classes',
        )
    if known.structure.items:
        return (
            'aligned',
            'no leaf determines p, but the direction of each item row depends on p only weakly: '
            'a search finds the p whose predicted rows align with the seen ones',
        )
    if not known.structure.affine:
        return (
            'variable_projection',
            'the upload is not affine in the labels (several local steps, a loss of the batch, or '
            'a graph), and no item rows are seen: Gauss-Newton on the replayed client finds labels '
            'and p together',
        )
    raise ValueError(
        'No member of the exact attack applies: neither item rows are seen nor a leaf that is an '
        "outer product with the private embedding; use attack.name='mgradinv'."
    )
