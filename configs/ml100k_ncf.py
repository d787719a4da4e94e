"""MGradInv on MovieLens-100K and NCF: the whole upload, the scorer alone, and the items alone.

The setting of Deng et al., ICDM 2025, on users with at most 40 positives.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/ml100k_ncf.py

2 CPU cores: under 8 minutes. Measured on 2026-11-23, AUC at T = 1, 2: items and scorer 1.000,
1.000; scorer 1.000, 1.000; items .983, .978; popularity baseline .866.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.data.update({'name': 'ml-100k', 'max_positives': 40})
    config.observation.seen = ('items+scorer', 'scorer', 'items')
    config.dynamics.name = ('unrolled',)
    config.attack.update(
        {
            'num_gradients': (1, 2),
            'num_victims': 128,
            'num_iterations': 2000,
        }
    )
    config.attack.optimizer.learning_rate = 0.003
    config.attack.priors.norm = 3e-3
    return config_lib.variant(config, arg)
