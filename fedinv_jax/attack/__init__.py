"""The attacker's side; it imports only `types` and `tree`: all it knows is an argument."""

from fedinv_jax.attack import (
    distances,
    dynamics,
    guessers,
    inversion,
    labels,
    leak,
    objective,
    priors,
    quadratic,
    relax,
)

__all__ = [
    'distances',
    'dynamics',
    'guessers',
    'inversion',
    'labels',
    'leak',
    'objective',
    'priors',
    'quadratic',
    'relax',
]
