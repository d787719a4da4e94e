"""Work directories: whose they are, and that rows survive whatever happens."""

import json
import re

import pytest

from fedinv_jax.audit import workdir
from tests.report.helpers import victim_row

CONFIG = {'attack': {'steps': 3, 'name': ('a', 'b')}, 'run': {'progress': True}, 'seed': 0}
DATA = {'negatives_sha256': 'ab'}


def line(user):
    """A row as a file has it."""
    return json.dumps(victim_row(user)) + '\n'


@pytest.fixture
def folder(tmp_path):
    """The work directory of a run without rows."""
    return workdir.open_or_create(tmp_path, CONFIG, DATA)


def users_of(folder):
    return [row['user'] for row in workdir.read_rows(folder)]


def changed(section, **fields):
    return {**CONFIG, section: {**CONFIG[section], **fields}}


def test_open_writes_the_record_and_opens_again(tmp_path):
    folder = workdir.open_or_create(tmp_path / 'new' / 'run', CONFIG, DATA)
    before = (folder / 'config.json').read_text()
    assert json.loads(before) == {'config': json.loads(json.dumps(CONFIG)), 'data': DATA}
    assert workdir.open_or_create(str(folder), CONFIG, DATA) == folder
    assert (folder / 'config.json').read_text() == before


def test_versions_name_packages_and_device(tmp_path):
    folder = workdir.open_or_create(tmp_path, CONFIG, DATA)
    versions = json.loads((folder / 'versions.json').read_text())
    assert {'fedinv_jax', 'jax', 'jaxlib', 'optax', 'flax', 'numpy', 'python'} <= set(versions)
    assert versions['devices']
    assert re.match(r'\d{4}-\d\d-\d\dT', versions['date'])


# Failed on a mutant of `_differences` that returns [] for leaves inside dicts.
@pytest.mark.parametrize(
    ('config', 'data', 'message'),
    [
        (
            changed('attack', steps=4),
            DATA,
            r'steps is 3 in the folder, 4 in this run',
        ),
        (
            changed('attack', name=('a',)),
            DATA,
            r'config\.attack\.name is \["a", "b"\] in the folder, \["a"\] in this run',
        ),
        ({**CONFIG, 'seed': 1}, DATA, r'config\.seed is 0 in the folder, 1 in this run'),
        (
            CONFIG,
            {'negatives_sha256': 'cd'},
            r'data\.negatives_sha256 is "ab" in the folder, "cd" in this run',
        ),
        (
            changed('attack', new=1),
            DATA,
            r'config\.attack\.new is null in the folder, 1 in this run',
        ),
    ],
    ids=['number', 'axis', 'top', 'data', 'new-field'],
)
def test_another_run_is_refused_with_field_and_both_values(tmp_path, config, data, message):
    workdir.append_rows(workdir.open_or_create(tmp_path, CONFIG, DATA), [victim_row(0)])
    before = (tmp_path / 'config.json').read_text()
    with pytest.raises(ValueError, match=message) as caught:
        workdir.open_or_create(tmp_path, config, data)
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / 'config.json').read_text() == before


def test_every_difference_is_listed(tmp_path):
    workdir.append_rows(workdir.open_or_create(tmp_path, CONFIG, DATA), [victim_row(0)])
    with pytest.raises(ValueError, match=r'attack\.steps is 3.*; config\.seed is 0'):
        workdir.open_or_create(tmp_path, {**changed('attack', steps=4), 'seed': 5}, DATA)


# Failed on a mutant that skips 'config.r' instead of 'config.run.', by way of 'rate'.
def test_only_the_section_run_may_differ(tmp_path):
    workdir.append_rows(
        workdir.open_or_create(tmp_path, {**CONFIG, 'rate': 1}, DATA), [victim_row(0)]
    )
    workdir.open_or_create(tmp_path, {**changed('run', progress=False), 'rate': 1}, DATA)
    with pytest.raises(ValueError, match=r'config\.rate is 1 in the folder, 2 in this run'):
        workdir.open_or_create(tmp_path, {**CONFIG, 'rate': 2}, DATA)


def test_a_folder_without_rows_is_taken_over(tmp_path):
    workdir.open_or_create(tmp_path, CONFIG, DATA)
    workdir.open_or_create(tmp_path, {**CONFIG, 'seed': 5}, DATA)
    assert json.loads((tmp_path / 'config.json').read_text())['config']['seed'] == 5


def test_rows_without_a_config_are_refused(tmp_path):
    workdir.append_rows(tmp_path, [victim_row(1)])
    with pytest.raises(ValueError, match=r'holds rows but no config\.json'):
        workdir.open_or_create(tmp_path, CONFIG, DATA)


def test_append_and_read(folder):
    rows = [
        victim_row(1, drift=None),
        victim_row(2, user_id='ü "\n'),
        victim_row(3, scores=[0.1, 1e-30]),
    ]
    workdir.append_rows(folder, rows[:1])
    workdir.append_rows(folder, rows[1:])
    text = (folder / 'victims.jsonl').read_text()
    assert text.endswith('\n')
    assert text.count('\n') == 3
    assert text.isascii()  # So that no cut falls inside a character.
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert workdir.read_rows(folder) == rows


# Failed on a check after the first rows were written.
def test_a_row_that_is_none_is_refused_and_nothing_is_written(folder):
    with pytest.raises(ValueError, match=r"Expected row\['seed'\] of type int, got 0\.5"):
        workdir.append_rows(folder, [victim_row(0), victim_row(1, seed=0.5)])
    assert workdir.read_rows(folder) == []


def test_rows_of_version_0_1_are_read_with_what_the_config_says(tmp_path):
    config = {**CONFIG, 'observation': {'clip': 2.0, 'pseudo': 0.25}}
    folder = workdir.open_or_create(tmp_path, config, DATA)
    row = victim_row(0)
    old = {k: v for k, v in row.items() if k not in ('family', 'defences', 'labels_changed')}
    old |= {'precision': old.pop('dtype'), 'upload_precision': old.pop('upload_dtype')}
    (folder / 'victims.jsonl').write_text(json.dumps({**old, 'schema': 1}) + '\n' + line(1))
    changes = {
        'defence': 'pseudo-interactions 0.25, clip 2',
        'defences': {'pseudo_rate': 0.25, 'clip': 2.0},
        'labels_changed': True,
    }
    assert workdir.read_rows(folder) == [{**row, **changes}, victim_row(1)]
    (folder / 'victims.jsonl').write_text(json.dumps({**old, 'schema': 3}) + '\n')
    with pytest.raises(ValueError, match='Expected rows of schema 1 or 2, got 3'):
        workdir.read_rows(folder)


def test_rows_without_a_run_are_no_rows(tmp_path):
    workdir.append_rows(tmp_path, [victim_row(1)])
    with pytest.raises(ValueError, match=r'holds no run: expected .*config\.json'):
        workdir.read_rows(tmp_path)


def test_no_file_is_no_rows(tmp_path):
    assert workdir.read_rows(tmp_path) == []


# Failed on the mutants of `locked_rows` with `rfind` without `+ 1`, and without `truncate`.
@pytest.mark.parametrize('cut', ['', '{', '{"user": 2, "x": 0.', line(2)[:-1]])
def test_a_line_cut_off_is_dropped_and_the_file_repaired(folder, cut):
    path, said = folder / 'victims.jsonl', []
    path.write_text(line(0) + line(1) + cut)
    assert users_of(folder) == [0, 1]
    with workdir.locked_rows(folder, log=said.append):
        assert path.read_text() == line(0) + line(1)
        workdir.append_rows(folder, [victim_row(3)])
    assert users_of(folder) == [0, 1, 3]
    assert len(said) == bool(cut)
    assert all('the last line was incomplete' in line and 'the 2 rows' in line for line in said)


# Failed on the mutant that repairs while reading: another process is in the middle of that line.
def test_reading_leaves_the_rows_of_other_shards_alone(folder):
    path = workdir.rows_file(folder, (1, 3))
    path.write_text(line(0) + '{"us')
    assert path.name == 'victims-1-of-3.jsonl'
    with workdir.locked_rows(folder, (0, 3)):
        workdir.append_rows(folder, [victim_row(5)], (0, 3))
        assert users_of(folder) == [5, 0]
    assert path.read_text() == line(0) + '{"us'


# Failed on the mutant without the lock.
def test_two_processes_do_not_write_one_file(tmp_path):
    with (
        workdir.locked_rows(tmp_path),
        pytest.raises(ValueError, match='Another process is'),
    ):
        workdir.locked_rows(tmp_path).__enter__()
    with workdir.locked_rows(tmp_path):
        pass


def test_merged_rows_are_one_file(folder):
    for index in range(2):
        workdir.append_rows(folder, [victim_row(index)], (index, 2))
    workdir.merge(folder, workdir.read_rows(folder)[::-1])
    assert [path.name for path in folder.glob('*.jsonl')] == ['victims.jsonl']
    assert users_of(folder) == [1, 0]


def test_only_a_cut_line_leaves_nothing(tmp_path):
    (tmp_path / 'victims.jsonl').write_text('{"us')
    with workdir.locked_rows(tmp_path, log=lambda _: None):
        assert workdir.read_rows(tmp_path) == []
    assert (tmp_path / 'victims.jsonl').read_text() == ''


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(folder):
    (folder / 'victims.jsonl').write_text(line(0) + 'nonsense\n' + line(1))
    with pytest.raises(ValueError, match=r'victims\.jsonl, line 2: expected a JSON object'):
        workdir.read_rows(folder)


# Failed on the mutant without `allow_nan=False`.
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_numbers_that_json_lacks_are_refused_and_nothing_is_written(folder, value):
    workdir.append_rows(folder, [victim_row(0)])
    with pytest.raises(ValueError, match='Out of range float values'):
        workdir.append_rows(folder, [victim_row(1), victim_row(2, drift=value)])
    assert users_of(folder) == [0]


# Failed on the mutant `path.write_text(text)`.
def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'summary.json'
    workdir.write(path, 'old')

    def full(self, text):
        with open(self, 'w') as file:
            file.write(text[: len(text) // 2])
        raise OSError('No space left on device')

    monkeypatch.setattr('pathlib.Path.write_text', full)
    with pytest.raises(OSError, match='No space left'):
        workdir.write(path, 'new and longer')
    assert path.read_text() == 'old'
