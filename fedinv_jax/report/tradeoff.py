"""Leakage against utility over the arms of a study: which defence stops the attacks, at what cost.

A defence at a strength stops the attacks at T where none of them, with T gradients or fewer, has a
larger mean AUC, in pairs, than the popularity guesser; the best of the attacks, blind or adaptive,
speaks for all. That choice is the auditor's, who knows the truth.
"""

import itertools
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedinv_jax.report import tables
from fedinv_jax.report.figures import canvas
from fedinv_jax.report.stats import Row

NONE = 'none'
_NUMBER = re.compile(r'[0-9][0-9.e+-]*')
# Of these a smaller number defends more.
_FALLING = ('randomised response', 'clip', 'rank', 'top', 'random', 'levels')
_SHOWN = ('hr@10_loo99', 'ndcg@10_loo99')


class Point(NamedTuple):
    """A defence at a strength, against the attacks with T gradients.

    Attributes:
        family: the defence without its numbers, and the client where it is not that of most rows.
        defence: with them.
        num_gradients: T; attacks may use fewer.
        best: the summary row of the attack of largest mean AUC; its differences to popularity.
        stopped: whether no attack exceeds popularity; None where popularity was not run.
        quality: of the model that was trained with it, by name; see `quality`.
        epsilon: against the server, see `accounting.against_server`; None where there is none.
    """

    family: str
    defence: str
    num_gradients: int
    best: Row
    stopped: bool | None
    quality: Mapping[str, Row]
    epsilon: Row | None


def family(defence: str) -> str:
    """A defence without its numbers.

    Example:
        >>> family('clip 1, noise 0.1')
        'clip, noise'
    """
    return re.sub(' +', ' ', _NUMBER.sub('', defence)).replace(' ,', ',').strip()


def strength(defence: str) -> tuple[float, ...]:
    """A key by which the defences of a family go from weak to strong.

    Example:
        >>> strength('top 0.1') > strength('top 0.5'), strength('noise 2') > strength('noise 1')
        (True, True)
    """
    parts = [part.strip() for part in defence.split(',')]
    numbers = [(part, float(found.group())) for part in parts if (found := _NUMBER.search(part))]
    return tuple(-value if part.startswith(_FALLING) else value for part, value in numbers)


def points(summaries: Sequence[Row]) -> list[Point]:
    """A point for each defence and T, families in order of first appearance, weak to strong.

    Args:
        summaries: of the arms, see `stats.summarize`; those whose models were not evaluated have
            none.
    """
    found: list[Point] = []
    clients = [row['client'] for summary in summaries for row in tables.attacks_of(summary)]
    usual = statistics.mode(clients) if clients else None
    for summary in summaries:
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in tables.attacks_of(summary):
            if row.get('quality'):
                other = '' if row['client'] == usual else f' ({row["client"]})'
                groups.setdefault((row['defence'], other), []).append(row)
        steps_of = {name: {row['num_gradients'] for row in rows} for name, rows in groups.items()}
        for (defence, other), steps in [(n, t) for n, own in steps_of.items() for t in own]:
            rows = [row for row in groups[defence, other] if row['num_gradients'] <= steps]
            gaps = [(row['difference_to_popularity'] or {}).get('auc') for row in rows]
            known = [gap['mean'] for gap in gaps if gap and gap['mean'] is not None]
            best = max(rows, key=lambda row: row['metrics']['auc']['mean'] or 0)
            found.append(
                Point(
                    family(defence) + other,
                    defence + other,
                    steps,
                    best,
                    max(known) <= 0 if known else None,
                    best['quality'],
                    best.get('epsilon'),
                )
            )
    families = list(dict.fromkeys(point.family for point in found))
    return sorted(
        found, key=lambda p: (families.index(p.family), strength(p.defence), p.num_gradients)
    )


def table(found: Sequence[Point]) -> str:
    """For each defence the weakest strength from which on the attacks are stopped, as Markdown."""
    steps = sorted({point.num_gradients for point in found})
    shown = [steps[0], steps[-1]] if len(steps) > 1 else steps
    head = ['defence', *(f'stops T = {step} from' for step in shown)]
    head += [f'{name} of what stops T = {step}' for step in shown for name in (*_SHOWN, 'epsilon')]
    notes = _notes(found)
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for name in dict.fromkeys(point.family for point in found):
        own = [[p for p in found if (p.family, p.num_gradients) == (name, t)] for t in shown]
        cells = [_weakest(points_, notes) for points_ in own]
        words = [name, *(cell[0] for cell in cells), *(text for cell in cells for text in cell[1:])]
        lines.append(f'| {" | ".join(words)} |')
    return _below(lines, notes)


def _weakest(own: Sequence[Point], notes: Sequence[str]) -> tuple[str, ...]:
    """Of one family and T: the weakest strength that stops the attacks, quality and epsilon."""
    stops = list(itertools.takewhile(lambda point: point.stopped, reversed(own)))
    if not stops:
        best = min(own, key=lambda p: p.best['metrics']['auc']['mean'] or 0, default=None)
        left = 'not measured' if best is None else f'none tried (AUC {_mean(best)} at least)'
        return left, *['-'] * (len(_SHOWN) + 1)
    first = stops[-1]
    cells = [_quality(first, name) for name in _SHOWN]
    return first.defence, *cells, _epsilon(first.epsilon, notes)


def meaning(epsilon: Row) -> str:
    """What an epsilon of a whole training depends on, for people.

    Example:
        >>> meaning({'epsilon': 2.0, 'against': 'the server', 'unit': 'one label',
        ...          'adjacency': 'replace', 'delta': 0.0, 'releases': 1})
        'against the server; unit: one label, replace; delta = 0, 1 release'
    """
    releases = epsilon['releases']
    return (
        f'against {epsilon["against"]}; unit: {epsilon["unit"]}, {epsilon["adjacency"]}; '
        f'delta = {epsilon["delta"]:g}, {releases} release{"s" * (releases != 1)}'
    )


def _notes(found: Sequence[Point]) -> list[str]:
    """The meanings of the points' epsilons, each once."""
    return list(dict.fromkeys(meaning(point.epsilon) for point in found if point.epsilon))


def _epsilon(epsilon: Row | None, notes: Sequence[str]) -> str:
    """A cell: the number, and which of the notes says what it means."""
    if epsilon is None:
        return '-'
    return f'{epsilon["epsilon"]:.3g} [{notes.index(meaning(epsilon)) + 1}]'


def _below(lines: Sequence[str], notes: Sequence[str]) -> str:
    """A table with the notes below it."""
    named = [f'[{number}] Epsilon {note}.' for number, note in enumerate(notes, start=1)]
    return '\n\n'.join(['\n'.join(lines), *named])


def _mean(point: Point) -> str:
    return f'{point.best["metrics"]["auc"]["mean"]:.3f}'


def _quality(point: Point, name: str) -> str:
    value = point.quality[name]['mean']
    return '-' if value is None else f'{value:.3f}'


def details(found: Sequence[Point]) -> str:
    """Every point as a line of a Markdown table: best attack, AUC, difference, quality, epsilon."""
    head = ['defence', 'T', 'best attack', 'AUC', 'ΔAUC to popularity', 'stopped', *_SHOWN,
            'epsilon']  # fmt: skip
    notes = _notes(found)
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for point in found:
        best, victims = point.best, point.best['num_victims']
        gap = (best['difference_to_popularity'] or {}).get('auc')
        who = best['attack'] + ' (blind)' * (best['attacker'] == 'blind')
        cells = [
            point.defence,
            str(point.num_gradients),
            who,
            tables.estimate(best['metrics']['auc'], victims),
            tables.estimate(gap, victims, '+'),
            {None: '-', True: 'yes', False: 'no'}[point.stopped],
            *(tables.estimate(point.quality[name], best['num_seeds']) for name in _SHOWN),
            _epsilon(point.epsilon, notes),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return _below(lines, notes)


def draw(found: Sequence[Point], path: pathlib.Path) -> pathlib.Path | None:
    """Draws the best attack's AUC against hit rate and NDCG, a line for each defence.

    A row of panels for the smallest and one for the largest T; dashed: the popularity guesser.
    Down and to the right is better.

    Args:
        found: from `points`.
        path: PNG to write.

    Returns:
        The path, or None below two defences.
    """
    if len({point.defence for point in found}) < 2:
        return None
    steps = sorted({point.num_gradients for point in found})
    shown = [steps[0], steps[-1]] if len(steps) > 1 else steps
    families = [name for name in dict.fromkeys(p.family for p in found) if name != NONE]
    height = 0.6 + 3.0 * len(shown) + canvas.legend_height(len(families) + 2)
    page, axes = canvas.page(len(_SHOWN), len(shown), 9, height, sharex='col', sharey=True)
    for line, step in zip(axes, shown, strict=True):
        here = [point for point in found if point.num_gradients == step]
        for axis, name in zip(line, _SHOWN, strict=True):
            for number, one in enumerate(families):
                _line(axis, [p for p in here if p.family == one], name, *canvas.style(number), one)
            _line(axis, [p for p in here if p.family == NONE], name, 'black', '*', 'no defence')
            for level in _popularity(here):
                axis.axhline(level, color='0.45', linestyle='--', linewidth=1.2, zorder=0)
            axis.set_axisbelow(True)
            axis.grid(color='0.9')
        line[0].set_ylabel(f'AUC of the best attack, T = {step}\n(mean over victims)')
    for axis, name in zip(axes[-1], _SHOWN, strict=True):
        axis.set_xlabel(f'{name} of the trained model (mean over seeds)')
    handles, labels = axes[0][0].get_legend_handles_labels()
    if _popularity(found):
        handles += axes[0][0].plot([], [], color='0.45', linestyle='--')
        labels.append('popularity guesser')
    page.legend(handles, labels, loc='outside lower center', ncols=3, fontsize=8, frameon=False)
    return canvas.save(page, path)


def _line(axis: Any, own: Sequence[Point], name: str, colour: str, marker: str, label: str) -> None:
    """A family's points, weak to strong; a stronger one has a larger marker."""
    pairs = [(p.quality[name]['mean'], p.best['metrics']['auc']['mean']) for p in own]
    known = [pair for pair in pairs if None not in pair]
    if not known:
        return
    across, up = zip(*known, strict=True)
    axis.plot(across, up, color=colour, linewidth=1, zorder=2)
    axis.scatter(
        across, up, color=colour, marker=marker, zorder=3, label=label,
        s=[90 if marker == '*' else 22 + 16 * place for place in range(len(known))],
    )  # fmt: skip


def _popularity(found: Sequence[Point]) -> list[float]:
    """The popularity guesser's level, in mean over the points: victims are the same in all."""
    levels = []
    for point in found:
        gap = (point.best['difference_to_popularity'] or {}).get('auc')
        if gap and gap['mean'] is not None:
            levels.append(point.best['metrics']['auc']['mean'] - gap['mean'])
    return [sum(levels) / len(levels)] if levels else []
