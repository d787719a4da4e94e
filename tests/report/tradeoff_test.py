"""Leakage against utility: which defence stops the attacks, at which strength, at what cost."""

import pytest

from fedinv_jax.report import tradeoff
from tests.report.helpers import SUMMARIES, cells_of, defended_row

KINDS = {
    'labels': tradeoff.Kind('randomised response', True),
    'uploaded': tradeoff.Kind('only', False),
    'top': tradeoff.Kind('top', True),
    'feedback': tradeoff.Kind('with error feedback', False),
    'clip': tradeoff.Kind('clip', True),
    'noise': tradeoff.Kind('noise', False),
}


def points(summaries):
    return tradeoff.points(summaries, KINDS)


# Failed on: strongest first; the first attack for the best; stopped where one attack fails; the
# attacks with exactly T gradients.
def test_points():
    found = points(SUMMARIES)
    names = [
        (p.defence, p.num_gradients, p.stopped, p.best['metrics']['auc']['mean']) for p in found
    ]
    assert names == [
        ('none', 1, False, 1.0),
        ('none', 8, False, 1.0),
        ('clip 1, noise 1', 1, True, 0.8),
        ('clip 1, noise 1', 8, False, 0.95),
        ('clip 1, noise 3', 1, True, 0.6),
        ('clip 1, noise 3', 8, True, 0.8),
    ]
    assert found[-1].best['attacker'] == 'blind'


def test_the_weakest_strength_that_stops():
    text = tradeoff.table(points(SUMMARIES))
    _, none, defended = cells_of(text)
    assert defended[:3] == ['clip, noise', 'clip 1, noise 1', 'clip 1, noise 3']
    assert defended[3:6] == ['0.500', '0.500', '-']
    assert defended[6:] == ['0.400', '0.400', '12.5 [1]']
    assert none[1] == 'none (lowest AUC 1.000)'
    assert text.splitlines()[-1] == (
        '[1] Epsilon against the server; unit: one user, replace; delta = 1e-05, 160 releases.'
    )


# With 8 gradients an attacker may use one. Failed on: the attacks with exactly T gradients.
def test_more_gradients_never_leak_less():
    top = {'top': 0.1}
    rows = [defended_row(top, 1, 'exact', 0.95, 0.09), defended_row(top, 8, 'exact', 0.7, -0.16)]
    _, last = points([{'rows': rows}])
    assert (last.num_gradients, last.stopped, last.best['num_gradients']) == (8, False, 1)


# Failed on: the weakest strength that stops, though a stronger one does not.
def test_stronger_ones_must_stop_too():
    gaps = {4: 0.1, 2: -0.1, 1: 0.1, 0.5: -0.1}
    arms = [
        {'rows': [defended_row({'clip': clip}, 1, 'exact', 0.8, gap)]} for clip, gap in gaps.items()
    ]
    _, clip = cells_of(tradeoff.table(points(arms)))
    assert clip[:2] == ['clip', 'clip 0.5']


def test_another_client_is_another_family():
    rows = [defended_row({}, 1, 'exact', 1.0, 0.1), defended_row({'clip': 1.0}, 1, 'exact', 1, 0.1)]
    local = {**defended_row({}, 1, 'exact', 0.9, 0.0), 'client': 'local_sgd'}
    found = points([{'rows': [one]} for one in (*rows, local)])
    assert [p.family for p in found] == ['none', 'clip', 'none (local_sgd)']
    assert [p.defence for p in found] == ['none', 'clip 1.0', 'none (local_sgd)']


# Failed on arms of one defence that are apart, and on models that are together.
def test_another_model_is_another_family_and_arms_with_one_defence_are_together():
    weak, strong, other = (defended_row({}, t, 'exact', auc, auc - 0.8)
                           for t, auc in ((8, 0.7), (1, 0.9), (1, 0.6)))  # fmt: skip
    other = {**other, 'model': 'matrix_factorization', 'batch_known': False}
    found = points([{'rows': [one]} for one in (weak, strong, other)])
    assert [(p.family, p.num_gradients, p.best['metrics']['auc']['mean']) for p in found] == [
        ('none', 1, 0.9),
        ('none', 8, 0.9),
        ('none (matrix_factorization, batches unknown)', 1, 0.6),
    ]


def test_details_list_every_point():
    lines = cells_of(tradeoff.details(points(SUMMARIES)))
    assert len(lines) == 1 + 6
    assert lines[-1][2] == 'exact (blind)'


# Failed on: kinds that are ignored, a list that counts as a number.
@pytest.mark.parametrize(
    ('weak', 'strong', 'family'),
    [
        ({'labels': 4.0}, {'labels': 0.5}, 'randomised response'),
        ({'top': 0.1, 'feedback': 1}, {'top': 0.001, 'feedback': 1}, 'top with error feedback'),
        ({'clip': 20.0, 'noise': 0.3}, {'clip': 20.0, 'noise': 100.0}, 'clip, noise'),
        ({'clip': 20.0, 'noise': 0.3}, {'clip': 1.0, 'noise': 0.3}, 'clip, noise'),
        (
            {'uploaded': ['scorer'], 'clip': 2.0},
            {'uploaded': ['scorer'], 'clip': 1.0},
            'only scorer, clip',
        ),
    ],
)
def test_strengths(weak, strong, family):
    assert tradeoff.family(weak, KINDS) == tradeoff.family(strong, KINDS) == family
    assert tradeoff.strength(weak, KINDS) < tradeoff.strength(strong, KINDS)
    assert all(isinstance(number, float | int) for number in tradeoff.strength(weak, KINDS))


def test_arms_that_were_not_evaluated_have_no_point():
    bare = {'rows': [{**defended_row({}, 1, 'exact', 1.0, 0.1), 'quality': None}]}
    assert points([bare]) == []
    assert tradeoff.table([]).startswith('| defence |')
