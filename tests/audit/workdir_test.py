"""Work directories: whose they are, and that rows survive whatever happens."""

import concurrent.futures
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys

import pytest

from fedinv_jax.audit import files, run_record, workdir
from tests.helpers import contents
from tests.report.helpers import victim_row

CONFIG = {'attack': {'steps': 3, 'name': ('a', 'b')}, 'run': {'progress': True}, 'seed': 0}
DATA = {'negatives_sha256': 'ab'}


def hash_of(config):
    """What rows carry of a config: everything but `run`."""
    text = json.dumps({name: config[name] for name in config if name != 'run'}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row(user, config=CONFIG, **changes):
    """A row of that config."""
    return victim_row(user, config_hash=hash_of(config), **changes)


def line(user, config=CONFIG):
    """A row as a file has it."""
    return json.dumps(row(user, config)) + '\n'


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


def test_versions_name_packages_and_device(folder):
    run_record.write(folder, run_record.Record('command', 'threat model'))
    versions = json.loads((folder / 'versions.json').read_text())
    assert {'fedinv_jax', 'jax', 'jaxlib', 'optax', 'flax', 'numpy', 'python'} <= set(versions)
    assert versions['devices']
    assert re.match(r'\d{4}-\d\d-\d\dT', versions['date'])


# Failed on the versions of the present process.
def test_versions_that_were_not_recorded_are_said_to_be_so(folder):
    assert run_record.read_versions(folder) == {'versions': 'not recorded'}


# Failed on: a traceback, or an error of JSON that names no file.
@pytest.mark.parametrize('text', ['{"comm', '[]', '\udcff'])
def test_a_damaged_record_is_named(folder, text):
    for name, read in {'run': run_record.read, 'versions': run_record.read_versions}.items():
        (folder / f'{name}.json').write_bytes(text.encode('utf-8', 'surrogateescape'))
        with pytest.raises(ValueError, match=rf'{name}\.json: expected a JSON object\. Remove'):
            read(folder)
    (folder / 'run.json').write_text('{"num_rows": 3, "later": 1}')
    assert run_record.read(folder) == ('not recorded', 'not recorded', 3)


# Failed on a mutant of `_differences` that returns [] for leaves inside dicts, and on folders that
# are taken over where they have no rows.
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
@pytest.mark.parametrize('with_rows', [True, False])
def test_another_run_is_refused_with_field_and_both_values(
    tmp_path, config, data, message, with_rows
):
    folder = workdir.open_or_create(tmp_path, CONFIG, DATA)
    if with_rows:
        workdir.append_rows(folder, [row(0)])
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        workdir.open_or_create(tmp_path, config, data)
    assert str(tmp_path) in str(caught.value)
    assert contents(tmp_path) == before


def test_every_difference_is_listed(tmp_path):
    workdir.append_rows(workdir.open_or_create(tmp_path, CONFIG, DATA), [row(0)])
    with pytest.raises(ValueError, match=r'attack\.steps is 3.*; config\.seed is 0'):
        workdir.open_or_create(tmp_path, {**changed('attack', steps=4), 'seed': 5}, DATA)


# Failed on a mutant that skips 'config.r' instead of 'config.run.', by way of 'rate'.
def test_only_the_section_run_may_differ(tmp_path):
    workdir.open_or_create(tmp_path, {**CONFIG, 'rate': 1}, DATA)
    workdir.open_or_create(tmp_path, {**changed('run', progress=False), 'rate': 1}, DATA)
    with pytest.raises(ValueError, match=r'config\.rate is 1 in the folder, 2 in this run'):
        workdir.open_or_create(tmp_path, {**CONFIG, 'rate': 2}, DATA)


def test_a_config_that_was_not_written_to_the_end_is_written_anew(tmp_path):
    (tmp_path / 'config.json').write_text('{"config": {"att')
    workdir.open_or_create(tmp_path, CONFIG, DATA)
    assert json.loads((tmp_path / 'config.json').read_text())['config']['seed'] == 0


@pytest.mark.parametrize('text', ['[]', '{}', '{"config": 3}'])
def test_a_config_of_something_else_is_refused(tmp_path, text):
    (tmp_path / 'config.json').write_text(text)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r'config\.json is no config of a run'):
        workdir.open_or_create(tmp_path, CONFIG, DATA)
    assert contents(tmp_path) == before


def test_the_folder_of_a_study_is_refused(tmp_path):
    (tmp_path / 'study.json').write_text('{}')
    with pytest.raises(ValueError, match='holds a study, not a run'):
        workdir.open_or_create(tmp_path, CONFIG, DATA)
    assert [path.name for path in tmp_path.iterdir()] == ['study.json']


@pytest.mark.parametrize('text', [None, '', '{"conf'])
def test_rows_without_a_config_are_refused(tmp_path, text):
    (tmp_path / 'victims.jsonl').write_text(line(1))
    if text is not None:
        (tmp_path / 'config.json').write_text(text)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r'holds rows but no config\.json'):
        workdir.open_or_create(tmp_path, CONFIG, DATA)
    assert contents(tmp_path) == before


# Failed on the mutants without the lock, and with the file read before it. Locks are between open
# files, so that a thread stands for a process.
def test_a_config_that_another_process_is_about_to_write_is_waited_for(tmp_path):
    other = json.dumps({'config': {**CONFIG, 'seed': 7}, 'data': DATA})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with open(tmp_path / 'config.json', 'a', encoding='utf-8') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            run = pool.submit(workdir.open_or_create, tmp_path, CONFIG, DATA)
            assert not concurrent.futures.wait([run], timeout=0.5).done
            file.write(other)
        with pytest.raises(ValueError, match=r'config\.seed is 7 in the folder, 0 in this run'):
            run.result()
    assert (tmp_path / 'config.json').read_text() == other


def test_append_and_read(folder):
    rows = [
        row(1, drift=None),
        row(2, user_id='ü "\n'),
        row(3, scores=[0.1, 1e-30]),
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
        workdir.append_rows(folder, [row(0), row(1, seed=0.5)])
    assert workdir.read_rows(folder) == []


def test_rows_of_version_0_1_are_read_with_what_the_config_says(tmp_path):
    config = {**CONFIG, 'observation': {'clip': 2.0, 'pseudo': 0.25}}
    folder = workdir.open_or_create(tmp_path, config, DATA)
    made, later = row(0, config), ('family', 'defences', 'labels_changed', 'config_hash')
    old = {k: v for k, v in made.items() if k not in later}
    old |= {'precision': old.pop('dtype'), 'upload_precision': old.pop('upload_dtype')}
    (folder / 'victims.jsonl').write_text(json.dumps({**old, 'schema': 1}) + '\n' + line(1, config))
    changes = {
        'defence': 'pseudo-interactions 0.25, clip 2',
        'defences': {'pseudo_rate': 0.25, 'clip': 2.0},
        'labels_changed': True,
    }
    assert workdir.read_rows(folder) == [{**made, **changes}, row(1, config)]
    (folder / 'victims.jsonl').write_text(json.dumps({**old, 'schema': 3}) + '\n')
    with pytest.raises(ValueError, match='Expected rows of schema 1 or 2, got 3'):
        workdir.read_rows(folder)


# The first rows of schema 2. Failed on: rows that lack the key refused.
def test_rows_that_do_not_say_whose_they_are_belong_to_the_config_beside_them(folder):
    first = victim_row(0)
    del first['config_hash']
    (folder / 'victims.jsonl').write_text(json.dumps(first) + '\n')
    assert workdir.read_rows(folder) == [row(0)]


# Failed on: the hash of `run` too; rows read as they are.
def test_rows_of_another_config_are_refused_with_their_file(folder):
    workdir.append_rows(folder, [row(0, changed('run', progress=False))], (0, 2))
    path = workdir.rows_file(folder, (1, 2))
    path.write_text(line(1) + line(2, {**CONFIG, 'seed': 1}))
    before = contents(folder)
    expected = r'victims-1-of-2\.jsonl, line 2: expected rows of the config .* got one of '
    with pytest.raises(ValueError, match=expected + hash_of({**CONFIG, 'seed': 1})):
        workdir.read_rows(folder)
    with pytest.raises(ValueError, match=expected):
        workdir.merge(folder, workdir.read_rows(folder))
    assert contents(folder) == before


# A run whose folder was removed and made anew by another one. Failed on: rows that get the hash of
# the folder where they are written.
def test_rows_are_not_written_to_a_folder_that_was_made_anew(folder):
    workdir.append_rows(folder, [row(0)])
    for path in folder.iterdir():
        path.unlink()
    workdir.open_or_create(folder, {**CONFIG, 'seed': 1}, DATA)
    with pytest.raises(ValueError, match='now belongs to another config'):
        workdir.append_rows(folder, [row(1)])
    assert workdir.read_rows(folder) == []


def test_rows_without_a_run_are_no_rows(tmp_path):
    (tmp_path / 'victims.jsonl').write_text(line(1))
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
        workdir.append_rows(folder, [row(3)])
    assert users_of(folder) == [0, 1, 3]
    assert len(said) == bool(cut)
    assert all('the last line was incomplete' in line and 'the 2 rows' in line for line in said)


# Failed on the mutant that repairs while reading: another process is in the middle of that line.
def test_reading_leaves_the_rows_of_other_shards_alone(folder):
    path = workdir.rows_file(folder, (1, 3))
    path.write_text(line(0) + '{"us')
    assert path.name == 'victims-1-of-3.jsonl'
    with workdir.locked_rows(folder, (0, 3)):
        workdir.append_rows(folder, [row(5)], (0, 3))
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
        workdir.append_rows(folder, [row(index)], (index, 2))
    workdir.merge(folder, workdir.read_rows(folder)[::-1])
    assert [path.name for path in folder.glob('*.jsonl')] == ['victims.jsonl']
    assert users_of(folder) == [1, 0]


# Failed on: tracebacks of `null` and of a row without a seed; a mean over NaN or text.
@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('null', 'Expected a JSON object, got None'),
        ('[1]', r'Expected a JSON object, got \[1\]'),
        (json.dumps({**row(1), 'seed': 'x'}), r"Expected row\['seed'\] of type int, got 'x'"),
        (json.dumps({k: v for k, v in row(1).items() if k != 'seed'}), r"Expected row\['seed'\]"),
        (json.dumps({**row(1), 'drift': float('nan')}), 'expected a number, got NaN'),
    ],
    ids=['null', 'list', 'text', 'missing', 'NaN'],
)
def test_a_line_that_is_no_row_is_an_error_with_its_number(folder, text, message):
    (folder / 'victims.jsonl').write_text(line(0) + text + '\n')
    with pytest.raises(ValueError, match=r'victims\.jsonl, line 2: ' + message):
        workdir.read_rows(folder)


def test_what_a_later_version_adds_to_a_row_is_no_error(folder):
    (folder / 'victims.jsonl').write_text(json.dumps({**row(0), 'later': 1}) + '\n')
    assert users_of(folder) == [0]


# Failed on: 'File exists', after the data were read and the attacks probed.
def test_a_file_is_no_work_directory(tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    for path in (file, file / 'below'):
        with pytest.raises(ValueError, match=r'file is no folder that can be written to'):
            workdir.check_config(path, CONFIG)


def test_only_a_cut_line_leaves_nothing(tmp_path):
    (tmp_path / 'victims.jsonl').write_text('{"us')
    with workdir.locked_rows(tmp_path, log=lambda _: None):
        assert workdir.read_rows(tmp_path) == []
    assert (tmp_path / 'victims.jsonl').read_text() == ''


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(folder):
    (folder / 'victims.jsonl').write_text(line(0) + 'nonsense\n' + line(1))
    with pytest.raises(ValueError, match=r'victims\.jsonl, line 2: expected a JSON object'):
        workdir.read_rows(folder)


# Failed on: 'utf-8' codec can't decode byte 0xff, without a file, whichever line it was.
def test_bytes_of_no_text_are_damage_like_any_other(folder):
    path = folder / 'victims.jsonl'
    path.write_bytes(line(0).encode() + b'{"user": "\xff')
    assert users_of(folder) == [0]
    path.write_bytes(line(0).encode() + b'{"user": "\xff"}\n')
    with pytest.raises(ValueError, match=r'victims\.jsonl, line 2: expected a JSON object'):
        workdir.read_rows(folder)
    path.unlink()
    (folder / 'config.json').write_bytes(b'\xff')
    workdir.open_or_create(folder, CONFIG, DATA)
    assert workdir.config_hash(folder) == hash_of(CONFIG)


# Failed on the mutant without `allow_nan=False`.
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_numbers_that_json_lacks_are_refused_and_nothing_is_written(folder, value):
    workdir.append_rows(folder, [row(0)])
    with pytest.raises(ValueError, match='Out of range float values'):
        workdir.append_rows(folder, [row(1), row(2, drift=value)])
    assert users_of(folder) == [0]


# Failed on the mutant `path.write_text(text)`.
def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'summary.json'
    files.write(path, 'old')

    def stopped(*_):
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'replace', stopped)
    with pytest.raises(OSError, match='No space left'):
        files.write(path, 'new and longer')
    assert path.read_text() == 'old'


# Failed on: lone surrogates, as which Python takes bytes of a command line that its locale lacks.
def test_bytes_that_the_locale_lacks_are_utf_8(tmp_path):
    name = 'größe'.encode().decode('ascii', 'surrogateescape')
    files.write(tmp_path / 'a', f'Δ {name} \udcff')
    assert (tmp_path / 'a').read_text(encoding='utf-8') == 'Δ größe \ufffd'


# Failed on: all of them removed, or none; a locked one removed.
def test_parts_of_processes_that_are_gone_are_cleared(tmp_path):
    gone = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    kept = ['a.part', 'report.md', f'run.json.{os.getpid()}.part', f'locked.{gone}.part']
    for name in (*kept, f'config.json.{gone}.part', f'report.md.{10**30}.part'):
        (tmp_path / name).write_text('')
    with open(tmp_path / kept[-1], 'rb+') as file:  # as of a process of another machine
        fcntl.flock(file, fcntl.LOCK_EX)
        files.clear_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
