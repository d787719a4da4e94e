"""Privacy auditing of federated recommender systems by gradient inversion.

The whole package in two lines:

    victim:   upload_t, private_{t+1} = client_update(shared_t, private_t, batch_t)
              seen_t = observe(upload_t, key_t)
    attacker: min over guess of mean_t distance(predict(rollout(client_update, guess)_t), seen_t)
              + sum_k weight_k prior_k(guess)

Both sides call the SAME `client_update` and the same observation. The modules in reading order,
which follows the data: data, item_table, models, losses, client, observe, compress, perturb,
server, train, simulate, transcripts, capture, attack, metrics, quality, accounting, report.

This is a library of pure functions. `fedinv_jax.audit` is a program on top of the library that
turns a config into rows and pages; the library does not import it.
"""

import importlib
from types import ModuleType

from fedinv_jax import (
    accounting,
    attack,
    capture,
    client,
    cohorts,
    compilation,
    compress,
    data,
    item_table,
    losses,
    metrics,
    models,
    observe,
    perturb,
    quality,
    rating_metrics,
    regularizers,
    report,
    sampling,
    server,
    simulate,
    train,
    transcripts,
    tree,
    types,
)
from fedinv_jax._version import __version__

__all__ = [
    '__version__',
    'accounting',
    'attack',
    'capture',
    'client',
    'cohorts',
    'compilation',
    'compress',
    'data',
    'item_table',
    'losses',
    'metrics',
    'models',
    'observe',
    'perturb',
    'quality',
    'rating_metrics',
    'regularizers',
    'report',
    'sampling',
    'server',
    'simulate',
    'train',
    'transcripts',
    'tree',
    'types',
]


def __getattr__(name: str) -> ModuleType:
    """Resolves `experiment` for config files of version 0.1, which import it from here."""
    if name == 'experiment':
        return importlib.import_module('fedinv_jax.audit.config')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
