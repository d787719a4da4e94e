"""Local training: the upload is the change of the parameters over several epochs.

NCF on MovieLens-100K, items and scorer seen, users with at most 40 positives; MGradInv on the same
victims. `:raifle` is RAIFLE's setting (Pham et al., NDSS 2025): items only, the first 30 users with
their full histories, 20 epochs of Adam.

    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/exact_local_training.py
    FEDINV_DATA_DIR=$DATA python scripts/attack.py --config=configs/exact_local_training.py:raifle

Measured on one busy core:

- `:raifle`, 2026-11-25 (Zen 5), 41 minutes: F1 of exact 1.000, RAIFLE .988 (AUC .9988),
  raifle_joint .996;
- `:raifle_drift` without RAIFLE, 2026-11-24, 82 seconds: F1 of exact 1.000;
- default (SGD), 130 victims, 2026-11-24, 18 minutes with MGradInv: F1 of exact 1.000 in both
  rounds;
- `:adam`, 130 victims, 2026-11-24, 62 minutes without MGradInv: F1 of exact 1.000 (round 0) and
  .988 (round 100).
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None (5 epochs of SGD), 'adam' (20 epochs), 'raifle', 'raifle_drift' or 'smoke'."""
    config = config_lib.default_config()
    config.data.name = 'ml-100k'
    config.client.update({'name': 'local_sgd', 'num_epochs': 5})
    config.attack.num_gradients = (1,)
    if arg in ('raifle', 'raifle_drift'):
        config = config_lib.raifle_setting(config)
        config.client.item_drift = 1.0 if arg == 'raifle_drift' else 0.0
        config.server.num_rounds = 1
        config.attack.name = (
            'exact', 'spectral', 'raifle', 'raifle_joint', 'imia', 'popularity',
        )  # fmt: skip
        return config
    if arg == 'adam':
        config.client.update({'num_epochs': 20, 'private_learning_rate': 1e-3})
        config.client.optimizer.update({'name': 'adam', 'learning_rate': 1e-3})
        config.client.private_optimizer.name = 'adam'
    config.num_seeds = 5
    config.data.max_positives = 40
    config.server.num_rounds = 200
    config.observation.seen = ('items+scorer',)
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity'),
            'num_victims': 130,
            'first_round': (0, 100),
            'num_iterations': 1000,
        }
    )
    return config_lib.variant(config, None if arg == 'adam' else arg)
