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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scripts import environment  # noqa: F401

# isort: split
from fedinv_jax.audit import main

if __name__ == '__main__':
    main.study_command()
