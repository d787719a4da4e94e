"""How a process of the commands uses its cores and its terminal."""

import io
import os
import sys

import scipy.linalg  # noqa: F401  (loads the BLAS that JAX calls)
import threadpoolctl


def configure() -> None:
    """Gives BLAS one thread, and XLA on CPUs the emitters that compile fast.

    Exact attacks run as many blocks side by side as there are cores, each with one thread of BLAS.
    XLA's fusion emitters take twice the time to compile, and no less to run. Both hold from here
    on; XLA reads its flags at the first compilation of a process, so call this function before.
    What the environment says in `OPENBLAS_NUM_THREADS` or `XLA_FLAGS` wins.
    """
    if 'OPENBLAS_NUM_THREADS' not in os.environ:
        threadpoolctl.threadpool_limits(1, user_api='blas')
    flags = f'--xla_cpu_use_fusion_emitters=false {os.environ.get("XLA_FLAGS", "")}'
    os.environ['XLA_FLAGS'] = flags.strip()


def print_anywhere() -> None:
    """Lets standard output replace what its encoding lacks; standard error does so by itself.

    Tables have a Greek letter, ids and paths may have any, and a run must not end for that.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')
