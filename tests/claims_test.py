"""The paper's claims on made-up rows: which settings are paired, the numbers, the words."""

import numpy as np
import pytest
import scipy.stats
from report_test import row

from fedinv_jax import claims, document, stats


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
    near = claims.compare(rows_of({(1, 0, None): 0.7, (2, 0, 50): 0.8}))
    assert [each.claim for each in near] == ['C1']


def test_words():
    better, worse = {(1, 0, None): 0.6, (2, 0, 10): 0.7}, {(1, 0, None): 0.7, (2, 0, 10): 0.6}
    equal = {(1, 0, None): 0.6, (2, 0, 10): 0.6}
    full = rows_of({(1, 0, None): 1.0, (2, 0, 10): 1.0}, 'exact')
    full = [{**each, 'metrics': {**each['metrics'], 'auc': 1.0}} for each in full]

    def word(*groups):
        return claims.verdicts(claims.compare([one for group in groups for one in group]))[0]

    assert word(rows_of(better))['word'] == 'holds'
    assert word(rows_of(worse))['word'] == 'does not hold'
    assert word(rows_of(better), full)['word'] == 'holds only for mgradinv'
    both = word(rows_of(better), rows_of(equal, dynamics='static'))
    assert both['word'] == 'holds only for mgradinv (free)'
    reasons = [claims.why_not(claims.compare(each)[0]) for each in (rows_of(worse), full)]
    assert reasons == ['the reverse holds', 'nothing is left to gain: all is recovered either way']
    assert 'interval includes 0' in claims.why_not(claims.compare(rows_of(equal))[0])


# Failed on the mutants that drop the failed victim, and that pair by the user alone.
def test_failed_victims_and_seeds_count():
    made = rows_of({(1, 0, None): 0.6, (2, 0, 10): 0.7})
    made[-1] = {**made[-1], 'status': 'failed', 'metrics': {**made[-1]['metrics'], 'auc': 0.5}}
    assert claims.compare(made)[0].effect['auc']['mean'] == pytest.approx((5 * 0.1 - 0.15) / 6)
    for each in made:
        each['user'] //= 2
    assert claims.compare(made)[0].num_victims == 6
    assert all(one['seed'] == other['seed'] for one, other in stats.pair(made[:6], made[6:]))


def test_p_of_one_seed_is_wilcoxon_and_of_several_a_clustered_t():
    values = [0.1, 0.3, -0.05, 0.2, 0.4, 0.15]
    assert stats.paired_p(values, [0] * 6) == scipy.stats.wilcoxon(values).pvalue
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
    assert '| mgradinv | T = 4, interval = 10 against T = 1 | 0.825, 0.625 | +0.200 [' in text
    assert '| mgradinv | first round = 0 against first round = 50 |' in text
    assert document.claims_table([]) == ''
