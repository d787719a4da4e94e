"""A device without float64 is refused by name."""

import jax
import jax.numpy as jnp
import pytest

from fedinv_jax.audit import precision, process


@pytest.fixture(autouse=True)
def _asked_anew():
    precision.check_float64.cache_clear()
    yield
    precision.check_float64.cache_clear()


def refuses(*_):
    raise NotImplementedError('no float64 here')


# Failed on: an error that is passed on, and bits that are not counted.
@pytest.mark.parametrize(
    'cholesky', [refuses, lambda gram: jnp.linalg.qr(gram.astype('float32'))[1].T.astype(float)]
)
def test_a_device_without_float64_is_refused_by_name(monkeypatch, cholesky):
    precision.check_float64()
    precision.check_float64.cache_clear()
    monkeypatch.setattr(jnp.linalg, 'cholesky', cholesky)
    with pytest.raises(ValueError, match=r'cpu does not compute in float64, .* JAX_PLATFORMS=cpu'):
        precision.check_float64()


# Failed on: the default of the device, and a setting of the user that is overruled.
@pytest.mark.parametrize(
    ('given', 'expected'), [(None, 'highest'), ('tensorfloat32', 'tensorfloat32')]
)
def test_products_keep_all_bits(given, expected):
    before = jax.config.jax_default_matmul_precision
    try:
        jax.config.update('jax_default_matmul_precision', given)
        process.configure()
        assert jax.config.jax_default_matmul_precision == expected
    finally:
        jax.config.update('jax_default_matmul_precision', before)
