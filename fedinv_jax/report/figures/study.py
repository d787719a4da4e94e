"""Figures of studies: recovery against the training, against the interval, attack by attack."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedinv_jax.report import stats, tables
from fedinv_jax.report.figures import canvas

Row = stats.Row

_METRICS = ('auc', 'f1')
_PANELS = 4  # Uploads seen, each a panel, in figures that compare attacks.


def metrics_vs_first_round(summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws AUC and F1 against the first observed round, with the training loss beside them.

    A curve per attack and T, at the smallest interval, with 95% intervals; popularity is dashed.

    Args:
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None below two first rounds.
    """
    attacks = tables.attacks_of(summary)
    nearest = min((row['interval'] for row in attacks if row['interval']), default=None)
    attacks = [row for row in attacks if row['interval'] in (None, nearest)]
    return _against('first_round', attacks, summary, path, 'training_loss', 'training loss (mean)')


def metrics_vs_interval(summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws AUC and F1 against the interval, with the drift of the private embedding beside them.

    A curve per attack and T above 1, at the earliest first round; thin, what the same attack makes
    of one gradient.

    Args:
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None below two intervals.
    """
    attacks = tables.attacks_of(summary)
    first = min((row['first_round'] for row in attacks), default=0)
    attacks = [row for row in attacks if row['first_round'] == first]
    return _against('interval', attacks, summary, path, 'drift', 'relative drift of p')


def _against(
    key: str,
    attacks: Sequence[Row],
    summary: Row,
    path: pathlib.Path,
    beside: str,
    label: str,
) -> pathlib.Path | None:
    """AUC, F1 and one number of the training against `key`."""
    moving = [row for row in attacks if row[key] is not None]
    steps = sorted({row[key] for row in moving})
    if len(steps) < 2:
        return None
    curves = _curves(moving, key)
    page, axes = canvas.page(3, 1, 11, 3.2 + canvas.legend_height(len(curves) + 1))
    for axis, metric in zip(axes[0], _METRICS, strict=False):
        canvas.plot_curves(axis, curves, lambda row: row['metrics'][metric], steps, key)  # noqa: B023
        for number, rows in enumerate(curves.values()):
            for level in _one_gradient(rows[0], attacks, metric) if key == 'interval' else ():
                axis.axhline(level, color=canvas.style(number)[0], linewidth=0.7, zorder=1)
        for level in canvas.guesser_levels(summary, 'popularity', metric):
            axis.axhline(level, color='0.45', linestyle='--', linewidth=1.2, zorder=1)
        axis.set_ylabel(f'{tables.title(metric)} (mean over victims)')
    side, several = axes[0][-1], len({row['num_gradients'] for row in moving}) > 1
    for number, (steps_, values) in enumerate(_by_steps(moving, key, beside).items()):
        places = [steps.index(step) for step in values]
        shown = f'T = {steps_}' if several and beside == 'drift' else None
        side.plot(places, list(values.values()), color='0.25', marker=canvas.style(number)[1],
                  markersize=4, linewidth=1.2, label=shown)  # fmt: skip
    if side.get_legend_handles_labels()[0]:
        side.legend(fontsize=8, frameon=False)
    side.set_xticks(range(len(steps)), steps)
    side.set_xlabel(axes[0][0].get_xlabel())
    side.set_ylabel(label)
    side.set_ylim(bottom=0)
    side.set_axisbelow(True)
    side.grid(axis='y', color='0.9')
    handles, labels = axes[0][0].get_legend_handles_labels()
    if canvas.guesser_levels(summary, 'popularity', 'auc'):
        handles += axes[0][0].plot([], [], color='0.45', linestyle='--')
        labels.append('popularity guesser')
    if key == 'interval':
        handles += axes[0][0].plot([], [], color='0.25', linewidth=0.7)
        labels.append('thin: the same attack with one gradient')
    page.legend(handles, labels, loc='outside lower center', ncols=2, fontsize=8, frameon=False)
    return canvas.save(page, path)


def _curves(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """Rows by label, one curve for all that differ in `key` only."""
    told = [name for name in tables.told(rows) if name not in (key, 'solver', 'interval')]
    found: dict[str, list[Row]] = {}
    for row in rows:
        words = [
            f'{tables.title(name)} ' * (name != 'attack') + tables.show(row[name]) for name in told
        ]
        words.append(f'T = {row["num_gradients"]}')
        found.setdefault(', '.join(words), []).append(row)
    return found


def _one_gradient(row: Row, attacks: Iterable[Row], metric: str) -> list[float]:
    """The level of the same attack with T = 1."""
    return [
        other['metrics'][metric]['mean']
        for other in attacks
        if other['num_gradients'] == 1
        and stats.same_but_steps(row, other)
        and other['metrics'][metric]['mean'] is not None
    ]


def _by_steps(rows: Sequence[Row], key: str, name: str) -> dict[int, dict[int, float]]:
    """A number of the training by T and by `key`; by `key` alone where T does not matter."""
    found: dict[int, dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: (row['num_gradients'], row[key])):
        if row.get(name) is not None:
            steps = row['num_gradients'] if name == 'drift' else 0
            found.setdefault(steps, {})[row[key]] = row[name]
    return found


def attacks(summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws AUC and F1 of every attack, best first, with 95% intervals; a marker for each T.

    Args:
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None below three attacks that read uploads, or where rounds or intervals
        differ.
    """
    rows = tables.attacks_of(summary)
    names = dict.fromkeys(row['attack'] for row in rows)
    apart = [key for key in tables.told(rows) if key not in ('attack', 'solver', 'seen')]
    if len(names) < 3 or apart:
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
            for number, step in enumerate(steps):
                _dots(axis, [row for row in here if row['num_gradients'] == step], metric, order,
                      number, (number - (len(steps) - 1) / 2) * 0.28, f'T = {step}')  # fmt: skip
            for level in canvas.guesser_levels(summary, 'popularity', metric):
                axis.axvline(level, color='0.45', linestyle='--', linewidth=1.2, zorder=0)
            axis.set_yticks(range(len(order)), order)
            axis.set_axisbelow(True)
            axis.grid(axis='x', color='0.9')
        line[0].set_title(f'{seen} seen', fontsize=9, loc='left')
    for axis, metric in zip(axes[-1], _METRICS, strict=True):
        axis.set_xlabel(f'{tables.title(metric)} (mean over victims)')
    handles, labels = axes[0][0].get_legend_handles_labels()
    if canvas.guesser_levels(summary, 'popularity', 'auc'):
        handles += axes[0][0].plot([], [], color='0.45', linestyle='--')
        labels.append('popularity guesser')
    page.legend(handles, labels, loc='outside lower center', ncols=4, fontsize=8, frameon=False)
    return canvas.save(page, path)


def _dots(
    axis: Any,
    rows: Sequence[Row],
    metric: str,
    order: Sequence[str],
    number: int,
    shift: float,
    label: str,
) -> None:
    """One T: a dot with its interval for each attack, on the attack's line."""
    known = [row for row in rows if row['metrics'][metric]['mean'] is not None]
    values = np.array([[row['metrics'][metric][k] for k in ('mean', 'low', 'high')]
                       for row in known])  # fmt: skip
    mean, low, high = values.reshape(-1, 3).T
    axis.errorbar(
        mean,
        [order.index(row['attack']) + shift for row in known],
        xerr=np.maximum([mean - low, high - mean], 0),
        linestyle='none',
        marker=canvas.style(number)[1],
        color=canvas.style(number)[0],
        markersize=4.5,
        capsize=2.5,
        linewidth=1.2,
        label=label,
    )


def distributions(rows: Iterable[Row], path: pathlib.Path) -> pathlib.Path | None:
    """Draws every victim's F1, attack by attack, at the largest T: a dot each, and the quartiles.

    Args:
        rows: rows of victims.
        path: PNG to write.

    Returns:
        The path, or None when no attack that reads uploads has an F1.
    """
    made = [row for row in rows if row['metrics'].get('f1') is not None]
    reading = [row for row in made if row['attack'] not in stats.GUESSERS]
    if not reading:
        return None
    most = max(row['num_gradients'] for row in reading)
    first = min(row['first_round'] for row in reading)
    made = [row for row in made if (row['num_gradients'], row['first_round']) == (most, first)]
    near = min((row['interval'] for row in made if row['interval']), default=None)
    made = [row for row in made if row['interval'] in (None, near)]
    seens = list(dict.fromkeys(tables.show(row['seen']) for row in made))[:_PANELS]
    names = list(dict.fromkeys(_who(row) for row in made))
    height = 0.8 + len(seens) * (0.5 + 0.36 * len(names))
    page, axes = canvas.page(1, len(seens), 7.5, height, sharex=True)
    for (axis,), seen in zip(axes, seens, strict=True):
        for place, name in enumerate(reversed(names)):
            own = [row for row in made if (_who(row), tables.show(row['seen'])) == (name, seen)]
            values = np.sort([row['metrics']['f1'] for row in own])
            # Golden-ratio steps spread the dots evenly without chance.
            places = place + ((np.arange(values.size) * 0.618034) % 1 - 0.5) * 0.6
            # Thousands of dots show where they are dense.
            alpha = np.clip(300 / max(values.size, 1), 0.02, 0.6)
            axis.scatter(values, places, s=14, color=canvas.COLOURS[0], alpha=alpha, linewidths=0)
            if values.size:
                quartiles = np.percentile(values, [25, 50, 75])
                axis.plot(quartiles[[0, 2]], [place] * 2, color='black', linewidth=2)
                axis.plot(quartiles[1], place, color='black', marker='D', markersize=5)
        axis.set_yticks(range(len(names)), list(reversed(names)))
        axis.set_xlim(-0.03, 1.03)
        axis.set_title(f'{seen} seen, T = {most}', fontsize=9, loc='left')
        axis.set_axisbelow(True)
        axis.grid(axis='x', color='0.9')
    axes[-1][0].set_xlabel('F1 of a victim (dot); quartiles (line) and median (diamond)')
    return canvas.save(page, path)


def _who(row: Row) -> str:
    """An attack with its hypothesis, where it has a choice."""
    chosen = row['dynamics'] not in (None, 'free')
    return f'{row["attack"]} ({row["dynamics"]})' if chosen else str(row['attack'])


def runtime(summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws F1 against the seconds that a victim takes, a marker for each attack and T.

    Args:
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None below two attacks that read uploads.
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
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())  # those within a decade overlap
    axis.set_ylim(-0.04, 1.04)
    axis.set_xlabel('seconds a victim (larger marker: more gradients)')
    axis.set_ylabel('F1 (mean over victims)')
    axis.set_axisbelow(True)
    axis.grid(color='0.9')
    page.legend(loc='outside lower center', ncols=4, fontsize=8, frameon=False)
    return canvas.save(page, path)
