"""Rows: checked key by key, and those of schema 1 upgraded."""

import pytest

from fedinv_jax.report import rows, stats
from tests.report.helpers import EPSILON, FAMILIES, certified_row, victim_row


@pytest.mark.parametrize(
    'row',
    [
        victim_row(),
        victim_row(0, 0.5, 'popularity', 4, scores=[0.5, 1], truth=[1, 0]),
        certified_row(0),
        victim_row(epsilon=EPSILON, quality={'hr@10_loo99': 0.5}, reason='it failed'),
        victim_row(defences={'clip': 20.0, 'rank': 1, 'uploaded': ['scorer']}),
    ],
)
def test_a_row_as_it_should_be(row):
    assert rows.check(row) is row


# Failed on the mutants that take a bool for a number, that look at a list's first value only, and
# that do not look into nested values.
@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('schema', 1, 'Literal[2]'),
        ('family', 'other', "Literal['baseline', 'descent', 'recipe', 'exact']"),
        ('num_gradients', '1', 'int'),
        ('num_gradients', 1.0, 'int'),
        ('num_gradients', True, 'int'),
        ('seconds', False, 'float'),
        ('batch_known', 1, 'bool'),
        ('drift', 'x', 'float | None'),
        ('seen', ('items',), 'list[str]'),
        ('scores', [0.5, 'x'], 'list[float]'),
        ('metrics', {'auc': 0.5, 'f1': 'x'}, 'dict[str, float | None]'),
        ('defences', {'clip': 1.0, 'uploaded': [1]}, 'dict[str, float | list[str]]'),
        ('epsilon', {**EPSILON, 'releases': None}, 'fedinv_jax.report.rows.Epsilon | None'),
        ('epsilon', {'epsilon': 1.0}, 'fedinv_jax.report.rows.Epsilon | None'),
    ],
)
def test_a_value_of_another_type(key, value, expected):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        rows.check(victim_row(**{key: value}))
    start, _, found = str(caught.value).partition(', got ')
    assert start == f'Expected row[{key!r}] of type {expected}'
    assert found[0] == repr(value)[0]


def test_keys_that_are_missing_or_unknown():
    row = victim_row()
    del row['data']
    with pytest.raises(ValueError, match=r"Expected row\['data'\], got a row without that key"):
        rows.check(row)
    with pytest.raises(ValueError, match=r"Unknown key row\['rounds'\] with value 3"):
        rows.check(victim_row(rounds=3))


def test_the_setting_and_the_certificate_are_keys_of_a_row():
    assert len(stats.SETTING) == 18
    assert set(stats.SETTING) < set(rows.VictimRow.__annotations__)
    assert set(stats.CERTIFICATE) < set(rows.VictimRow.__annotations__)
    assert set(stats.SETTING) < set(rows.SummaryRow.__annotations__)


OLD = {'dtype': 'precision', 'upload_dtype': 'upload_precision'}
OF_CONFIG = {'defence': 'noise 3', 'defences': {'noise': 3.0}, 'labels_changed': True}
OF_CONFIG['config_hash'] = 'fedcba9876543210'


def schema_1(**changes):
    row = {**victim_row(), 'schema': 1, **changes}
    for key in ('family', 'defences', 'labels_changed', 'config_hash'):
        del row[key]
    return {OLD.get(key, key): value for key, value in row.items()}


@pytest.mark.parametrize('attack', FAMILIES)
def test_upgrade(attack):
    expected = {**victim_row(0, 0.5, attack), **OF_CONFIG}
    row = {**expected, 'schema': 1, 'defence': 'Gaussian noise 3'}
    old = {
        OLD.get(key, key): value for key, value in row.items() if OLD.get(key, key) in schema_1()
    }
    assert rows.upgrade(old, OF_CONFIG) == expected
    assert old['schema'] == 1


def test_upgrade_leaves_schema_2_as_it_is():
    row = victim_row(defences={'clip': 1.0})
    assert rows.upgrade(row, OF_CONFIG) == row
    later = ('fits', 'kept', 'locally_unique', 'symmetry', 'config_hash')
    first = {key: value for key, value in row.items() if key not in later}
    expected = {**row, **dict.fromkeys(later), 'config_hash': OF_CONFIG['config_hash']}
    assert rows.upgrade(first, OF_CONFIG) == expected


def test_upgrade_refuses_the_rest():
    with pytest.raises(ValueError, match='Expected rows of schema 1 or 2, got 3'):
        rows.upgrade({**victim_row(), 'schema': 3}, OF_CONFIG)
    with pytest.raises(ValueError, match='Expected rows of schema 1 or 2, got None'):
        rows.upgrade({}, OF_CONFIG)
    with pytest.raises(ValueError, match="Expected an attack of schema 1, got 'new'"):
        rows.upgrade(schema_1(attack='new'), OF_CONFIG)
    with pytest.raises(ValueError, match=r"Expected row\['seed'\] of type int, got '0'"):
        rows.upgrade(schema_1(seed='0'), OF_CONFIG)


def test_upgrade_knows_the_solvers_of_schema_1():
    for old, new in (('rough', 'approximate_embedding'), ('adam from rough', None), (None, None)):
        expected = new or (old and 'adam from approximate_embedding')
        assert rows.upgrade(schema_1(solver=old), OF_CONFIG)['solver'] == expected


# The first rows of schema 1 had fewer keys. Failed on: rows refused for what they cannot have.
def test_upgrade_fills_in_what_the_first_rows_lack():
    row = {**victim_row(0), 'schema': 1}
    later = ('attacker', 'training_loss', 'epsilon', 'quality', 'certified', 'margin')
    for name in (
        'family',
        'defences',
        'labels_changed',
        'config_hash',
        'placebo',
        'reader',
        *later,
    ):
        row.pop(name, None)
    new = rows.upgrade(row, OF_CONFIG)
    assert (new['attacker'], new['placebo'], new['reader']) == ('adaptive', False, None)
    assert all(new[name] is None for name in later[1:])


def test_a_summary_is_checked():
    summary = stats.summarize([victim_row(0), victim_row(1)])
    assert rows.check_summary(summary) is summary
    wrong = {**summary['rows'][0], 'num_victims': 'two'}
    with pytest.raises(ValueError, match='num_victims'):
        rows.check_summary({**summary, 'rows': [wrong]})
