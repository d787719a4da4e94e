"""Recommendation quality: federated NCF and MF on MovieLens-100K, trained to what is published.

One user a client, FedSGD with all clients in each round: a client's upload is its gradient times
the number of its entries, the server sums and takes a step of AdamW. Last interactions held out,
those of the same time drawn at random, as in the literature's code, where the order of the file
decides; the largest item id, the default elsewhere, makes the task harder (popular films have small
ids). `:mf` is matrix factorisation.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/ml100k_quality.py
    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/ml100k_quality.py:mf
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None (NCF), 'mf' or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 3
    config.data.update({'name': 'ml-100k', 'leave_one_out': True, 'ties': 'random'})
    config.model.update({'dim': 32, 'hidden': (32, 16, 8), 'scale': 0.01})
    config.client.update({'private_learning_rate': 1.0, 'weight_by_num_examples': True})
    config.server.optimizer.update({'name': 'adamw', 'learning_rate': 0.01})
    with config.server.optimizer.unlocked():
        config.server.optimizer.weight_decay = 0.3
    config.server.num_rounds = 160
    config.observation.seen = ('items',)
    config.attack.update(
        {'name': ('spectral', 'popularity'), 'num_victims': 30, 'num_gradients': (1,)}
    )
    if arg == 'mf':
        config.model.name = 'matrix_factorization'
        config.server.optimizer.weight_decay = 1.0
        return config
    return config_lib.variant(config, arg)
