"""The small files of measured numbers: what is kept of a summary, in which order, as which text."""

import json

import pytest

from fedinv_jax.report import claims, results, stats, tradeoff
from tests.report.helpers import (
    EPSILON,
    certified_row,
    placebo_row,
    rows_of,
    study_rows,
    victim_row,
)


# Failed on: a row of a baseline for each T; the T of an attack dropped too.
def test_rows_are_small_and_a_baseline_has_one():
    summary = stats.summarize(study_rows(steps=(1, 2)))['rows']
    made = results.rows(summary)
    assert [(row['attack'], row['num_gradients'], row['seen']) for row in made] == [
        ('mgradinv', 1, ['scorer']),
        ('random', None, None),
        ('popularity', None, None),
        ('mgradinv', 2, ['scorer']),
        ('mgradinv', 1, ['items', 'scorer']),
        ('mgradinv', 2, ['items', 'scorer']),
    ]
    whole = next(row for row in summary if row['num_gradients'] == 2)
    assert made[3]['auc'] == whole['metrics']['auc']
    assert (
        made[3]['difference_to_one_gradient']['auc'] == whole['difference_to_one_gradient']['auc']
    )
    assert made[3]['confidence_intervals'] == 'bootstrap (exact matches: Wilson)'
    assert 'f1' not in made[3]  # undefined for every victim
    assert not {'recall', 'metrics', 'failures', 'seed'} & made[3].keys()


# Failed on: baselines whose numbers differ made one.
def test_baselines_with_other_numbers_stay_apart():
    rows = [victim_row(0, auc, 'popularity', steps) for auc, steps in ((0.5, 1), (0.75, 2))]
    made = results.rows(stats.summarize(rows)['rows'])
    assert [row['auc']['mean'] for row in made] == [0.5, 0.75]


# Failed on: a placebo taken for a baseline that reads no upload, so without T and the rest.
def test_placebos_keep_what_they_read():
    rows = [placebo_row(0, num_gradients=steps, drift=0.25) for steps in (1, 4)]
    made = results.rows(stats.summarize(rows)['rows'])
    assert [row['num_gradients'] for row in made] == [1, 4]
    for row in made:
        assert (row['placebo'], row['first_round'], row['seen']) == (True, 0, ['scorer'])
        assert (row['drift'], row['seconds_per_victim']) == (0.25, 0.5)


def test_certificates_and_several_seeds():
    rows = [certified_row(user, certified=user > 1, seed=user % 2) for user in range(4)]
    (made,) = results.rows(stats.summarize(rows)['rows'])
    assert (made['num_certified'], made['num_victims'], made['num_seeds']) == (2, 4, 2)
    assert (made['rank'], made['unknowns']) == (40.0, 50.0)
    assert made['confidence_intervals'].startswith('t-based, clustered by seed and user')


# Failed on: better and worse exchanged.
def test_claims_have_the_test_and_both_settings():
    rows = rows_of({(1, 0, None): 0.5, (4, 0, 10): 0.75})
    rows += [victim_row(user, 0.625, 'popularity', 4, seed=user % 2) for user in range(6)]
    found = claims.compare(rows)
    (made,) = results.claims(found, stats.summarize(rows)['rows'])
    assert (made['claim'], made['attack'], made['num_gradients']) == ('C1', 'mgradinv', 4)
    assert (made['worse']['auc'], made['better']['auc']) == pytest.approx((0.525, 0.775))
    assert made['difference']['auc']['mean'] == pytest.approx(0.25)
    assert made['difference_to_popularity']['auc']['mean'] == pytest.approx(0.15)
    assert (made['p'], made['outcome']) == (found[0].p, claims.outcome(found[0]))
    assert made['compared_with'] == {'num_gradients': 1, 'interval': None}
    assert (made['num_victims'], made['num_seeds']) == (6, 2)


# Failed on: T of the attack that is best, for the T that it may use at most.
def test_defences_have_the_best_attack_with_at_most_t_gradients():
    quality = dict.fromkeys(tradeoff.QUALITY, 0.5)
    shared = {
        'defence': 'noise 3',
        'defences': {'noise': 3.0},
        'epsilon': EPSILON,
        'quality': quality,
    }
    rows = [
        victim_row(0, auc, attack, steps, **shared)
        for attack, steps, auc in (('dlg', 1, 0.75), ('dlg', 8, 0.5), ('popularity', 1, 0.625))
    ]
    kinds = {'noise': tradeoff.Kind('noise', False)}
    made = results.defences(tradeoff.points([stats.summarize(rows)], kinds))
    assert [(row['num_gradients'], row['auc']['mean'], row['stopped']) for row in made] == [
        (1, 0.75, False),
        (8, 0.75, False),
    ]
    assert {(row['defence'], row['family'], row['epsilon']['epsilon']) for row in made} == {
        ('noise 3', 'noise', 12.5)
    }
    assert made[0]['hr@10_loo99']['mean'] == 0.5


# Failed on: a value shared that one row lacks; four digits; a count of 0 undefined values kept.
def test_a_file_has_equal_values_once():
    interval = {'mean': 1 / 3, 'low': 12345.6, 'high': 1.0, 'undefined': 0}
    lists = {
        'rows': [{'data': 'a', 'T': 1, 'auc': interval, 'k': None}, {'data': 'a', 'T': 1, 'n': 2}],
        'claims': [{'data': 'a', 'T': None, 'p': 5e-05}],
        'defences': [],
    }
    packed = results.pack({'date': 'today'}, lists)
    short = {'mean': 0.33333, 'low': 12346.0, 'high': 1.0}
    assert packed == {
        'date': 'today',
        'shared': {'data': 'a'},
        'rows': [{'T': 1, 'auc': short}, {'T': 1, 'n': 2}],
        'claims': [{'p': 5e-05}],
    }
    assert results.unpack(packed)[1] == {'data': 'a', 'T': 1, 'n': 2}
    assert results.unpack(packed, 'claims') == [{'data': 'a', 'p': 5e-05}]
    text = results.text(packed)
    assert json.loads(text) == packed
    assert '{"T": 1, "n": 2}\n' in text


def test_conditions_order_and_select():
    rows = [
        {'attack': attack, 'T': steps, 'seen': ['items', 'scorer']}
        for attack, steps in (('dlg', 1), ('dlg', 2), ('exact', 1), ('random', None))
    ]

    def selected(conditions):
        return [(row['attack'], row['T']) for row in results.select(rows, conditions)]

    assert selected('') == [('dlg', 1), ('dlg', 2), ('exact', 1), ('random', None)]
    assert selected('attack=exact|dlg') == [('exact', 1), ('dlg', 1), ('dlg', 2)]
    assert selected('T = 2 | 1; attack=exact|dlg') == [('dlg', 2), ('exact', 1), ('dlg', 1)]
    assert selected('seen=items+scorer; T=2') == [('dlg', 2), ('random', None)]
    with pytest.raises(ValueError, match=r'No row has attack=dgl; there are dlg, exact, random'):
        selected('attack=dlg|dgl')
