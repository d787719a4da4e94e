"""What the headline rests on: each assumption about the client dropped or broken, one at a time.

NCF (D = 16, hidden [64, 32, 16]); the server sees the scorer's gradients of one round, or of four
rounds that are ten apart, and knows the batch. In each arm the clients train by other rules than
the attacker believes (`attack.believes`), or the attacker lacks something. The exact attack and
MGradInv run on the same 32 victims. Arms `synthetic_...` are the same on synthetic data.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_assumptions.py
    python scripts/study.py --config=configs/study_assumptions.py --arms=synthetic_headline

Results: docs/assumptions.md.
"""

from typing import Any

from fedinv_jax.audit import config as config_lib

_UNROLLED = {'dynamics': {'name': ('unrolled',)}}


def _client(believed: str, **changes: Any) -> dict[str, Any]:
    """An arm with another client, which the attacker does not know."""
    return {'client': changes, 'attack': {'believes': (believed,) if believed else ()}}


_EPOCHS = {'name': 'local_sgd', 'batch_size': 32, 'shuffle': True}
ASSUMPTIONS: dict[str, dict[str, Any]] = {
    'headline': {},
    'no_popularity': {'attack': {'popularity': False}},
    'private_rate_twice': {
        **_UNROLLED, 'attack': {'believes': ('client.private_learning_rate=0.2',)}
    },
    'private_rate_half': {
        **_UNROLLED, 'attack': {'believes': ('client.private_learning_rate=0.05',)}
    },
    'unrolled': _UNROLLED,
    'absent_between': {**_UNROLLED, 'server': {'clients_per_round': 100}},
    'participation_unknown': {
        **_UNROLLED, 'server': {'clients_per_round': 100}, 'attack': {'participation_known': False}
    },
    'half_of_the_batch': _client('', batch_share=0.5),
    'minibatches': _client('', **_EPOCHS),
    'five_epochs_for_one': {
        'client': {'name': 'local_sgd', 'num_epochs': 5},
        'attack': {'believes': ('client.num_epochs=1',)},
    },
    'dropout': {'model': {'dropout': 0.1}},
    'weight_decay_1e-4': _client('client.weight_decay=0.', weight_decay=1e-4),
    'weight_decay_1e-2': _client('client.weight_decay=0.', weight_decay=1e-2),
    'label_smoothing': _client('client.label_smoothing=0.', label_smoothing=0.05),
    'positive_weight': _client('client.positive_weight=1.', positive_weight=4.0),
    'float16': _client('', upload_dtype='float16'),
    'bfloat16': _client('', upload_dtype='bfloat16'),
    'wrong_items_1': {'attack': {'wrong_items': 0.01}},
    'wrong_items_5': {'attack': {'wrong_items': 0.05}},
    'share_unknown': {'attack': {'believes': ('data.negatives_per_positive=1',)}},
}  # fmt: skip


def get_config(arg: str | None = None) -> config_lib.Config:
    """`arg`: None or 'smoke', every assumption once on tiny synthetic data."""
    config = config_lib.default_config()
    config.num_seeds = 4
    config.model.update({'dim': 16, 'hidden': (64, 32, 16)})
    config.server.num_rounds = 40
    config.observation.seen = ('scorer',)
    config.attack.update(
        {
            'name': ('exact', 'mgradinv', 'popularity', 'random'),
            'num_victims': 32,
            'victims_per_call': 4,
            'num_gradients': (1, 4),
            'interval': (10,),
            'num_iterations': 1000,
        }
    )
    if arg == 'smoke':
        config = config_lib.variant(config, arg)
        config.num_seeds, config.model.hidden, config.attack.num_victims = 1, (8,), 2
        config.data.min_positives = config.data.max_positives = 12
        config.attack.name = ('exact', 'popularity')
        return config_lib.with_arms(config, ASSUMPTIONS)
    synthetic = {'min_positives': 16, 'max_positives': 20, 'synthetic': {'num_users': 800}}
    data = {'': {'name': 'ml-100k', 'max_positives': 40}, 'synthetic_': synthetic}
    return config_lib.with_arms(
        config,
        {
            prefix + name: {'data': section, **changes}
            for prefix, section in data.items()
            for name, changes in ASSUMPTIONS.items()
        },
    )
