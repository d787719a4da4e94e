"""C2: is the attack strongest early in training? First rounds from 0 to well past convergence.

The claim is from Deng et al., ICDM 2025. NCF (D = 16, hidden [64, 32, 16]) on three data sets; a
scorer with one hidden layer of 8, and matrix factorisation, on MovieLens-100K. The exact attack and
MGradInv run on the same 130 victims (40 for matrix factorisation), with two gradients that are 10
rounds apart. Two arms with 20 victims give MGradInv more at the last round: up to eight gradients,
50 rounds apart, four starts, and 16,000 iterations or Gauss-Newton.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_convergence.py
    python scripts/study.py --config=configs/study_convergence.py --arms=synthetic

Results: docs/results.md.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 5
    config.server.num_rounds = 2400
    config.observation.seen = ('items+scorer', 'scorer')
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity', 'random'),
            'popularity': False,
            'num_victims': 130,
            # 26 victims per seed in several groups: larger calls would be mostly padding.
            'victims_per_call': 4,
            'num_gradients': (2,),
            'first_round': (0, 100, 500, 2000),
            'interval': (10,),
            'num_iterations': 4000,
        }
    )
    # A narrow range of batch sizes, so that all seeds share their compiled functions.
    synthetic = {'min_positives': 16, 'max_positives': 20, 'synthetic': {'num_users': 800}}
    ml100k = {'name': 'ml-100k', 'max_positives': 40}
    amazon = {'name': 'amazon-instant-video', 'min_positives': 20, 'max_positives': 40}
    most = {
        'name': ('mgradinv', 'popularity'),
        'num_victims': 20,
        'num_gradients': (1, 2, 8),
        'first_round': (2000,),
        'interval': (50,),
        'num_restarts': 4,
        'num_iterations': 16000,
    }
    small = {'name': 'ml-100k', 'min_positives': 48, 'max_positives': 80}
    config = config_lib.with_arms(
        config,
        {
            'synthetic': {'data': synthetic},
            'ml100k': {'data': ml100k},
            'ml100k_small_head': {
                'data': small,
                'model': {'dim': 8, 'hidden': (8,)},
                'observation': {'seen': ('scorer',)},
            },
            'ml100k_mf': {
                'data': ml100k,
                'model': {'name': 'matrix_factorization'},
                'observation': {'seen': ('items',)},
                'attack': {'num_victims': 40},
            },
            'ml100k_late': {'data': ml100k, 'observation': {'seen': ('scorer',)}, 'attack': most},
            'ml100k_late_gauss_newton': {
                'data': ml100k,
                'observation': {'seen': ('scorer',)},
                'attack': {**most, 'optimizer': {'name': 'gauss_newton'}},
            },
            'amazon': {'data': amazon},
        },
    )
    config = config_lib.variant(config, arg)
    if arg == 'smoke':
        config.observation.seen = ('items+scorer',)
        config.attack.first_round = (0, 5)
        config.server.num_rounds = 20
    return config
