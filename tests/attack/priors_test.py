"""Priors by hand, over candidates only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax.attack import priors
from tests.helpers import B, all_finite, make_transcript, pad

LABELS = jnp.array([1.0, 0.5, 0.25, 0.0, 0.9, 0.9, 0.9])


@pytest.fixture
def transcript():
    return pad(make_transcript('mf', ('items',), 'gradient_step')[0])


# Failed on: means over K.
def test_by_hand(transcript):
    log_odds = np.linspace(-1, 1, B)
    y = np.array([1.0, 0.5, 0.25, 0.0])
    softplus = np.log1p(np.exp(log_odds))
    expected = {
        priors.binary_prior(): (0 + 1 + 4 * 0.25 * 0.75 + 0) / B,
        priors.sparsity_prior(): (1 + 0.5 + 0.25) / B,
        priors.popularity_prior(): np.sum(softplus - y * log_odds) / B,
    }
    for prior, value in expected.items():
        np.testing.assert_allclose(prior(LABELS, (), transcript), value, rtol=1e-5)
        assert prior(LABELS, (), transcript).shape == ()
    latent = {'a': jnp.array([0.3, 0.4]), 'b': jnp.array([[1.2]])}
    np.testing.assert_allclose(
        priors.norm_prior(0.5)(LABELS, latent, transcript),
        (0.09 + 0.16 + 1.44) / 0.25 / 3,
        rtol=1e-5,
    )


# Failed on: padding counted in the mean.
@pytest.mark.parametrize('which', ['binary', 'sparsity', 'norm', 'popularity'])
def test_gradients_ignore_padding(transcript, which):
    prior = getattr(priors, f'{which}_prior')()
    gradient = jax.grad(lambda y: prior(y, jnp.zeros(2), transcript))(LABELS)
    assert all_finite(gradient)
    np.testing.assert_array_equal(gradient[B:], np.zeros(3))


def test_errors():
    with pytest.raises(ValueError, match=r'Expected scale=0 > 0\.'):
        priors.norm_prior(0)
