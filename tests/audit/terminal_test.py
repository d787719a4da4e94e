"""Any locale and terminal: runs end, and what they write is UTF-8."""

import io
import os
import sys

import pytest

from fedinv_jax.audit import process, reporting, workdir
from tests.audit.helpers import script, write_config
from tests.helpers import no_figures, run, tiny  # noqa: F401

ROWS = 'Ünï,λ,4,1\nÜnï,b,3,2\nÜnï,c,3,3\nx,λ,5,1\nx,b,3,2\nx,d,1,3\ny,e,1,1\ny,λ,2,2\n'


# Failed on the mutant without `errors`.
def test_standard_output_replaces_what_it_cannot_show(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(written, encoding='ascii'))
    process.print_anywhere()
    print('ΔAUC of \udcc3', flush=True)
    assert written.getvalue() == b'?AUC of ?\n'


def test_what_is_no_stream_of_text_stays_as_it_is(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', stream)
    process.print_anywhere()
    assert sys.stdout is stream


# Failed on: an AttributeError of the progress bar after `2>&-`, before any row.
def test_closed_streams_take_what_is_printed(monkeypatch):
    for name in ('stdout', 'stderr'):
        monkeypatch.setattr(sys, name, None)
    process.print_anywhere()
    for stream in (sys.stdout, sys.stderr):
        print('Δ', file=stream)
        assert not stream.isatty()


# Failed on: the first line of the table, and a warning that rows are missing, before the files.
def test_the_report_is_written_before_the_terminal_can_fail(tmp_path):
    run(tiny(name=('popularity',)), tmp_path)
    path = tmp_path / 'victims.jsonl'
    path.write_text(''.join(path.read_text().splitlines(keepends=True)[:-1]))
    for name in ('report.md', 'report.html'):
        (tmp_path / name).unlink()

    def broken(line):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        reporting.run(tmp_path, workdir.read_rows(tmp_path), broken)
    assert (tmp_path / 'report.md').exists()
    assert (tmp_path / 'report.html').exists()


TERMINALS = {
    'ascii output': {'PYTHONIOENCODING': 'ascii:strict'},
    'latin output': {'PYTHONIOENCODING': 'iso-8859-1'},
    'ascii files': {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'},
}


# Failed on: files in the encoding of the locale, output that cannot be encoded (exit 1 after all
# the work, no report), names in the command that are lone surrogates.
@pytest.mark.slow
@pytest.mark.parametrize('name', TERMINALS)
def test_a_run_ends_on_any_terminal(name, tmp_path):
    folder = tmp_path / 'größe'
    folder.mkdir()
    (folder / 'données.csv').write_text(ROWS, encoding='utf-8')
    config = tiny(name=('popularity', 'random'), num_victims=2)
    config.data.update({'min_positives': 1, 'negatives_per_positive': 1})
    path = write_config(tmp_path / 'own.py', config)
    process_ = script(
        f'--config={path}', f'--config.data.name={folder}/données.csv', f'--workdir={folder}/run',
        env={**os.environ, **TERMINALS[name]}, errors='replace',
    )  # fmt: skip
    output, _ = process_.communicate(timeout=300)
    assert process_.returncode == 0, output
    for file in ('report.md', 'report.html', 'summary.json', 'victims.jsonl'):
        assert (folder / 'run' / file).read_text(encoding='utf-8')
    report = (folder / 'run' / 'report.md').read_text(encoding='utf-8')
    assert f'{folder}/données.csv' in report
    assert 'ΔAUC' in report
