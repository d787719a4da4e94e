"""Metrics against arithmetic, scikit-learn, and the laws of masks and vmap."""

import math
import warnings

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fedinv_jax import metrics, types

K = 12
# Quarters, zeros of both signs and infinities: exact in float32 and full of ties.
SCORES = st.lists(
    st.sampled_from([-math.inf, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, math.inf]), min_size=K, max_size=K
)
FLAGS = st.lists(st.booleans(), min_size=K, max_size=K)
RANKING = {
    'auc': jax.jit(metrics.auc),
    'average_precision': jax.jit(metrics.average_precision),
    'recovered_at_known_count': jax.jit(metrics.recovered_at_known_count),
}
HARD = {
    'precision': jax.jit(metrics.precision),
    'recall': jax.jit(metrics.recall),
    'f1': jax.jit(metrics.f1),
    'exact_match': jax.jit(metrics.exact_match),
}
ONES = jnp.ones(K)


def random_case(seed: int, shape: tuple[int, ...] = (K,)):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, shape).astype(np.float32) / 4
    return scores, rng.random(shape) < 0.4, rng.random(shape) < 0.8


def undefined_or(condition, function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return function(*args, **kwargs) if condition else math.nan


def test_ranking_metrics_as_arithmetic():
    scores = jnp.array([0.9, 0.8, 0.7, 0.7, 0.7, 0.1])
    truth = jnp.array([1, 0, 1, 0, 0, 1])
    where = jnp.ones(6)
    # Positives .9, .7, .1 against negatives .8, .7, .7: 3 wins; 2 ties of 3; none.
    assert metrics.auc(scores, truth, where) == pytest.approx((3 + 2 / 2 + 0) / 9)
    # Thresholds at the positives: 1 of 1, 2 of 5, 3 of 6.
    expected = (1 / 1 + 2 / 5 + 3 / 6) / 3
    assert metrics.average_precision(scores, truth, where) == pytest.approx(expected)
    # The top three are .9 and .8, and of the three tied at .7 a negative comes first.
    assert metrics.recovered_at_known_count(scores, truth, where) == pytest.approx(1 / 3)


def test_hard_metrics_as_arithmetic():
    labels = jnp.array([1, 1, 1, 0, 0, 0, 0], bool)
    truth = jnp.array([1, 0, 0, 1, 0, 0, 1], bool)
    where = jnp.array([1, 1, 1, 1, 1, 1, 0])  # TP 1, FP 2, FN 1; the last one does not count.
    assert metrics.precision(labels, truth, where) == pytest.approx(1 / (1 + 2))
    assert metrics.recall(labels, truth, where) == pytest.approx(1 / (1 + 1))
    assert metrics.f1(labels, truth, where) == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    assert metrics.exact_match(labels, truth, where) == 0
    assert metrics.exact_match(truth.at[6].set(False), truth, where) == 1


def test_label_mse_reads_soft_labels():
    error = metrics.label_mse(
        jnp.array([0.5, 1.0, jnp.nan]), jnp.array([0.25, 0.0, 0.0]), jnp.array([1, 1, 0])
    )
    assert error == pytest.approx((0.25**2 + 1**2) / 2)


def test_private_metrics_as_arithmetic():
    truth = {'bias': jnp.array(0.0), 'embedding': jnp.array([3.0, 4.0])}
    guess = {'bias': jnp.array(12.0), 'embedding': jnp.array([3.0, 4.0])}
    assert metrics.private_error(guess, truth) == pytest.approx(12 / 5)
    assert metrics.private_cosine(guess, truth) == pytest.approx((9 + 16) / (13 * 5))
    assert metrics.drift(guess, truth) == pytest.approx(12 / 13)  # By the norm of the first.


def test_private_cosine_survives_small_norms():
    # Mutant: <p̂, p> / (|p̂| |p|) underflows to 0 / 0 here.
    tiny = jnp.array([1e-18, 1e-18]) * 1e-3
    assert metrics.private_cosine(tiny, tiny) == pytest.approx(1)


def test_private_metrics_refuse_other_shapes():
    with pytest.raises(AssertionError, match='shape'):
        metrics.private_error(jnp.ones(1), jnp.ones(3))  # Would broadcast.


# Mutants: side='left' for both ranks (ties count 0); no clipping to the count (a score of +inf
# beats the padding); `-scores` forgotten in average_precision.
@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(SCORES, FLAGS, FLAGS)
def test_ranking_equals_scikit_learn(scores, truth, where):
    scores, truth, where = np.array(scores), np.array(truth), np.array(where)
    arguments = (jnp.asarray(scores, jnp.float32), jnp.asarray(truth), jnp.asarray(where))
    # scikit-learn refuses infinities: any monotone map will do.
    kept, finite = truth[where], np.nan_to_num(scores[where], posinf=9.0, neginf=-9.0)
    expected = undefined_or(0 < kept.sum() < kept.size, sklearn_metrics.roc_auc_score, kept, finite)
    np.testing.assert_allclose(RANKING['auc'](*arguments), expected, rtol=1e-6)
    expected = undefined_or(kept.any(), sklearn_metrics.average_precision_score, kept, finite)
    np.testing.assert_allclose(RANKING['average_precision'](*arguments), expected, rtol=1e-6)


# Mutant: keys (-scores, ~mask) alone, ties in order of position.
@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(SCORES, FLAGS, FLAGS)
def test_recovered_at_known_count_equals_a_loop(scores, truth, where):
    kept = [
        (-score, label) for score, label, keep in zip(scores, truth, where, strict=True) if keep
    ]
    count = sum(label for _, label in kept)
    expected = sum(label for _, label in sorted(kept)[:count]) / count if count else math.nan
    value = RANKING['recovered_at_known_count'](
        jnp.array(scores), jnp.array(truth), jnp.array(where)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)


# Mutants: recall divided by the predicted, f1 NaN wherever precision is.
@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(FLAGS, FLAGS, FLAGS)
def test_hard_metrics_equal_scikit_learn(labels, truth, where):
    labels, truth, where = np.array(labels), np.array(truth), np.array(where)
    predicted, kept = labels[where], truth[where]
    references = {
        'precision': (predicted.any(), sklearn_metrics.precision_score),
        'recall': (kept.any(), sklearn_metrics.recall_score),
        'f1': (predicted.any() or kept.any(), sklearn_metrics.f1_score),
        'exact_match': (where.any(), lambda truth, labels: float(np.array_equal(truth, labels))),
    }
    for name, (defined, reference) in references.items():
        value = HARD[name](jnp.array(labels), jnp.array(truth), jnp.array(where))
        expected = undefined_or(defined, reference, kept, predicted)
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)


# Mutant: `where` ignored by any one metric.
@pytest.mark.parametrize('name', [*RANKING, *HARD, 'label_mse'])
@pytest.mark.parametrize('fill', [-5.0, 5.0, math.nan])
def test_padding_equals_truncation(name, fill):
    metric = getattr(metrics, name)
    for seed in range(5):
        scores, truth, _ = random_case(seed)
        # The last case is a perfect answer: elsewhere exact_match is 0 whatever the padding.
        hard = truth if seed == 4 else scores >= 0.5
        first = hard if name in HARD else scores
        padding = np.full(4, fill) > 0 if name in HARD else np.full(4, fill, np.float32)
        padded = np.concatenate([first, padding])
        for label in (0, 1):
            value = metric(
                jnp.asarray(padded),
                jnp.asarray(np.concatenate([truth, np.full(4, label)])),
                jnp.concatenate([ONES, jnp.zeros(4)]),
            )
            expected = metric(jnp.asarray(first), jnp.asarray(truth), ONES)
            np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize('name', [*RANKING, *HARD, 'label_mse'])
def test_vmap_equals_loop(name):
    metric = getattr(metrics, name)
    batch = [jnp.asarray(array) for array in random_case(0, (6, K))]
    if name in HARD:
        batch[0] = batch[0] >= 0.5
    values = jax.jit(jax.vmap(metric))(*batch)
    assert values.shape == (6,)
    expected = [metric(*(array[i] for array in batch)) for i in range(6)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


# Mutant: a 0 in place of NaN wherever a denominator is 0.
@pytest.mark.parametrize(
    ('name', 'first', 'truth', 'where'),
    [
        ('auc', [0.1, 0.2], [1, 1], [1, 1]),
        ('auc', [0.1, 0.2], [0, 0], [1, 1]),
        ('auc', [0.1, 0.2], [0, 1], [1, 0]),
        ('average_precision', [0.1, 0.2], [0, 0], [1, 1]),
        ('recovered_at_known_count', [0.1, 0.2], [0, 1], [1, 0]),
        ('precision', [0, 0], [0, 1], [1, 1]),
        ('recall', [0, 1], [0, 0], [1, 1]),
        ('f1', [0, 1], [0, 1], [1, 0]),
        ('exact_match', [0, 1], [0, 1], [0, 0]),
        ('label_mse', [0.0, 1.0], [0, 1], [0, 0]),
    ],
)
def test_undefined_is_nan(name, first, truth, where):
    assert jnp.isnan(getattr(metrics, name)(jnp.array(first), jnp.array(truth), jnp.array(where)))


@pytest.mark.parametrize('name', [*RANKING, 'label_mse'])
def test_nan_scores_are_not_ranked(name):
    # Mutant: without the guard a NaN sorts as the highest score, and a failed attack looks good.
    scores, truth, where = jnp.array([jnp.nan, 0.0, 0.0]), jnp.array([1, 0, 0]), jnp.ones(3)
    assert jnp.isnan(getattr(metrics, name)(scores, truth, where))


def test_zero_private_is_undefined():
    zero, one = jnp.zeros(3), jnp.ones(3)
    assert jnp.isnan(metrics.private_error(one, zero))
    assert metrics.private_error(zero, one) == pytest.approx(1)
    assert jnp.isnan(metrics.private_cosine(one, zero))
    assert jnp.isnan(metrics.private_cosine(zero, one))
    assert jnp.isnan(metrics.drift(zero, one))


def case_of_evaluate():
    private = jnp.array([[3.0, 4.0], [30.0, 40.0]])
    answer = types.Answer(
        scores=jnp.array([0.4, 0.3, 0.2, 0.9]),
        labels=jnp.array([True, True, False, False]),
        private=jnp.array([3.0, 0.0]),
        objective=jnp.array(0.0),
    )
    truth = types.GroundTruth(
        user=jnp.array(7),
        labels=jnp.array([0.6, 0.0, 0.0, 1.0]),
        weights=jnp.array([1.0, 2.0, 1.0, 0.0]),
        private=private,
    )
    return answer, truth


def test_evaluate_as_arithmetic():
    values = metrics.evaluate(*case_of_evaluate())
    expected = {
        'auc': 1.0,  # By the scores; a label of .6 is an interaction.
        'average_precision': 1.0,
        'f1': 2 * 1 / (2 * 1 + 1 + 0),  # By the hard labels, not by scores above .5.
        'precision': 1 / 2,
        'recall': 1 / 1,
        'exact': 0.0,
        'recovered_at_known_count': 1.0,
        'label_mse': (0.2**2 + 0.3**2 + 0.2**2) / 3,  # By the labels, unweighted.
        'private_error': 4 / 5,  # Mutant: against the last step, 41 / 50.
        'private_cosine': 9 / (3 * 5),
    }
    assert list(values) == list(expected)
    for name, value in values.items():
        assert value.shape == ()
        assert value == pytest.approx(expected[name], rel=1e-6), name


def test_evaluate_without_private_estimate():
    answer, truth = case_of_evaluate()
    values = jax.jit(metrics.evaluate)(answer._replace(private=None), truth)
    assert jnp.isnan(values['private_error'])
    assert jnp.isnan(values['private_cosine'])
    assert values['recall'] == 1


def test_evaluate_under_vmap_traces_once():
    answer, truth = case_of_evaluate()
    answers, truths = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (answer, truth))
    traces = []

    @jax.jit
    @jax.vmap
    def evaluate(answer, truth):
        traces.append(1)
        return metrics.evaluate(answer, truth)

    for _ in range(2):
        values = evaluate(answers, truths)
    assert len(traces) == 1
    np.testing.assert_allclose(values['label_mse'], [(0.2**2 + 0.3**2 + 0.2**2) / 3] * 2, rtol=1e-6)
