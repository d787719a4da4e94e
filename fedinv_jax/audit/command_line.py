"""What commands share: which part of the work is this process's, and errors that are a line."""

import contextlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator

import jax
from absl import app, flags

from fedinv_jax.audit import distributed, optional, workdir

HELP = ('--help', '-h', '-help')
GO_ON = 'the rows so far are kept; the same command goes on from there'
LOST = f'error: this process was lost, or another one of the run: {GO_ON}'
_FLAGS = flags.FLAGS


@contextlib.contextmanager
def errors_as_lines(folder: str | None = None) -> Iterator[None]:
    """Where what is asked for cannot be done, the process ends with a line that says why.

    The line says that a run goes on where the work directory has rows.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    except OSError as error:
        rows = folder is not None and any(pathlib.Path(folder).rglob('victims*.jsonl'))
        sys.exit(f'error: {error}' + f' ({GO_ON})' * rows)
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        sys.exit(
            f'error: {str(error).splitlines()[0]} Take fewer users (data.max_users) or a smaller '
            'model.dim: a private table for each user (fedrap) takes users x items x dim numbers.'
        )
    except KeyboardInterrupt:
        print(f'interrupted: {GO_ON}')
        sys.exit(130)


def _slurm() -> str | None:
    """The part that a SLURM array gives this task: i/n of its n tasks."""
    if 'SLURM_ARRAY_TASK_ID' not in os.environ:
        return None
    task, first, last, step = (
        int(os.environ.get(f'SLURM_ARRAY_TASK_{name}') or default)
        for name, default in (('ID', 0), ('MIN', 0), ('MAX', -1), ('STEP', 1))
    )
    count = (last - first) // step + 1
    if last < first or int(os.environ.get('SLURM_ARRAY_TASK_COUNT') or count) != count:
        raise ValueError(
            'Expected a SLURM array of tasks in even steps, as --array=0-7, and its first and last '
            'in SLURM_ARRAY_TASK_MIN and _MAX. Or say --shard=i/n.'
        )
    return f'{(task - first) // step}/{count}'


def shard() -> workdir.Shard:
    """The part of the work that the flag or SLURM asks for."""
    if _FLAGS.merge:
        return 0, 1
    text = _FLAGS.shard or _slurm() or '0/1'
    index, _, count = text.partition('/')
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f'Expected --shard={text} to be i/n with 0 <= i < n, as in 0/3.')
    return int(index), int(count)


def run_distributed(work: Callable[[workdir.Shard, bool], None]) -> None:
    """Does this process's part; when all have done theirs, process 0 joins them."""
    if _FLAGS.shard or _FLAGS.merge:
        raise ValueError('--distributed gives each process its part: leave --shard and --merge.')
    shard = distributed.initialize(_FLAGS.coordinator, _FLAGS.num_processes, _FLAGS.process)
    work(shard, False)
    distributed.barrier('attacked')
    if shard[0] == 0:
        work((0, 1), True)
    distributed.barrier('reported')


def parse(argv: list[str]) -> list[str]:
    """The arguments that are no flags; what cannot be parsed ends in one line."""
    if set(argv) & set(HELP):
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    try:
        return _FLAGS(argv)
    except flags.Error as error:  # a config file that raises is quoted with its traceback
        sys.exit(f'error: {optional.plain(str(error).strip().splitlines()[-1])}')
    except (AttributeError, KeyError) as error:
        text = str(error)
        wrong = re.search(r'instead of "(\w+)"', text) or re.search(r'(\w+)', text)
        near = re.search(r'Did you mean "(\w+)"', text)
        hint = f' Did you mean {near[1]!r}?' if near else ''
        sys.exit(f'error: The config has no field {wrong and wrong[1]!r}.{hint}')
