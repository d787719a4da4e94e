"""Attacks the users of a federated recommender with what the server saw of them.

Examples:
  python scripts/attack.py --config=configs/quickstart.py
  python scripts/attack.py --config=configs/ml100k_ncf.py --workdir=runs/ml100k
  python scripts/attack.py --config=configs/ml100k_ncf.py:smoke --config.attack.num_gradients=4
  python scripts/attack.py --config=configs/quickstart.py --save_transcript=t.npz
  python scripts/attack.py --config=configs/quickstart.py --transcript=t.npz
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

from fedinv_jax import capture, runner

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file; `:smoke` behind its name shrinks it to seconds. Override a field '
    'by --config.section.field=value; experiment.default_config documents them all.'
)  # fmt: skip
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder for rows, summary, report and figures; a stopped run goes on there. '
    'Default: runs/<config>.'
)  # fmt: skip
_SAVE = flags.DEFINE_string(
    'save_transcript', None, 'Write what the server saw of the first victim to this .npz and stop.'
)
_TRANSCRIPT = flags.DEFINE_string(
    'transcript', None, 'Attack this .npz, without the simulator and without the truth.'
)


def main(argv: list[str]) -> None:
    """Runs what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f'Unexpected arguments: {" ".join(argv[1:])}')
    logging.set_verbosity(logging.WARNING)
    name = config_flags.get_config_filename(flags.FLAGS['config'])
    folder = _WORKDIR.value or f'runs/{pathlib.Path(name).stem}'
    config = _CONFIG.value
    try:
        if _SAVE.value:
            capture.save_transcript(config, _SAVE.value)
        elif _TRANSCRIPT.value:
            capture.attack_transcript(config, _TRANSCRIPT.value, folder)
        else:
            runner.run(config, folder, shlex.join(['python', *sys.argv]))
    except (ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('interrupted: the rows so far are kept; the same command goes on from there')
        sys.exit(130)


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main)
