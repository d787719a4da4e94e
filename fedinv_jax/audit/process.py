"""How a process of the commands uses its cores, its terminal and a compilation cache."""

import io
import os
import pathlib
import platform
import sys

import jax
import scipy.linalg  # noqa: F401  (loads the BLAS that JAX calls)
import threadpoolctl

_XLA_FLAGS = (
    '--xla_cpu_use_fusion_emitters=false '
    '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
)


def configure() -> None:
    """Gives BLAS one thread, and XLA on CPUs the emitters that compile fast.

    Exact attacks run as many blocks side by side as there are cores, each with one thread of BLAS.
    XLA's fusion emitters take twice the time to compile, and no less to run; jaxlib 0.11 has no
    others, and ends a process that asks for them. Of YNNPACK's fusions only those of one product
    are kept: a product fused with a sum over its result runs slower than the two apart. The
    settings hold from here on; XLA reads its flags at the first compilation of a process, so call
    this function before. What the environment says in `OPENBLAS_NUM_THREADS` or `XLA_FLAGS` wins.
    """
    if 'OPENBLAS_NUM_THREADS' not in os.environ:
        threadpoolctl.threadpool_limits(1, user_api='blas')
    if jax.__version_info__ < (0, 11):
        os.environ['XLA_FLAGS'] = f'{_XLA_FLAGS} {os.environ.get("XLA_FLAGS", "")}'.strip()


def print_anywhere() -> None:
    """Lets standard output replace what its encoding lacks; standard error does so by itself.

    Tables have a Greek letter, ids and paths may have any, and a run must not end for that, nor for
    streams that are closed.
    """
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')


def keep_compiled(folder: str) -> None:
    """Compiled functions go to the work directory, by host, unless JAX has a place for them."""
    path = str(pathlib.Path(folder, 'compiled', platform.node()).absolute())
    # Letters that the locale lacks are lone surrogates, which jaxlib does not take.
    is_text = path == path.encode('utf-8', 'replace').decode('utf-8')
    if is_text and not jax.config.values['jax_compilation_cache_dir']:
        jax.config.update('jax_compilation_cache_dir', path)
        # All of them, whatever they took.
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
