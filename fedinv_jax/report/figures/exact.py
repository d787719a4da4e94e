"""Figures of attacks that say what the uploads determine: constraints, certificates, margins."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedinv_jax.report import stats, tables
from fedinv_jax.report.figures import canvas

Row = stats.Row

_LEAST, _MOST = 1e-3, 1e6  # Margins over noise beyond these are drawn at these.
_PANELS = 4  # Lines of heat maps.


def constraints_vs_num_gradients(summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws the rank, the certified share and F1 against T, of attacks that certify.

    One curve per setting that differs in more than T (first round, interval), with 95% intervals
    over victims of the share and F1; dashed, the number of unknowns, which the rank cannot exceed.

    Args:
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None when nothing is certified.
    """
    attacks = [row for row in tables.attacks_of(summary) if row['certified'] is not None]
    if not attacks:
        return None
    curves = canvas.curves(attacks)
    steps = sorted({row['num_gradients'] for row in attacks})
    page, axes = canvas.page(3, 1, 10, 3.2 + canvas.legend_height(len(curves) + 1))

    def number(row: Row) -> Row:
        return dict.fromkeys(('mean', 'low', 'high'), row['rank'])

    for axis, title, value_of in zip(
        axes[0],
        ('rank of the Jacobian (mean)', 'certified (share of victims)', 'F1 (mean over victims)'),
        (number, lambda row: row['certified'], lambda row: row['metrics']['f1']),
        strict=True,
    ):
        canvas.plot_curves(axis, curves, value_of, steps)
        axis.set_ylabel(title)
    for axis in axes[0][1:]:
        axis.set_ylim(-0.04, 1.04)
    unknowns = {step: stats.mean(row['unknowns'] for row in attacks if row['num_gradients'] == step)
                for step in steps}  # fmt: skip
    drawn = [(steps.index(step), count) for step, count in unknowns.items() if count is not None]
    # A bar's width each, so that one T alone is drawn too.
    for place, count in drawn:
        axes[0][0].plot([place - 0.35, place + 0.35], [count] * 2, color='0.45', linestyle='--')
    axes[0][0].set_ylim(0, 1.06 * axes[0][0].dataLim.y1)
    handles, labels = axes[0][0].get_legend_handles_labels()
    handles += axes[0][0].plot([], [], color='0.45', linestyle='--')
    labels.append('unknowns: labels and private numbers (mean)')
    page.legend(handles, labels, loc='outside lower center', ncols=2, fontsize=8, frameon=False)
    return canvas.save(page, path)


def intervals(summary: Row, path: pathlib.Path) -> pathlib.Path | None:
    """Draws F1 and the certified share over (T, interval), a line of heat maps a setting.

    One gradient has no interval: its column is the same at each.

    Args:
        summary: what `stats.summarize` returns.
        path: PNG to write.

    Returns:
        The path, or None unless some attack has two T and two intervals.
    """
    groups: dict[str, list[Row]] = {}
    for row in tables.attacks_of(summary):
        groups.setdefault(stats.setting(row, stats.STEPS), []).append(row)
    # Attacks that certify first.
    lines = sorted(
        (rows for rows in groups.values() if min(map(len, _axes(rows))) > 1),
        key=lambda rows: rows[0]['certified'] is None,
    )[:_PANELS]
    if not lines:
        return None
    columns = 1 + any(rows[0]['certified'] is not None for rows in lines)
    tallest = max(len(_axes(rows)[1]) for rows in lines)
    height = len(lines) * (1.3 + 0.34 * tallest)
    page, axes = canvas.page(columns, len(lines), 1 + 4.2 * columns, max(height, 2.8))
    told = [key for key in tables.told([row for rows in lines for row in rows])
            if key not in stats.STEPS]  # fmt: skip
    image = None
    for line, rows in zip(axes, lines, strict=True):
        where = ''.join(f', {tables.title(key)} {tables.show(rows[0][key])}' for key in told)
        f1 = [row['metrics']['f1']['mean'] for row in rows]
        image = _heat(line[0], rows, f'F1{where}', f1)
        if rows[0]['certified'] is not None:
            share = [row['certified']['mean'] for row in rows]
            _heat(line[1], rows, f'certified share{where}', share)
        elif columns > 1:
            line[1].set_axis_off()
    page.colorbar(
        image, ax=axes, label='mean over victims (0 to 1)', pad=0.02, aspect=12 * len(lines)
    )
    return canvas.save(page, path)


def _axes(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """All T and all intervals of some summary rows, increasing."""
    return (
        sorted({row['num_gradients'] for row in rows}),
        sorted({row['interval'] for row in rows} - {None}),
    )


def _heat(axis: Any, rows: Sequence[Row], title: str, values: Sequence[float | None]) -> Any:
    """A heat map over (T, interval) with its numbers; cells without one stay white."""
    steps, spans = _axes(rows)
    grid = np.full((len(spans), len(steps)), np.nan)
    for row, value in zip(rows, values, strict=True):
        line = slice(None) if row['interval'] is None else spans.index(row['interval'])
        grid[line, steps.index(row['num_gradients'])] = np.nan if value is None else value
    image = axis.imshow(grid, cmap='cividis', vmin=0, vmax=1, aspect='auto', origin='lower')
    for (y, x), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = 'black' if value > 0.55 else 'white'
            axis.text(x, y, f'{value:.3f}', ha='center', va='center', color=colour, fontsize=8)
    axis.set_xticks(range(len(steps)), steps)
    axis.set_yticks(range(len(spans)), spans)
    axis.set_xlabel('gradients per victim, T (count)')
    axis.set_ylabel('interval (server rounds)')
    axis.set_title(title, fontsize=9)
    return image


def margin_vs_f1(rows: Iterable[Row], path: pathlib.Path) -> pathlib.Path | None:
    """Draws each certificate's margin over its noise against the F1 that was measured.

    One dot a victim and setting; certified ones, right of 1, should all have F1 1.

    Args:
        rows: rows of victims.
        path: PNG to write.

    Returns:
        The path, or None when no row has a margin and an F1.
    """
    made = [
        row
        for row in rows
        if None not in (row.get('margin'), row.get('noise'), row['metrics'].get('f1'))
    ]
    if not made:
        return None
    margin, noise, f1 = (
        np.array([row[name] if name in row else row['metrics'][name] for row in made], float)
        for name in ('margin', 'noise', 'f1')
    )
    exact = margin / np.maximum(noise, np.finfo(float).tiny)
    ratio = np.clip(exact, _LEAST, _MOST)
    beyond = '' if np.array_equal(exact, ratio) else f', drawn within {_LEAST:g} to {_MOST:g}'
    certified = np.array([bool(row['certified']) for row in made])
    page, ((axis,),) = canvas.page(1, 1, 6, 4)
    axis.axvline(1, color='0.45', linestyle='--', linewidth=1, zorder=0)
    styles = ((~certified, canvas.COLOURS[1], 'x'), (certified, canvas.COLOURS[0], 'o'))
    for mask, colour, marker in styles:
        word = 'certified' if marker == 'o' else 'not certified'
        axis.scatter(
            ratio[mask], f1[mask], s=18, c=colour, marker=marker, alpha=0.7, linewidths=0.9,
            label=f'{word} ({mask.sum()} of {len(made)})',
        )  # fmt: skip
    axis.set_xscale('log')
    axis.set_ylim(-0.04, 1.04)
    axis.set_xlabel(f'margin over noise (ratio{beyond}; certified above 1)')
    axis.set_ylabel('F1 of the victim')
    axis.set_axisbelow(True)
    axis.grid(color='0.9')
    page.legend(loc='outside upper center', ncols=2, fontsize=9, frameon=False)
    return canvas.save(page, path)
