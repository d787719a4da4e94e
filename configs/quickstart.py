"""Demo: one gradient is not enough, several are (MGradInv, Deng et al., ICDM 2025).

Federated NCF with a small scorer (D = 8, one hidden layer of 8) on synthetic data, without a
download. The scorer's gradient has 145 entries per step, against about 290 unknown labels.

    python scripts/attack.py --config=configs/quickstart.py

Takes one to two minutes on 2 CPU cores. Measured on 2026-12-01: AUC .797, .932, .978 at T = 1, 2,
4; popularity baseline .844.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.data.synthetic.update(
        {'num_users': 300, 'num_items': 1000, 'median_activity': 56.0, 'activity_sigma': 0.4}
    )
    config.data.update({'min_positives': 48, 'max_positives': 80})
    config.model.update({'dim': 8, 'hidden': (8,)})
    config.observation.seen = ('scorer',)
    config.dynamics.name = ('unrolled',)
    config.attack.update(
        {
            'num_gradients': (1, 2, 4),
            'num_victims': 64,
            'num_iterations': 8000,
        }
    )
    config.attack.priors.norm = 3e-4
    return config_lib.variant(config, arg)
