"""From answers to rows: each victim alone, failures and certificates."""

import types

import jax
import numpy as np
import pytest

from fedinv_jax import tree
from fedinv_jax.audit import plan, scoring
from fedinv_jax.types import Answer, Certificate, GroundTruth
from tests.helpers import tiny


# More victims than are judged in one call, more candidates than the least padding. Failed on: the
# first call's numbers for all.
@pytest.mark.parametrize(('victims', 'candidates'), [(37, 70), (1, 5), (16, 64)])
def test_each_victim_is_judged_alone(victims, candidates):
    rng = np.random.default_rng(0)
    private = rng.normal(size=(victims, 2, 3))
    scores = rng.random((victims, candidates))
    truths = GroundTruth(
        np.arange(victims), (rng.random(scores.shape) < 0.3) * 1.0, np.ones(scores.shape), private
    )
    answers = Answer(scores, scores > 0.5, private[:, 0] + 0.1, rng.random(victims))
    found = scoring._evaluate_block(answers, truths, None)
    for v in range(victims):
        with jax.enable_x64():
            alone = jax.device_get(scoring.evaluate(*tree.take((answers, truths), v)))
        got = tree.take(found, v)
        got['scores'] = got['scores'][:candidates]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, alone)


# Failed on the mutant of `row` that names the objective whatever was seen.
@pytest.mark.parametrize(
    ('damaged', 'reason'),
    [(True, 'the upload is not finite'), (False, 'the objective is not finite')],
)
def test_a_failure_says_why_and_leaves_no_certificate(damaged, reason):
    case = plan.make_case(tiny(name=('popularity',)))
    block = plan.blocks([case])[0]
    group = plan.group_of(case, block.users[0])
    slots = [int(np.flatnonzero(group.users == user)[0]) for user in block.users]
    labels, weights = group.labels[slots], group.weights[slots]
    truths = GroundTruth(np.array(block.users), labels, weights, np.ones((2, 2, 4)))
    sure = Certificate(
        np.ones(2, bool), np.zeros(2, bool), np.ones(2), np.zeros(2), np.full(2, 40), np.full(2, 40)
    )
    answers = Answer(
        labels, labels > 0.5, np.ones((2, 4)), np.array([0.1, np.nan]), sure, np.array([1, 1])
    )
    uploads = {'items': np.array([[1.0], [np.nan if damaged else 1.0]])}
    seen = types.SimpleNamespace(seen=uploads, participated=np.ones((2, 1), bool))
    shared = scoring.Run(0.5, None, None, 1.0)
    fine, failed = scoring.rows(block, answers, seen, truths, shared)
    assert (fine['status'], fine['reason'], fine['certified']) == ('ok', None, True)
    assert (failed['status'], failed['reason'], failed['certified']) == ('failed', reason, False)
    assert (fine['fits'], failed['fits']) == (True, None)
    assert (fine['rank'], failed['rank']) == (40, None)
    assert (fine['metrics']['auc'], failed['metrics']['auc']) == (1.0, 0.5)
    assert failed['objective'] is None


# Failed on `bool(fits)`: what cannot be told was true.
@pytest.mark.parametrize(('code', 'told'), [(1, True), (0, False), (-1, None), (None, None)])
def test_what_cannot_be_told_is_null(code, told):
    assert scoring.fits_of(code if code is None else np.asarray(code)) is told
