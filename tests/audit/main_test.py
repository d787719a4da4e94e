"""The command line: help, and errors that are a line and not a traceback."""

import os
import re
import subprocess
import sys
import urllib.error

import pytest

from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import main, runner
from fedinv_jax.data import loaders
from tests.audit.helpers import ROOT, load_config
from tests.helpers import no_figures, run  # noqa: F401

SCRIPT = ROOT / 'scripts' / 'attack.py'
SMOKE = f'--config={ROOT}/configs/quickstart.py:smoke'

# Ctrl-C while the script downloads.
INTERRUPTED = f"""
import runpy, sys, urllib.request
def interrupted(*_, **__):
    raise KeyboardInterrupt
urllib.request.urlopen = interrupted
sys.argv = ['attack.py', *sys.argv[1:]]
runpy.run_path({str(SCRIPT)!r}, run_name='__main__')
"""
TARGETS = {
    'interrupted': ['-c', INTERRUPTED],
    'report': ['-c', 'from fedinv_jax.audit import main; main.main()'],
}
COMMANDS = {
    'help': ['--help'],
    'no config': [],
    'typo': [SMOKE, '--config.attack.num_gradiens=4'],
    'unknown data': [SMOKE, '--config.data.name=ml-100'],
    'no integer': [SMOKE, '--config.attack.num_gradients=two'],
    'no transcript': [SMOKE, '--transcript=nowhere.npz'],
    'no file': ['--config=configs/nowhere.py'],
    'interrupted': [SMOKE, '--config.data.name=ml-100k'],
    'report': ['report', 'nowhere'],
}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """Exit code and output of every command; two at a time."""
    folder = tmp_path_factory.mktemp('scripts')
    environment = {**os.environ, 'FEDINV_DATA_DIR': str(folder / 'data')}

    def start(name, arguments):
        target = TARGETS.get(name, [str(SCRIPT)])
        if any(argument.startswith('--config=') for argument in arguments):
            arguments = [*arguments, f'--workdir={folder / name}']
        return subprocess.Popen(
            [sys.executable, *target, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    results, running = {}, {}

    def collect():
        name = next(iter(running))
        process = running.pop(name)
        output, _ = process.communicate(timeout=120)
        results[name] = (process.returncode, output, folder / name)

    for name, arguments in COMMANDS.items():
        running[name] = start(name, arguments)
        if len(running) == 2:
            collect()
    while running:
        collect()
    results['data'] = folder / 'data'
    return results


def test_help_names_the_flags(outcomes):
    code, output, _ = outcomes['help']
    assert code in (0, 1)  # absl exits with 1 after its help.
    for flag in ('--config', '--workdir', '--save_transcript', '--transcript'):
        assert f'\n  {flag}: ' in output
    assert 'python scripts/attack.py --config=configs/quickstart.py' in output
    assert 'Traceback' not in output
    # Attacks and defences, from their tables.
    assert re.search(r'^ *spectral +sign of each item row along the first pr', output, re.M)
    assert re.search(r'^ *observation\.clip +largest norm of an upload', output, re.M)


# The examples in the help are commands that exist.
def test_help_names_configs_that_exist(outcomes):
    _, output, _ = outcomes['help']
    names = set(re.findall(r'--config=(configs/\w+\.py)', output))
    assert len(names) >= 2
    for name in names:
        assert (ROOT / name).exists(), name


def test_missing_config(outcomes):
    code, output, _ = outcomes['no config']
    assert code != 0
    assert '--config must have a value' in output


def test_a_typo_is_refused_with_a_suggestion(outcomes):
    code, output, folder = outcomes['typo']
    assert code != 0
    assert 'Did you mean "num_gradients" instead of "num_gradiens"?' in output
    assert 'Traceback' not in output
    assert not folder.exists()


# Failed on the mutant of scripts/attack.py without `except (ValueError, OSError)`.
@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('unknown data', r"Unknown data set 'ml-100'\. Did you mean 'ml-100k'"),
        ('no integer', r'attack\.num_gradients'),
        ('no transcript', r'nowhere\.npz'),
        ('report', r'There is no folder nowhere\.'),
    ],
)
def test_bad_input_is_one_line(outcomes, name, message):
    code, output, folder = outcomes[name]
    assert code == 1, output
    assert 'Traceback' not in output, output
    lines = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, output
    assert re.search(message, lines[0]), output
    assert not (folder / 'config.json').exists()


def test_a_config_that_is_not_there(outcomes):
    code, output, _ = outcomes['no file']
    assert code != 0
    assert 'nowhere.py' in output


def test_ctrl_c(outcomes):
    code, output, _ = outcomes['interrupted']
    assert code == 130
    assert 'interrupted: the rows so far are kept; the same command goes on' in output
    assert 'Traceback' not in output


def test_nothing_is_left_in_the_data_folder(outcomes):
    assert not outcomes['data'].exists() or not list(outcomes['data'].iterdir())


def test_missing_data_without_network(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError('no route to host')

    monkeypatch.setenv('FEDINV_DATA_DIR', str(tmp_path))
    monkeypatch.setattr(loaders.urllib.request, 'urlopen', offline)
    config = config_lib.default_config()
    config.data.name = 'ml-1m'
    with pytest.raises(FileNotFoundError) as caught:
        runner.run(config, str(tmp_path / 'run'), '')
    assert str(tmp_path / 'ml-1m' / 'ratings.dat') in str(caught.value)
    assert 'https://files.grouplens.org/datasets/movielens/ml-1m.zip' in str(caught.value)
    assert not (tmp_path / 'run').exists()


# Failed on: `Traceback` of a KeyError.
@pytest.mark.parametrize('arguments', [[], ['atack']], ids=str)
def test_the_console_command_names_its_commands(arguments, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['fedinv', *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert str(ended.value).startswith('usage: fedinv report WORKDIR ...')


def test_the_console_command_has_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['fedinv', '--help'])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert not ended.value.code
    assert 'usage: fedinv report WORKDIR' in capsys.readouterr().out


OLD_CONFIG = """
from fedinv_jax import experiment


def get_config(arg=None):
    config = experiment.default_config()
    config.data.synthetic.update({'num_users': 12, 'num_items': 60})
    config.data.update({'min_positives': 8, 'max_positives': 10})
    config.attack.update({'name': ('random',), 'num_victims': 2})
    config.server.num_rounds = 2
    return experiment.variant(config, arg)
"""


def test_a_config_file_of_version_0_1_still_runs(tmp_path):
    path = tmp_path / 'old.py'
    path.write_text(OLD_CONFIG)
    assert load_config(path, 'smoke').data.synthetic.num_users == 40
    _, rows = run(load_config(path, None), tmp_path / 'run')
    assert len(rows) == 4
