"""Runs a study: several models, data sets or attacks, one report with the paper's claims.

Examples:
  python scripts/study.py --config=configs/study_attacks.py
  python scripts/study.py --config=configs/study_interval.py:smoke
  python scripts/study.py --config=configs/study_convergence.py --arms=synthetic
  python scripts/study.py --config=configs/study_convergence.py --shard=0/3 --workdir=runs/c
  python scripts/study.py --config=configs/study_convergence.py --merge --workdir=runs/c
"""

import os
import pathlib
import shlex
import sys

from absl import app, flags, logging
from ml_collections import config_flags

# Exact attacks run as many blocks side by side as there are cores, each with one thread of BLAS.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from fedinv_jax import study

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, of a study or of one attack; `:smoke` behind its name shrinks it '
    'to seconds. Override a field of all arms by --config.section.field=value.'
)  # fmt: skip
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder for the arms and the report; a stopped study goes on there. Default: '
    'runs/<config>.'
)  # fmt: skip
_ARMS = flags.DEFINE_list('arms', [], 'Arms to run, by name; all of them unless given.')
_SHARD = flags.DEFINE_string(
    'shard', None, 'i/n: do the i-th of n parts (0/n to (n-1)/n), in any order, side by side, on '
    'any machine that shares the folder. Default: from SLURM_ARRAY_TASK_ID, or all of it.'
)  # fmt: skip
_MERGE = flags.DEFINE_bool('merge', False, 'Join the rows of all shards and write the report.')


def _shard() -> tuple[int, int]:
    """The part of the work that the flag or SLURM asks for."""
    text = _SHARD.value
    if text is None and 'SLURM_ARRAY_TASK_ID' in os.environ:
        first = int(os.environ.get('SLURM_ARRAY_TASK_MIN', '0'))
        last = int(os.environ['SLURM_ARRAY_TASK_MAX'])
        text = f'{int(os.environ["SLURM_ARRAY_TASK_ID"]) - first}/{last - first + 1}'
    if text is None or _MERGE.value:
        return 0, 1
    index, _, count = text.partition('/')
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f'Expected --shard={text} to be i/n with 0 <= i < n, as in 0/3.')
    return int(index), int(count)


def main(argv: list[str]) -> None:
    """Runs what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f'Unexpected arguments: {" ".join(argv[1:])}')
    logging.set_verbosity(logging.WARNING)
    name = config_flags.get_config_filename(flags.FLAGS['config'])
    folder = _WORKDIR.value or f'runs/{pathlib.Path(name).stem}'
    command = shlex.join(['python', *sys.argv])
    try:
        study.run(_CONFIG.value, folder, command, _ARMS.value, shard=_shard(), merge=_MERGE.value)
    except (ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('interrupted: the rows so far are kept; the same command goes on from there')
        sys.exit(130)


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main)
