"""What the figures share: pages, colours, curves over T. Matplotlib loads when one is drawn."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedinv_jax.report import stats, tables

Row = stats.Row

# Okabe and Ito's colours, told apart by the colour-blind; each curve has a marker of its own too.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
MARKERS = 'osD^vPX'
_XLABELS = {
    'num_gradients': 'gradients per victim, T (count)',
    'first_round': 'first observed round',
    'interval': 'interval (server rounds)',
}


def style(number: int) -> tuple[str, str]:
    """Colour and marker of a curve: no two of 49 share both."""
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


def curves(attacks: Sequence[Row]) -> dict[str, list[Row]]:
    """Summary rows by label, one curve each; T = 1 starts the curve of every interval."""
    told = [key for key in tables.told(attacks) if key != 'solver']
    found: dict[str, list[Row]] = {}
    for row in attacks:
        same = [other for other in attacks if stats.same_but_steps(row, other)]
        spans = {other['interval'] for other in same} - {None} or {None}
        for span in sorted(spans) if row['interval'] is None else [row['interval']]:
            words = [
                f'{tables.title(key)} ' * (key != 'attack')
                + tables.show(span if key == 'interval' else row[key])
                for key in told
            ]
            found.setdefault(', '.join(words) or row['attack'], []).append(row)
    return found


def guesser_levels(summary: Row, name: str, metric: str) -> list[float]:
    """The different means of a guesser's metric, to three decimals."""
    means = [row['metrics'][metric]['mean'] for row in summary['rows'] if row['attack'] == name]
    return sorted({round(mean, 3) for mean in means if mean is not None})


def legend_height(lines: int) -> float:
    """Inches of a legend of so many entries in two columns."""
    return 0.24 * ((lines + 1) // 2)


def plot_curves(
    axis: Any,
    labelled: dict[str, list[Row]],
    value_of: Callable[[Row], Row | None],
    steps: Sequence[int],
    key: str = 'num_gradients',
) -> None:
    """Draws `{'mean', 'low', 'high'}` of each row against one of its numbers, a curve a label.

    T (or `key`) is an axis of categories: 1, 2, 4, 8 stand apart evenly, and one T alone in the
    middle. Curves step aside from each other, so that their intervals do not cover each other.
    """
    shifts = (np.arange(len(labelled)) - (len(labelled) - 1) / 2) * min(0.1, 0.6 / len(labelled))
    for number, (label, rows) in enumerate(labelled.items()):
        found = [(row, value) for row in rows if (value := value_of(row)) is not None]
        kept = sorted(
            ((row[key], value) for row, value in found if value['mean'] is not None),
            key=lambda pair: pair[0],
        )
        values = np.array([[v[key] for key in ('mean', 'low', 'high')] for _, v in kept])
        mean, low, high = values.reshape(-1, 3).T
        axis.errorbar(
            [steps.index(step) + shifts[number] for step, _ in kept],
            mean,
            yerr=np.maximum([mean - low, high - mean], 0),
            label=label,
            color=style(number)[0],
            marker=style(number)[1],
            linestyle=('-', '--', '-.')[number // len(COLOURS) % 3],
            markersize=4.5,
            linewidth=1.2,
            capsize=2.5,
        )
    axis.set_xticks(range(len(steps)), steps)
    axis.set_xlim(-0.5, len(steps) - 0.5)
    axis.set_xlabel(_XLABELS[key])
    axis.set_axisbelow(True)
    axis.grid(axis='y', color='0.9')
