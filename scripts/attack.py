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
from typing import Any

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scripts import command

# isort: split
from fedinv_jax.audit import capture, runner, workdir

flags.adopt_module_key_flags(command)
_SAVE = flags.DEFINE_string(
    'save_transcript', None, 'Write what the server saw of the first victim to this .npz and stop.'
)
_TRANSCRIPT = flags.DEFINE_string(
    'transcript', None, 'Attack this .npz, without the simulator and without the truth.'
)


def do(config: Any, folder: str, line: str, shard: workdir.Shard, merge: bool) -> None:
    """Runs what the flags ask for."""
    if _SAVE.value:
        capture.save_transcript(config, _SAVE.value)
    elif _TRANSCRIPT.value:
        capture.attack_transcript(config, _TRANSCRIPT.value, folder)
    else:
        command.keep_compiled(folder)
        runner.run(config, folder, line, shard=shard, merge=merge)


if __name__ == '__main__':
    command.run(do)
