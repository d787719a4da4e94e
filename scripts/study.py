"""Runs a study: several models, data sets or attacks, one report with the paper's claims.

Examples:
  python scripts/study.py --config=configs/study_attacks.py
  python scripts/study.py --config=configs/study_interval.py:smoke
  python scripts/study.py --config=configs/study_convergence.py --arms=synthetic
  python scripts/study.py --config=configs/study_convergence.py --shard=0/3 --workdir=runs/c
  python scripts/study.py --config=configs/study_convergence.py --merge --workdir=runs/c
  srun python scripts/study.py --config=configs/study_attacks.py --workdir=runs/a --distributed
"""

import pathlib
import sys
from typing import Any

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scripts import command

# isort: split
from fedinv_jax.audit import study, workdir

flags.adopt_module_key_flags(command)
_ARMS = flags.DEFINE_list('arms', [], 'Arms to run, by name; all of them unless given.')


def do(config: Any, folder: str, line: str, shard: workdir.Shard, merge: bool) -> None:
    """Runs what the flags ask for."""
    command.keep_compiled(folder)
    study.run(config, folder, line, _ARMS.value, shard=shard, merge=merge)


if __name__ == '__main__':
    command.run(do)
