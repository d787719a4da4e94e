"""What ends a command ends it with a line."""

import jax
import jax.numpy as jnp
import pytest

from fedinv_jax.audit import command_line


# Failed on XLA's traceback of an allocation that no machine can make.
def test_too_little_memory_is_a_line():
    with pytest.raises(SystemExit, match=r'RESOURCE_EXHAUSTED.* Take fewer users'):  # noqa: SIM117
        with command_line.errors_as_lines():
            jnp.zeros(2**46, jnp.int8).block_until_ready()


def test_another_error_of_the_runtime_is_left_as_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError), command_line.errors_as_lines():
        raise jax.errors.JaxRuntimeError('INTERNAL: something else')
