"""MGradInv on MovieLens-100K with a small scorer, where one gradient is not enough.

The setting of Deng et al., ICDM 2025, on users with 48 to 80 positives.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/ml100k_small_head.py

2 CPU cores: 4 minutes. Measured on 2026-11-29, AUC at T = 1, 2, 4: .790, .931, .982; popularity
baseline .865.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.data.update({'name': 'ml-100k', 'min_positives': 48, 'max_positives': 80})
    config.model.update({'dim': 8, 'hidden': (8,)})
    config.observation.seen = ('scorer',)
    config.dynamics.name = ('unrolled',)
    config.attack.update(
        {
            'num_gradients': (1, 2, 4),
            'num_victims': 128,
            'num_iterations': 10000,
        }
    )
    config.attack.priors.norm = 3e-4
    return config_lib.variant(config, arg)
