"""The attacker's side. It imports only `types` and `tree`: all it knows is an argument."""

from fedinv_jax.attack import (
    baselines,
    batching,
    box_qp,
    candidates,
    curriculum,
    distances,
    dynamics,
    exact,
    gauss_newton,
    inversion,
    objective,
    priors,
    recipes,
    relax,
    unmix,
    whitening,
)

__all__ = [
    'baselines',
    'batching',
    'box_qp',
    'candidates',
    'curriculum',
    'distances',
    'dynamics',
    'exact',
    'gauss_newton',
    'inversion',
    'objective',
    'priors',
    'recipes',
    'relax',
    'unmix',
    'whitening',
]
