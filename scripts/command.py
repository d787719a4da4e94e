"""What the scripts share: the flags of a run, and errors that are a line and not a traceback."""

import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

# Exact attacks run as many blocks side by side as there are cores, each with one thread of BLAS;
# that is read when NumPy loads.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file; `:smoke` behind its name shrinks it to seconds. Override a field '
    'by --config.section.field=value; experiment.default_config documents them all.'
)  # fmt: skip
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder for rows, summary, report and figures; a stopped run goes on there. '
    'Default: runs/<config>, and for a variant runs/<config>_<variant>.'
)  # fmt: skip


def run(do: Callable[[Any, str, str], None]) -> None:
    """Parses the flags and calls `do(config, workdir, command line)`."""

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f'Unexpected arguments: {" ".join(argv[1:])}')
        logging.set_verbosity(logging.WARNING)
        name = config_flags.get_config_filename(flags.FLAGS['config'])
        path, _, variant = name.partition(':')
        default = pathlib.Path(path).stem + f'_{variant}' * bool(variant)
        folder = _WORKDIR.value or f'runs/{default}'
        try:
            do(_CONFIG.value, folder, shlex.join(['python', *sys.argv]))
        except (ValueError, OSError) as error:
            sys.exit(f'error: {error}')
        except KeyboardInterrupt:
            print('interrupted: the rows so far are kept; the same command goes on from there')
            sys.exit(130)

    flags.mark_flag_as_required('config')
    app.run(main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """The arguments that are no flags; a field that no config has ends in one line."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        words = str(error.args[0]).replace(r'\n', ' ').replace('\\', '').strip("'")
        sys.exit(f"error: no field of the config: '{words}")
