"""The figure of leakage against rounds: a curve for each membership, size and noise."""

from fedinv_jax.report import tradeoff
from fedinv_jax.report.figures import rounds
from tests.report.helpers import SUMMARIES, defended_row

KINDS = {
    'clip': tradeoff.Kind('clip', True),
    'noise': tradeoff.Kind('noise', False),
    'cohort': tradeoff.Kind('cohort', False),
    'sampled': tradeoff.Kind('sampled', False),
    'sum_noise': tradeoff.Kind('sum noise', False),
}
SAMPLED = {'cohort': 128, 'sampled': 1}


def summaries(*rows):
    return [{'rows': [row]} for row in rows]


def made(*rows):
    return rounds.auc_vs_rounds(tradeoff.points(summaries(*rows), KINDS))


def curves(axis):
    """By label: the places and heights of a curve's markers."""
    handles, labels = axis.get_legend_handles_labels()
    return {
        label: [tuple(map(float, pair)) for pair in bars.lines[0].get_xydata()]
        for bars, label in zip(handles, labels, strict=True)
    }


# Failed on a point that is drawn at the T of its best attack, on noise in the upper panels, and on
# a second curve for cohorts with a clip.
def test_a_curve_for_each_cohort_and_each_noise():
    other = defended_row({'cohort': 8}, 1, 'spectral', 0.95, 0.15)
    page = made(
        defended_row(SAMPLED, 1, 'spectral', 0.6, -0.2),
        defended_row(SAMPLED, 64, 'mgradinv', 0.9, 0.1),
        defended_row(SAMPLED, 256, 'spectral', 0.7, -0.1),
        defended_row({'clip': 20.0, **SAMPLED, 'sum_noise': 1.0}, 64, 'spectral', 0.5, -0.3),
        defended_row({'clip': 20.0, **SAMPLED}, 64, 'spectral', 0.55, -0.3),
        other,
    )
    upper, lower = page.axes
    assert list(curves(upper)) == ['sampled, 128 clients', 'fixed, 8 clients']
    points = curves(upper)['sampled, 128 clients']
    assert [round(height, 3) for _, height in points] == [0.6, 0.9, 0.9]
    assert [round(place) for place, _ in points] == [0, 1, 2]
    assert list(curves(lower)) == ['noise 0', 'noise 1']
    assert [text.get_text() for text in lower.get_xticklabels()] == ['1', '64', '256']
    assert lower.get_title() == 'ncf\nsampled, 128 clients'
    dashed = [line for line in upper.lines if line.get_linestyle() == '--']
    assert round(float(dashed[0].get_ydata()[0]), 3) == 0.8


# Known batches come first.
def test_a_column_for_each_model_and_for_unknown_batches():
    row = defended_row(SAMPLED, 1, 'spectral', 0.6, -0.2)
    page = made(row, {**row, 'batch_known': False}, {**row, 'model': 'matrix_factorization'})
    assert [axis.get_title() for axis in page.axes] == [
        'ncf',
        'matrix_factorization',
        'ncf, batches unknown',
    ]


def test_cohorts_that_stay_make_no_figure(tmp_path):
    assert made(defended_row({'cohort': 8}, 1, 'spectral', 0.9, 0.1)) is None
    assert rounds.draw(tradeoff.points(SUMMARIES, KINDS), tmp_path / 'a.png') is None
    assert not list(tmp_path.iterdir())
