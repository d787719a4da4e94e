"""What the headline rests on: each assumption about the client dropped or broken, one at a time.

NCF (D = 16, hidden [64, 32, 16]); the server sees the scorer's gradients of one round, or of four
rounds that are ten apart, and knows the batch, but not the private learning rate: MGradInv takes
the private embedding of each round for another unknown (hypothesis 'free'). In each arm the
clients train by other rules than the attacker believes (`attack.believes`), or the attacker lacks
something; docs/assumptions.md has a sentence for each. The exact attack and MGradInv run on the
same 32 victims; on 8 where each step of the attack replays several local ones, to stay within six
hours. Arms `synthetic_...` are the same on synthetic data.

    FEDINV_DATA_DIR=$DATA python scripts/study.py --config=configs/study_assumptions.py
    python scripts/study.py --config=configs/study_assumptions.py --arms=synthetic_five_epochs

Results: docs/assumptions.md.
"""

from typing import Any

from fedinv_jax.audit import config as config_lib


def _client(believed: str = '', **changes: Any) -> dict[str, Any]:
    """An arm with another client; `believed` is what the attacker believes instead."""
    return {'client': changes, 'attack': {'believes': (believed,) if believed else ()}}


def _replayed(believed: str = '', **changes: Any) -> dict[str, Any]:
    """An arm whose attacker replays several local steps in each of its own: 8 victims."""
    arm = _client(believed, name='local_sgd', **changes)
    return {**arm, 'attack': {**arm['attack'], 'num_victims': 8}}


def _unrolled(believed: str = '', **changes: Any) -> dict[str, Any]:
    """An arm whose attacker replays the private learning rate, in all rounds between."""
    return {
        'dynamics': {'name': ('unrolled',)},
        'attack': {'believes': (believed,) if believed else ()},
        **changes,
    }


def _item_rows(**data: Any) -> dict[str, Any]:
    """An arm in which item rows are seen too."""
    seen = {'observation': {'seen': ('items+scorer',)}}
    return {**seen, 'data': data, 'attack': {'placebo': True}}


_SOME: dict[str, Any] = {'server': {'clients_per_round': 50}}  # of 305 (MovieLens-100K) or 111
ASSUMPTIONS: dict[str, dict[str, Any]] = {
    'headline_private_rate_unknown': {'attack': {'placebo': True}},
    'no_popularity': {'attack': {'popularity': False}},
    'private_rate_known': _unrolled(),
    'private_rate_twice': _unrolled('client.private_learning_rate=0.2'),
    'private_rate_half': _unrolled('client.private_learning_rate=0.05'),
    'absent_between': _unrolled(**_SOME),
    'participation_unknown': {
        **_unrolled(**_SOME), 'attack': {'participation_known': False},
    },
    'half_of_the_batch': _client(batch_share=0.5),
    'minibatches_in_order': _replayed(batch_size=32),
    'minibatches_shuffled': _replayed(batch_size=32, shuffle=True),
    'five_epochs': _replayed(num_epochs=5),
    'five_epochs_for_one': _client('client.num_epochs=1', name='local_sgd', num_epochs=5),
    'rate_decay_unknown': _replayed(
        'client.learning_rate_decay=1.', num_epochs=5, learning_rate_decay=0.7
    ),
    'dropout': {'model': {'dropout': 0.1}},
    'weight_decay_1e-4': _client('client.weight_decay=0.', weight_decay=1e-4),
    'weight_decay_1e-2': _client('client.weight_decay=0.', weight_decay=1e-2),
    'label_smoothing': _client('client.label_smoothing=0.', label_smoothing=0.05),
    'positive_weight': _client('client.positive_weight=1.', positive_weight=4.0),
    'float16': _client(upload_dtype='float16'),
    'bfloat16': _client(upload_dtype='bfloat16'),
    'wrong_items_1': {'attack': {'wrong_items': 0.01}},
    'wrong_items_5': {'attack': {'wrong_items': 0.05}},
    'share_unknown': {'attack': {'believes': ('data.negatives_per_positive=1',)}},
    'item_rows': _item_rows(),
    'fresh_negatives_item_rows': _item_rows(resample_negatives=True),
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
    if arg:
        return _smoke(config_lib.variant(config, arg))
    synthetic = {'min_positives': 16, 'max_positives': 20, 'synthetic': {'num_users': 800}}
    data = {'': {'name': 'ml-100k', 'max_positives': 40}, 'synthetic_': synthetic}
    return config_lib.with_arms(
        config,
        {
            prefix + name: {**changes, 'data': {**section, **changes.get('data', {})}}
            for prefix, section in data.items()
            for name, changes in ASSUMPTIONS.items()
        },
    )


def _smoke(config: config_lib.Config) -> config_lib.Config:
    """Every assumption once: one seed, one size of batch, one layer, little to compile."""
    config.num_seeds, config.model.hidden, config.model.dim = 1, (8,), 4
    config.data.synthetic.num_users = 100
    config.data.min_positives = config.data.max_positives = 12
    config.attack.update(
        {'name': ('exact', 'mgradinv', 'popularity'), 'num_victims': 2, 'num_gradients': (2,)}
    )
    few = {'server': {'clients_per_round': 2}}
    arms = {
        name: {
            **arm,
            **(few if 'server' in arm else {}),
            'attack': {**arm.get('attack', {}), 'num_victims': 2},
        }
        for name, arm in ASSUMPTIONS.items()
    }
    return config_lib.with_arms(config, arms)
