"""Leakage against utility over the arms of a study: which defence stops the attacks, at what cost.

A defence of some strength stops the attacks at T if no attack with at most T gradients has a larger
mean AUC than the popularity baseline, paired by victim. The best attack, blind or adaptive, is
shown; the auditor, who knows the truth, makes that choice.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedinv_jax.report import tables
from fedinv_jax.report.rows import ConfidenceInterval, Defences, Epsilon, Summary, SummaryRow

NONE = 'none'
QUALITY = ('hr@10_loo99', 'ndcg@10_loo99')
"""The quality metrics of a model that are shown."""


class Kind(NamedTuple):
    """A kind of number in a row's `defences`.

    Attributes:
        name: name in reports; a name that starts with 'with ' modifies the defence before it.
        smaller_is_stronger: whether a smaller number is a stronger defence.
    """

    name: str
    smaller_is_stronger: bool


class Point(NamedTuple):
    """One defence of one strength, against the attacks with T gradients.

    Attributes:
        family: the defence without its numbers, and client, model and whether the batches are known
            where they are not those of most rows.
        defence: the defence with its numbers.
        strength: sort key of the points of a family, weak to strong.
        num_gradients: T; the largest number of gradients that an attack uses.
        best: the summary row of the attack with the largest mean AUC.
        stopped: whether no attack exceeds popularity; None if popularity was not run.
        quality: quality metrics of the model trained with the defence, see `quality`.
        epsilon: against the server, see `accounting.against_server`; None without a guarantee.
    """

    family: str
    defence: str
    strength: tuple[float, ...]
    num_gradients: int
    best: SummaryRow
    stopped: bool | None
    quality: Mapping[str, ConfidenceInterval]
    epsilon: Epsilon | None


def family(defences: Defences, kinds: Mapping[str, Kind]) -> str:
    """The names of a row's defences without their numbers, except for lists.

    Example:
        >>> kinds = {'clip': Kind('clip', True), 'uploaded': Kind('only', False)}
        >>> family({'uploaded': ['scorer'], 'clip': 1.0}, kinds)
        'only scorer, clip'
    """
    words = [
        f'{kinds[key].name} {tables.show(value)}' if isinstance(value, list) else kinds[key].name
        for key, value in defences.items()
    ]
    return ', '.join(words).replace(', with ', ' with ') or NONE


def strength(defences: Defences, kinds: Mapping[str, Kind]) -> tuple[float, ...]:
    """A sort key that orders the defences of a family from weak to strong.

    Example:
        >>> kinds = {'clip': Kind('clip', True), 'noise': Kind('noise', False)}
        >>> strength({'clip': 20.0, 'noise': 3.0}, kinds)
        (-20.0, 3.0)
    """
    return tuple(
        -value if kinds[key].smaller_is_stronger else value
        for key, value in defences.items()
        if not isinstance(value, list)
    )


def points(summaries: Sequence[Summary], kinds: Mapping[str, Kind]) -> list[Point]:
    """A point for each defence and T: families in order of first appearance, then weak to strong.

    Args:
        summaries: the summary of each arm, see `stats.summarize`; an arm whose models were not
            evaluated gives no points.
        kinds: the kind of each key in the rows' `defences`.
    """
    groups: dict[tuple[str, ...], list[SummaryRow]] = {}
    for summary in summaries:
        for row in tables.attacks_of(summary):
            if row['quality'] and row['quality'].keys() >= set(QUALITY):
                groups.setdefault((row['defence'], *_case(row)), []).append(row)
    cases = [_case(row) for summary in summaries for row in tables.attacks_of(summary)]
    usual = [statistics.mode(words) for words in zip(*cases, strict=True)]
    found: list[Point] = []
    for (_, *case), rows in groups.items():
        other = [word for word, most in zip(case, usual, strict=True) if word != most]
        for steps in {row['num_gradients'] for row in rows}:
            found.append(_point(rows, steps, f' ({", ".join(other)})' if other else '', kinds))
    families = list(dict.fromkeys(point.family for point in found))
    return sorted(found, key=lambda p: (families.index(p.family), p.strength, p.num_gradients))


def _case(row: SummaryRow) -> tuple[str, str, str]:
    """What is attacked besides the defence: client, model, and whether batches are known."""
    return row['client'], row['model'], f'batches {"known" if row["batch_known"] else "unknown"}'


def _point(rows: Sequence[SummaryRow], steps: int, other: str, kinds: Mapping[str, Kind]) -> Point:
    """The point of one defence against attacks with T gradients or fewer; `other` is a suffix."""
    tried = [row for row in rows if row['num_gradients'] <= steps]
    gaps = [tables.auc_of(row['difference_to_popularity']) for row in tried]
    known = [gap['mean'] for gap in gaps if gap and gap['mean'] is not None]
    best = max(tried, key=lambda row: row['metrics']['auc']['mean'] or 0)
    return Point(
        family(best['defences'], kinds) + other,
        best['defence'] + other,
        strength(best['defences'], kinds),
        steps,
        best,
        max(known) <= 0 if known else None,
        best['quality'] or {},
        best['epsilon'],
    )


def popularity(point: Point) -> float | None:
    """The popularity baseline's mean AUC on a point's victims; None if it was not run."""
    auc, gap = point.best['metrics']['auc'], point.best['difference_to_popularity']
    if not gap or gap['auc']['mean'] is None or auc['mean'] is None:
        return None
    return auc['mean'] - gap['auc']['mean']


def ends(found: Sequence[Point]) -> list[int]:
    """The smallest and the largest T of the points."""
    steps = {point.num_gradients for point in found}
    return sorted({min(steps), max(steps)}) if steps else []


def table(found: Sequence[Point]) -> str:
    """For each defence, the weakest strength that stops the attacks, as does every stronger one.

    A Markdown table with the quality and epsilon at that strength.
    """
    shown, notes = ends(found), _notes(found)
    head = ['defence', *(f'weakest that stops T = {step}' for step in shown)]
    head += [f'its {name} (T = {step})' for step in shown for name in (*QUALITY, 'epsilon')]
    lines = []
    for name in dict.fromkeys(point.family for point in found):
        own = [[p for p in found if (p.family, p.num_gradients) == (name, t)] for t in shown]
        cells = [_weakest(points_, notes) for points_ in own]
        lines.append(
            [name, *(cell[0] for cell in cells), *(text for cell in cells for text in cell[1:])]
        )
    return _with_notes(tables.markdown(head, lines), notes)


def _weakest(own: Sequence[Point], notes: Sequence[str]) -> tuple[str, ...]:
    """The weakest strength of one family that stops the attacks at T, its quality and epsilon."""
    stops = list(itertools.takewhile(lambda point: point.stopped, reversed(own)))
    if not stops:
        least = min((p.best['metrics']['auc']['mean'] or 0 for p in own), default=None)
        left = 'not measured' if least is None else f'none (lowest AUC {least:.3f})'
        return left, *['-'] * (len(QUALITY) + 1)
    first = stops[-1]
    return first.defence, *(_quality(first, name) for name in QUALITY), _epsilon(first, notes)


def _quality(point: Point, name: str) -> str:
    value = point.quality[name]['mean']
    return '-' if value is None else f'{value:.3f}'


def details(found: Sequence[Point]) -> str:
    """A Markdown table with a line per point: best attack, AUC, difference, quality, epsilon."""
    head = ['defence', 'T', 'best attack', 'AUC', 'ΔAUC to popularity', 'stopped', *QUALITY,
            'epsilon']  # fmt: skip
    notes = _notes(found)
    return _with_notes(tables.markdown(head, [_detail(point, notes) for point in found]), notes)


def _detail(point: Point, notes: Sequence[str]) -> list[str]:
    """One line of `details`."""
    best, victims = point.best, point.best['num_victims']
    return [
        point.defence,
        str(point.num_gradients),
        _attack(best),
        tables.estimate(best['metrics']['auc'], victims),
        tables.estimate(tables.auc_of(best['difference_to_popularity']), victims, '+'),
        {None: '-', True: 'yes', False: 'no'}[point.stopped],
        *(tables.estimate(point.quality[name], best['num_seeds']) for name in QUALITY),
        _epsilon(point, notes),
    ]


def _attack(row: SummaryRow) -> str:
    """The attack with its reader, and whether it is blind."""
    words = [row.get('reader'), 'blind' if row['attacker'] == 'blind' else None]
    told = ', '.join(word for word in words if word)
    return row['attack'] + (f' ({told})' if told else '')


def meaning(epsilon: Epsilon) -> str:
    """The assumptions of an epsilon of a whole training, as text.

    Example:
        >>> meaning({'epsilon': 2.0, 'against': 'the server', 'unit': 'one label',
        ...          'adjacency': 'replace', 'delta': 0.0, 'sensitivity': None, 'releases': 1})
        'against the server; unit: one label, replace; delta = 0, 1 release'
    """
    releases = epsilon['releases']
    return (
        f'against {epsilon["against"]}; unit: {epsilon["unit"]}, {epsilon["adjacency"]}; '
        f'delta = {epsilon["delta"]:g}, {releases} release{"s" * (releases != 1)}'
    )


def _notes(found: Sequence[Point]) -> list[str]:
    """The assumptions of the points' epsilons, without repetition."""
    return list(dict.fromkeys(meaning(point.epsilon) for point in found if point.epsilon))


def _epsilon(point: Point, notes: Sequence[str]) -> str:
    """A cell: epsilon, and the number of the note with its assumptions."""
    if point.epsilon is None:
        return '-'
    return f'{point.epsilon["epsilon"]:.3g} [{notes.index(meaning(point.epsilon)) + 1}]'


def _with_notes(table: str, notes: Sequence[str]) -> str:
    """A table with the notes below it."""
    named = [f'[{number}] Epsilon {note}.' for number, note in enumerate(notes, start=1)]
    return '\n\n'.join([table, *named])
