"""The figure of leakage against quality: a line for each defence, and popularity."""

import numpy as np
import pytest
from PIL import Image

from fedinv_jax.report import tradeoff
from fedinv_jax.report.figures import tradeoff as drawing
from tests.report.helpers import SUMMARIES, defended_row

KINDS = {'clip': tradeoff.Kind('clip', True), 'noise': tradeoff.Kind('noise', False)}


def test_lines_and_stars():
    page = drawing.leakage_vs_quality(tradeoff.points(SUMMARIES, KINDS))
    assert len(page.axes) == 4
    line, star = page.axes[2].collections  # T = 8
    assert line.get_offsets().tolist() == [[0.5, 0.95], [0.4, 0.8]]
    assert star.get_offsets().tolist() == [[0.6, 1.0]]
    assert page.axes[2].lines[-1].get_ydata()[0] == pytest.approx(0.86)
    labels = [text.get_text() for text in page.legends[0].get_texts()]
    assert labels == ['clip, noise', 'no defence', 'popularity baseline']


def test_one_defence_makes_no_figure(tmp_path):
    assert drawing.draw(tradeoff.points(SUMMARIES[:1], KINDS), tmp_path / 'one.png') is None
    assert not list(tmp_path.iterdir())


def test_the_figure_is_written(tmp_path):
    path = drawing.draw(tradeoff.points(SUMMARIES, KINDS), tmp_path / 'figures' / 'a.png')
    image = np.asarray(Image.open(path).convert('L'))
    assert min(image.shape) > 500
    assert image.std() > 5


# Failed on three columns, of which the outer ones are cut off.
def test_a_legend_of_long_names_is_inside_the_page():
    kinds = {name: tradeoff.Kind(f'{name} of a rather long name that says much', False)
             for name in KINDS}  # fmt: skip
    rows = [
        defended_row({'clip': 1.0}, 1, 'exact', 0.9, 0.1),
        defended_row({'noise': 1.0}, 1, 'exact', 0.8, 0.0),
        defended_row({'clip': 1.0, 'noise': 1.0}, 1, 'exact', 0.7, -0.1),
    ]
    page = drawing.leakage_vs_quality(tradeoff.points([{'rows': [row]} for row in rows], kinds))
    page.canvas.draw()
    box = page.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= page.bbox.x1
