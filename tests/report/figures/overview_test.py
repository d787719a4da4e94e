"""Metrics against T, and what was recovered of a few victims: the right numbers are drawn."""

import pytest

from fedinv_jax.report import stats
from fedinv_jax.report.figures import overview
from tests.report.helpers import certified_row, placebo_row, study_rows, victim_row


def test_a_curve_for_each_upload_and_a_line_for_each_baseline():
    page = overview.metrics_vs_num_gradients(stats.summarize(study_rows()))
    auc = page.axes[0]
    curves = [list(line.get_ydata()) for line in auc.lines if line.get_marker() in 'os']
    assert curves == [pytest.approx([0.835, 0.885, 0.985])] * 2
    dashed = [line for line in auc.lines
              if line.get_linestyle() in ('--', ':') and len(line.get_ydata())]  # fmt: skip
    levels = {line.get_linestyle(): line.get_ydata()[0] for line in dashed}
    assert levels == {'--': pytest.approx(0.885), ':': pytest.approx(0.535)}
    labels = [text.get_text() for text in page.legends[0].get_texts()]
    assert labels[2:] == ['popularity baseline', 'random baseline']


# Failed on: 'exact baseline', at the height of the attack itself.
def test_a_placebo_is_no_line():
    rows = [each for user in range(3) for each in (certified_row(user), placebo_row(user))]
    page = overview.metrics_vs_num_gradients(stats.summarize(rows))
    assert not [text.get_text() for text in page.legends[0].get_texts() if 'base' in str(text)]


# Failed on the mutant that knows a victim by its user alone: two seeds may have one number.
def test_a_victim_is_of_one_seed():
    scores = {'scores': [0.5, 0.1], 'truth': [1, 0]}
    rows = [victim_row(0, steps=steps, seed=seed, **scores) for seed in (0, 1) for steps in (1, 2)]
    page = overview.recovered_vs_true(rows, stats.summarize(rows))
    assert [axis.get_title() for axis in page.axes] == [
        f'user 0 of seed {seed}, T = {steps}, AUC 0.500' for seed in (0, 1) for steps in (1, 2)
    ]


def test_victims_with_every_t_come_first():
    scores = {'scores': [0.5, 0.1], 'truth': [1, 0]}
    rows = [victim_row(user, steps=steps, **scores) for user in range(6) for steps in (1, 2)]
    del rows[0]
    page = overview.recovered_vs_true(rows, stats.summarize(rows))
    titles = [axis.get_title() for axis in page.axes]
    assert [title[:6] for title in titles[::2]] == ['user 1', 'user 2', 'user 3', 'user 4']
