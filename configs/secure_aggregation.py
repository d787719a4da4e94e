"""Secure aggregation undone by many rounds: 943 clients of which 128 are summed in each round.

Matrix factorisation, MovieLens-100K, FedSGD. The server sees the sum of the participants' uploads
and knows who took part and the items of their batches. `unmix` separates each client's mean upload
from the sums of T rounds; popularity is the baseline.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/secure_aggregation.py

Results: docs/defences.md.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 3
    config.data.name = 'ml-100k'
    config.model.name = 'matrix_factorization'
    config.server.clients_per_round = 128
    config.server.num_rounds = 128
    config.observation.cohort = 128
    config.observation.cohort_membership = 'sampled'
    config.observation.seen = ('items',)
    config.attack.update(
        {
            'name': ('unmix', 'popularity'),
            'num_victims': 30,
            'num_gradients': (8, 32, 64, 128),
        }
    )
    if arg:
        config = config_lib.variant(config, arg)
        config.data.max_users = 60
        config.server.clients_per_round = config.observation.cohort = 16
        config.attack.num_gradients = (8, 64)
    return config
