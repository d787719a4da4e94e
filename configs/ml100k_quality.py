"""Recommendation quality: federated NCF and MF on MovieLens-100K, trained to published quality.

Each user is a client; FedSGD with all clients in every round. An upload is the client's gradient
times the number of its examples; the server sums the uploads and takes a step of AdamW. The last
interaction of each user is held out. Where several share the last time, one is drawn at random: the
literature's code takes them in the order of the file. The default, the largest item id, makes the
task harder, as popular films have small ids. `:mf` is matrix factorisation.

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
