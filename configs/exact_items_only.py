"""Only item gradients are seen: the item rows determine the labels, and then the embedding.

NCF on MovieLens-100K, users with at most 40 positives; MGradInv on the same victims.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/exact_items_only.py

2026-11-23, `:rounds` on 2 busy cores: 75 minutes; exact match for all victims in every setting.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None, 'smoke', or 'rounds' (no MGradInv; first rounds 0 to 2000, T = 1, 2, 4)."""
    config = config_lib.default_config()
    config.num_seeds = 5
    config.data.update({'name': 'ml-100k', 'max_positives': 40})
    config.observation.seen = ('items',)
    config.attack.update(
        {
            'name': ('exact', 'sign', 'spectral', 'mgradinv', 'popularity', 'random'),
            'num_victims': 130,
            'num_gradients': (1,),
            'num_iterations': 2000,
        }
    )
    if arg == 'rounds':
        config.server.num_rounds = 2010
        config.attack.update(
            {
                'name': ('exact', 'sign', 'spectral', 'popularity', 'random'),
                'num_gradients': (1, 2, 4),
                'first_round': (0, 100, 500, 2000),
            }
        )
        return config
    return config_lib.variant(config, arg)
