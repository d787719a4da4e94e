"""How to compile functions that take longer to compile than to run."""

import os
from functools import partial

import jax

_FLAG = 'xla_backend_optimization_level'

OPTIONS: dict[str, int | str] = {} if _FLAG in os.environ.get('XLA_FLAGS', '') else {_FLAG: 1}
"""For XLA: half the time to compile and the same numbers; nothing where XLA_FLAGS set a level."""

jit = partial(jax.jit, compiler_options=OPTIONS)
"""`jax.jit` with these options."""
