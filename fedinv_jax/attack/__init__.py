"""The attacker's side; it imports only `types` and `tree`: all it knows is an argument."""

from fedinv_jax.attack import (
    certify,
    distances,
    dynamics,
    exact,
    guessers,
    identifiability,
    inversion,
    labels,
    leak,
    members,
    objective,
    priors,
    quadratic,
    relax,
    rows,
    sparse,
)

__all__ = [
    'certify',
    'distances',
    'dynamics',
    'exact',
    'guessers',
    'identifiability',
    'inversion',
    'labels',
    'leak',
    'members',
    'objective',
    'priors',
    'quadratic',
    'relax',
    'rows',
    'sparse',
]
