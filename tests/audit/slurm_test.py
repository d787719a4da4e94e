"""SLURM on this machine: an array and a job of several tasks give the rows of an undivided run."""

import contextlib
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests.audit.helpers import ROOT, script, write_config
from tests.helpers import tiny

MISSING = [name for name in ('munged', 'slurmctld', 'slurmd', 'sbatch') if not shutil.which(name)]
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f'there is no {", ".join(MISSING)}'),
    pytest.mark.skipif(os.geteuid() != 0, reason='the daemons of SLURM are started as root'),
]

# Debian's slurmd is one for each machine, hence one node. It may have more CPUs than there are.
CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=2
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=10 State=UP
"""


def free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(('127.0.0.1', 0))
        return [each.getsockname()[1] for each in sockets]


def until(condition, seconds, folder):
    """Waits for the condition; a failure shows the ends of the logs."""
    deadline = time.monotonic() + seconds
    while not condition():
        logs = (f'{path}:\n{path.read_text()[-2000:]}' for path in folder.glob('*.out'))
        assert time.monotonic() < deadline, '\n'.join(logs)
        time.sleep(0.2)


@contextlib.contextmanager
def daemon(folder, environment, name, *arguments):
    with open(folder / f'{name}.out', 'w', encoding='utf-8') as log:
        process = subprocess.Popen([name, *arguments], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    """Runs a command of SLURM, for a cluster that ends with the module; returns what it prints."""
    folder = tmp_path_factory.mktemp('slurm')
    environment = {
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
        'SLURM_CONF': str(folder / 'slurm.conf'),
    }

    def command(*arguments, check=True):
        done = subprocess.run(
            arguments,
            cwd=ROOT, env=environment, text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert not (check and done.returncode), done.stderr
        return done.stdout.strip()

    conf = CONF.format(folder=folder, host=platform.node(), ports=free_ports(2))
    (folder / 'slurm.conf').write_text(conf)
    (folder / 'state').mkdir()
    (folder / 'munge.key').touch(mode=0o600)
    (folder / 'munge.key').write_bytes(os.urandom(1024))
    files = {'socket': 'socket', 'key-file': 'key', 'pid-file': 'pid', 'seed-file': 'seed'}
    munge = [f'--{flag}={folder}/munge.{name}' for flag, name in files.items()]
    munge += ['--foreground', '--force', f'--log-file={folder}/munge.out']  # parents may be private

    with contextlib.ExitStack() as stack:
        stack.enter_context(daemon(folder, environment, 'munged', *munge))
        until((folder / 'munge.socket').exists, 30, folder)
        stack.enter_context(daemon(folder, environment, 'slurmctld', '-D'))
        stack.enter_context(daemon(folder, environment, 'slurmd', '-D', '-N', 'localhost'))
        queue = ('squeue', '--noheader')
        stack.callback(until, lambda: not command(*queue, check=False), 30, folder)
        stack.callback(command, 'scancel', '--user=root', check=False)
        idle = ('sinfo', '--noheader', '--format=%T')
        until(lambda: command(*idle, check=False) == 'idle', 60, folder)
        yield command


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp('config') / 'tiny.py', tiny())


def rows(folder):
    lines = (folder / 'victims.jsonl').read_text().splitlines()
    return [{**json.loads(line), 'seconds': 0} for line in lines]


@pytest.fixture(scope='module')
def single(config, tmp_path_factory):
    """The rows of one process."""
    folder = tmp_path_factory.mktemp('single')
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    process = script(f'--config={config}', f'--workdir={folder}', env=environment)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return rows(folder)


# Failed on: --merge not passed on.
def test_an_array_and_its_merge(slurm, config, single, tmp_path):
    job = ['scripts/jobs/slurm_array.sh', 'scripts/study.py']
    job += [f'--config={config}', f'--workdir={tmp_path}/w']
    sbatch = ('sbatch', '--parsable', f'--output={tmp_path}/%a.out')
    array = slurm(*sbatch, '--array=0-1', *job)
    slurm(*sbatch, f'--dependency=afterok:{array}', *job, '--merge')
    until(lambda: not slurm('squeue', '--noheader'), 240, tmp_path)
    *tasks, merge = (path.read_text() for path in sorted(tmp_path.glob('*.out')))
    assert ['compiled 1 function' in task for task in tasks] == [True, True], tasks
    assert rows(tmp_path / 'w' / 'all') == single, merge
    assert not list((tmp_path / 'w' / 'all').glob('victims-*'))


# Failed on: no --distributed.
def test_a_job_of_two_tasks(slurm, config, single, tmp_path):
    job = ['scripts/jobs/slurm_nodes.sh', 'scripts/attack.py']
    job += [f'--config={config}', f'--workdir={tmp_path}/w']
    slurm('sbatch', '--ntasks-per-node=2', f'--output={tmp_path}/log.out', *job)
    until(lambda: not slurm('squeue', '--noheader'), 240, tmp_path)
    output = (tmp_path / 'log.out').read_text()
    assert output.count('compiled 1 function') == 2, output
    assert rows(tmp_path / 'w') == single, output
