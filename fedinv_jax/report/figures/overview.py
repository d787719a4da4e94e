"""Figures of any run: metrics against T, and the recovered scores of a few victims."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedinv_jax.report import stats, tables
from fedinv_jax.report.figures import canvas
from fedinv_jax.report.rows import Summary, VictimRow

_STYLES = ('--', ':', '-.')  # line styles of the baselines
_VICTIMS = 4


def metrics_vs_num_gradients(summary: Summary) -> Any | None:
    """Draws AUC, average precision and F1 (or accuracy and RMSE of ratings) against T.

    There is one curve per combination of the other keys, with 95% confidence intervals; baselines
    are horizontal lines. If there are more than seven curves, only the earliest first round and the
    smallest interval are drawn.

    Args:
        summary: the result of `stats.summarize`.

    Returns:
        The page, or None if the summary has no attack.
    """
    attacks = tables.attacks_of(summary)
    if not attacks:
        return None
    curves = canvas.curves(attacks)
    if len(curves) > len(canvas.COLOURS):
        first = min(row['first_round'] for row in attacks)
        attacks = canvas.nearest([row for row in attacks if row['first_round'] == first])
        curves = canvas.curves(attacks)
    steps = sorted({row['num_gradients'] for row in attacks})
    found = {row['attack'] for row in summary['rows']
             if row['family'] == 'baseline' and not row['placebo']}  # fmt: skip
    baselines = dict(zip(sorted(found), itertools.cycle(_STYLES)))
    height = 3.4 + canvas.legend_height(len(curves) + 2)
    metrics = stats.compared_by(attacks[0]['metrics'])
    page, axes = canvas.page(len(metrics), 1, 10, height)
    for axis, metric in zip(axes[0], metrics, strict=True):
        canvas.plot_curves(axis, curves, lambda row: row['metrics'][metric], steps)  # noqa: B023
        for name, style in baselines.items():
            levels = canvas.baseline_levels(summary, metric, name)
            canvas.references(axis, levels, linestyle=style)
        axis.set_ylabel(f'{tables.title(metric)} (mean over victims)')
    entries = {f'{name} baseline': {'linestyle': style} for name, style in baselines.items()}
    canvas.legend(page, axes[0][0], entries)
    return page


def _draw_victim(axis: Any, row: VictimRow) -> None:
    """Draws scores by rank, coloured by true label, and a tick at the rank of each interaction."""
    scores, truth = np.asarray(row['scores'], float), np.asarray(row['truth']) > 0
    order = np.argsort(-scores, kind='stable')
    ranks, scores, truth = np.arange(1, order.size + 1), scores[order], truth[order]
    size = np.clip(2000 / max(order.size, 1), 4, 14)
    canvas.references(axis, [0.5], linewidth=1, zorder=0)
    for mask, colour, marker in ((~truth, canvas.COLOURS[1], 'x'), (truth, canvas.COLOURS[0], 'o')):
        axis.scatter(ranks[mask], scores[mask], s=size, c=colour, marker=marker, linewidths=0.8)
    axis.eventplot(
        ranks[truth], lineoffsets=-0.18, linelengths=0.14, linewidths=0.8, colors=canvas.COLOURS[0]
    )
    auc = row['metrics'].get('auc')
    varying = [f'user {row["user"]} of seed {row["seed"]}', f'T = {row["num_gradients"]}']
    varying += [f'AUC {auc:.3f}'] if auc is not None else []
    varying += ['failed'] if row['status'] != 'ok' else []
    axis.set_title(', '.join(varying), fontsize=9)
    axis.set_ylim(-0.3, 1.06)
    axis.set_yticks([0, 0.5, 1])
    axis.set_xlim(0, order.size + 1)


def recovered_vs_true(rows: Iterable[VictimRow], summary: Summary) -> Any | None:
    """Draws the recovered scores of a few victims, sorted by score and coloured by true label.

    Each victim has a row of panels: the smallest and the largest T of the first attack.

    Args:
        rows: victim rows, some of them with `scores` and `truth` `[K]`.
        summary: the result of `stats.summarize`.

    Returns:
        The page, or None if no victim of that attack has scores.
    """
    attacks = tables.attacks_of(summary)
    if not attacks:
        return None
    same = [row for row in attacks if stats.same_but_steps(row, attacks[0])]
    both_ends = [choose(same, key=lambda row: row['num_gradients']) for choose in (min, max)]
    settings = list(dict.fromkeys(stats.setting(row) for row in both_ends))
    chosen = _examples(rows, settings)
    if not chosen:
        return None
    columns = len(settings)
    page, axes = canvas.page(
        columns, len(chosen), max(4.6 * columns, 7), 0.8 + 1.7 * len(chosen), sharey=True
    )
    for line, own in zip(axes, chosen, strict=True):
        for axis, setting in zip(line, settings, strict=True):
            if setting in own:
                _draw_victim(axis, own[setting])
            else:
                axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel('rank of the item by score')
    for line in axes:
        line[0].set_ylabel('score (0 to 1)')
    _name_marks(axes[0][0])
    canvas.legend(page, axes[0][0], {'threshold 0.5': {'linewidth': 1}}, 'upper', 4, 9)
    return page


def _examples(rows: Iterable[VictimRow], settings: Sequence[str]) -> list[dict[str, VictimRow]]:
    """Rows with scores of a few victims, each as setting -> row; complete victims come first."""
    victims: dict[tuple[int, int], dict[str, VictimRow]] = {}
    for row in rows:
        if row.get('scores') is not None and stats.setting(row) in settings:
            victims.setdefault((row['seed'], row['user']), {})[stats.setting(row)] = row
    order = sorted(victims, key=lambda victim: (-len(victims[victim]), victim))
    return [victims[victim] for victim in order[:_VICTIMS]]


def _name_marks(axis: Any) -> None:
    """Adds legend entries for the markers of `_draw_victim`."""
    true, false = canvas.COLOURS[:2]
    axis.scatter([], [], c=true, marker='o', s=14, label='interaction')
    axis.scatter([], [], c=false, marker='x', s=14, linewidths=0.8, label='no interaction')
    axis.scatter(
        [], [], c=true, marker='|', s=40, linewidths=0.8, label='ranks of the interactions'
    )
