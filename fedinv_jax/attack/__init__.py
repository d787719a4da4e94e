"""The attacker's side. It imports only `types` and `tree`: all it knows is an argument."""

from fedinv_jax.attack import (
    baselines,
    batching,
    candidates,
    distances,
    dynamics,
    exact,
    inversion,
    objective,
    priors,
    recipes,
    relax,
    whitening,
)

__all__ = [
    'baselines',
    'batching',
    'candidates',
    'distances',
    'dynamics',
    'exact',
    'inversion',
    'objective',
    'priors',
    'recipes',
    'relax',
    'whitening',
]
