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
import sys
from typing import Any

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scripts import command

# isort: split
from fedinv_jax import study

flags.adopt_module_key_flags(command)
_ARMS = flags.DEFINE_list('arms', [], 'Arms to run, by name; all of them unless given.')
_SHARD = flags.DEFINE_string(
    'shard', None, 'i/n: do the i-th of n parts (0/n to (n-1)/n), in any order, side by side, on '
    'any machine that shares the folder. Default: from SLURM_ARRAY_TASK_ID, or all of it.'
)  # fmt: skip
_MERGE = flags.DEFINE_bool('merge', False, 'Join the rows of all shards and write the report.')


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


def _shard() -> tuple[int, int]:
    """The part of the work that the flag or SLURM asks for."""
    if _MERGE.value:
        return 0, 1
    text = _SHARD.value or _slurm() or '0/1'
    index, _, count = text.partition('/')
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f'Expected --shard={text} to be i/n with 0 <= i < n, as in 0/3.')
    return int(index), int(count)


def do(config: Any, folder: str, line: str) -> None:
    """Runs what the flags ask for."""
    study.run(config, folder, line, _ARMS.value, shard=_shard(), merge=_MERGE.value)


if __name__ == '__main__':
    command.run(do)
