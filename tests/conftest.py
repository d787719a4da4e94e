"""What every test module shares."""

import os

# As in `scripts/command.py`; read when JAX finds its devices.
os.environ['XLA_FLAGS'] = '--xla_cpu_use_fusion_emitters=false ' + os.environ.get('XLA_FLAGS', '')

# isort: split
import jax
import pytest


@pytest.fixture(autouse=True, scope='module')
def _compiled_code_ends_with_its_module():
    """Drops compiled programs after each module: a process may map only so many (Linux: 65,530)."""
    yield
    jax.clear_caches()
