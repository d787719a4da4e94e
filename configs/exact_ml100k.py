"""Exact recovery of every user of MovieLens-100K from one upload of the scorer's gradient.

The setting is that of Deng et al., ICDM 2025; the closed-form attack is this project's.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/exact_ml100k.py

2026-11-26, 2 cores: 943 of 943 histories recovered exactly, 940 certified; 32 s in total, 1.0 GiB.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.data.name = 'ml-100k'
    config.model.dim = 32
    config.observation.seen = ('scorer',)
    config.attack.update(
        {
            'name': ('exact', 'popularity', 'random'),
            'num_victims': 0,
            'num_gradients': (1,),
        }
    )
    return config_lib.variant(config, arg)
