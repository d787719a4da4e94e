"""Privacy auditing of federated recommender systems by gradient inversion.

The whole package in two lines:

    victim:   upload_t, private_{t+1} = client_update(shared_t, private_t, batch_t)
              seen_t = observe(upload_t, key_t)
    attacker: min over guess of mean_t distance(predict(rollout(client_update, guess)_t), seen_t)
              + sum_k weight_k prior_k(guess)

Both sides call the SAME `client_update` and the same observation. Modules in reading order, which
is the order of the data: data, models, losses, client, perturb, observe, compress, server, train,
quality, simulate, attack, metrics, report; experiment, build, plan, runner and capture run them
from a config.
"""

from fedinv_jax import (
    attack,
    claims,
    client,
    compress,
    data,
    losses,
    metrics,
    models,
    observe,
    perturb,
    quality,
    quick,
    report,
    server,
    simulate,
    stats,
    train,
    transcripts,
    tree,
    types,
)

__version__ = '0.1.0'

__all__ = [
    'attack',
    'claims',
    'client',
    'compress',
    'data',
    'losses',
    'metrics',
    'models',
    'observe',
    'perturb',
    'quality',
    'quick',
    'report',
    'server',
    'simulate',
    'stats',
    'train',
    'transcripts',
    'tree',
    'types',
]
