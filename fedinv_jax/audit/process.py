"""How a process of the commands uses its cores."""

import os

import jax
import scipy.linalg  # noqa: F401  (loads the BLAS that JAX calls)
import threadpoolctl


def configure() -> None:
    """Gives BLAS one thread, and XLA on CPUs the emitters that compile fast.

    Exact attacks run as many blocks side by side as there are cores, each with one thread of BLAS.
    XLA's fusion emitters take twice the time to compile, and no less to run; jaxlib 0.11 has no
    others, and ends a process that asks for them. Both settings hold from here on; XLA reads its
    flags at the first compilation of a process, so call this function before. What the environment
    says in `OPENBLAS_NUM_THREADS` or `XLA_FLAGS` wins.
    """
    if 'OPENBLAS_NUM_THREADS' not in os.environ:
        threadpoolctl.threadpool_limits(1, user_api='blas')
    if jax.__version_info__ < (0, 11):
        flags = f'--xla_cpu_use_fusion_emitters=false {os.environ.get("XLA_FLAGS", "")}'
        os.environ['XLA_FLAGS'] = flags.strip()
