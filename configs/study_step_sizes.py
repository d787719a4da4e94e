"""Step sizes of item rows and scorer: known, estimated from the uploads, and believed wrong.

Federated NCF (D = 16, hidden [64, 32, 16]) on MovieLens-100K, FedSGD at rate .1 with means over the
clients. The item rows move at 1, 10 and 80 N = 134,560 times the rate of the scorer, the last as in
PFedRec's code. 32 victims of 45 to 60 interactions, rounds 0 and 1. Where step sizes are unknown,
that of the scorer is too. A wrong belief is that of equal rates; where they are equal, that of item
rows at twice the rate.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_step_sizes.py
    ... python scripts/study.py --config=configs/study_step_sizes.py --arms=items_10_estimated

With the exact attack and popularity, an arm takes about five minutes on one core. Expected: all
labels where sizes are known or estimated. Results: docs/assumptions.md.
"""

from typing import Any

from fedinv_jax.audit import config as config_lib

SCALES = {'items_1': 1.0, 'items_10': 10.0, 'items_80_n': 80.0 * 1682}


def _arms(scale: float) -> dict[str, dict[str, Any]]:
    believed = 2.0 if scale == 1 else 1.0
    return {
        'known': {},
        'estimated': {'step_sizes_known': False},
        'believed_wrong': {'believes': (f'client.item_rate_scale={believed}',)},
    }


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.data.update({'name': 'ml-100k', 'max_positives': 60})
    config.server.update({'aggregate_items': 'mean', 'num_rounds': 2})
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity'),
            'num_victims': 32,
            'min_positives': 45,
            'max_positives': 60,
            'num_gradients': (1, 2),
        }
    )
    arms = {
        f'{name}_{knowledge}': {'client': {'item_rate_scale': scale}, 'attack': attack}
        for name, scale in SCALES.items()
        for knowledge, attack in _arms(scale).items()
    }
    if arg != 'smoke':
        return config_lib.variant(config_lib.with_arms(config, arms), arg)
    config = config_lib.variant(config, arg)
    config.data.update({'name': 'synthetic', 'min_positives': 10, 'max_positives': 10})
    config.model.update({'dim': 4, 'hidden': (8,)})
    config.attack.update({'num_victims': 2, 'num_iterations': 3, 'num_gradients': (1,)})
    config.attack.update({'min_positives': 1, 'max_positives': None})
    return config_lib.with_arms(config, {'estimated': arms['items_10_estimated']})
