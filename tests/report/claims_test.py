"""The paper's claims on made-up rows: which settings are paired, the numbers, the words."""

import itertools

import numpy as np
import pytest
import scipy.stats

from fedinv_jax.report import claims, document, stats
from tests.report.report_test import row


def rows_of(table, attack='mgradinv', victims=6, **changes):
    """Rows by (T, first round, interval) -> mean AUC; victims differ by .01, the seeds are two."""
    return [
        row(user, auc + 0.01 * user, attack, steps, first_round=first, interval=interval,
            seed=user % 2, **changes)
        for (steps, first, interval), auc in table.items()
        for user in range(victims)
    ]  # fmt: skip


TABLE = {
    (1, 0, None): 0.6,
    (2, 0, 10): 0.7,
    (2, 0, 250): 0.65,
    (4, 0, 10): 0.8,
    (4, 0, 250): 0.75,
    (4, 0, 120): 0.1,
    (4, 0, 460): 0.2,
    (1, 50, None): 0.55,
    (4, 50, 10): 0.7,
}


# Failed on mutants: the smallest T; the largest interval for C1 and C2; the last round for C1; the
# interval nearest to 100 for C3.
def test_each_claim_compares_its_settings():
    found = {each.claim: each for each in claims.compare(rows_of(TABLE))}
    assert list(found) == ['C1', 'C2', 'C3']
    keys = ('num_gradients', 'first_round', 'interval')
    sides = {
        name: tuple(tuple(side[key] for key in keys) for side in (each.better, each.worse))
        for name, each in found.items()
    }
    assert sides == {
        'C1': ((4, 0, 10), (1, 0, None)),
        'C2': ((4, 0, 10), (4, 50, 10)),
        'C3': ((4, 0, 250), (1, 0, None)),
    }
    effects = {name: each.effect['auc']['mean'] for name, each in found.items()}
    assert effects == pytest.approx({'C1': 0.2, 'C2': 0.1, 'C3': 0.15})
    assert found['C1'].means['auc'] == pytest.approx((0.825, 0.625))
    assert all(each.num_victims == 6 for each in found.values())


def test_the_difference_to_popularity_is_that_of_the_better_setting():
    guesses = rows_of({(1, 0, None): 0.5, (4, 0, 10): 0.72}, 'popularity')
    first = claims.compare([*rows_of(TABLE), *guesses])[0]
    assert first.popularity['auc']['mean'] == pytest.approx(0.08)
    assert claims.compare(rows_of(TABLE))[0].popularity is None


def test_what_cannot_be_compared_is_left_out():
    assert claims.compare([]) == []
    assert claims.compare(rows_of({(2, 0, 10): 0.7})) == []
    one = claims.compare(rows_of({(1, 0, None): 0.7, (1, 100, None): 0.6}))
    assert [each.claim for each in one] == ['C2']
    for interval in (50, 200):  # One interval makes one comparison.
        near = claims.compare(rows_of({(1, 0, None): 0.7, (2, 0, interval): 0.8}))
        assert [each.claim for each in near] == ['C1']


BETTER, WORSE = {(1, 0, None): 0.6, (2, 0, 10): 0.7}, {(1, 0, None): 0.7, (2, 0, 10): 0.6}
EQUAL = {(1, 0, None): 0.6, (2, 0, 10): 0.6}


def full(table):
    """Rows of an attack that recovers everything."""
    made = rows_of(table, 'exact')
    return [{**each, 'metrics': {**each['metrics'], 'auc': 1.0}} for each in made]


def word(*groups):
    return claims.verdicts(claims.compare([one for group in groups for one in group]))[0]['word']


# Failed on mutants: full recovery that counts against C1; the reverse left unsaid.
def test_words():
    assert word(rows_of(BETTER)) == 'holds'
    assert word(rows_of(WORSE)) == 'does not hold; the reverse holds for mgradinv'
    assert word(rows_of(BETTER), full(BETTER)) == 'holds; all is recovered either way by exact'
    assert word(full(BETTER)) == 'all is recovered either way'
    both = word(rows_of(BETTER), rows_of(EQUAL, dynamics='static'))
    assert both == 'holds only for mgradinv (free)'
    assert word(rows_of(EQUAL)) == 'does not hold'
    early = {(1, 0, None): 0.7, (1, 50, None): 0.6}  # C2: full recovery late contradicts it.
    assert word(rows_of(early), full(early)) == (
        'holds only for mgradinv; all is recovered either way by exact'
    )
    outcomes = [claims.outcome(claims.compare(rows_of(table))[0]) for table in (WORSE, EQUAL)]
    assert outcomes == ['the reverse holds', 'no difference is seen']


# Failed on the mutants without `FEW`, without p, and where nothing measured is 'does not hold'.
def test_no_verdict_without_victims_or_numbers():
    assert word(rows_of(BETTER, victims=4)) == 'too few victims'
    assert word(rows_of(BETTER, victims=1)) == 'too few victims'
    nothing = [{**each, 'metrics': {**each['metrics'], 'auc': None}} for each in rows_of(BETTER)]
    assert word(nothing) == 'not measured'
    assert word(nothing, full(BETTER)) == 'all is recovered either way'
    # One seed, twelve victims, four of which gain: the bootstrap interval alone says 'holds'.
    rows = rows_of({(1, 0, None): 0.1, (2, 0, 10): 0.1}, victims=12)
    for each in rows:
        each['seed'] = 0
        gain = each['num_gradients'] == 2 and each['user'] < 4
        each['metrics'] = {**each['metrics'], 'auc': 0.9 if gain else 0.1}
    found = claims.compare(rows)[0]
    assert found.effect['auc']['low'] > 0
    assert found.p['auc'] > 0.05
    assert claims.outcome(found) == 'no difference is seen'


def test_the_title_of_c3_has_its_interval():
    far = rows_of({(1, 0, None): 0.6, (2, 0, 10): 0.7, (2, 0, 200): 0.7})
    titles = [found['title'] for found in claims.verdicts(claims.compare(far))]
    assert titles[1] == 'it still helps with 200 steps between the gradients'


# Victims with one of the two settings count as undefined, and in neither mean.
def test_victims_without_a_counterpart():
    rows = rows_of(BETTER)
    found = claims.compare([each for each in rows if each['interval'] or each['user'] < 3])[0]
    assert (found.num_victims, found.effect['auc']['undefined']) == (6, 3)
    assert found.effect['auc']['mean'] == pytest.approx(0.1)
    assert found.means['auc'] == pytest.approx((0.71, 0.61))


# Failed on the mutants that drop the failed victim, and that pair by the user alone.
def test_failed_victims_and_seeds_count():
    made = rows_of({(1, 0, None): 0.6, (2, 0, 10): 0.7})
    made[-1] = {**made[-1], 'status': 'failed', 'metrics': {**made[-1]['metrics'], 'auc': 0.5}}
    assert claims.compare(made)[0].effect['auc']['mean'] == pytest.approx((5 * 0.1 - 0.15) / 6)
    for each in made:
        each['user'] //= 2
    assert claims.compare(made)[0].num_victims == 6
    assert all(one['seed'] == other['seed'] for one, other in stats.pair(made[:6], made[6:]))


def test_p_of_one_seed_flips_signs_and_of_several_is_a_clustered_t():
    values = [0.1, 0.3, -0.05, 0.2, 0.4, 0.15]
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    as_large = np.abs(signs @ values) >= abs(sum(values)) - 1e-12
    assert stats.paired_p(values, [0] * 6) == pytest.approx(np.mean(as_large))
    # Seeds of one size: the t-test of the seeds' means.
    means = np.reshape(values, (3, 2)).mean(1)
    expected = scipy.stats.ttest_1samp(means, 0).pvalue
    assert stats.paired_p(values, [0, 0, 1, 1, 2, 2]) == pytest.approx(expected)
    assert stats.paired_p([0.0, 0.0], [0, 1]) == 1
    assert stats.paired_p([None], [0]) is None
    # The interval excludes 0 exactly where p < .05.
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.normal(0.5, 1, 12)
        low_high = stats.interval(values, [0, 1, 2, 3] * 3)
        p = stats.paired_p(values, [0, 1, 2, 3] * 3)
        assert (p < 0.05) == (low_high['low'] > 0 or low_high['high'] < 0)


def test_the_table_says_what_was_compared():
    text = document.claims_table(claims.compare(rows_of(TABLE)))
    assert '**C1, several gradients reveal more than one** (scorer seen): **holds**.' in text
    row_ = '| mgradinv | holds | T = 4, interval = 10 against T = 1 | 0.825, 0.625 | +0.200 ['
    assert row_ in text
    assert '| mgradinv | holds | first round = 0 against first round = 50 |' in text
    assert document.claims_table([]) == ''


def first_page(rows):
    summary = stats.summarize(rows)
    part = document.Part('x', '', summary, claims.compare(rows), [], '')
    return document.markdown([part], '', {}, {}).split('## Threat model')[0]


# Failed on mutants: any row instead of every row; too few victims, or no guesser, as 'stopped'.
def test_the_first_page_says_what_stops_it():
    above, below = rows_of({(1, 0, None): 0.9}), rows_of({(1, 0, None): 0.2}, seen=['items'])
    guesses = [
        one for seen in (['scorer'], ['items'])
        for one in rows_of({(1, 0, None): 0.5}, 'popularity', seen=seen)
    ]  # fmt: skip
    text = first_page([*above, *below, *guesses])
    assert 'What would stop it, scorer seen: nothing that was tried (defences: none).' in text
    assert 'What would stop it, items seen: this setting does, in which no attack' in text
    assert 'not known, as the popularity guesser was not run' in first_page(above)
    few = [one for one in [*above, *guesses] if one['user'] < 4 and one['seen'] == ['scorer']]
    assert 'not known, as there are fewer than 5 victims' in first_page(few)
    assert 'No attack was run.' in first_page([])


# Failed on the mutant `min` of `leaks`, and without the effect beside the word.
def test_the_first_page_has_the_strongest_attack_and_the_effects():
    weak = rows_of({(1, 0, None): 0.1, (2, 0, 10): 0.1}, 'dlg')
    made = rows_of(BETTER)
    for each in made:
        each['metrics'] = {**each['metrics'], 'exact': 1.0, 'f1': 1.0}
    text = first_page([*weak, *made])
    assert '**scorer** seen: mgradinv (T = 1' in text
    assert 'recovers **6 of 6** histories' in text
    claim = next(line for line in text.splitlines() if line.startswith('- C1'))
    assert '**holds only for mgradinv** (mgradinv: ΔAUC +0.100 [' in claim
    assert 'p = ' in claim
