"""The exact attack on all 31,013 users of Amazon Video Games, on one machine.

NCF, D = 16, hidden [64, 32, 16]. The attacker sees the scorer's gradients of one round and knows
the batch; 512 clients take part in a round besides the victims.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/video_games_exact.py

Results: docs/performance.md.
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
