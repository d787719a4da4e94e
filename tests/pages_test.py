"""The tables of the pages hold the numbers of the files in results/, and no others."""

import json
import pathlib
import re

import pytest

from fedinv_jax.report import pages, results

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = pages.files(ROOT)
# Pages of measured numbers.
MEASURED = [
    'README.md', 'assumptions.md', 'defences.md', 'exact.md', 'mgradinv.md', 'performance.md',
    'results.md',
]  # fmt: skip
FILES = {path.parent.name: path for path in ROOT.glob('results/*/summary.json')}
CONTENT = {name: json.loads(path.read_text(encoding='utf-8')) for name, path in FILES.items()}


# Failed on: a digit changed in a table, in a caption and in a file.
@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_page_and_files_agree(path):
    page = path.read_text(encoding='utf-8')
    assert pages.render(page, CONTENT) == page, 'run `make tables`'


# Failed on: the second mark of a table removed, with the first one.
@pytest.mark.parametrize('path', [p for p in PAGES if p.name in MEASURED], ids=lambda p: p.name)
def test_tables_of_measured_numbers_are_generated(path):
    page = path.read_text(encoding='utf-8')
    assert '<!-- table ' in page
    assert pages.unmarked(page) == []


# Failed on: a file without a date; one written with an indent; one that no page shows.
@pytest.mark.parametrize('name', sorted(FILES))
def test_files_say_where_their_numbers_come_from(name):
    found, text = CONTENT[name], FILES[name].read_text(encoding='utf-8')
    assert text == results.text(found)
    assert [*found][:5] == list(results.HEAD)
    assert re.match(r'\d{4}-\d\d-\d\d', found['date'])
    assert found['command']
    assert found['device']
    assert 'jax' in found['versions']
    assert not re.search(r'[ "=]/\w', text), 'a place of some machine'
    mark = re.compile(f'<!-- table {name}[ /\n]')
    assert any(mark.search(path.read_text(encoding='utf-8')) for path in PAGES)


# Failed on: the claims of a study measured anew, its verdicts not; an outcome changed.
@pytest.mark.parametrize(
    ('claim', 'study'),
    [('C1', 'study_num_gradients'), ('C2', 'study_convergence'), ('C3', 'study_interval')],
)
def test_verdicts_are_those_of_the_studies(claim, study):
    def numbers(found):
        ends = {
            end: results.value(found, f'difference.auc.{end}') for end in ('mean', 'low', 'high')
        }
        paths = ('better.auc', 'worse.auc', 'p.auc', 'outcome')
        return {'difference': ends} | {path: results.value(found, path) for path in paths}

    verdicts = CONTENT['paper_claims']
    shown = {
        (row['data'], row['attack']): numbers(row)
        for row in results.unpack(verdicts)
        if (row['claim'], row['measured']) == (claim, verdicts['date'])
    }
    measured = {
        (row['data'], row['attack']): numbers(row)
        for row in results.unpack(CONTENT[study], 'claims')
        if (row['claim'], row['seen'], row['dynamics']) == (claim, ['scorer'], 'free')
    }
    assert shown == measured
