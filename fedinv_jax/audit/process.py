"""How a process of the commands uses its cores, its terminal and a compilation cache."""

import hashlib
import io
import os
import pathlib
import platform
import sys

import jax
import jaxlib
import scipy.linalg  # noqa: F401  (loads the BLAS that JAX calls)
import threadpoolctl

_XLA_FLAGS = (
    '--xla_cpu_use_fusion_emitters=false '
    '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
)


def configure() -> None:
    """Gives BLAS one thread, products all bits, and XLA on CPUs the emitters that compile fast.

    GPUs and TPUs by default multiply float32 numbers with 11 or 8 bits: neither is an upload then
    what a client in float32 sends, nor a replay equal to it.

    Exact attacks run as many blocks side by side as there are cores, each with one thread of BLAS.
    XLA's fusion emitters take twice the time to compile, and no less to run; jaxlib 0.11 has no
    others, and ends a process that asks for them. Of YNNPACK's fusions only those of one product
    are kept: a product fused with a sum over its result runs slower than the two apart. The
    settings hold from here on; XLA reads its flags at the first compilation of a process, so call
    this function before. What the environment says in `OPENBLAS_NUM_THREADS`,
    `JAX_DEFAULT_MATMUL_PRECISION` or `XLA_FLAGS` wins.
    """
    if 'OPENBLAS_NUM_THREADS' not in os.environ:
        threadpoolctl.threadpool_limits(1, user_api='blas')
    if jax.config.values['jax_default_matmul_precision'] is None:
        jax.config.update('jax_default_matmul_precision', 'highest')
    if jax.__version_info__ < (0, 11):
        given = os.environ.get('XLA_FLAGS', '')
        if _XLA_FLAGS not in given:
            os.environ['XLA_FLAGS'] = f'{_XLA_FLAGS} {given}'.strip()


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


def keep_compiled() -> None:
    """Compiled functions go to the user's cache, unless JAX has a place for them.

    Runs share it, in a folder of its own for each version of jaxlib and kind of machine: a home
    may belong to several. Where it cannot be made, nothing is kept.
    """
    if jax.config.values['jax_compilation_cache_dir']:
        return
    try:
        cache = pathlib.Path('~/.cache/fedinv_jax/compiled').expanduser()
        path = cache / f'{jaxlib.__version__}-{_machine()}'
        path.mkdir(parents=True, exist_ok=True)
        str(path).encode()  # letters that the locale lacks are surrogates, which jaxlib refuses
    except (OSError, RuntimeError, UnicodeEncodeError):
        return
    jax.config.update('jax_compilation_cache_dir', str(path))
    # All of them, whatever they took.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def _machine() -> str:
    """A name of this kind of processor, from its model and features; code for others may crash."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.node()
    kinds = ('model name', 'flags', 'CPU implementer', 'CPU part', 'Features')
    told = sorted({line for line in lines if line.startswith(kinds)})
    return f'{platform.machine()}-{hashlib.sha256(repr(told).encode()).hexdigest()[:8]}'
