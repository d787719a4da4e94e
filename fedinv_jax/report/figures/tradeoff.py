"""The figure of a study of defences: leakage against the quality of the trained model."""

import pathlib
from collections.abc import Sequence
from typing import Any

from fedinv_jax.report import tradeoff
from fedinv_jax.report.figures import canvas
from fedinv_jax.report.tradeoff import Point

_SHORT = 45  # letters of a name of which three fit side by side


def draw(found: Sequence[Point], path: pathlib.Path) -> pathlib.Path | None:
    """Writes the figure `leakage_vs_quality`.

    Args:
        found: the result of `tradeoff.points`.
        path: PNG to write.

    Returns:
        The path, or None if there are fewer than two defences.
    """
    page = leakage_vs_quality(found)
    return None if page is None else canvas.save(page, path)


def leakage_vs_quality(found: Sequence[Point]) -> Any | None:
    """Draws the best attack's AUC against hit rate and NDCG, a line for each defence.

    There is a row of panels for the smallest T and one for the largest. The dashed line is the
    popularity baseline. A good defence is at the lower right.

    Args:
        found: the result of `tradeoff.points`.

    Returns:
        The page, or None if there are fewer than two defences.
    """
    if len({point.defence for point in found}) < 2:
        return None
    shown = tradeoff.ends(found)
    families = [name for name in dict.fromkeys(p.family for p in found) if name != tradeoff.NONE]
    entries, columns = len(families) + 2, 3 if max(map(len, families), default=0) < _SHORT else 1
    height = 0.6 + 3.0 * len(shown) + canvas.legend_height(entries if columns > 1 else 2 * entries)
    page, axes = canvas.page(
        len(tradeoff.QUALITY), len(shown), 9, height, sharex='col', sharey=True
    )
    for line, step in zip(axes, shown, strict=True):
        here = [point for point in found if point.num_gradients == step]
        for axis, name in zip(line, tradeoff.QUALITY, strict=True):
            _panel(axis, here, families, name)
        line[0].set_ylabel(f'AUC of the best attack, T = {step}\n(mean over victims)')
    for axis, name in zip(axes[-1], tradeoff.QUALITY, strict=True):
        axis.set_xlabel(f'{name} of the trained model (mean over seeds)')
    more: dict[str, dict[str, Any]] = {canvas.POPULARITY: {}} if _popularity(found) else {}
    canvas.legend(page, axes[0][0], more, columns=columns)
    return page


def _panel(axis: Any, here: Sequence[Point], families: Sequence[str], name: str) -> None:
    """Draws all defences at one T against one quality metric."""
    for number, one in enumerate(families):
        _line(axis, [p for p in here if p.family == one], name, *canvas.style(number), one)
    own = [p for p in here if p.family == tradeoff.NONE]
    _line(axis, own, name, 'black', '*', 'no defence')
    canvas.references(axis, _popularity(here), zorder=0)
    canvas.grid(axis, 'both')


def _line(axis: Any, own: Sequence[Point], name: str, colour: str, marker: str, label: str) -> None:
    """Draws a family's points from weak to strong; stronger ones have larger markers."""
    pairs = [(p.quality[name]['mean'], p.best['metrics']['auc']['mean']) for p in own]
    known = [pair for pair in pairs if None not in pair]
    if not known:
        return
    across, up = zip(*known, strict=True)
    axis.plot(across, up, color=colour, linewidth=1, zorder=2)
    axis.scatter(
        across, up, color=colour, marker=marker, zorder=3, label=label,
        s=[90 if marker == '*' else 22 + 16 * place for place in range(len(known))],
    )  # fmt: skip


def _popularity(found: Sequence[Point]) -> list[float]:
    """The popularity baseline's AUC, averaged over the points, which have the same victims."""
    levels = [level for level in map(tradeoff.popularity, found) if level is not None]
    return [sum(levels) / len(levels)] if levels else []
