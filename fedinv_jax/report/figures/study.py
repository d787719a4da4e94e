"""Figures of studies: metrics against the first round, against the interval, and by attack."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from fedinv_jax.report import stats, tables
from fedinv_jax.report.figures import canvas
from fedinv_jax.report.rows import Summary, SummaryRow, VictimRow

_Key = Literal['first_round', 'interval']
_METRICS = ('auc', 'f1')
_PANELS = 4  # most panels, one per upload seen, in figures that compare attacks
_THIN: dict[str, Any] = {'linestyle': '-', 'linewidth': 0.7}


def metrics_vs_first_round(summary: Summary) -> Any | None:
    """Draws AUC, F1 and the training loss against the first observed round.

    There is one curve per attack and T, at the smallest interval, with 95% confidence intervals;
    popularity is dashed.

    Args:
        summary: the result of `stats.summarize`.

    Returns:
        The page, or None if there are fewer than two first rounds.
    """
    attacks = canvas.nearest(tables.attacks_of(summary))
    return _against('first_round', attacks, summary, 'training_loss', 'training loss (mean)')


def metrics_vs_interval(summary: Summary) -> Any | None:
    """Draws AUC, F1 and the drift of the private embedding against the interval.

    There is one curve per attack and T > 1, at the earliest first round; a thin line is the same
    attack with one gradient.

    Args:
        summary: the result of `stats.summarize`.

    Returns:
        The page, or None if there are fewer than two intervals.
    """
    attacks = tables.attacks_of(summary)
    first = min((row['first_round'] for row in attacks), default=0)
    attacks = [row for row in attacks if row['first_round'] == first]
    label = 'relative drift of the private embedding'
    return _against('interval', attacks, summary, 'drift', label)


def _against(
    key: _Key,
    attacks: Sequence[SummaryRow],
    summary: Summary,
    quantity: Literal['training_loss', 'drift'],
    label: str,
) -> Any | None:
    """Draws AUC, F1 and a quantity of the training against `key`."""
    moving = [row for row in attacks if row[key] is not None]
    steps = sorted({step for row in moving if (step := row[key]) is not None})
    if len(steps) < 2:
        return None
    curves = _curves(moving, key)
    page, ((*panels, side),) = canvas.page(3, 1, 11, 3.2 + canvas.legend_height(len(curves) + 1))
    for axis, metric in zip(panels, _METRICS, strict=True):
        canvas.plot_curves(axis, curves, lambda row: row['metrics'][metric], steps, key)  # noqa: B023
        for number, rows in enumerate(curves.values() if key == 'interval' else ()):
            levels, colour = _one_gradient(rows[0], attacks, metric), canvas.style(number)[0]
            canvas.references(axis, levels, color=colour, **_THIN)
        canvas.references(axis, canvas.baseline_levels(summary, metric))
        axis.set_ylabel(f'{tables.title(metric)} (mean over victims)')
    _training_panel(side, moving, steps, key, quantity)
    side.set_ylabel(label)
    more = canvas.popularity(summary)
    if key == 'interval':
        more |= {'thin line: the same attack with one gradient': {'color': '0.25', **_THIN}}
    canvas.legend(page, panels[0], more)
    return page


def _training_panel(
    axis: Any,
    rows: Sequence[SummaryRow],
    steps: Sequence[int],
    key: _Key,
    name: Literal['training_loss', 'drift'],
) -> None:
    """Draws a quantity of the training against `key`; the drift has a curve per T."""
    several = name == 'drift' and len({row['num_gradients'] for row in rows}) > 1
    for number, (count, values) in enumerate(_by_steps(rows, key, name).items()):
        axis.plot(
            [steps.index(step) for step in values],
            list(values.values()),
            color='0.25',
            marker=canvas.style(number)[1],
            markersize=4,
            linewidth=1.2,
            label=f'T = {count}' if several else None,
        )
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)
    axis.set_xticks(range(len(steps)), steps)
    axis.set_xlabel(canvas.XLABELS[key])
    axis.set_ylim(bottom=0)
    canvas.grid(axis)


def _curves(rows: Sequence[SummaryRow], key: _Key) -> dict[str, list[SummaryRow]]:
    """Rows by curve: label -> rows that differ in `key` only."""
    varying = [name for name in tables.varying(rows) if name not in (key, 'solver', 'interval')]
    found: dict[str, list[SummaryRow]] = {}
    for row in rows:
        label = ', '.join([*canvas.words(varying, row), f'T = {row["num_gradients"]}'])
        found.setdefault(label, []).append(row)
    return found


def _one_gradient(row: SummaryRow, attacks: Iterable[SummaryRow], metric: str) -> list[float]:
    """The mean of the metric for the same attack with T = 1; empty if not run."""
    return [
        mean
        for other in attacks
        if other['num_gradients'] == 1
        and stats.same_but_steps(row, other)
        and (mean := other['metrics'][metric]['mean']) is not None
    ]


def _by_steps(
    rows: Sequence[SummaryRow], key: _Key, name: Literal['training_loss', 'drift']
) -> dict[int, dict[int, float]]:
    """A quantity of the training: T -> `key` -> value; T is 0 for one that does not depend on T."""
    found: dict[int, dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: (row['num_gradients'], row[key] or 0)):
        step, value = row[key], row[name]
        if step is not None and value is not None:
            found.setdefault(row['num_gradients'] if name == 'drift' else 0, {})[step] = value
    return found


def attacks(summary: Summary) -> Any | None:
    """Draws AUC and F1 of every attack, best first, with 95% confidence intervals; a marker per T.

    Args:
        summary: the result of `stats.summarize`.

    Returns:
        The page, or None if fewer than three attacks read uploads, or if first rounds or intervals
        vary.
    """
    rows = tables.attacks_of(summary)
    names = list(dict.fromkeys(row['attack'] for row in rows))
    varied = [key for key in tables.varying(rows) if key not in ('attack', 'solver', 'seen')]
    if len(names) < 3 or varied:
        return None
    seens = list(dict.fromkeys(tables.show(row['seen']) for row in rows))[:_PANELS]
    steps = sorted({row['num_gradients'] for row in rows})
    height = 1.0 + len(seens) * (0.6 + 0.3 * len(names))
    page, axes = canvas.page(2, len(seens), 9, height, sharey='row', sharex='col')
    for line, seen in zip(axes, seens, strict=True):
        here = [row for row in rows if tables.show(row['seen']) == seen]
        order = sorted(names, key=lambda name: max(
            [row['metrics']['auc']['mean'] or 0 for row in here if row['attack'] == name] or [0]
        ))  # fmt: skip
        for axis, metric in zip(line, _METRICS, strict=True):
            _ranking(axis, here, metric, order, steps)
            levels = canvas.baseline_levels(summary, metric)
            canvas.references(axis, levels, vertical=True, zorder=0)
        line[0].set_title(f'{seen} seen', fontsize=9, loc='left')
    for axis, metric in zip(axes[-1], _METRICS, strict=True):
        axis.set_xlabel(f'{tables.title(metric)} (mean over victims)')
    canvas.legend(page, axes[0][0], canvas.popularity(summary), columns=4)
    return page


def _ranking(
    axis: Any,
    rows: Sequence[SummaryRow],
    metric: str,
    order: Sequence[str],
    steps: Sequence[int],
) -> None:
    """Draws a line per attack, with a mean and its confidence interval for each T."""
    for number, step in enumerate(steps):
        own = [row for row in rows if row['num_gradients'] == step]
        shift = (number - (len(steps) - 1) / 2) * 0.28
        canvas.estimates(
            axis,
            [order.index(row['attack']) + shift for row in own],
            [row['metrics'][metric] for row in own],
            number,
            horizontal=True,
            linestyle='none',
            label=f'T = {step}',
        )
    axis.set_yticks(range(len(order)), order)
    canvas.grid(axis, 'x')


def distributions(rows: Iterable[VictimRow]) -> Any | None:
    """Draws every victim's F1 for each attack at the largest T: dots, quartiles and median.

    Args:
        rows: victim rows.

    Returns:
        The page, or None if no attack that reads uploads has an F1.
    """
    made = [row for row in rows if row['metrics'].get('f1') is not None]
    reading = [row for row in made if row['family'] != 'baseline']
    if not reading:
        return None
    most = max(row['num_gradients'] for row in reading)
    first = min(row['first_round'] for row in reading)
    made = [row for row in made if (row['num_gradients'], row['first_round']) == (most, first)]
    made = canvas.nearest(made)
    seens = list(dict.fromkeys(tables.show(row['seen']) for row in made))[:_PANELS]
    names = list(reversed(dict.fromkeys(_who(row) for row in made)))
    height = 0.8 + len(seens) * (0.5 + 0.36 * len(names))
    page, axes = canvas.page(1, len(seens), 7.5, height, sharex=True)
    for (axis,), seen in zip(axes, seens, strict=True):
        here = [row for row in made if tables.show(row['seen']) == seen]
        for place, name in enumerate(names):
            own = [row['metrics']['f1'] for row in here if _who(row) == name]
            _dots(axis, place, np.sort(np.array(own, float)))
        axis.set_yticks(range(len(names)), names)
        axis.set_xlim(-0.03, 1.03)
        axis.set_title(f'{seen} seen, T = {most}', fontsize=9, loc='left')
        canvas.grid(axis, 'x')
    axes[-1][0].set_xlabel('F1 of a victim (dot); quartiles (line) and median (diamond)')
    return page


def _dots(axis: Any, place: int, values: np.ndarray) -> None:
    """Draws one attack's values on its line: dots, quartiles and median."""
    # Golden-ratio steps distribute the dots evenly and deterministically.
    positions = place + ((np.arange(values.size) * 0.618034) % 1 - 0.5) * 0.6
    # Dots are more transparent the more there are, so that their density is visible.
    alpha = np.clip(300 / max(values.size, 1), 0.02, 0.6)
    axis.scatter(values, positions, s=14, color=canvas.COLOURS[0], alpha=alpha, linewidths=0)
    if values.size:
        quartiles = np.percentile(values, [25, 50, 75])
        axis.plot(quartiles[[0, 2]], [place] * 2, color='black', linewidth=2)
        axis.plot(quartiles[1], place, color='black', marker='D', markersize=5)


def _who(row: VictimRow) -> str:
    """The attack's name, with its hypothesis unless that is 'free'."""
    chosen = row['dynamics'] not in (None, 'free')
    name = tables.attack_name(row)
    return f'{name} ({row["dynamics"]})' if chosen else name


def runtime(summary: Summary) -> Any | None:
    """Draws F1 against the run time per victim, a marker for each attack and T.

    Args:
        summary: the result of `stats.summarize`.

    Returns:
        The page, or None if fewer than two attacks read uploads.
    """
    rows = [
        row
        for row in tables.attacks_of(summary)
        if row['metrics']['f1']['mean'] is not None and row['seconds_per_victim']
    ]
    names = list(dict.fromkeys(row['attack'] for row in rows))
    if len(names) < 2:
        return None
    from matplotlib import ticker

    page, ((axis,),) = canvas.page(1, 1, 6.5, 3.6 + canvas.legend_height(len(names)) / 2)
    for number, name in enumerate(names):
        own = [row for row in rows if row['attack'] == name]
        axis.scatter(
            [row['seconds_per_victim'] for row in own],
            [row['metrics']['f1']['mean'] for row in own],
            s=[18 + 10 * row['num_gradients'] for row in own],
            color=canvas.style(number)[0],
            marker=canvas.style(number)[1],
            alpha=0.8,
            label=name,
        )
    axis.set_xscale('log')
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())  # minor labels would overlap
    axis.set_ylim(-0.04, 1.04)
    axis.set_xlabel('seconds per victim (larger marker: more gradients)')
    axis.set_ylabel('F1 (mean over victims)')
    canvas.grid(axis, 'both')
    canvas.legend(page, axis, columns=4)
    return page
