"""The figures of a report. Matplotlib is imported when a figure is drawn."""

import pathlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from fedinv_jax.report.figures import canvas, identifiability, overview, study, tradeoff
from fedinv_jax.report.rows import Summary, VictimRow

__all__ = ['canvas', 'draw', 'identifiability', 'overview', 'study', 'tradeoff']


def draw(
    rows: Iterable[VictimRow], summary: Summary, folder: str | pathlib.Path
) -> list[pathlib.Path]:
    """Draws every figure for which the rows have data; of explicit ratings, the first only.

    Args:
        rows: victim rows.
        summary: the result of `stats.summarize`.
        folder: folder for the PNGs; created if missing.

    Returns:
        Paths of the figures that were written.
    """
    rows = list(rows)
    makers: dict[str, Callable[[], Any | None]] = {
        'metrics_vs_num_gradients': partial(overview.metrics_vs_num_gradients, summary),
        'recovered_vs_true': partial(overview.recovered_vs_true, rows, summary),
        'constraints_vs_num_gradients': partial(
            identifiability.constraints_vs_num_gradients, summary
        ),
        'intervals': partial(identifiability.intervals, summary),
        'margin_vs_f1': partial(identifiability.margin_vs_f1, rows),
        'metrics_vs_first_round': partial(study.metrics_vs_first_round, summary),
        'metrics_vs_interval': partial(study.metrics_vs_interval, summary),
        'attacks': partial(study.attacks, summary),
        'distributions': partial(study.distributions, rows),
        'runtime': partial(study.runtime, summary),
    }
    if any('accuracy' in row['metrics'] for row in rows):
        makers = {name: makers[name] for name in ('metrics_vs_num_gradients',)}
    return [
        canvas.save(page, pathlib.Path(folder) / f'{name}.png')
        for name, make in makers.items()
        if (page := make()) is not None
    ]
