"""Figures of a report: what a person looks at first. Matplotlib loads when one is drawn."""

import pathlib
from collections.abc import Iterable

from fedinv_jax.report.figures import exact, overview, study


def draw(
    rows: Iterable[overview.Row], summary: overview.Row, folder: str | pathlib.Path
) -> list[pathlib.Path]:
    """Draws every figure whose ingredients are there.

    Args:
        rows: rows of victims.
        summary: what `stats.summarize` returns.
        folder: where the PNGs go; made when missing.

    Returns:
        Paths of the figures that were written.
    """
    rows, folder = list(rows), pathlib.Path(folder)
    paths = (
        overview.metrics_vs_num_gradients(summary, folder / 'metrics_vs_num_gradients.png'),
        overview.recovered_vs_true(rows, summary, folder / 'recovered_vs_true.png'),
        exact.constraints_vs_num_gradients(summary, folder / 'constraints_vs_num_gradients.png'),
        exact.intervals(summary, folder / 'intervals.png'),
        exact.margin_vs_f1(rows, folder / 'margin_vs_f1.png'),
        study.metrics_vs_first_round(summary, folder / 'metrics_vs_first_round.png'),
        study.metrics_vs_interval(summary, folder / 'metrics_vs_interval.png'),
        study.attacks(summary, folder / 'attacks.png'),
        study.distributions(rows, folder / 'distributions.png'),
        study.runtime(summary, folder / 'runtime.png'),
    )
    return [path for path in paths if path is not None]
