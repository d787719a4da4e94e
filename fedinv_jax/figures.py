"""Figures of a report: what a person looks at first. Matplotlib loads when one is drawn."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedinv_jax import report, stats

Row = stats.Row

# Okabe and Ito's colours, told apart by the colour-blind; each curve has a marker of its own too.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
_MARKERS = 'osD^vPX'
_GUESSER_LINES = {'popularity': '--', 'random': ':'}
_VICTIMS = 4


def _new(columns: int, rows: int, width: float, height: float, **shared: Any) -> tuple[Any, Any]:
    """A figure outside pyplot's global state, and its axes `[rows, columns]`."""
    from matplotlib import figure

    page = figure.Figure(figsize=(width, height), dpi=150, layout='constrained')
    return page, page.subplots(rows, columns, squeeze=False, **shared)


def _save(page: Any, path: pathlib.Path) -> pathlib.Path:
    """Writes a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(path)
    return path


def _curves(attacks: Sequence[Row]) -> dict[str, list[Row]]:
    """Summary rows by label, one curve each; T = 1 starts the curve of every interval."""
    values = report.distinct(attacks)
    told = [key for key, shown in values.items() if len(shown) > 1 and key != 'num_gradients']
    curves: dict[str, list[Row]] = {}
    for row in attacks:
        same = [other for other in attacks if stats.same_but_steps(row, other)]
        spans = {other['interval'] for other in same} - {None} or {None}
        for span in sorted(spans) if row['interval'] is None else [row['interval']]:
            words = [
                f'{report.title(key)} {report.show(span if key == "interval" else row[key])}'
                for key in told
            ]
            curves.setdefault(', '.join(words) or row['attack'], []).append(row)
    return curves


def metrics_vs_num_gradients(summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws AUC, average precision and F1 against the number of gradients T.

    One curve per setting that differs in more than T, with 95% intervals; the guessers are
    horizontal lines.

    Args:
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None when the summary holds no attack.
    """
    attacks = report.attacks_of(summary)
    if not attacks:
        return None
    curves = _curves(attacks)
    steps = sorted({row['num_gradients'] for row in attacks})
    # T is an axis of categories: 1, 2, 4, 8 stand apart evenly, and one T alone in the middle.
    # Curves step aside from each other, so that their intervals do not cover each other.
    shifts = (np.arange(len(curves)) - (len(curves) - 1) / 2) * min(0.1, 0.6 / len(curves))
    legend_height = 0.24 * ((len(curves) + 2 + 1) // 2)
    page, axes = _new(len(stats.COMPARED), 1, 10, 3.4 + legend_height)
    for axis, metric in zip(axes[0], stats.COMPARED, strict=True):
        for number, (label, rows) in enumerate(curves.items()):
            kept = sorted(
                (row for row in rows if row['metrics'][metric]['mean'] is not None),
                key=lambda row: row['num_gradients'],
            )
            values = np.array(
                [[row['metrics'][metric][key] for key in ('mean', 'low', 'high')] for row in kept]
            ).reshape(-1, 3)
            mean, low, high = values.T
            axis.errorbar(
                [steps.index(row['num_gradients']) + shifts[number] for row in kept],
                mean,
                yerr=np.maximum([mean - low, high - mean], 0),
                label=label,
                color=_COLOURS[number % len(_COLOURS)],
                marker=_MARKERS[number % len(_MARKERS)],
                linestyle=('-', '--', '-.')[number // len(_COLOURS) % 3],
                markersize=4.5,
                linewidth=1.2,
                capsize=2.5,
            )
        for name, style in _GUESSER_LINES.items():
            levels = {
                round(row['metrics'][metric]['mean'], 3)
                for row in summary['rows']
                if row['attack'] == name and row['metrics'][metric]['mean'] is not None
            }
            for level in sorted(levels):
                axis.axhline(level, color='0.45', linestyle=style, linewidth=1.2, zorder=1)
        axis.set_xticks(range(len(steps)), steps)
        axis.set_xlim(-0.5, len(steps) - 0.5)
        axis.set_xlabel('gradients per victim, T (count)')
        axis.set_ylabel(f'{report.title(metric)} (mean over victims)')
        axis.set_axisbelow(True)
        axis.grid(axis='y', color='0.9')
    handles, labels = axes[0][0].get_legend_handles_labels()
    present = {row['attack'] for row in summary['rows']}
    for name, style in _GUESSER_LINES.items():
        if name in present:
            handles += axes[0][0].plot([], [], color='0.45', linestyle=style)
            labels.append(f'{name} guesser')
    page.legend(handles, labels, loc='outside lower center', ncols=2, fontsize=8, frameon=False)
    return _save(page, path)


def _draw_victim(axis: Any, row: Row) -> None:
    """Scores by rank, coloured by the truth; below them a tick at the rank of each interaction."""
    scores, truth = np.asarray(row['scores'], float), np.asarray(row['truth']) > 0
    order = np.argsort(-scores, kind='stable')
    ranks, scores, truth = np.arange(1, order.size + 1), scores[order], truth[order]
    size = np.clip(2000 / max(order.size, 1), 4, 14)
    axis.axhline(0.5, color='0.45', linestyle='--', linewidth=1, zorder=0)
    for mask, colour, marker in ((~truth, _COLOURS[1], 'x'), (truth, _COLOURS[0], 'o')):
        axis.scatter(ranks[mask], scores[mask], s=size, c=colour, marker=marker, linewidths=0.8)
    axis.eventplot(
        ranks[truth], lineoffsets=-0.18, linelengths=0.14, linewidths=0.8, colors=_COLOURS[0]
    )
    auc = row['metrics'].get('auc')
    told = [f'user {row["user"]}', f'T = {row["num_gradients"]}']
    told += [f'AUC {auc:.3f}'] if auc is not None else []
    told += ['failed'] if row['status'] != 'ok' else []
    axis.set_title(', '.join(told), fontsize=9)
    axis.set_ylim(-0.3, 1.06)
    axis.set_yticks([0, 0.5, 1])
    axis.set_xlim(0, order.size + 1)


def recovered_vs_true(rows: Iterable[Row], summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws a few victims' recovered scores, items in order of score, coloured by the truth.

    One line of panels a victim; smallest and largest T of the first attack side by side.

    Args:
        rows: rows of victims, of which some carry `scores` and `truth` `[K]`.
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None when no victim of that attack carries scores.
    """
    attacks = report.attacks_of(summary)
    if not attacks:
        return None
    same = [row for row in attacks if stats.same_but_steps(row, attacks[0])]
    ends = [choose(same, key=lambda row: row['num_gradients']) for choose in (min, max)]
    settings = list(dict.fromkeys(stats.setting(row) for row in ends))
    victims: dict[Any, dict[str, Row]] = {}
    for victim in rows:
        if victim.get('scores') is not None and stats.setting(victim) in settings:
            victims.setdefault(victim['user'], {})[stats.setting(victim)] = victim
    # Victims with every T first; among equals, by id.
    chosen = sorted(victims, key=lambda user: (-len(victims[user]), user))[:_VICTIMS]
    if not chosen:
        return None
    columns = len(settings)
    page, axes = _new(
        columns, len(chosen), max(4.6 * columns, 7), 0.8 + 1.7 * len(chosen), sharey=True
    )
    for line, user in zip(axes, chosen, strict=True):
        for axis, key in zip(line, settings, strict=True):
            if key in victims[user]:
                _draw_victim(axis, victims[user][key])
            else:
                axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel('rank of the item by score')
    for line in axes:
        line[0].set_ylabel('score (0 to 1)')
    handles = [
        axes[0][0].scatter([], [], c=_COLOURS[0], marker='o', s=14),
        axes[0][0].scatter([], [], c=_COLOURS[1], marker='x', s=14, linewidths=0.8),
        axes[0][0].scatter([], [], c=_COLOURS[0], marker='|', s=40, linewidths=0.8),
        axes[0][0].plot([], [], color='0.45', linestyle='--', linewidth=1)[0],
    ]
    labels = ['interaction', 'no interaction', 'ranks of the interactions', 'threshold 0.5']
    page.legend(handles, labels, loc='outside upper center', ncols=4, fontsize=9, frameon=False)
    return _save(page, path)


def draw(rows: Iterable[Row], summary: Row, folder: str | pathlib.Path) -> list[pathlib.Path]:
    """Draws every figure whose ingredients are there.

    Args:
        rows: rows of victims.
        summary: what `stats.summarize` returns.
        folder: where the PNGs go; made when missing.

    Returns:
        Paths of the figures that were written.
    """
    folder = pathlib.Path(folder)
    paths = (
        metrics_vs_num_gradients(summary, folder / 'metrics_vs_num_gradients.png'),
        recovered_vs_true(rows, summary, folder / 'recovered_vs_true.png'),
    )
    return [path for path in paths if path is not None]
