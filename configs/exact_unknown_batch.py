"""Unknown batch: the attacks recover the items and their labels from the scorer's gradient alone.

Every item of MovieLens-100K is a candidate; users with at most 40 positives; MGradInv, with relaxed
membership, on the same victims. F1 is over all 1,682 items.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/exact_unknown_batch.py

2026-11-23, only exact and popularity, one busy core: 10 minutes; exact match for 130 of 130
victims. First round 500, T = 1, 2, 4, 8 (2026-11-24, 56 CPU minutes): F1 of exact .998, 1.000,
1.000, .999.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 5
    config.data.update({'name': 'ml-100k', 'max_positives': 40})
    config.model.dim = 32
    config.observation.update({'seen': ('scorer',), 'batch_known': False})
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity', 'random'),
            'num_victims': 130,
            'num_gradients': (1,),
            'num_iterations': 500,
        }
    )
    return config_lib.variant(config, arg)
