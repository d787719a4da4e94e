"""The command line: help, and errors that are a line and not a traceback."""

import os
import pathlib
import re
import subprocess
import sys
import urllib.error

import pytest

from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import runner
from fedinv_jax.data import loaders

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'scripts' / 'attack.py'
SMOKE = f'--config={ROOT}/configs/quickstart.py:smoke'

# Runs the script after a change to what it meets.
WRAPPER = """
import runpy, sys, urllib.error, urllib.request
sys.path.insert(0, {root!r})
{change}
sys.argv = ['attack.py', *sys.argv[1:]]
runpy.run_path({script!r}, run_name='__main__')
"""
OFFLINE = """
def offline(*_, **__):
    raise urllib.error.URLError('no route to host')
urllib.request.urlopen = offline
"""
INTERRUPTED = """
from fedinv_jax.audit import runner
def run(*_, **__):
    raise KeyboardInterrupt
runner.run = run
"""
COMMANDS = {
    'help': ['--help'],
    'no config': [],
    'typo': [SMOKE, '--config.attack.num_gradiens=4'],
    'unknown data': [SMOKE, '--config.data.name=ml-100'],
    'no integer': [SMOKE, '--config.attack.num_gradients=two'],
    'no transcript': [SMOKE, '--transcript=nowhere.npz'],
    'no file': ['--config=configs/nowhere.py'],
    'offline': [SMOKE, '--config.data.name=ml-100k'],
    'interrupted': [SMOKE],
}
CHANGES = {'offline': OFFLINE, 'interrupted': INTERRUPTED}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """Exit code and output of every command; two at a time."""
    folder = tmp_path_factory.mktemp('scripts')
    environment = {**os.environ, 'FEDINV_DATA_DIR': str(folder / 'data')}

    def start(name, arguments):
        target = [str(SCRIPT)]
        if name in CHANGES:
            target = [
                '-c',
                WRAPPER.format(root=str(ROOT), change=CHANGES[name], script=str(SCRIPT)),
            ]
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


# The examples in the help are commands that exist.
def test_help_names_configs_that_exist(outcomes):
    _, output, _ = outcomes['help']
    for name in set(re.findall(r'--config=(configs/\w+\.py)', output)):
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
        ('offline', r'data/ml-100k/u\.data, and https://files\.grouplens\.org/\S+/ml-100k\.zip'),
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
