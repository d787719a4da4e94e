"""The wheel in an environment of its own, used from a folder that holds nothing of the clone."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

from fedinv_jax import _version
from fedinv_jax.audit import packaged
from tests.audit.helpers import ROOT

SOURCES = ('fedinv_jax', 'configs', 'pyproject.toml', 'setup.py', 'README.md', 'LICENSE')
pytestmark = pytest.mark.slow


def python(*arguments, executable=sys.executable, **kwargs):
    process = subprocess.run(
        [executable, *map(str, arguments)], capture_output=True, text=True, **kwargs
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    """`command(*arguments) -> output` of the installed console command, run in an empty folder.

    What the wheel depends on is that of this Python, so that the test needs no network.
    """
    folder = tmp_path_factory.mktemp('install')
    source, venv, cwd = (folder / name for name in ('source', 'venv', 'work'))
    source.mkdir()
    cwd.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(path, source)
    offline = ('--quiet', '--no-deps', '--no-index', '--disable-pip-version-check')
    python('-m', 'pip', 'wheel', *offline, '--no-build-isolation', '-w', folder, source)
    (wheel,) = folder.glob('*.whl')
    python('-m', 'venv', '--without-pip', venv)
    own = venv / 'bin' / 'python'
    python('-m', 'pip', '--python', own, 'install', *offline, wheel)
    site = sysconfig.get_path('purelib', vars={'base': str(venv), 'platbase': str(venv)})
    pathlib.Path(site, 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    shutil.rmtree(source)

    def run(*arguments):
        found = python(venv / 'bin' / 'fedinv', *arguments, executable=own, cwd=cwd)
        where = python(
            '-c', 'import fedinv_jax; print(fedinv_jax.__file__)', executable=own, cwd=cwd
        )
        assert pathlib.Path(where.strip()).is_relative_to(venv)
        return found

    run.folder = cwd
    return run


# Failed on: no configs in the wheel; a config that imports from the clone.
def test_an_attack_and_its_report(command):
    output = command('attack', '--config=quickstart:smoke', '--noconfig.run.progress')
    assert 'Threat model' in output
    folder = command.folder / 'runs' / 'quickstart_smoke'
    rows = (folder / 'victims.jsonl').read_text().splitlines()
    assert len(rows) == 4 * 2 * 3
    record = json.loads((folder / 'run.json').read_text())
    assert record['command'].startswith('fedinv attack --config=quickstart:smoke')
    (folder / 'report.md').unlink()
    command('report', 'runs/quickstart_smoke')
    assert '# ' in (folder / 'report.md').read_text()


def test_the_list_of_configs_and_the_version(command):
    listed = command('configs').splitlines()
    assert [line.split()[0] for line in listed] == list(packaged.files())
    assert all(re.fullmatch(r'\w+  +\S.{10,}', line) for line in listed)
    assert command('--version').startswith(f'fedinv_jax {_version.__version__}, jax ')
    assert 'study' in command('--help')


def test_every_packaged_config_can_be_read(command):
    code = (
        'import runpy\n'
        'from fedinv_jax.audit import packaged\n'
        "made = [runpy.run_path(str(p))['get_config'](None) for p in packaged.files().values()]\n"
        'print(len(made), packaged.folder())'
    )
    own = command.folder.parent / 'venv' / 'bin' / 'python'
    count, folder = python('-c', code, executable=own, cwd=command.folder).split()
    assert int(count) == len(packaged.files())
    assert pathlib.Path(folder).is_relative_to(own.parents[1])
