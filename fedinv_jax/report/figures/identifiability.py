"""Figures on identifiability: what the uploads determine, and the certificates of attacks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedinv_jax.report import inference, stats, tables
from fedinv_jax.report.figures import canvas
from fedinv_jax.report.rows import ConfidenceInterval, Summary, SummaryRow, VictimRow

_LEAST, _MOST = 1e-3, 1e6  # ratios of margin to noise are clipped to this range
_PANELS = 4  # rows of heat maps


def constraints_vs_num_gradients(summary: Summary) -> Any | None:
    """Draws the rank, the certified share and F1 against T, for attacks with certificates.

    If no answer is certified and some are locally unique, the share is that of the latter, without
    an interval. There is one curve per combination of the other keys (first round, interval), with
    95% confidence intervals over victims of the share and F1. A dashed line is the number of
    unknowns, the largest possible rank.

    Args:
        summary: the result of `stats.summarize`.

    Returns:
        The page, or None if no attack has certificates.
    """
    attacks = [row for row in tables.attacks_of(summary) if row['certified'] is not None]
    if not attacks:
        return None
    curves = canvas.curves(attacks)
    steps = sorted({row['num_gradients'] for row in attacks})
    page, axes = canvas.page(3, 1, 10, 3.2 + canvas.legend_height(len(curves) + 1))

    def rank(row: SummaryRow) -> ConfidenceInterval:
        return {'mean': row['rank'], 'low': row['rank'], 'high': row['rank'], 'undefined': 0}

    def locally_unique(row: SummaryRow) -> ConfidenceInterval:
        share = (row['num_locally_unique'] or 0) / row['num_victims']
        return {'mean': share, 'low': share, 'high': share, 'undefined': 0}

    def certified(row: SummaryRow) -> ConfidenceInterval | None:
        return row['certified']

    local = any(row['num_locally_unique'] for row in attacks)
    local &= not any(row['num_certified'] for row in attacks)
    word, share = ('locally unique', locally_unique) if local else ('certified', certified)
    for axis, title, value_of in zip(
        axes[0],
        ('rank of the Jacobian (mean)', f'{word} (share of victims)', 'F1 (mean over victims)'),
        (rank, share, lambda row: row['metrics']['f1']),
        strict=True,
    ):
        canvas.plot_curves(axis, curves, value_of, steps)
        axis.set_ylabel(title)
    for axis in axes[0][1:]:
        axis.set_ylim(-0.04, 1.04)
    for place, step in enumerate(steps):
        count = inference.mean(row['unknowns'] for row in attacks if row['num_gradients'] == step)
        if count is not None:  # a segment per T, so that it is visible with a single T too
            axes[0][0].plot([place - 0.35, place + 0.35], [count] * 2, **canvas.REFERENCE)
    axes[0][0].set_ylim(0, 1.06 * axes[0][0].dataLim.y1)
    canvas.legend(page, axes[0][0], {'unknowns: labels and private numbers (mean)': {}})
    return page


def intervals(summary: Summary) -> Any | None:
    """Draws heat maps of F1 and of the certified share over (T, interval), a row per setting.

    T = 1 has no interval: its column repeats the same value.

    Args:
        summary: the result of `stats.summarize`.

    Returns:
        The page, or None if no attack has at least two T and two intervals.
    """
    lines = _grids(tables.attacks_of(summary))
    if not lines:
        return None
    certified = [rows[0]['certified'] is not None for rows in lines]
    columns = 1 + any(certified)
    tallest = max(len(_axes(rows)[1]) for rows in lines)
    height = len(lines) * (1.3 + 0.34 * tallest)
    page, axes = canvas.page(columns, len(lines), 1 + 4.2 * columns, max(height, 2.8))
    varied = tables.varying([row for rows in lines for row in rows])
    keys = [key for key in varied if key not in stats.STEPS]
    image = None
    for line, rows, has_share in zip(axes, lines, certified, strict=True):
        first: Mapping[str, Any] = rows[0]
        where = ''.join(f', {tables.title(key)} {tables.show(first[key])}' for key in keys)
        image = _heat(line[0], rows, f'F1{where}', [row['metrics']['f1'] for row in rows])
        if has_share:
            _heat(line[1], rows, f'certified share{where}', [row['certified'] for row in rows])
        elif columns > 1:
            line[1].set_axis_off()
    page.colorbar(
        image, ax=axes, label='mean over victims (0 to 1)', pad=0.02, aspect=12 * len(lines)
    )
    return page


def _grids(attacks: Iterable[SummaryRow]) -> list[list[SummaryRow]]:
    """Rows of up to `_PANELS` settings with two T and two intervals, with certificates first."""
    groups: dict[str, list[SummaryRow]] = {}
    for row in attacks:
        groups.setdefault(stats.setting(row, stats.STEPS), []).append(row)
    found = [rows for rows in groups.values() if min(map(len, _axes(rows))) > 1]
    return sorted(found, key=lambda rows: rows[0]['certified'] is None)[:_PANELS]


def _axes(rows: Sequence[SummaryRow]) -> tuple[list[int], list[int]]:
    """All T and all intervals of the summary rows, increasing."""
    return (
        sorted({row['num_gradients'] for row in rows}),
        sorted({span for row in rows if (span := row['interval']) is not None}),
    )


def _heat(
    axis: Any, rows: Sequence[SummaryRow], title: str, values: Sequence[ConfidenceInterval | None]
) -> Any:
    """Draws a heat map over (T, interval) with numbers; cells without a value stay white."""
    steps, spans = _axes(rows)
    grid = np.full((len(spans), len(steps)), np.nan)
    for row, value in zip(rows, values, strict=True):
        line = slice(None) if row['interval'] is None else spans.index(row['interval'])
        if value and value['mean'] is not None:
            grid[line, steps.index(row['num_gradients'])] = value['mean']
    image = axis.imshow(grid, cmap='cividis', vmin=0, vmax=1, aspect='auto', origin='lower')
    for (y, x), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = 'black' if value > 0.55 else 'white'
            axis.text(x, y, f'{value:.3f}', ha='center', va='center', color=colour, fontsize=8)
    axis.set_xticks(range(len(steps)), steps)
    axis.set_yticks(range(len(spans)), spans)
    axis.set_xlabel(canvas.XLABELS['num_gradients'])
    axis.set_ylabel(canvas.XLABELS['interval'])
    axis.set_title(title, fontsize=9)
    return image


# Colour and marker by word, in the order of drawing.
_STYLES = {'neither': (1, 'x'), 'locally unique': (2, '^'), 'certified': (0, 'o')}


def _word(row: VictimRow) -> str:
    """The word of an answer with a certificate, a key of `_STYLES`."""
    if row['certified']:
        return 'certified'
    return 'locally unique' if row['locally_unique'] else 'neither'


def margin_vs_f1(rows: Iterable[VictimRow]) -> Any | None:
    """Draws the measured F1 against the ratio of each certificate's margin to its noise.

    There is one mark per victim and setting. Certified and locally unique answers have a ratio
    above 1; certified ones should all have F1 = 1.

    Args:
        rows: victim rows.

    Returns:
        The page, or None if no row has a margin and an F1.
    """
    made = [
        (margin / max(noise, np.finfo(float).tiny), f1, _word(row))
        for row in rows
        for margin, noise, f1 in [(row['margin'], row['noise'], row['metrics'].get('f1'))]
        if margin is not None and noise is not None and f1 is not None
    ]
    if not made:
        return None
    exact, f1, words = map(np.array, zip(*made, strict=True))
    ratio = np.clip(exact, _LEAST, _MOST)
    beyond = '' if np.array_equal(exact, ratio) else f', clipped to {_LEAST:g} to {_MOST:g}'
    page, ((axis,),) = canvas.page(1, 1, 6, 4)
    canvas.references(axis, [1], vertical=True, linewidth=1, zorder=0)
    for word, (number, marker) in _STYLES.items():
        mask = words == word
        if mask.any():
            axis.scatter(
                ratio[mask], f1[mask], s=18, c=canvas.COLOURS[number], marker=marker, alpha=0.7,
                linewidths=0.9, label=f'{word} ({mask.sum()} of {len(made)})',
            )  # fmt: skip
    axis.set_xscale('log')
    axis.set_ylim(-0.04, 1.04)
    axis.set_xlabel(f'margin / noise (ratio{beyond})\nabove 1 other labels explain less')
    axis.set_ylabel('F1 of the victim')
    canvas.grid(axis, 'both')
    canvas.legend(page, axis, place='upper', size=9)
    return page
