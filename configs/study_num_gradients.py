"""C1: do several gradients reveal more than one? T = 1 to 8.

The claim is from Deng et al., ICDM 2025. A scorer with one hidden layer of 8 on three data sets,
gradients 10 rounds apart; the exact attack, MGradInv and TGIAs-RO run on the same victims. Two arms
with 40 victims and consecutive rounds: hidden [64, 32, 16], and matrix factorisation, with all
three hypotheses on the private embedding.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_num_gradients.py
    python scripts/study.py --config=configs/study_num_gradients.py --arms=synthetic

2026-11-25, one shared core of an AMD EPYC (Zen 5), 1.8 GiB: synthetic takes 4 minutes, amazon 12,
ml100k (victims_per_call 16) 10. F1 on ml100k at T = 1, 2, 4, 8: exact .847, .994, 1.000, 1.000;
MGradInv .461, .850, .874, .679. C1 holds for both.
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
            'name': ('exact', 'mgradinv', 'tgias_ro', 'popularity', 'random'),
            'num_victims': 130,
            # 26 victims per seed in several groups: larger calls would be mostly padding.
            'victims_per_call': 4,
            'num_gradients': (1, 2, 4, 8),
            'interval': (10,),
            'num_iterations': 4000,
        }
    )
    # A narrow range of batch sizes, so that all seeds share their compiled functions.
    synthetic = {'min_positives': 16, 'max_positives': 20, 'synthetic': {'num_users': 800}}
    larger = {
        'data': {'name': 'ml-100k', 'max_positives': 40},
        'dynamics': {'name': ('free', 'static', 'unrolled')},
        'attack': {
            'num_victims': 40,
            'num_gradients': (1, 2, 4),
            'interval': (1,),
            'num_iterations': 1000,
        },
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
