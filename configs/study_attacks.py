"""All attacks on the same victims, with one gradient and with two.

NCF (D = 16, hidden [64, 32, 16]) with items and scorer seen, on three data sets; one arm with item
gradients alone (40 victims). The attacks are MGradInv (Deng et al., ICDM 2025), DLG, Inverting
Gradients, TGIAs-RO, RAIFLE with an assumed and with an unknown embedding, IMIA, and the exact
attacks; `fedinv_jax/attack/recipes.py` has the papers.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_attacks.py --arms=ml100k
    python scripts/study.py --config=configs/study_attacks.py --arms=synthetic

2026-11-25, two shared cores of an AMD EPYC (Zen 5), 2.3 GiB: ml100k takes 12 minutes. F1 at T = 2:
exact 1.000, MGradInv .983, spectral .968, TGIAs-RO .957, sign .940, Inverting Gradients .832,
RAIFLE .729, raifle_joint .526, IMIA .289, DLG .117; popularity .581.
"""

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 5
    config.server.num_rounds = 20
    config.attack.update(
        {
            'name': (
                'exact', 'spectral', 'sign', 'mgradinv', 'inverting_gradients', 'tgias_ro', 'dlg',
                'raifle', 'raifle_joint', 'imia', 'popularity', 'random',
            ),
            'num_victims': 130,
            # 26 victims per seed in several groups: larger calls would be mostly padding.
            'victims_per_call': 4,
            'interval': (10,),
        }
    )  # fmt: skip
    # A narrow range of batch sizes, so that all seeds share their compiled functions.
    synthetic = {'min_positives': 16, 'max_positives': 20, 'synthetic': {'num_users': 800}}
    config = config_lib.with_arms(
        config,
        {
            'synthetic': {'data': synthetic},
            'ml100k': {'data': {'name': 'ml-100k', 'max_positives': 40}},
            'amazon': {
                'data': {'name': 'amazon-instant-video', 'min_positives': 20, 'max_positives': 40}
            },
            'ml100k_items': {
                'data': {'name': 'ml-100k', 'max_positives': 40},
                'observation': {'seen': ('items',)},
                'attack': {'num_victims': 40},
            },
        },
    )
    config = config_lib.variant(config, arg)
    if arg == 'smoke':
        config.attack.name = ('exact', 'spectral', 'mgradinv', 'raifle', 'imia', 'popularity')
    return config
