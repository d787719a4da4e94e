"""Secure aggregation undone by many rounds: 943 clients of which 128 are summed in each round.

Matrix factorisation, MovieLens-100K, FedSGD. The server sees the sum of the participants' uploads
and knows who took part and the items of their batches. `unmix` separates each client's mean upload
from the sums of T rounds; popularity is the baseline.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/secure_aggregation.py

`:joint` searches for the labels of all clients at once, with fewer rounds; `:ncf` is NCF with
hidden [64, 32, 16]; with `:unknown` and `:ncf_unknown` the server does not know the batches;
`:video_games` has 31,013 clients, 512 in each round, within 4 GiB of memory. Results:
docs/defences.md.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None, 'joint', 'unknown', 'ncf', 'ncf_unknown', 'video_games' or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 3
    config.data.name = 'ml-100k'
    config.model.name = 'matrix_factorization'
    config.server.clients_per_round = 128
    config.server.num_rounds = 128
    config.observation.cohort = 128
    config.observation.cohort_membership = 'sampled'
    config.observation.seen = ('items',)
    config.dynamics.name = ('unrolled',)  # of joint
    config.attack.update(
        {
            'name': ('unmix', 'popularity'),
            'num_victims': 30,
            'num_gradients': (8, 32, 64, 128),
        }
    )
    if arg == 'joint':
        config.server.num_rounds = 32
        config.attack.update(
            {
                'name': ('unmix', 'joint', 'popularity'),
                'num_gradients': (8, 16, 32),
                'num_iterations': 400,
            }
        )
    elif arg in ('ncf', 'unknown', 'ncf_unknown'):
        config.server.num_rounds = 512
        config.attack.num_gradients = (64, 128, 256, 512)
        config.observation.batch_known = arg == 'ncf'
        config.attack.unmix_reader = ('projection',)
        if arg != 'unknown':
            config.model.name = 'ncf'
            config.attack.unmix_reader = ('replay', 'spectral' if arg == 'ncf' else 'projection')
    elif arg == 'video_games':
        config.num_seeds = 1
        config.data.name = 'amazon-video-games'
        config.server.clients_per_round = config.observation.cohort = 512
        config.server.num_rounds = 320
        config.attack.num_gradients = (32, 64, 128, 256, 320)
    elif arg:
        config = config_lib.variant(config, arg)
        config.data.max_users = 60
        config.server.clients_per_round = config.observation.cohort = 16
        config.attack.num_gradients = (8, 64)
    return config
