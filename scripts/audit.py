"""`fedinv audit` from a clone; `--help` says more."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from fedinv_jax.audit import main

if __name__ == '__main__':
    main.run('audit', program=f'python {sys.argv[0]}')
