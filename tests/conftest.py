"""What every test module shares."""

import gc
import os
import platform

import jax
import pytest

from fedinv_jax.audit import process

process.configure()
# Tracing makes many objects that live on: collections with Python's thresholds take 7% of a test.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True, scope='session')
def _compiled_code_is_kept(request, tmp_path_factory):
    """What one test compiled is there for all others, of any process and of the next runs too.

    It is in `.pytest_cache`, or for this process only where that is switched off.
    """
    kept = getattr(request.config, 'cache', None)
    folder = kept.mkdir('compiled') if kept else tmp_path_factory.mktemp('compiled')
    path = str(folder / platform.node())
    os.environ['JAX_COMPILATION_CACHE_DIR'] = path  # of the commands that tests start
    jax.config.update('jax_compilation_cache_dir', path)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@pytest.fixture(autouse=True, scope='module')
def _compiled_code_ends_with_its_module():
    """Drops compiled programs after each module: a process may map only so many (Linux: 65,530)."""
    yield
    jax.clear_caches()


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield
