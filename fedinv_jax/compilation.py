"""Compiler options for functions that take longer to compile than to run."""

import os
from collections.abc import Callable
from typing import Any

import jax

_FLAG = 'xla_backend_optimization_level'


def options() -> dict[str, int | str]:
    """XLA options: half the compile time, same numbers; none if XLA_FLAGS sets the level."""
    return {} if _FLAG in os.environ.get('XLA_FLAGS', '') else {_FLAG: 1}


def jit(function: Callable[..., Any]) -> Any:
    """`jax.jit` with `options()`."""
    return jax.jit(function, compiler_options=options())
