"""Shared parts of the figures: pages, colours, grids, reference lines, legends, curves over T.

Matplotlib is imported when a page is made.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from fedinv_jax.report import stats, tables
from fedinv_jax.report.rows import ConfidenceInterval, Summary, SummaryRow, VictimRow

Row = TypeVar('Row', SummaryRow, VictimRow)
Key = Literal['num_gradients', 'first_round', 'interval']
"""Quantities on the horizontal axis of curves."""

# Okabe and Ito's colours, distinguishable for colour-blind readers; curves differ in marker too.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
MARKERS = 'osD^vPX'
POPULARITY = 'popularity baseline'
REFERENCE = {'color': '0.45', 'linestyle': '--'}
XLABELS: dict[Key, str] = {
    'num_gradients': 'gradients per victim, T (count)',
    'first_round': 'first observed round',
    'interval': 'interval (server rounds between gradients)',
}


def style(number: int) -> tuple[str, str]:
    """Colour and marker of a curve; the first 49 combinations are distinct."""
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def page(columns: int, rows: int, width: float, height: float, **shared: Any) -> tuple[Any, Any]:
    """A figure outside pyplot's global state, and its axes `[rows, columns]`."""
    from matplotlib import figure

    made = figure.Figure(figsize=(width, height), dpi=150, layout='constrained')
    return made, made.subplots(rows, columns, squeeze=False, **shared)


def save(made: Any, path: pathlib.Path) -> pathlib.Path:
    """Writes a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path)
    return path


def grid(axis: Any, along: Literal['x', 'y', 'both'] = 'y') -> None:
    """Draws a light grid behind the data."""
    axis.set_axisbelow(True)
    axis.grid(axis=along, color='0.9')


def references(axis: Any, levels: Iterable[float], vertical: bool = False, **changes: Any) -> None:
    """Draws reference lines across an axis, dashed and grey unless `changes` says otherwise."""
    draw = axis.axvline if vertical else axis.axhline
    for level in levels:
        draw(level, **{**REFERENCE, 'linewidth': 1.2, 'zorder': 1, **changes})


def legend(
    page: Any,
    axis: Any,
    more: Mapping[str, Mapping[str, Any]] | None = None,
    place: Literal['lower', 'upper'] = 'lower',
    columns: int = 2,
    size: float = 8,
) -> None:
    """Adds a legend outside the panels: the labelled curves of one axis, then reference lines.

    Args:
        page: the figure.
        axis: the axis whose labels are used.
        more: label -> style of a reference line, where it differs from `references`.
        place: above or below the panels.
        columns: number of columns.
        size: font size in points.
    """
    handles, labels = axis.get_legend_handles_labels()
    for label, changes in (more or {}).items():
        handles += axis.plot([], [], **{**REFERENCE, **changes})
        labels.append(label)
    page.legend(
        handles, labels, loc=f'outside {place} center', ncols=columns, fontsize=size, frameon=False
    )


def curves(attacks: Sequence[SummaryRow]) -> dict[str, list[SummaryRow]]:
    """Summary rows by curve: label -> rows; a row with T = 1 is on the curve of every interval."""
    varying = [key for key in tables.varying(attacks) if key != 'solver']
    found: dict[str, list[SummaryRow]] = {}
    for row in attacks:
        same = [other for other in attacks if stats.same_but_steps(row, other)]
        spans = {span for other in same if (span := other['interval']) is not None}
        own: list[int | None] = [row['interval']]
        if row['interval'] is None and spans:
            own = [*sorted(spans)]
        for span in own:
            label = ', '.join(words(varying, {**row, 'interval': span}))
            found.setdefault(label or row['attack'], []).append(row)
    return found


def nearest(attacks: Sequence[Row]) -> list[Row]:
    """The rows with one gradient, and those with the smallest interval."""
    least = min((row['interval'] for row in attacks if row['interval']), default=None)
    return [row for row in attacks if row['interval'] in (None, least)]


def words(keys: Iterable[str], row: Mapping[str, Any]) -> list[str]:
    """The values of the given keys of a setting, for a label: `['exact', 'interval 10']`."""
    return [f'{tables.title(key)} ' * (key != 'attack') + tables.show(row[key]) for key in keys]


def baseline_levels(summary: Summary, metric: str, name: str = 'popularity') -> list[float]:
    """The distinct means of a baseline's metric, rounded to three decimals."""
    means = [row['metrics'][metric]['mean'] for row in summary['rows'] if row['attack'] == name]
    return sorted({round(mean, 3) for mean in means if mean is not None})


def popularity(summary: Summary) -> dict[str, dict[str, Any]]:
    """The `legend` entry of the popularity baseline; empty if it was not run."""
    return {POPULARITY: {}} if baseline_levels(summary, 'auc') else {}


def legend_height(lines: int) -> float:
    """Height in inches of a legend with that many entries in two columns."""
    return 0.24 * ((lines + 1) // 2)


def plot_curves(
    axis: Any,
    labelled: Mapping[str, Sequence[SummaryRow]],
    value_of: Callable[[SummaryRow], ConfidenceInterval | None],
    steps: Sequence[int],
    key: Key = 'num_gradients',
) -> None:
    """Draws a value of each row against `key`, one curve per label.

    The horizontal axis is categorical: 1, 2, 4, 8 have equal distances, and a single value is in
    the middle. Curves are shifted against each other, so that their error bars do not overlap.
    """
    shifts = (np.arange(len(labelled)) - (len(labelled) - 1) / 2) * min(0.1, 0.6 / len(labelled))
    for number, (label, rows) in enumerate(labelled.items()):
        found = sorted(((steps.index(row[key]), row) for row in rows), key=lambda pair: pair[0])
        estimates(
            axis,
            [place + shifts[number] for place, _ in found],
            [value_of(row) for _, row in found],
            number,
            label=label,
            linestyle=('-', '--', '-.')[number // len(COLOURS) % 3],
        )
    axis.set_xticks(range(len(steps)), steps)
    axis.set_xlim(-0.5, len(steps) - 0.5)
    axis.set_xlabel(XLABELS[key])
    grid(axis)


def estimates(
    axis: Any,
    positions: Sequence[float],
    values: Sequence[ConfidenceInterval | None],
    number: int,
    horizontal: bool = False,
    **changes: Any,
) -> None:
    """Draws means with 95% confidence intervals in the style of a curve; skips undefined ones.

    Args:
        axis: the axis to draw on.
        positions: position of each mean along the other axis.
        values: the means.
        number: number of the curve, see `style`.
        horizontal: whether the values are on the horizontal axis.
        **changes: arguments of `errorbar`.
    """
    pairs = [(p, v) for p, v in zip(positions, values, strict=True) if v and v['mean'] is not None]
    numbers = np.array([[v['mean'], v['low'], v['high']] for _, v in pairs], float)
    mean, low, high = numbers.reshape(-1, 3).T
    errors, where = np.maximum([mean - low, high - mean], 0), [place for place, _ in pairs]
    (colour, marker), error = style(number), 'xerr' if horizontal else 'yerr'
    axis.errorbar(
        *((mean, where) if horizontal else (where, mean)),
        **{error: errors, 'color': colour, 'marker': marker, **changes},
        markersize=4.5,
        linewidth=1.2,
        capsize=2.5,
    )
