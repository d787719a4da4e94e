"""C1: do several gradients reveal more than one? T = 1 to 8.

The claim is from Deng et al., ICDM 2025. A scorer with one hidden layer of 8 on three data sets,
gradients 1 and 10 rounds apart; the exact attack and MGradInv run on the same victims. MGradInv has
16,000 iterations in all at every T. Three arms with 40 victims: MGradInv by Gauss-Newton; hidden
[64, 32, 16], and matrix factorisation, with all three hypotheses on the private embedding.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_num_gradients.py
    python scripts/study.py --config=configs/study_num_gradients.py --arms=synthetic

Results: docs/results.md.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 5
    config.model.update({'dim': 8, 'hidden': (8,)})
    config.server.num_rounds = 80
    config.observation.seen = ('scorer',)
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity', 'random'),
            'popularity': False,
            'num_victims': 130,
            # 26 victims per seed in several groups: larger calls would be mostly padding.
            'victims_per_call': 4,
            'num_gradients': (1, 2, 4, 8),
            'interval': (1, 10),
            'num_iterations': 16000,
        }
    )
    # A narrow range of batch sizes, so that all seeds share their compiled functions.
    synthetic = {'min_positives': 16, 'max_positives': 20, 'synthetic': {'num_users': 800}}
    small = {'name': 'ml-100k', 'min_positives': 48, 'max_positives': 80}
    larger = {
        'data': {'name': 'ml-100k', 'max_positives': 40},
        'dynamics': {'name': ('free', 'static', 'unrolled')},
        'attack': {
            'num_victims': 40,
            'num_gradients': (1, 2, 4),
            'interval': (1,),
            'num_iterations': 4000,
        },
    }
    config = config_lib.with_arms(
        config,
        {
            'synthetic': {'data': synthetic},
            'ml100k': {'data': small},
            'amazon': {
                'data': {'name': 'amazon-instant-video', 'min_positives': 20, 'max_positives': 40}
            },
            'ml100k_gauss_newton': {
                'data': small,
                'attack': {
                    'name': ('mgradinv', 'popularity'),
                    'optimizer': {'name': 'gauss_newton'},
                    'num_victims': 40,
                    'interval': (10,),
                },
            },
            'ml100k_ncf': {
                **larger,
                'model': {'dim': 16, 'hidden': (64, 32, 16)},
                'observation': {'seen': ('items+scorer', 'items')},
            },
            'ml100k_mf': {
                **larger,
                'model': {'name': 'matrix_factorization', 'dim': 16},
                'observation': {'seen': ('items',)},
            },
        },
    )
    return config_lib.variant(config, arg)
