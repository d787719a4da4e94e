"""Several processes that share a run, on one machine or many, by JAX's distributed runtime.

Victims are independent: the processes agree on who does which blocks, and meet at the end. A
process that is lost takes the others with it, as the runtime does it; what it tells people then is
of no help, so that `watch` says what to do.
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
    """Joins the other processes, before any device is used.

    Args:
        coordinator: `host:port` of process 0; None: as SLURM, a TPU pod, GKE or Open MPI has it.
        num_processes: how many there are; None likewise.
        process: which of them this is, from 0; None likewise.

    Returns:
        This process's part of the work: `(process, num_processes)`.

    Raises:
        ValueError: if nothing says where process 0 is, or it does not answer.
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
            'GKE say --coordinator=HOST:PORT --num_processes=N --process=I, the same but for I in '
            'every process.'
        ) from error
    return jax.process_index(), jax.process_count()


def barrier(where: str) -> None:
    """Waits until every process has come to the place of that name."""
    multihost_utils.sync_global_devices(where)


@contextlib.contextmanager
def watch(text: str) -> Iterator[None]:
    """Where the process dies within, by whatever signal, a line on standard error says `text`.

    No handler of the process itself could: a killed one runs nothing. A child waits for its end.
    The same line is said of an error that no script explains, such as a peer that does not answer.
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
    except (ValueError, OSError, KeyboardInterrupt, SystemExit):
        explained = True
        raise
    finally:
        child.communicate(b'.' if explained else b'')
