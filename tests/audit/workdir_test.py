"""Work directories: whose they are, and that rows survive whatever happens."""

import json
import re

import pytest

from fedinv_jax.audit import workdir

CONFIG = {'attack': {'steps': 3, 'name': ('a', 'b')}, 'run': {'progress': True}, 'seed': 0}
DATA = {'negatives_sha256': 'ab'}


def changed(section, **fields):
    return {**CONFIG, section: {**CONFIG[section], **fields}}


def test_open_writes_the_record_and_opens_again(tmp_path):
    folder = workdir.open_(tmp_path / 'new' / 'run', CONFIG, DATA)
    before = (folder / 'config.json').read_text()
    assert json.loads(before) == {'config': json.loads(json.dumps(CONFIG)), 'data': DATA}
    assert workdir.open_(str(folder), CONFIG, DATA) == folder
    assert (folder / 'config.json').read_text() == before


def test_versions_name_packages_and_device(tmp_path):
    folder = workdir.open_(tmp_path, CONFIG, DATA)
    versions = json.loads((folder / 'versions.json').read_text())
    assert {'fedinv_jax', 'jax', 'jaxlib', 'optax', 'flax', 'numpy', 'python'} <= set(versions)
    assert versions['devices']
    assert re.match(r'\d{4}-\d\d-\d\dT', versions['date'])


# Failed on a mutant of `_differences` that returns [] for leaves inside dicts.
@pytest.mark.parametrize(
    ('config', 'data', 'message'),
    [
        (changed('attack', steps=4), DATA, r'config\.attack\.steps is 3 there, 4 here'),
        (
            changed('attack', name=('a',)),
            DATA,
            r'config\.attack\.name is \["a", "b"\] there, \["a"\] here',
        ),
        ({**CONFIG, 'seed': 1}, DATA, r'config\.seed is 0 there, 1 here'),
        (CONFIG, {'negatives_sha256': 'cd'}, r'data\.negatives_sha256 is "ab" there, "cd" here'),
        (changed('attack', new=1), DATA, r'config\.attack\.new is null there, 1 here'),
    ],
    ids=['number', 'axis', 'top', 'data', 'new-field'],
)
def test_another_run_is_refused_with_field_and_both_values(tmp_path, config, data, message):
    workdir.append_rows(workdir.open_(tmp_path, CONFIG, DATA), [{'user': 0}])
    before = (tmp_path / 'config.json').read_text()
    with pytest.raises(ValueError, match=message) as caught:
        workdir.open_(tmp_path, config, data)
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / 'config.json').read_text() == before


def test_every_difference_is_listed(tmp_path):
    workdir.append_rows(workdir.open_(tmp_path, CONFIG, DATA), [{'user': 0}])
    with pytest.raises(ValueError, match=r'attack\.steps is 3.*; config\.seed is 0'):
        workdir.open_(tmp_path, {**changed('attack', steps=4), 'seed': 5}, DATA)


# Failed on a mutant that skips 'config.r' instead of 'config.run.', by way of 'rate'.
def test_only_the_section_run_may_differ(tmp_path):
    workdir.append_rows(workdir.open_(tmp_path, {**CONFIG, 'rate': 1}, DATA), [{'user': 0}])
    workdir.open_(tmp_path, {**changed('run', progress=False), 'rate': 1}, DATA)
    with pytest.raises(ValueError, match=r'config\.rate is 1 there, 2 here'):
        workdir.open_(tmp_path, {**CONFIG, 'rate': 2}, DATA)


def test_a_folder_without_rows_is_taken_over(tmp_path):
    workdir.open_(tmp_path, CONFIG, DATA)
    workdir.open_(tmp_path, {**CONFIG, 'seed': 5}, DATA)
    assert json.loads((tmp_path / 'config.json').read_text())['config']['seed'] == 5


def test_rows_without_a_config_are_refused(tmp_path):
    workdir.append_rows(tmp_path, [{'user': 1}])
    with pytest.raises(ValueError, match=r'holds rows but no config\.json'):
        workdir.open_(tmp_path, CONFIG, DATA)


def test_append_and_read(tmp_path):
    rows = [{'user': 1, 'x': None}, {'user': 2, 'id': 'ü "\n'}, {'user': 3, 'x': [0.1, 1e-30]}]
    workdir.append_rows(tmp_path, rows[:1])
    workdir.append_rows(tmp_path, rows[1:])
    text = (tmp_path / 'victims.jsonl').read_text()
    assert text.endswith('\n')
    assert text.count('\n') == 3
    assert text.isascii()  # So that no cut falls inside a character.
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert workdir.read_rows(tmp_path) == rows


def test_no_file_is_no_rows(tmp_path):
    assert workdir.read_rows(tmp_path) == []


# Failed on the mutants of `writing` with `rfind` without `+ 1`, and without `truncate`.
@pytest.mark.parametrize('cut', ['', '{', '{"user": 2, "x": 0.', '{"user": 2}'])
def test_a_line_cut_off_is_dropped_and_the_file_repaired(tmp_path, cut):
    path, said = tmp_path / 'victims.jsonl', []
    path.write_text('{"user": 0}\n{"user": 1}\n' + cut)
    assert workdir.read_rows(tmp_path) == [{'user': 0}, {'user': 1}]
    with workdir.writing(tmp_path, log=said.append):
        assert path.read_text() == '{"user": 0}\n{"user": 1}\n'
        workdir.append_rows(tmp_path, [{'user': 3}])
    assert [row['user'] for row in workdir.read_rows(tmp_path)] == [0, 1, 3]
    assert len(said) == bool(cut)
    assert all('the last line was cut off' in line and 'the 2 rows' in line for line in said)


# Failed on the mutant that repairs while reading: another process is in the middle of that line.
def test_reading_leaves_the_rows_of_other_shards_alone(tmp_path):
    path = workdir.rows_file(tmp_path, (1, 3))
    path.write_text('{"user": 0}\n{"us')
    assert path.name == 'victims-1-of-3.jsonl'
    with workdir.writing(tmp_path, (0, 3)):
        workdir.append_rows(tmp_path, [{'user': 5}], (0, 3))
        assert workdir.read_rows(tmp_path) == [{'user': 5}, {'user': 0}]
    assert path.read_text() == '{"user": 0}\n{"us'


# Failed on the mutant without the lock.
def test_two_processes_do_not_write_one_file(tmp_path):
    with workdir.writing(tmp_path), pytest.raises(ValueError, match='Another process writes'):
        workdir.writing(tmp_path).__enter__()
    with workdir.writing(tmp_path):
        pass


def test_merged_rows_are_one_file(tmp_path):
    for index in range(2):
        workdir.append_rows(tmp_path, [{'user': index}], (index, 2))
    workdir.merge(tmp_path, workdir.read_rows(tmp_path)[::-1])
    assert [path.name for path in tmp_path.iterdir()] == ['victims.jsonl']
    assert workdir.read_rows(tmp_path) == [{'user': 1}, {'user': 0}]


def test_only_a_cut_line_leaves_nothing(tmp_path):
    (tmp_path / 'victims.jsonl').write_text('{"us')
    with workdir.writing(tmp_path, log=lambda _: None):
        assert workdir.read_rows(tmp_path) == []
    assert (tmp_path / 'victims.jsonl').read_text() == ''


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    (tmp_path / 'victims.jsonl').write_text('{"user": 0}\nnonsense\n{"user": 1}\n')
    with pytest.raises(ValueError, match=r'victims\.jsonl, line 2: expected a JSON object'):
        workdir.read_rows(tmp_path)


# Failed on the mutant without `allow_nan=False`.
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_numbers_that_json_lacks_are_refused_and_nothing_is_written(tmp_path, value):
    workdir.append_rows(tmp_path, [{'user': 0}])
    with pytest.raises(ValueError, match='Out of range float values'):
        workdir.append_rows(tmp_path, [{'user': 1}, {'user': 2, 'x': value}])
    assert workdir.read_rows(tmp_path) == [{'user': 0}]


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
