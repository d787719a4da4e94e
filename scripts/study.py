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


def do(config: Any, folder: str, line: str) -> None:
    """Runs what the flags ask for."""
    study.run(config, folder, line, _ARMS.value, shard=_shard(), merge=_MERGE.value)


if __name__ == '__main__':
    command.run(do)
