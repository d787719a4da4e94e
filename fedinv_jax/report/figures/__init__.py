"""Figures of a report: what a person looks at first. Matplotlib loads when one is drawn."""

import pathlib
from collections.abc import Iterable

from fedinv_jax.report.figures import canvas, exact, overview, study, tradeoff
from fedinv_jax.report.rows import Summary, VictimRow

__all__ = ['canvas', 'draw', 'exact', 'overview', 'study', 'tradeoff']


def draw(
    rows: Iterable[VictimRow], summary: Summary, folder: str | pathlib.Path
) -> list[pathlib.Path]:
    """Draws every figure whose ingredients are there.

    Args:
        rows: rows of victims.
        summary: what `stats.summarize` returns.
        folder: where the PNGs go; made when missing.

    Returns:
        Paths of the figures that were written.
    """
    rows = list(rows)
    pages = {
        'metrics_vs_num_gradients': overview.metrics_vs_num_gradients(summary),
        'recovered_vs_true': overview.recovered_vs_true(rows, summary),
        'constraints_vs_num_gradients': exact.constraints_vs_num_gradients(summary),
        'intervals': exact.intervals(summary),
        'margin_vs_f1': exact.margin_vs_f1(rows),
        'metrics_vs_first_round': study.metrics_vs_first_round(summary),
        'metrics_vs_interval': study.metrics_vs_interval(summary),
        'attacks': study.attacks(summary),
        'distributions': study.distributions(rows),
        'runtime': study.runtime(summary),
    }
    return [
        canvas.save(page, pathlib.Path(folder) / f'{name}.png')
        for name, page in pages.items()
        if page is not None
    ]
