"""Attacks the users of a federated recommender with what the server saw of them.

Examples:
  python scripts/attack.py --config=configs/quickstart.py
  python scripts/attack.py --config=configs/ml100k_ncf.py --workdir=runs/ml100k
  python scripts/attack.py --config=configs/ml100k_ncf.py:smoke --config.attack.num_gradients=4
  python scripts/attack.py --config=configs/quickstart.py --save_transcript=t.npz
  python scripts/attack.py --config=configs/quickstart.py --transcript=t.npz
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scripts import environment  # noqa: F401

# isort: split
from fedinv_jax.audit import main

if __name__ == '__main__':
    main.attack_command()
