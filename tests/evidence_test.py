"""What counts as evidence for the certificates."""

import json

import pytest

from benchmarks import evidence
from benchmarks.fuzz import summary
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import workdir
from tests.report.helpers import certified_row, victim_row


def run_folder(folder, *rows):
    """A work directory with these rows."""
    workdir.open_or_create(folder, config_lib.default_config().to_dict(), {})
    rows = [{**row, 'config_hash': workdir.config_hash(folder)} for row in rows]
    (folder / 'victims.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return folder


# Failed on rows in place of units, and on the last row of a unit in place of all.
def test_a_client_counts_once_and_is_wrong_if_one_of_its_answers_is(tmp_path):
    folder = run_folder(
        tmp_path / 'study' / 'arm',
        certified_row(1), certified_row(1, num_gradients=2), certified_row(2, exact=0.0),
        certified_row(2, num_gradients=2), certified_row(3, certified=False, exact=0.0),
        victim_row(4),
    )  # fmt: skip
    wrong = evidence.add_up([folder.parent])
    counted = {unit[2]: failed for unit, failed in wrong['certified'].items()}
    assert counted == {'1': False, '2': True}
    assert evidence.table(wrong)[2:] == [
        f'| certified | {data} | {member} | 2 | 1 | {summary.upper_bound(1, 2):.3g} |'
        for data, member in (('synthetic', 'gram'), ('all', 'all'))
    ] + ['| locally_unique | all | all | 0 | 0 | 1 |']


def test_rows_of_a_fuzz_run_are_units_of_their_own(tmp_path):
    row = {'seed': 0, 'number': 3, 'client': 1, 'member': 'scaled', 'model': 'mf'}
    rows = [
        {**row, 'outcome': 'right', 'locally_unique': True},
        {**row, 'client': 2, 'outcome': 'wrong', 'certified': True},
        {**row, 'client': 3, 'outcome': 'refused'},
    ]
    summary.append(tmp_path / 'fuzz.jsonl', rows)
    wrong = evidence.add_up([tmp_path / 'fuzz.jsonl'])
    assert list(wrong['locally_unique'].values()) == [False]
    assert list(wrong['certified'].values()) == [True]


def test_a_path_without_rows_is_no_evidence(tmp_path):
    with pytest.raises(ValueError, match='holds no rows'):
        evidence.add_up([tmp_path])
