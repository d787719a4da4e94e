"""The figure of a study of secure aggregation: leakage against the number of rounds."""

import pathlib
from collections.abc import Sequence
from typing import Any

from fedinv_jax.report import tables, tradeoff
from fedinv_jax.report.figures import canvas
from fedinv_jax.report.rows import SummaryRow
from fedinv_jax.report.tradeoff import Point

_CHANGING = ('sampled', 'redrawn')
_SUMS = ('cohort', 'clients_per_round')


def draw(found: Sequence[Point], path: pathlib.Path) -> pathlib.Path | None:
    """Writes the figure `auc_vs_rounds`.

    Args:
        found: the result of `tradeoff.points`.
        path: PNG to write.

    Returns:
        The path, or None if no cohorts change.
    """
    page = auc_vs_rounds(found)
    return None if page is None else canvas.save(page, path)


def auc_vs_rounds(found: Sequence[Point]) -> Any | None:
    """Draws the best attack's AUC with at most T rounds of sums, with 95% confidence intervals.

    There is a column of panels for each model, with known batches and without. The upper panels
    have a curve for each membership and size of a cohort, without another defence; the lower ones a
    curve for each noise on the sum, for the cohorts with the most of them. The dashed line is the
    popularity baseline.

    Args:
        found: the result of `tradeoff.points`.

    Returns:
        The page, or None if no cohorts change.
    """
    sums = [point for point in found if 'cohort' in point.best['defences'] and _shown(point)]
    if not any(_membership(point) in _CHANGING for point in sums):
        return None
    quiet = [point for point in sums if not _noise(point)]
    noises = {who: {_noise(p) for p in sums if _who(p) == who} for who in map(_who, sums)}
    noisiest = max(noises, key=lambda who: len(noises[who]))
    lines = [(quiet, _who, '')]
    if len(noises[noisiest]) > 1:
        own = sorted((p for p in sums if _who(p) == noisiest), key=_noise)
        lines.append((own, lambda point: f'noise {_noise(point):g}', noisiest))
    known_first = sorted(sums, key=lambda point: not point.best['batch_known'])
    columns = list(dict.fromkeys(map(_column, known_first)))
    steps = sorted({point.num_gradients for point in sums})
    width = 1.6 + 3.2 * len(columns)
    page, axes = canvas.page(len(columns), len(lines), width, 3 * len(lines), sharey=True)
    for line, (points, label_of, title) in zip(axes, lines, strict=True):
        labels = list(dict.fromkeys(map(label_of, points)))
        for axis, column in zip(line, columns, strict=True):
            own = [point for point in points if _column(point) == column]
            curves = {
                label: [_at(point) for point in own if label_of(point) == label] for label in labels
            }
            canvas.plot_curves(axis, curves, lambda row: row['metrics']['auc'], steps)
            levels = [level for level in map(tradeoff.popularity, own) if level is not None]
            canvas.references(axis, {round(level, 3) for level in levels}, zorder=0)
            axis.set_title('\n'.join(filter(None, (column, title))), fontsize=9)
            axis.set_xlabel('rounds, T (count)')
        line[0].set_ylabel('AUC of the best attack\n(mean over victims)')
        line[-1].legend(loc='upper left', bbox_to_anchor=(1.02, 1), fontsize=8, frameon=False)
    return page


def _shown(point: Point) -> bool:
    """Whether a point has no defence but secure aggregation, or noise on the sum."""
    return bool(_noise(point)) or set(point.best['defences']) <= {*_SUMS, *_CHANGING}


def _membership(point: Point) -> str:
    return next((name for name in _CHANGING if name in point.best['defences']), 'fixed')


def _who(point: Point) -> str:
    return f'{_membership(point)}, {point.best["defences"]["cohort"]:g} clients'


def _noise(point: Point) -> float:
    value = point.best['defences'].get('sum_noise', 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _column(point: Point) -> str:
    known = '' if point.best['batch_known'] else ', batches unknown'
    return tables.show(point.best['model']) + known


def _at(point: Point) -> SummaryRow:
    """The best row, at the T of its point."""
    return {**point.best, 'num_gradients': point.num_gradients}
