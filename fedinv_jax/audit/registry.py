"""The attacks that a config can name: ONE table.

The rest of the program reads the table: the config's checks, the settings, compilation and timing,
the rows, attacks on transcript files, `--help`. A new attack needs a function, a row of this table,
and a test.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from fedinv_jax.attack import baselines, recipes, unmix
from fedinv_jax.attack.exact import item_rows
from fedinv_jax.audit import attackers, defences, member, mgradinv
from fedinv_jax.audit.attackers import Choice, Target


class AttackSpec(NamedTuple):
    """One attack.

    Attributes:
        make: `make(target) -> Choice`.
        family: 'baseline' reads no upload; 'descent' and 'recipe' minimise an objective; 'exact'
            solves for the labels.
        summary: one line for `--help`.
        reads_rows: whether the attack needs item rows.
        knows_share: whether it is given the public share of interactions among the candidates.
        has_hypothesis: whether `dynamics.name` applies to it.
        iterates: whether `attack.num_iterations` limits it.
        ends_by_itself: whether it may end before that limit.
        adapts_to: which defences the attack takes into account if it knows them: 'all'; 'shares',
            those that change the share of labels 1 or keep only large entries; or 'none'.
        dtype: float dtype of the attack; None: `attack.dtype`.
        one_client: whether it assumes the upload of one client with binary labels.
        reads_sums: whether it reads the sums of all cohorts (`attack.unmix`).
        labels: which labels it finds: 'binary' ones, 'explicit' ratings, or 'any' in [0, 1].
    """

    make: Callable[[Target], Choice]
    family: Literal['baseline', 'descent', 'recipe', 'exact']
    summary: str
    reads_rows: bool = False
    knows_share: bool = False
    has_hypothesis: bool = False
    iterates: bool = False
    ends_by_itself: bool = False
    adapts_to: Literal['all', 'shares', 'none'] = 'all'
    dtype: str | None = None
    one_client: bool = False
    reads_sums: bool = False
    labels: Literal['binary', 'explicit', 'any'] = 'binary'


def _exact(
    summary: str, reads_rows: bool = True, adapts_to: Literal['all', 'shares', 'none'] = 'all'
) -> AttackSpec:
    return AttackSpec(
        attackers.make_exact, 'exact', summary, reads_rows, adapts_to=adapts_to, dtype='float64'
    )


def _recipe(name: str, summary: str, **facts: Any) -> AttackSpec:
    return AttackSpec(attackers.make_recipe(recipes.RECIPES[name]), 'recipe', summary, **facts)


def _random(target: Target) -> Choice:
    return Choice(
        None, '', lambda transcript, key, _: baselines.random(transcript, key, target.share)
    )


def _intersection(target: Target) -> Choice:
    del target
    return Choice('count', '', lambda transcript, key, _: baselines.intersection(transcript))


REPLAYS = ('replay', 'unrolled')
"""Readers of `unmix` that find labels in the place of rows."""


def _unmix(target: Target) -> Choice:
    """`target.reader` on one upload, the mean of a client's."""
    name = str(target.reader)
    if name in REPLAYS:
        member.check_agreement(target.config, target.model)
        return Choice(name, '', lambda seen, key, _: unmix.read_labels(seen))
    if name == 'projection':
        return Choice(name, '', lambda seen, key, _: item_rows.projection(seen, target.share))
    one = member.alone(target.config)
    made = ATTACKS[name].make(
        target._replace(
            config=one,
            attack=name,
            dynamics='free',
            rounds=(0,),
            adaptive=False,
            probe=functools.partial(attackers.probe, one, target.model),
        )
    )
    return made._replace(solver=name if made.solver is None else made.solver)


def _joint(target: Target) -> Choice:
    if target.reader == 'replay':
        member.check_agreement(target.config, target.model)
    by = target.config.attack.optimizer.name
    return Choice(by, '', lambda seen, key, _: unmix.read_labels(seen))


def _mean_rating(target: Target) -> Choice:
    return Choice(
        None, '', lambda transcript, key, _: baselines.mean_rating(transcript, target.share)
    )


def _popularity(target: Target) -> Choice:
    return Choice(
        None, '', lambda transcript, key, _: baselines.popularity(transcript, target.share)
    )


ATTACKS: dict[str, AttackSpec] = {
    'random': AttackSpec(
        _random, 'baseline', 'uniform scores', knows_share=True, adapts_to='none', labels='any',
    ),
    'popularity': AttackSpec(
        _popularity, 'baseline', 'popularity of the items among other users, or their mean rating',
        knows_share=True, adapts_to='none', labels='any',
    ),
    'mean_rating': AttackSpec(
        _mean_rating, 'baseline', 'the mean of all explicit ratings', knows_share=True,
        adapts_to='none', labels='explicit',
    ),
    'intersection': AttackSpec(
        _intersection, 'recipe', 'the items that come back, where negatives are drawn afresh',
        reads_rows=True, adapts_to='none',
    ),
    'mgradinv': AttackSpec(
        mgradinv.make_mgradinv, 'descent',
        'several gradients, labels and private embedding unknown (Deng et al., ICDM 2025)',
        has_hypothesis=True, iterates=True, labels='any',
    ),
    'dlg': _recipe(
        'dlg', 'Deep Leakage from Gradients (Zhu et al., NeurIPS 2019)',
        iterates=True, ends_by_itself=True, labels='any',
    ),
    'inverting_gradients': _recipe(
        'inverting_gradients',
        'cosine distance, signed gradients (Geiping et al., NeurIPS 2020)',
        iterates=True, labels='any',
    ),
    'tgias_ro': _recipe(
        'tgias_ro', 'temporal gradients, robustly aggregated (Li et al., 2023)',
        iterates=True, labels='any',
    ),
    'raifle': _recipe(
        'raifle', 'RAIFLE, a random private embedding assumed (Pham et al., NDSS 2025)',
        reads_rows=True, iterates=True, ends_by_itself=True, labels='any',
    ),
    'raifle_joint': _recipe(
        'raifle_joint', 'raifle that also optimises the private embedding',
        reads_rows=True, iterates=True, ends_by_itself=True, labels='any',
    ),
    'imia': _recipe(
        'imia', 'membership by replay (Yuan et al., WWW 2023)',
        reads_rows=True, knows_share=True, ends_by_itself=True,
    ),
    'exact': _exact(
        'the strongest solver that applies, with certificates', reads_rows=False
    )._replace(one_client=True, labels='any'),
    'sign': _exact('sign of each item row against the prediction at a private embedding of zero'),
    'spectral': _exact(
        'sign of each item row along the first principal direction; needs no model',
        adapts_to='shares',
    ),
    'summed': _exact("spectral on the sum of the steps' item rows", adapts_to='shares'),
    'unmix': AttackSpec(
        _unmix, 'exact', "each client's mean upload from the sums of all cohorts, given to "
        'an attack on one upload (attack.unmix_reader)', knows_share=True, adapts_to='none',
        dtype='float64', reads_sums=True,
    ),
    'joint': AttackSpec(
        _joint, 'descent', 'mgradinv on the labels and private parameters of all clients whose '
        'uploads are in the sums, started from what unmix reads', knows_share=True,
        has_hypothesis=True, iterates=True, ends_by_itself=True, adapts_to='none', reads_sums=True,
    ),
}  # fmt: skip


def solvers() -> list[str]:
    """Names of the exact attacks, from whose answer MGradInv may start."""
    exact = {name: spec for name, spec in ATTACKS.items() if spec.family == 'exact'}
    return [name for name, spec in exact.items() if not spec.reads_sums]


def readers() -> list[str]:
    """What may read the rows that `unmix` separates (`attack.unmix_reader`)."""
    others = ('intersection', *(name for name, spec in ATTACKS.items() if spec.reads_sums))
    reading = [name for name, spec in ATTACKS.items() if spec.family != 'baseline']
    return ['projection', *REPLAYS, *(name for name in reading if name not in others)]


def hypothesis(attack: str, dynamics: str) -> str | None:
    """The attack's hypothesis about the private states; None for an attack that reads no upload."""
    spec = ATTACKS[attack]
    if spec.family == 'baseline':
        return None
    return dynamics if spec.has_hypothesis else 'free'


def adapts_to(attack: str, defence: defences.Defence) -> bool:
    """Whether knowing the defence changes what the attack does."""
    how = ATTACKS[attack].adapts_to
    if how == 'shares':
        return defence.acts_on == 'labels' or defence.keeps_largest
    return how == 'all'
