"""Figures of any run: metrics against T, and what was recovered of a few victims."""

import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from fedinv_jax.report import stats, tables
from fedinv_jax.report.figures import canvas

Row = stats.Row

_GUESSER_LINES = {'popularity': '--', 'random': ':'}
_VICTIMS = 4


def metrics_vs_num_gradients(summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws AUC, average precision and F1 against the number of gradients T.

    One curve per setting that differs in more than T, with 95% intervals; the guessers are
    horizontal lines. Of more than seven curves those at the first round and interval that come
    first.

    Args:
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None when the summary holds no attack.
    """
    attacks = tables.attacks_of(summary)
    if not attacks:
        return None
    curves = canvas.curves(attacks)
    if len(curves) > len(canvas.COLOURS):
        first = min(row['first_round'] for row in attacks)
        near = min((row['interval'] for row in attacks if row['interval']), default=None)
        attacks = [row for row in attacks if row['first_round'] == first]
        attacks = [row for row in attacks if row['interval'] in (None, near)]
        curves = canvas.curves(attacks)
    steps = sorted({row['num_gradients'] for row in attacks})
    height = 3.4 + canvas.legend_height(len(curves) + len(_GUESSER_LINES))
    page, axes = canvas.page(len(stats.COMPARED), 1, 10, height)
    for axis, metric in zip(axes[0], stats.COMPARED, strict=True):
        canvas.plot_curves(axis, curves, lambda row: row['metrics'][metric], steps)  # noqa: B023
        for name, style in _GUESSER_LINES.items():
            for level in canvas.guesser_levels(summary, name, metric):
                axis.axhline(level, color='0.45', linestyle=style, linewidth=1.2, zorder=1)
        axis.set_ylabel(f'{tables.title(metric)} (mean over victims)')
    handles, labels = axes[0][0].get_legend_handles_labels()
    present = {row['attack'] for row in summary['rows']}
    for name, style in _GUESSER_LINES.items():
        if name in present:
            handles += axes[0][0].plot([], [], color='0.45', linestyle=style)
            labels.append(f'{name} guesser')
    page.legend(handles, labels, loc='outside lower center', ncols=2, fontsize=8, frameon=False)
    return canvas.save(page, path)


def _draw_victim(axis: Any, row: Row) -> None:
    """Scores by rank, coloured by the truth; below them a tick at the rank of each interaction."""
    scores, truth = np.asarray(row['scores'], float), np.asarray(row['truth']) > 0
    order = np.argsort(-scores, kind='stable')
    ranks, scores, truth = np.arange(1, order.size + 1), scores[order], truth[order]
    size = np.clip(2000 / max(order.size, 1), 4, 14)
    axis.axhline(0.5, color='0.45', linestyle='--', linewidth=1, zorder=0)
    for mask, colour, marker in ((~truth, canvas.COLOURS[1], 'x'), (truth, canvas.COLOURS[0], 'o')):
        axis.scatter(ranks[mask], scores[mask], s=size, c=colour, marker=marker, linewidths=0.8)
    axis.eventplot(
        ranks[truth], lineoffsets=-0.18, linelengths=0.14, linewidths=0.8, colors=canvas.COLOURS[0]
    )
    auc = row['metrics'].get('auc')
    told = [f'user {row["user"]} of seed {row["seed"]}', f'T = {row["num_gradients"]}']
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
    attacks = tables.attacks_of(summary)
    if not attacks:
        return None
    same = [row for row in attacks if stats.same_but_steps(row, attacks[0])]
    ends = [choose(same, key=lambda row: row['num_gradients']) for choose in (min, max)]
    settings = list(dict.fromkeys(stats.setting(row) for row in ends))
    victims: dict[Any, dict[str, Row]] = {}
    for victim in rows:
        if victim.get('scores') is not None and stats.setting(victim) in settings:
            name = (victim['seed'], victim['user'])
            victims.setdefault(name, {})[stats.setting(victim)] = victim
    # Victims with every T first; among equals, by id.
    chosen = sorted(victims, key=lambda user: (-len(victims[user]), user))[:_VICTIMS]
    if not chosen:
        return None
    columns = len(settings)
    page, axes = canvas.page(
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
        axes[0][0].scatter([], [], c=canvas.COLOURS[0], marker='o', s=14),
        axes[0][0].scatter([], [], c=canvas.COLOURS[1], marker='x', s=14, linewidths=0.8),
        axes[0][0].scatter([], [], c=canvas.COLOURS[0], marker='|', s=40, linewidths=0.8),
        axes[0][0].plot([], [], color='0.45', linestyle='--', linewidth=1)[0],
    ]
    labels = ['interaction', 'no interaction', 'ranks of the interactions', 'threshold 0.5']
    page.legend(handles, labels, loc='outside upper center', ncols=4, fontsize=9, frameon=False)
    return canvas.save(page, path)
