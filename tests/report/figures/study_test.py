"""Figures of studies from made-up rows: drawn from the right numbers, or not at all."""

import pytest

from fedinv_jax.report import stats
from fedinv_jax.report.figures import study
from tests.report.helpers import victim_row


def rows_of(settings, attack='mgradinv', victims=6, **changes):
    """Rows by (T, first round, interval) -> mean F1 and AUC."""
    made = []
    for (steps, first, interval), value in settings.items():
        for user in range(victims):
            one = victim_row(user, value, attack, steps, first_round=first, interval=interval,
                             training_loss=0.7 - first / 1000, **changes)  # fmt: skip
            made.append({**one, 'metrics': {**one['metrics'], 'f1': value}})
    return made


def axes_of(page):
    """The axes of a page that is laid out."""
    page.draw_without_rendering()
    return page.axes


def points(axis):
    return [
        list(map(float, line.get_ydata())) for line in axis.lines if line.get_marker() != 'None'
    ]


ROUNDS = {(1, 0, None): 0.6, (1, 500, None): 0.8, (2, 0, 10): 0.7, (2, 500, 10): 0.9}


# Failed on mutants: the last interval; the loss by T; popularity not drawn.
def test_against_the_first_round():
    far = rows_of({(2, 0, 99): 0.1, (2, 500, 99): 0.1})
    guess = rows_of({(1, 0, None): 0.5, (1, 500, None): 0.5}, 'popularity')
    page = study.metrics_vs_first_round(stats.summarize(rows_of(ROUNDS) + far + guess))
    auc, f1, loss = axes_of(page)
    for axis in (auc, f1):
        assert [0.6, 0.8] in points(axis)
        assert [0.7, 0.9] in points(axis)
        assert not any(0.1 in line for line in points(axis))
    assert points(loss) == [pytest.approx([0.7, 0.2])]
    assert any(line.get_linestyle() == '--' for line in f1.lines)
    assert [label.get_text() for label in auc.get_xticklabels()] == ['0', '500']
    assert page.legends[0].get_texts()[-1].get_text() == 'popularity baseline'


def test_against_the_interval():
    settings = {(1, 0, None): 0.6, (2, 0, 1): 0.7, (2, 0, 230): 0.8, (2, 50, 1): 0.1}
    auc, _, drift = axes_of(study.metrics_vs_interval(stats.summarize(rows_of(settings))))
    assert [0.7, 0.8] in points(auc)
    assert any(list(line.get_ydata()) == [0.6, 0.6] for line in auc.lines)  # One gradient.
    assert points(drift) == [pytest.approx([0.2, 0.2])]


def test_attacks_best_first():
    made = [
        one
        for name, value in (('exact', 1.0), ('dlg', 0.3), ('imia', 0.5))
        for one in rows_of({(1, 0, None): value, (2, 0, 10): value}, name, solver=name)
    ]
    auc, _ = axes_of(study.attacks(stats.summarize(made)))
    assert [label.get_text() for label in auc.get_yticklabels()] == ['dlg', 'imia', 'exact']
    assert study.attacks(stats.summarize(made[:24])) is None


def test_every_victim_is_a_dot():
    made = rows_of(ROUNDS) + rows_of({(2, 0, 10): 0.2}, 'popularity')
    made[12] = {**made[12], 'status': 'failed'}
    (axis,) = axes_of(study.distributions(made))
    offsets = [each.get_offsets() for each in axis.collections]
    assert [len(each) for each in offsets] == [6, 6]
    assert sorted(set(offsets[1][:, 0])) == [0.7]
    assert [label.get_text() for label in axis.get_yticklabels()] == ['popularity', 'mgradinv']


def test_the_dots_of_a_placebo_are_apart():
    made = rows_of({(1, 0, None): 0.7}, 'exact')
    placebo = [{**row, 'family': 'baseline', 'placebo': True} for row in made]
    (axis,) = axes_of(study.distributions([*made, *placebo]))
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ['exact (placebo)', 'exact']


def test_runtime():
    made = rows_of(ROUNDS) + rows_of({(1, 0, None): 0.4}, 'exact', seconds=0.01)
    (axis,) = axes_of(study.runtime(stats.summarize(made)))
    assert axis.collections[1].get_offsets().tolist() == [[0.01, 0.4]]


@pytest.mark.parametrize('rows', [[], rows_of({(1, 0, None): 0.5}, victims=1)])
def test_nothing_is_drawn_without_its_ingredients(rows):
    summary = stats.summarize(rows)
    for draw in (
        study.metrics_vs_first_round,
        study.metrics_vs_interval,
        study.attacks,
        study.runtime,
    ):
        assert draw(summary) is None
    assert (study.distributions(rows) is None) == (not rows)
    assert study.distributions([victim_row(0)]) is None  # F1 undefined.
