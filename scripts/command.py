"""What the scripts share: the flags of a run, and errors that are a line and not a traceback."""

import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from scripts import environment  # noqa: F401

# isort: split
import jax

from fedinv_jax.audit import distributed, workdir

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file; `:smoke` behind its name shrinks it to seconds. Override a field '
    'by --config.section.field=value; experiment.default_config documents them all.'
)  # fmt: skip
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder for rows, summary, report and figures; a stopped run goes on there. '
    'Default: runs/<config>, and for a variant runs/<config>_<variant>.'
)  # fmt: skip

_SHARD = flags.DEFINE_string(
    'shard', None, 'i/n: do the i-th of n parts (0/n to (n-1)/n), in any order, side by side, on '
    'any machine that shares the folder. Default: from SLURM_ARRAY_TASK_ID, or all of it.'
)  # fmt: skip
_MERGE = flags.DEFINE_bool('merge', False, 'Join the rows of all shards and write the report.')
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'Be one of several processes, on one machine or many, that share the '
    'work and the folder; process 0 writes the report. SLURM, TPU pods and GKE say who is who.'
)  # fmt: skip
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'With --distributed, elsewhere: HOST:PORT of process 0.'
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --distributed: how many.')
_PROCESS = flags.DEFINE_integer('process', None, 'With --distributed: which one, from 0.')

_GO_ON = 'the rows so far are kept; the same command goes on from there'

Do = Callable[[Any, str, str, workdir.Shard, bool], None]


def run(do: Do) -> None:
    """Parses the flags and calls `do(config, workdir, command line, shard, merge)`."""

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f'Unexpected arguments: {" ".join(argv[1:])}')
        logging.set_verbosity(logging.WARNING)
        name = config_flags.get_config_filename(flags.FLAGS['config'])
        path, _, variant = name.partition(':')
        default = pathlib.Path(path).stem + f'_{variant}' * bool(variant)
        folder = _WORKDIR.value or f'runs/{default}'
        line = shlex.join(['python', *sys.argv])
        try:
            with distributed.watch(
                f'error: this process was lost, or another one of the run: {_GO_ON}'
            ):
                if _DISTRIBUTED.value:
                    _together(partial(do, _CONFIG.value, folder, line))
                else:
                    do(_CONFIG.value, folder, line, _shard(), _MERGE.value)
        except (ValueError, FileNotFoundError) as error:
            sys.exit(f'error: {error}')
        except OSError as error:
            sys.exit(f'error: {error} ({_GO_ON})')
        except KeyboardInterrupt:
            print(f'interrupted: {_GO_ON}')
            sys.exit(130)

    flags.mark_flag_as_required('config')
    app.run(main, flags_parser=_parse)


def keep_compiled(folder: str) -> None:
    """Compiled functions go to the work directory, by host, unless JAX was told where to."""
    if not jax.config.values['jax_compilation_cache_dir']:
        path = pathlib.Path(folder, 'compiled', platform.node())
        jax.config.update('jax_compilation_cache_dir', str(path.absolute()))
        # All of them, whatever they took.
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


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


def _shard() -> workdir.Shard:
    """The part of the work that the flag or SLURM asks for."""
    if _MERGE.value:
        return 0, 1
    text = _SHARD.value or _slurm() or '0/1'
    index, _, count = text.partition('/')
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f'Expected --shard={text} to be i/n with 0 <= i < n, as in 0/3.')
    return int(index), int(count)


def _together(do: Callable[[workdir.Shard, bool], None]) -> None:
    """Does this process's part; when all have done theirs, process 0 joins them."""
    if _SHARD.value or _MERGE.value:
        raise ValueError('--distributed gives each process its part: leave --shard and --merge.')
    shard = distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS.value)
    do(shard, False)
    distributed.meet('attacked')
    if shard[0] == 0:
        do((0, 1), True)
    distributed.meet('reported')


def _parse(argv: list[str]) -> list[str]:
    """The arguments that are no flags; a field that no config has ends in one line."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        words = str(error.args[0]).replace(r'\n', ' ').replace('\\', '').strip("'")
        sys.exit(f"error: no field of the config: '{words}")
