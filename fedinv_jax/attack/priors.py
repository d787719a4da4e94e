"""Priors: penalties on a guess, `prior(labels [K], latent, transcript) -> []`.

`labels` are decoded, in (0, 1); means run over the transcript's candidates (no padding).
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from fedinv_jax import _validate
from fedinv_jax.attack import candidates
from fedinv_jax.types import Array, PyTree, Transcript

Prior = Callable[[Array, PyTree, Transcript], Array]


def _mean(values: Array, transcript: Transcript) -> Array:
    where = candidates.mask(transcript)
    return jnp.sum(jnp.where(where, values, 0)) / jnp.maximum(jnp.sum(where), 1)


def binary_prior() -> Prior:
    """Mean of `4 y (1 - y)`: 0 for binary labels, 1 when all are 1/2."""
    return lambda labels, latent, transcript: _mean(4 * labels * (1 - labels), transcript)


def sparsity_prior() -> Prior:
    """Mean of y: fewer interactions are likelier, which decides between (y, p) and (1 - y, -p).

    Both explain the uploads of matrix factorisation with BCE.
    """
    return lambda labels, latent, transcript: _mean(labels, transcript)


def norm_prior(scale: float = 0.1) -> Prior:
    """Mean of `(latent / scale)^2`, 1 on average at the initialisation `N(0, scale^2)`.

    Raises:
        ValueError: if `scale` is not positive.
    """
    _validate.check_range('scale', scale, above=True)

    def prior(labels: Array, latent: PyTree, transcript: Transcript) -> Array:
        del labels, transcript
        return optax.tree.norm(latent, squared=True) / (scale**2 * optax.tree.size(latent))

    return prior


def popularity_prior() -> Prior:
    """Mean cross-entropy of labels y under the public log odds `o`, `softplus(o) - y o`."""

    def prior(labels: Array, latent: PyTree, transcript: Transcript) -> Array:
        del latent
        log_odds = transcript.log_odds
        return _mean(jnp.logaddexp(log_odds, 0.0) - labels * log_odds, transcript)

    return prior
