"""What every test module shares."""

import jax
import pytest

from fedinv_jax.audit import process

process.configure()


@pytest.fixture(autouse=True, scope='module')
def _compiled_code_ends_with_its_module():
    """Drops compiled programs after each module: a process may map only so many (Linux: 65,530)."""
    yield
    jax.clear_caches()


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield
