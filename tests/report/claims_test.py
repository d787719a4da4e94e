"""The paper's claims on made-up rows: which settings are paired, the numbers, the words."""

import pytest

from fedinv_jax.report import claims, stats
from tests.report.helpers import rows_of

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
    pairs = stats.pair(made[:6], made[6:])
    assert len(pairs) == 6
    assert all(one['seed'] == other['seed'] for one, other in pairs)
