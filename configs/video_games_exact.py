"""All 31,013 users of Amazon Video Games by the exact attack: how far one machine goes.

The scorer's gradients of one round are seen and the batch is known: NCF, D = 16, hidden
[64, 32, 16], 512 clients a round beside the victims.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/video_games_exact.py

What is measured of it: docs/performance.md.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.data.name = 'amazon-video-games'
    config.observation.seen = ('scorer',)
    config.server.clients_per_round = 512
    config.attack.update(
        {
            'name': ('exact', 'popularity'),
            'num_victims': 0,
            'num_gradients': (1,),
            'victims_per_call': 512,
            'max_dense_candidates': 4300,
        }
    )
    config.run.memory_mib = 1800
    return config_lib.variant(config, arg)
