"""Splits a run over several processes, on one machine or many, with JAX's distributed runtime.

Victims are independent: each process attacks its own blocks, and all wait for each other at the
end. When a process is lost, the runtime ends the others with a message that does not help the user;
`watch` therefore prints what to do.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from fedinv_jax.audit import workdir

_LOST = 30  # seconds without a sign of life after which a process counts as lost

_WATCHER = 'import sys; sys.stdin.buffer.read(1) or sys.stderr.write(sys.argv[1])'


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process: int | None = None
) -> workdir.Shard:
    """Connects to the other processes; must be called before any device is used.

    With None, an argument is taken from SLURM, a TPU pod, GKE or Open MPI.

    Args:
        coordinator: `host:port` of process 0.
        num_processes: number of processes.
        process: index of this process, from 0.

    Returns:
        This process's share of the work: `(process, num_processes)`.

    Raises:
        ValueError: if the address of process 0 is unknown, or process 0 does not answer.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process,
            heartbeat_timeout_seconds=_LOST,
            shutdown_timeout_seconds=_LOST,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f'Cannot join the processes of a distributed run: {error} Outside SLURM, TPU pods and '
            'GKE, start every process with --coordinator=HOST:PORT --num_processes=N --process=I, '
            'where only I differs.'
        ) from error
    return jax.process_index(), jax.process_count()


def barrier(where: str) -> None:
    """Waits until every process has called `barrier` with the same name."""
    multihost_utils.sync_global_devices(where)


@contextlib.contextmanager
def watch(text: str) -> Iterator[None]:
    """Prints `text` on standard error if the process is killed inside the context.

    A killed process cannot print, so a child process waits for its end and prints the line. The
    line is printed too for errors other than ValueError, OSError and Ctrl-C, which the scripts
    explain themselves; a peer that does not answer is an example.
    """
    child = subprocess.Popen(
        [sys.executable, '-S', '-c', _WATCHER, f'{text}\n'],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the run
    )
    explained = False
    try:
        yield
        explained = True
    except (ValueError, OSError, KeyboardInterrupt):
        explained = True
        raise
    finally:
        child.communicate(b'.' if explained else b'')
