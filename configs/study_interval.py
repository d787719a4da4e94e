"""C3: do further gradients still help when 230 training steps lie between them? 1 to 460 steps.

The claim is from Deng et al., ICDM 2025. A scorer with one hidden layer of 8, where one gradient
does not determine the labels, on three data sets. The exact attack and MGradInv (16,000 iterations
in all at every T) run on the same victims; the report also has the drift of the embedding. Two
arms with 40 victims: hidden [64, 32, 16] with items and scorer seen, and matrix factorisation.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_interval.py
    python scripts/study.py --config=configs/study_interval.py --arms=synthetic

Results: docs/results.md.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 5
    config.model.update({'dim': 8, 'hidden': (8,)})
    config.server.num_rounds = 1400
    config.observation.seen = ('scorer',)
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity', 'random'),
            'popularity': False,
            'num_victims': 130,
            # 26 victims per seed in several groups: larger calls would be mostly padding.
            'victims_per_call': 4,
            'num_gradients': (1, 4),
            'interval': (1, 10, 50, 230, 460),
            'num_iterations': 16000,
        }
    )
    # A narrow range of batch sizes, so that all seeds share their compiled functions.
    synthetic = {'min_positives': 16, 'max_positives': 20, 'synthetic': {'num_users': 800}}
    larger = {
        'data': {'name': 'ml-100k', 'max_positives': 40},
        'attack': {'num_victims': 40, 'num_gradients': (1, 2), 'num_iterations': 4000},
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
        config.attack.update({'num_gradients': (1, 2), 'interval': (1, 120)})
        config.server.num_rounds = 130
    return config
