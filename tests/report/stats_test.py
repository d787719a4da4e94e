"""Summaries against arithmetic: intervals, pairing by victim, counterparts, strict JSON."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats

from fedinv_jax.report import inference, stats
from fedinv_jax.report import rows as rows_lib
from tests.report.helpers import certified_row, study_rows, victim_row


def by_setting(summary):
    return {stats.setting(row): row for row in summary['rows']}


def test_interval_as_arithmetic():
    nothing = {'mean': None, 'low': None, 'high': None}
    assert inference.confidence_interval([]) == {**nothing, 'undefined': 0}
    assert inference.confidence_interval([None, math.nan, math.inf]) == {**nothing, 'undefined': 3}
    # Mutant: without the guard for equal values scipy refuses one alone.
    third = {'mean': 1 / 3, 'low': 1 / 3, 'high': 1 / 3}
    assert inference.confidence_interval([1 / 3]) == {**third, 'undefined': 0}
    assert inference.confidence_interval([1 / 3, None, 1 / 3, 1 / 3]) == {**third, 'undefined': 1}


def test_interval_is_that_of_the_mean():
    # Of n coin flips the mean is .5 with a standard deviation of .5 / sqrt(n).
    value = inference.confidence_interval([0.0, 1.0] * 200)
    assert value['mean'] == 0.5
    assert value['low'] == pytest.approx(0.5 - 1.96 * 0.5 / math.sqrt(400), abs=0.005)
    assert value['high'] == pytest.approx(0.5 + 1.96 * 0.5 / math.sqrt(400), abs=0.005)
    assert value == inference.confidence_interval([0.0, 1.0] * 200)


def test_summary_as_arithmetic():
    rows = [victim_row(0, 0.6, steps=2), victim_row(1, steps=2, drift=0.4, seconds=1.5)]
    rows[1]['metrics'] = {**rows[0]['metrics'], 'auc': None}
    summary = stats.summarize(rows)
    assert summary['schema'] == 2
    (only,) = summary['rows']
    assert {key: only[key] for key in stats.SETTING} == {key: rows[0][key] for key in stats.SETTING}
    assert list(only['metrics']) == list(stats.METRICS)
    assert only['metrics']['auc'] == {'mean': 0.6, 'low': 0.6, 'high': 0.6, 'undefined': 1}
    assert only['metrics']['f1'] == {'mean': None, 'low': None, 'high': None, 'undefined': 2}
    assert only['drift'] == pytest.approx((0.2 + 0.4) / 2)
    assert only['seconds_per_victim'] == pytest.approx((0.5 + 1.5) / 2)
    assert only['difference_to_popularity'] is None
    assert only['difference_to_one_gradient'] is None


def test_no_drift_with_one_gradient():
    (only,) = stats.summarize([victim_row(0), victim_row(1)])['rows']
    assert only['drift'] is None
    assert only['interval'] is None


def test_failed_victims_are_counted_and_stay_in_the_averages():
    # Mutant: averaging rows of status 'ok' alone gives .9.
    failed = {'status': 'failed', 'reason': 'The objective is not finite.'}
    (only,) = stats.summarize(
        [victim_row(0, 0.9), victim_row(1, 0.5, **failed), victim_row(2, 0.5, **failed)]
    )['rows']
    assert (only['num_victims'], only['num_failed']) == (3, 2)
    assert only['metrics']['auc']['mean'] == pytest.approx((0.9 + 0.5 + 0.5) / 3)
    assert only['failures'] == {'The objective is not finite.': 2}


def test_differences_pair_by_user():
    # Mutant: pairing by position (the baseline's rows come in another order, and one is missing).
    attack = [victim_row(0, 0.6, steps=2), victim_row(1, 0.7, steps=2), victim_row(2, 0.9, steps=2)]
    guess = [victim_row(2, 0.5, 'popularity', 2), victim_row(0, 0.1, 'popularity', 2)]
    summary = stats.summarize(attack + guess)['rows'][0]
    difference = summary['difference_to_popularity']
    assert list(difference) == ['auc', 'average_precision', 'f1']
    assert difference['auc']['mean'] == pytest.approx(((0.6 - 0.1) + (0.9 - 0.5)) / 2)
    assert difference['auc']['low'] == pytest.approx(0.9 - 0.5)
    assert difference['auc']['high'] == pytest.approx(0.6 - 0.1)
    assert difference['auc']['undefined'] == 1
    assert difference['f1']['mean'] is None


def test_pairing_takes_noise_out_that_victims_share():
    rows = [
        victim_row(user, 0.1 * user + 0.125 * steps, steps=steps)
        for user in range(6)
        for steps in (1, 2)
    ]
    one, two = stats.summarize(rows)['rows']
    assert one['difference_to_one_gradient'] is None
    difference = two['difference_to_one_gradient']['auc']
    for key in ('mean', 'low', 'high'):
        assert difference[key] == pytest.approx(0.125)
    assert one['metrics']['auc']['high'] > two['metrics']['auc']['low']  # Unpaired, they overlap.


def test_several_gradients_are_paired_with_the_next_fewer_at_the_same_interval():
    # Mutants: the smallest T instead of the next smaller one; ignoring the interval.
    settings = (1, None, 0.5), (2, 1, 0.6), (4, 1, 0.7), (8, 1, 0.9), (8, 9, 1)
    rows = [victim_row(0, auc, steps=steps, interval=interval) for steps, interval, auc in settings]
    found = [row['difference_to_fewer_gradients'] for row in stats.summarize(rows)['rows']]
    assert [one and round(one['auc']['mean'], 9) for one in found] == [None, None, 0.1, 0.2, None]


@pytest.mark.parametrize(
    'change', [{'seen': ['items']}, {'first_round': 5}, {'seed': 1}, {'defence': 'clip'}]
)
def test_differences_stay_within_their_setting(change):
    # Mutant: joining on the user alone.
    others = [victim_row(0, 0.1, 'popularity', 2, **change), victim_row(0, 0.1, **change)]
    first = stats.summarize([victim_row(0, 0.6, steps=2), *others])['rows'][0]
    assert first['difference_to_popularity'] is None
    assert first['difference_to_one_gradient'] is None


def test_one_gradient_of_another_dynamics_is_no_counterpart():
    rows = [victim_row(0, 0.6, steps=2), victim_row(0, 0.1, dynamics='static')]
    assert stats.summarize(rows)['rows'][0]['difference_to_one_gradient'] is None


def test_order_of_rows_is_irrelevant():
    # Mutant: victims resampled in order of appearance.
    rows = study_rows()
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    found = by_setting(stats.summarize(rows))
    assert len(found) == 18
    assert found == by_setting(stats.summarize(shuffled))


def test_settings_keep_the_order_of_first_appearance():
    rows = [
        victim_row(0, steps=4),
        victim_row(0, steps=1),
        victim_row(1, steps=4),
        victim_row(0, steps=2),
    ]
    assert [each['num_gradients'] for each in stats.summarize(rows)['rows']] == [4, 1, 2]


def test_a_victim_twice_is_an_error():
    with pytest.raises(ValueError, match=r'one row per victim and setting, got two of user=3'):
        stats.summarize([victim_row(3), victim_row(3)])


@pytest.mark.parametrize('rows', [[], study_rows(), [victim_row(0, math.nan)]])
def test_summary_is_strict_json(rows):
    summary = stats.summarize(rows)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


# The t quantile at .975 with 2 degrees of freedom.
T2 = 4.302652729911275


# Failed on the mutants without G / (G - 1) and with the normal quantile.
def test_interval_of_several_seeds_as_arithmetic():
    # Seeds of one size: the t-interval of the seeds' means .25, .5 and .75.
    values, seeds = [0.25, 0.25, 0.5, 0.5, 0.5, 1.0], [0, 0, 1, 1, 2, 2]
    found = inference.confidence_interval(values, seeds)
    half = T2 * math.sqrt((0.25**2 + 0 + 0.25**2) / 2 / 3)
    assert found['mean'] == pytest.approx(0.5)
    assert found['low'] == pytest.approx(0.5 - half)
    assert found['high'] == pytest.approx(0.5 + half)
    # Seeds of other sizes; what is undefined is of no seed. Mean 2, sums of residuals -2, 0, 2.
    found = inference.confidence_interval([1.0, 1.0, 2.0, 3.0, 3.0, None], [4, 4, 1, 2, 2, 2])
    half = T2 * math.sqrt(3 / 2 * (4 + 0 + 4)) / 5
    assert found['undefined'] == 1
    assert found['high'] - found['mean'] == pytest.approx(half)
    assert found['mean'] - found['low'] == pytest.approx(half)


def test_interval_of_several_seeds_edge_cases():
    equal = {'mean': 0.5, 'low': 0.5, 'high': 0.5, 'undefined': 0}
    assert inference.confidence_interval([0.5] * 4, [0, 0, 1, 1]) == equal
    # Clipped to what the numbers can be, the mean within.
    found = inference.confidence_interval([1.0, 1.0, 0.5, 0.5], [0, 0, 1, 1], limits=(0.0, 1.0))
    assert (found['low'], found['mean'], found['high']) == (0.0, 0.75, 1.0)
    assert inference.confidence_interval([1.0, 1.0, 0.5, 0.5], [0, 0, 1, 1])['high'] > 1
    # One seed alone is the bootstrap over victims, also where the others have nothing defined.
    values = [0.1, 0.4, 0.9, None]
    alone = inference.confidence_interval(values[:3])
    assert inference.confidence_interval(values[:3], [7, 7, 7]) == alone
    assert inference.confidence_interval(values, [7, 7, 7, 8]) == {**alone, 'undefined': 1}


# Failed on the mutants with 'seed' in `SETTING`, and of `_group` by the user alone.
def test_seeds_are_pooled_and_pair_by_seed_and_user():
    rows = []
    for seed, shift in ((0, 0.0), (1, 0.2), (2, 0.1)):
        for user in (0, 1):
            rows.append(victim_row(user, 0.5 + shift + 0.1 * user, steps=2, seed=seed))
            rows.append(victim_row(user, 0.4 + shift, 'popularity', 2, seed=seed))
    attack, guess = stats.summarize(rows)['rows']
    assert (attack['seed'], attack['num_seeds'], attack['num_victims']) == ([0, 1, 2], 3, 6)
    assert guess['num_victims'] == 6
    assert attack['metrics']['auc']['mean'] == pytest.approx(0.65)
    half = T2 * math.sqrt((0.1**2 + 0.1**2 + 0) / 2 / 3)
    assert attack['metrics']['auc']['high'] == pytest.approx(0.65 + half)
    # The seeds' shift is in both: differences .1 and .2 in every seed.
    difference = attack['difference_to_popularity']['auc']
    for end in ('low', 'mean', 'high'):
        assert difference[end] == pytest.approx(0.15)


def test_differences_are_not_clipped():
    rows = [victim_row(0, 1.0, steps=2, seed=seed) for seed in (0, 1)]
    rows += [victim_row(0, 0.9 * seed, 'popularity', 2, seed=seed) for seed in (0, 1)]
    attack, guess = stats.summarize(rows)['rows']
    assert attack['difference_to_popularity']['auc']['high'] > 1
    assert guess['metrics']['auc']['high'] == 1


# The attack's precision and solver are its own, and one gradient may have taken another solver.
def test_an_exact_attack_has_its_counterparts():
    own = {'attack': 'exact', 'dtype': 'float64', 'iterations': 0}
    rows = [
        victim_row(0, 0.9, **own, solver='gram'),
        victim_row(0, 1.0, steps=2, **own, solver='sparse'),
        victim_row(0, 0.7, attack='popularity'),
        victim_row(0, 0.7, attack='popularity', steps=2),
    ]
    one, two, *_ = stats.summarize(rows)['rows']
    assert one['difference_to_popularity']['auc']['mean'] == pytest.approx(0.2)
    assert two['difference_to_one_gradient']['auc']['mean'] == pytest.approx(0.1)


def test_certificates_as_arithmetic():
    rows = [
        certified_row(0),
        certified_row(1),
        certified_row(2, 0.9, 0.0, False),
        certified_row(3, rank=48),
    ]
    rows += [victim_row(user, 0.5) for user in range(4)]
    exact, other = stats.summarize(rows)['rows']
    assert (exact['num_certified'], exact['num_exact_certified']) == (3, 3)
    assert exact['certified']['mean'] == pytest.approx(3 / 4)
    assert 0 <= exact['certified']['low'] < 3 / 4 < exact['certified']['high'] <= 1
    assert (exact['rank'], exact['unknowns']) == (42, 50)
    assert other['certified'] is None
    assert other['num_certified'] is None


def test_p_of_one_seed_flips_signs_and_of_several_is_a_clustered_t():
    values = [0.1, 0.3, -0.05, 0.2, 0.4, 0.15]
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    as_large = np.abs(signs @ values) >= abs(sum(values)) - 1e-12
    assert inference.paired_p(values, [0] * 6) == pytest.approx(np.mean(as_large))
    # Seeds of one size: the t-test of the seeds' means.
    means = np.reshape(values, (3, 2)).mean(1)
    expected = scipy.stats.ttest_1samp(means, 0).pvalue
    assert inference.paired_p(values, [0, 0, 1, 1, 2, 2]) == pytest.approx(expected)
    assert inference.paired_p([0.0, 0.0], [0, 1]) == 1
    assert inference.paired_p([None], [0]) is None
    # The interval excludes 0 exactly where p < .05.
    rng = np.random.default_rng(0)
    significant = set()
    for _ in range(50):
        values = rng.normal(0.5, 1, 12)
        low_high = inference.confidence_interval(values, [0, 1, 2, 3] * 3)
        p = inference.paired_p(values, [0, 1, 2, 3] * 3)
        assert (p < 0.05) == (low_high['low'] > 0 or low_high['high'] < 0)
        significant.add(p < 0.05)
    assert significant == {True, False}


# Failed on the mutants without 'family' and with a `drift` that is a list.
def test_summary_rows_are_as_declared():
    found = stats.summarize([*study_rows(), certified_row(0), certified_row(1, certified=False)])
    assert len(found['rows']) == 19
    assert {rows_lib.mismatch(row, rows_lib.SummaryRow) for row in found['rows']} == {None}
    assert rows_lib.mismatch(found, rows_lib.Summary) is None


def test_summary_rows_carry_the_defences():
    changes = {'defences': {'clip': 20.0, 'noise': 3.0}, 'labels_changed': True}
    (only,) = stats.summarize([victim_row(0, **changes), victim_row(1, **changes)])['rows']
    assert {key: only[key] for key in changes} == changes
    assert only['family'] == 'descent'


# Expected values as arithmetic: V = V_seed + V_user - V_(seed, user).
def test_a_user_of_several_seeds_does_not_count_twice():
    values, seeds, users = [0.0, 0.2, 0.1, 0.9, 0.8, 1.0], [0, 0, 0, 1, 1, 1], [1, 2, 3, 1, 2, 4]
    apart = np.array(values) - 0.5

    def variance(groups):
        sums = np.array([apart[group].sum() for group in groups])
        return len(sums) / (len(sums) - 1) * np.sum(sums**2)

    by_seed = variance([[0, 1, 2], [3, 4, 5]])
    by_user = variance([[0, 3], [1, 4], [2], [5]])
    by_both = variance([[i] for i in range(6)])
    assert by_user < by_both  # here users in several seeds vary less than others
    found = inference.confidence_interval(values, seeds, users)
    half = scipy.stats.t.ppf(0.975, 1) * np.sqrt(by_seed) / 6
    assert found['high'] == pytest.approx(0.5 + half)
    values = [0.0, 1.0, 0.5, 0.1, 0.9, 0.5]  # users are alike in both seeds
    apart = np.array(values) - 0.5
    users = [1, 2, 3, 1, 2, 3]
    total = (
        variance([[0, 1, 2], [3, 4, 5]]) + variance([[0, 3], [1, 4], [2, 5]])
        - variance([[i] for i in range(6)])
    )  # fmt: skip
    half = scipy.stats.t.ppf(0.975, 1) * np.sqrt(total) / 6
    found = inference.confidence_interval(values, seeds, users)
    assert found['low'] == pytest.approx(0.5 - half)
    alone = inference.confidence_interval(values, seeds)
    assert found['high'] - found['low'] > alone['high'] - alone['low']


# Wilson's interval as statsmodels gives it: proportion_confint(8, 10, method='wilson').
def test_a_share_has_a_wilson_interval():
    found = inference.proportion_interval([1] * 8 + [0] * 2 + [None])
    assert found['low'] == pytest.approx(0.490162, abs=1e-6)
    assert found['high'] == pytest.approx(0.943318, abs=1e-6)
    assert (found['mean'], found['undefined']) == (0.8, 1)
    none = inference.proportion_interval([0.0] * 20)
    assert (none['mean'], none['low']) == (0, 0)
    assert none['high'] == pytest.approx(0.161125, abs=1e-6)
    # A user that counts in two seeds is one user; seeds that differ widen the interval.
    twice = inference.proportion_interval([0.0] * 20, [0] * 10 + [1] * 10, [*range(10)] * 2)
    assert twice == {**inference.proportion_interval([0.0] * 10), 'undefined': 0}
    apart = inference.proportion_interval([1] * 9 + [0] + [0] * 9 + [1], [0] * 10 + [1] * 10)
    even = inference.proportion_interval([1, 0] * 10, [0] * 10 + [1] * 10)
    assert apart['mean'] == even['mean'] == 0.5
    assert apart['high'] - apart['low'] > 1.5 * (even['high'] - even['low'])
    assert inference.proportion_interval([None])['mean'] is None


# Failed on: the quantile of the normal distribution for a variance of five seeds (coverage .90).
def test_an_interval_of_a_share_covers_it_with_few_seeds():
    rng, rate = np.random.default_rng(0), 0.3
    rates = np.clip(rng.normal(rate, 0.1, (1000, 5, 1)), 0, 1)
    draws = (rng.random((1000, 5, 26)) < rates).reshape(1000, -1).astype(float)
    found = [inference.proportion_interval(draw, np.repeat(range(5), 26)) for draw in draws]
    covered = np.mean([one['low'] <= rate <= one['high'] for one in found])
    assert 0.93 <= covered <= 0.975


def test_holm_as_arithmetic():
    assert inference.holm([0.01, 0.2, 0.02]) == [0.03, 0.2, 0.04]
    assert inference.holm([0.03, 0.03]) == [0.06, 0.06]
    assert inference.holm([None, 0.7, 0.9]) == [None, 1.0, 1.0]
    assert inference.holm([]) == []
