"""Figures of studies from made-up rows: drawn from the right numbers, or not at all."""

import pytest

from fedinv_jax.report import stats
from fedinv_jax.report.figures import canvas, study
from tests.report.report_test import row


def rows_of(settings, attack='mgradinv', victims=6, **changes):
    """Rows by (T, first round, interval) -> mean F1 and AUC."""
    made = []
    for (steps, first, interval), value in settings.items():
        for user in range(victims):
            one = row(user, value, attack, steps, first_round=first, interval=interval,
                      training_loss=0.7 - first / 1000, **changes)  # fmt: skip
            made.append({**one, 'metrics': {**one['metrics'], 'f1': value}})
    return made


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Axes by panel instead of a file."""
    pages = []

    def save(made, path):
        made.draw_without_rendering()
        pages.append(made.axes)
        return path

    monkeypatch.setattr(canvas, 'save', save)
    return pages


def points(axis):
    return [
        list(map(float, line.get_ydata())) for line in axis.lines if line.get_marker() != 'None'
    ]


ROUNDS = {(1, 0, None): 0.6, (1, 500, None): 0.8, (2, 0, 10): 0.7, (2, 500, 10): 0.9}


# Failed on mutants: the last interval; the loss by T; popularity not drawn.
def test_against_the_first_round(drawn, tmp_path):
    far = rows_of({(2, 0, 99): 0.1, (2, 500, 99): 0.1})
    guess = rows_of({(1, 0, None): 0.5, (1, 500, None): 0.5}, 'popularity')
    summary = stats.summarize(rows_of(ROUNDS) + far + guess)
    assert study.metrics_vs_first_round(summary, tmp_path / 'a.png') is not None
    auc, f1, loss = drawn[0]
    for axis in (auc, f1):
        assert [0.6, 0.8] in points(axis)
        assert [0.7, 0.9] in points(axis)
        assert not any(0.1 in line for line in points(axis))
    assert points(loss) == [pytest.approx([0.7, 0.2])]
    assert any(line.get_linestyle() == '--' for line in f1.lines)
    assert [label.get_text() for label in auc.get_xticklabels()] == ['0', '500']


def test_against_the_interval(drawn, tmp_path):
    settings = {(1, 0, None): 0.6, (2, 0, 1): 0.7, (2, 0, 230): 0.8, (2, 50, 1): 0.1}
    summary = stats.summarize(rows_of(settings))
    assert study.metrics_vs_interval(summary, tmp_path / 'a.png') is not None
    auc, _, drift = drawn[0]
    assert [0.7, 0.8] in points(auc)
    assert any(list(line.get_ydata()) == [0.6, 0.6] for line in auc.lines)  # One gradient.
    assert points(drift) == [pytest.approx([0.2, 0.2])]


def test_attacks_best_first(drawn, tmp_path):
    made = [
        one
        for name, value in (('exact', 1.0), ('dlg', 0.3), ('imia', 0.5))
        for one in rows_of({(1, 0, None): value, (2, 0, 10): value}, name, solver=name)
    ]
    assert study.attacks(stats.summarize(made), tmp_path / 'a.png') is not None
    names = [label.get_text() for label in drawn[0][0].get_yticklabels()]
    assert names == ['dlg', 'imia', 'exact']
    assert study.attacks(stats.summarize(made[:24]), tmp_path / 'a.png') is None


def test_every_victim_is_a_dot(drawn, tmp_path):
    made = rows_of(ROUNDS) + rows_of({(2, 0, 10): 0.2}, 'popularity')
    made[12] = {**made[12], 'status': 'failed'}
    assert study.distributions(made, tmp_path / 'a.png') is not None
    (axis,) = drawn[0]
    offsets = [each.get_offsets() for each in axis.collections]
    assert [len(each) for each in offsets] == [6, 6]
    assert sorted(set(offsets[1][:, 0])) == [0.7]
    assert [label.get_text() for label in axis.get_yticklabels()] == ['popularity', 'mgradinv']


def test_runtime(drawn, tmp_path):
    made = rows_of(ROUNDS) + rows_of({(1, 0, None): 0.4}, 'exact', seconds=0.01)
    assert study.runtime(stats.summarize(made), tmp_path / 'a.png') is not None
    offsets = drawn[0][0].collections[1].get_offsets()
    assert offsets.tolist() == [[0.01, 0.4]]


@pytest.mark.parametrize('rows', [[], rows_of({(1, 0, None): 0.5}, victims=1)])
def test_nothing_is_drawn_without_its_ingredients(rows, tmp_path):
    summary = stats.summarize(rows)
    for draw in (
        study.metrics_vs_first_round,
        study.metrics_vs_interval,
        study.attacks,
        study.runtime,
    ):
        assert draw(summary, tmp_path / 'a.png') is None
    assert (study.distributions(rows, tmp_path / 'a.png') is None) == (not rows)
    assert study.distributions([row(0)], tmp_path / 'a.png') is None  # F1 undefined.
