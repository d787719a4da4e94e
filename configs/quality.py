"""Recommendation quality of every model: trained to what others report of it.

Each user is a client; FedSGD with all clients in every round. An upload is the client's gradient
times the number of its examples; the server sums the uploads and takes a step of AdamW. The last
interaction of each user is held out. Where several share the last time, one is drawn at random: the
literature's code takes them in the order of the file. The default, the largest item id, makes the
task harder, as popular films have small ids. An arm is a model; `:amazon` is Amazon Instant Video.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/quality.py
    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/quality.py --arms=pfedrec

On one core, an arm takes five minutes, for Amazon (one seed) two. Results: docs/models.md.
"""

from typing import Any

from fedinv_jax.audit import config as config_lib

# Rate, weight decay and rounds of each model.
_SCHEDULES = {
    'matrix_factorization': (0.01, 1.0, 160),
    'gmf': (0.01, 0.3, 160),
    'ncf': (0.01, 0.3, 160),
    'neumf': (0.01, 0.3, 160),
    'pfedrec': (0.02, 0.1, 60),
    'fedrap': (0.02, 0.1, 60),
    'lightgcn': (0.02, 0.1, 160),
    'two_tower': (0.01, 0.3, 160),
}
_AMAZON = (0.003, 0.3, 80)  # of all models: eight interactions a user are learned soon
_SMALL = ('matrix_factorization', 'pfedrec')  # the arms of `:smoke`


def _arm(model: str, schedule: tuple[float, float, int]) -> dict[str, Any]:
    rate, decay, rounds = schedule
    optimizer = {'learning_rate': rate, 'weight_decay': decay}
    return {'model': {'name': model}, 'server': {'optimizer': optimizer, 'num_rounds': rounds}}


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None, 'amazon' or 'smoke'."""
    config = config_lib.default_config()
    config.num_seeds = 3
    config.data.update({'name': 'ml-100k', 'leave_one_out': True, 'ties': 'random'})
    config.model.update({'dim': 32, 'hidden': (32, 16, 8), 'scale': 0.01})
    config.client.update({'private_learning_rate': 1.0, 'weight_by_num_examples': True})
    config.server.optimizer.update({'name': 'adamw'})
    with config.server.optimizer.unlocked():
        config.server.optimizer.weight_decay = 0.1
    config.observation.seen = ('items',)
    config.attack.update(
        {'name': ('spectral', 'popularity'), 'num_victims': 30, 'num_gradients': (1,)}
    )
    schedules = _SCHEDULES
    if arg == 'amazon':
        arg, config.num_seeds, config.data.name = None, 1, 'amazon-instant-video'
        # FedRAP's private tables would take 12 GB.
        schedules = {model: _AMAZON for model in _SCHEDULES if model != 'fedrap'}
    arms = {model: _arm(model, at) for model, at in schedules.items()}
    config = config_lib.variant(config_lib.with_arms(config, arms), arg)
    if arg != 'smoke':
        return config
    config.data.name = 'synthetic'
    config.model.update({'dim': 4})
    config.server.num_rounds = 2
    return config_lib.with_arms(config, {model: {'model': {'name': model}} for model in _SMALL})
