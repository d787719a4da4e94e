"""C3: do further gradients still help when 230 training steps lie between them? 1 to 460 steps.

Deng et al., ICDM 2025. A head of one layer of 8, where one gradient does not determine the labels,
on three data sets; the exact attack and MGradInv with two hypotheses on the private embedding, on
the same victims, beside its drift. On 40 victims also a head of [64, 32, 16], items and scorer
seen, and matrix factorisation.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_interval.py
    python scripts/study.py --config=configs/study_interval.py --arms=synthetic

2026-11-25, one core of an AMD EPYC (Zen 5) beside other work, 1.6 GiB: synthetic 5 minutes, amazon
9, ml100k 13. 230 rounds apart on ml100k, T = 4 against one gradient, AUC +.054 (exact, F1 1.000),
+.119 (MGradInv, level with popularity); on the others MGradInv has no gain.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 5
    config.model.update({'dim': 8, 'hidden': (8,)})
    config.server.num_rounds = 1400
    config.observation.seen = ('scorer',)
    config.dynamics.name = ('free', 'static')
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity', 'random'),
            'num_victims': 130,
            # 26 victims a seed in several groups: larger calls would be mostly padding.
            'victims_per_call': 4,
            'num_gradients': (1, 2, 4),
            'interval': (1, 10, 50, 230, 460),
            'num_iterations': 2000,
        }
    )
    # One size of batch for all seeds, or each would compile its own.
    synthetic = {'min_positives': 16, 'max_positives': 20, 'synthetic': {'num_users': 800}}
    larger = {
        'data': {'name': 'ml-100k', 'max_positives': 40},
        'attack': {'num_victims': 40, 'num_gradients': (1, 2), 'num_iterations': 1000},
    }
    config = config_lib.with_arms(
        config,
        {
            'synthetic': {'data': synthetic},
            'ml100k': {'data': {'name': 'ml-100k', 'min_positives': 48, 'max_positives': 80}},
            'amazon': {
                'data': {'name': 'amazon-instant-video', 'min_positives': 20, 'max_positives': 40}
            },
            'ml100k_ncf': {
                **larger,
                'model': {'dim': 16, 'hidden': (64, 32, 16)},
                'observation': {'seen': ('items+scorer',)},
            },
            'ml100k_mf': {
                **larger,
                'model': {'name': 'matrix_factorization', 'dim': 16},
                'observation': {'seen': ('items',)},
            },
        },
    )
    config = config_lib.variant(config, arg)
    if arg == 'smoke':
        config.attack.interval = (1, 120)
        config.server.num_rounds = 130
    return config
