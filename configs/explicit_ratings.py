"""Explicit ratings: what the exact attack and MGradInv find in uploads trained on stars.

MovieLens-100K, D = 16. The batch of a client is the items that it rated, and nothing else; the
model predicts ratings of 1 to 5 stars by squared error, with FedSGD and AdamW on the server. That
an item is rated follows from its row; the secret is the rating. 32 victims of 20 to 60 ratings are
attacked at rounds 0 and 100, with one, two and four gradients. An arm is a model: NCF, whose scorer
is seen too, or matrix factorisation without or with item biases, whose item rows alone are.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/explicit_ratings.py
    ... python scripts/study.py --config=configs/explicit_ratings.py --arms=ncf

Ratings in half stars, such as those of MovieLens-25M, have the scale (0.5, 5.0, 0.5):

    ... --config.data.name=PATH --config.data.rating_scale="(0.5,5.0,0.5)"
"""

from typing import Any

from fedinv_jax.audit import config as config_lib


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke'."""
    config = config_lib.default_config()
    config.data.update({'name': 'ml-100k', 'labels': 'explicit', 'leave_one_out': True})
    config.data.update({'ties': 'random', 'max_positives': 120})
    config.model.scale = 0.1
    config.client.update({'loss': 'squared_error', 'private_learning_rate': 0.1})
    config.server.num_rounds = 110
    config.server.optimizer.update({'name': 'adamw', 'learning_rate': 0.02})
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity', 'mean_rating'),
            'num_victims': 32,
            'num_gradients': (1, 2, 4),
            'first_round': (0, 100),
            'num_iterations': 1000,
            'min_positives': 20,
            'max_positives': 60,
        }
    )
    arms: dict[str, dict[str, Any]] = {
        'ncf': {'model': {'name': 'ncf'}},
        'matrix_factorization': {'model': {'name': 'matrix_factorization'}},
        'matrix_factorization_bias': {'model': {'name': 'matrix_factorization', 'item_bias': True}},
    }
    for name in arms.keys() - {'ncf'}:
        arms[name]['observation'] = {'seen': ('items',)}
    if arg != 'smoke':
        return config_lib.variant(config_lib.with_arms(config, arms), arg)
    config = config_lib.variant(config, arg)
    config.data.update({'name': 'synthetic', 'max_positives': 10})
    config.data.synthetic.num_ratings = 5
    config.model.update({'dim': 4, 'hidden': (8,)})
    config.server.num_rounds = 4
    config.attack.update({'num_victims': 2, 'num_iterations': 3, 'num_gradients': (1,)})
    config.attack.update({'min_positives': 1, 'max_positives': None})
    return config_lib.with_arms(config, arms)
