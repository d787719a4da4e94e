"""What is refused before anything is computed."""

import pytest

from fedinv_jax.audit import checks, plan, threat_model
from fedinv_jax.audit import config as config_lib


def config_with(path, value):
    config = config_lib.default_config()
    *sections, field = path.split('.')
    section = config
    for name in sections:
        section = section[name]
    section[field] = value
    return config


def prepare(config):
    """All that a run does before it computes; what is seen has names once there is a model."""
    threat_model.describe(config, plan.make_cases(config))


def test_the_default_passes():
    checks.check(config_lib.default_config())


@pytest.mark.parametrize(
    ('field', 'value', 'nearest'),
    [
        ('model.name', 'nfc', 'ncf'),
        ('client.name', 'gradient_stp', 'gradient_step'),
        ('client.loss', 'bse', 'bce'),
        ('client.precision', 'float16', 'float64'),
        ('client.private_optimizer.name', 'adm', 'adam'),
        ('model.kernel_init', 'unifrom', 'uniform'),
        ('attack.warm_start', 'spectrl', 'spectral'),
        ('dynamics.name', ('free', 'unroled'), 'unrolled'),
        ('attack.name', ('mgradinw',), 'mgradinv'),
        ('attack.distance', 'cosin', 'cosine'),
        ('attack.dtype', 'float46', 'float64'),
        ('attack.optimizer.name', 'adm', 'adam'),
        ('attack.optimizer.decay', 'cosin', 'cosine'),
        ('server.optimizer.name', 'sdg', 'sgd'),
        ('server.aggregate_items', 'men', 'mean'),
        ('server.aggregate_scorer', 'mean_over_touch', 'mean_over_touched'),
        ('observation.seen', ('item+scorer',), 'items'),
        ('data.labels', 'rating', 'ratings'),
    ],
)
def test_unknown_names_are_refused_before_anything_is_computed(field, value, nearest):
    with pytest.raises(ValueError, match=nearest) as caught:
        prepare(config_with(field, value))
    unknown = value[-1] if isinstance(value, tuple) else value
    assert unknown.split('+')[0] in str(caught.value)


# The same names of a client that is not the default one.
def test_unknown_optimizer_of_local_sgd():
    config = config_with('client.optimizer.name', 'sdg')
    config.client.name = 'local_sgd'
    with pytest.raises(ValueError, match=r"client\.optimizer\.name='sdg'.*'sgd'"):
        plan.make_case(config)


def test_unknown_data_names_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown data set 'ml-100'.*'ml-100k'"):
        plan.make_case(config_with('data.name', 'ml-100'))


# Failed on the mutant `number < 0`.
@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('attack.num_gradients', (0,)),
        ('attack.num_gradients', (1, -2)),
        ('attack.interval', (0,)),
        ('num_seeds', 0),
        ('attack.num_iterations', 0),
        ('attack.num_restarts', 0),
        ('attack.victims_per_call', 0),
        ('server.num_rounds', 0),
        ('data.negatives_per_positive', 0),
    ],
)
def test_counts_below_one(field, value):
    number = value[-1] if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=rf'Expected {field}={number} to be an integer >= 1\.'):
        checks.check(config_with(field, value))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'seed': -1}, r'Expected seed=-1 in \[0, 4294967295\]\.'),
        ({'observation.noise': -0.5}, r'Expected observation\.noise=-0\.5 >= 0\.'),
        ({'client.item_drift': -1.0}, r'Expected client\.item_drift=-1\.0 >= 0\.'),
        ({'data.max_users': 0}, r'Expected data\.max_users=0 >= 1\.'),
        (
            {'data.columns': ('user', 'item')},
            r'data\.columns needs a file: data\.name is synthetic',
        ),
        ({'data.header': False}, r'data\.header needs a file: data\.name is synthetic'),
        (
            {'data.name': 'x.csv', 'data.columns': ('user', 'items')},
            r"Unknown data\.columns='items'\. Did you mean 'item'",
        ),
        ({'num_seeds': 5, 'attack.num_victims': 4}, r'num_victims=4 to be at least num_seeds=5'),
        ({'client.item_drift': 0.1}, r"client\.item_drift needs client\.name='local_sgd'"),
        ({'client.num_epochs': 5}, r"client\.num_epochs needs client\.name='local_sgd'"),
        ({'client.batch_size': 8}, r"client\.batch_size needs client\.name='local_sgd'"),
        ({'client.optimizer.name': 'adam'}, r"client\.optimizer needs client\.name='local_sgd'"),
        ({'data.labels': 'ratings', 'attack.name': ('exact',)}, r"needs data\.labels='implicit'"),
        (
            {'observation.seen': ('scorer',), 'attack.name': ('sign',)},
            r"seen='scorer' does not contain them",
        ),
        (
            {'model.item_features': 'random', 'client.item_rate_scale': 2.0},
            r'client\.item_rate_scale are about item rows',
        ),
        ({'model.item_features': 'random'}, r"observation\.seen must be \('scorer',\)"),
        (
            {'model.item_features': 'random', 'model.name': 'fedrap'},
            r'needs model\.item_features=None',
        ),
        (
            {
                'model.item_features': 'genres',
                'observation.uploaded': ('scorer',),
                'observation.seen': ('scorer',),
            },
            r"those of data\.name='ml-100k', not of 'synthetic'",
        ),
        ({'client.private_optimizer.name': 'adam'}, r"needs client\.name='local_sgd'"),
        (
            {'attack.warm_start': 'exact'},
            r"attack\.warm_start='exact' needs attack\.dtype='float64'",
        ),
        ({'client.precision': 'float64'}, r"needs attack\.dtype='float64'"),
        *(
            ({'attack.optimizer.name': 'gauss_newton', **change}, f"gauss_newton' {message}")
            for change, message in (
                ({'attack.distance': 'cosine'}, 'minimises squares'),
                ({'observation.batch_known': False, 'observation.seen': ('scorer',)}, 'needs'),
                ({'observation.cohort': 4}, 'needs'),
            )
        ),
        ({'observation.delta': 0.0}, r'Expected observation\.delta=0\.0 in \(0, 1\)\.'),
        *(
            (
                {
                    'data.resample_negatives': True,
                    'observation.batch_known': False,
                    'observation.seen': ('scorer',),
                    **defence,
                },
                'resample_negatives cannot be combined',
            )
            for defence in (
                {'observation.label_epsilon': 1.0},
                {'observation.pseudo_rate': 0.1},
                {'observation.noise': 0.1},
                {'observation.top_k_share': 0.1, 'observation.error_feedback': True},
            )
        ),
    ],
    ids=str,
)
def test_values_that_contradict(changes, message):
    config = config_lib.default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        checks.check(config)


# Failed on `value < least` for `not least <= value`, and on bounds that include infinity.
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize(
    'field',
    [
        'observation.noise',
        'observation.clip',
        'observation.label_epsilon',
        'observation.top_k_share',
        'observation.delta',
        'client.item_drift',
        'client.private_learning_rate',
        'client.optimizer.learning_rate',
        'server.optimizer.learning_rate',
        'attack.optimizer.learning_rate',
        'attack.label_rate_scale',
        'attack.priors.norm',
        'attack.stop_below',
        'model.scale',
        'data.rating_threshold',
        'data.synthetic.taste_strength',
    ],
)
def test_numbers_that_are_not_finite(field, value):
    with pytest.raises(ValueError, match=rf'Expected {field}={value} to be a finite number\.'):
        checks.check(config_with(field, value))


def test_what_switches_a_field_off_is_said():
    with pytest.raises(ValueError, match=r'clip=inf .*None switches it off'):
        checks.check(config_with('observation.clip', float('inf')))


# Failed on the mutants of `check_range` that print [ for ( and that ignore `below`.
@pytest.mark.parametrize(
    ('field', 'value', 'bound'),
    [
        ('client.private_learning_rate', -0.1, '>= 0'),
        ('client.optimizer.learning_rate', -0.1, '>= 0'),
        ('server.optimizer.learning_rate', -0.1, '>= 0'),
        ('attack.optimizer.learning_rate', -0.1, '>= 0'),
        ('attack.priors.sparsity', -0.1, '>= 0'),
        ('attack.label_rate_scale', -1.0, '>= 0'),
        ('attack.num_victims', -1, '>= 0'),
        ('model.scale', -1.0, '>= 0'),
        ('observation.top_k_share', 1.5, r'in \[0, 1\]'),
        ('client.batch_share', 0.0, r'in \(0, 1\]'),
        ('attack.wrong_items', 1.0, r'in \[0, 1\)'),
        ('model.dropout', 1.0, r'in \[0, 1\)'),
        ('observation.delta', 1.0, r'in \(0, 1\)'),
        ('client.batch_size', 0, '>= 1'),
        ('server.clients_per_round', 0, '>= 1'),
        ('data.k_core', -1, '>= 0'),
        ('seed', -1, r'in \[0, 4294967295\]'),
        ('seed', 10**20, r'in \[0, 4294967295\]'),
    ],
)
def test_numbers_out_of_range(field, value, bound):
    with pytest.raises(ValueError, match=rf'Expected {field}={value} {bound}\.'):
        checks.check(config_with(field, value))


# Failed on: 'item' that 'observation.uploaded leaves out'.
@pytest.mark.parametrize('seen', ['item', 'items+scorers', 'itms/embedding'])
def test_a_part_that_is_none_names_the_nearest(seen):
    wrong = next(part for part in seen.split('+') if part not in ('items', 'scorer'))
    nearest = 'scorer' if wrong == 'scorers' else 'items'
    said = rf"Unknown part in observation\.seen='{wrong.split('/')[0]}'\. Did you mean '{nearest}'"
    with pytest.raises(ValueError, match=said):
        checks.check(config_with('observation.seen', (seen,)))


def test_values_that_agree():
    for changes in (
        {'num_seeds': 5, 'attack.num_victims': 0},
        {'client.name': 'local_sgd', 'client.item_drift': 0.1},
        {'attack.warm_start': 'exact', 'attack.dtype': 'float64'},
        {'attack.warm_start': 'sign'},
        {'client.batch_share': 1.0, 'attack.wrong_items': 0.0, 'model.dropout': 0.0},
        {'data.labels': 'ratings', 'attack.name': ('spectral', 'popularity')},
        # They compute in float64 whatever the rest does.
        {'client.precision': 'float64', 'attack.name': ('exact', 'popularity')},
    ):
        config = config_lib.default_config()
        config.update_from_flattened_dict(changes)
        checks.check(config)


@pytest.mark.parametrize('value', [(2.5,), ('two',), (None,)])
def test_counts_that_are_no_integers(value):
    with pytest.raises(ValueError, match=r'Expected attack\.num_gradients='):
        checks.check(config_with('attack.num_gradients', value))


@pytest.mark.parametrize(
    'field', ['attack.num_gradients', 'attack.name', 'dynamics.name', 'observation.seen']
)
def test_an_empty_axis_is_refused(field):
    with pytest.raises(ValueError, match=field):
        checks.check(config_with(field, ()))


# Failed on the mutant `setting.rounds[-1] > config.server.num_rounds`.
def test_an_interval_past_the_training():
    config = config_lib.default_config()
    config.server.num_rounds = 100
    config.attack.update({'num_gradients': (1, 4), 'first_round': (9,), 'interval': (30,)})
    checks.check(config)  # 9, 39, 69, 99
    config.attack.first_round = (10,)
    with pytest.raises(
        ValueError,
        match=r'past the end of the training: first_round=10, num_gradients=4, interval=30 give '
        r'round 100; expected at most 99 \(server\.num_rounds=100\)\.',
    ):
        checks.check(config)
    config.attack.update({'first_round': (-1,), 'interval': (1,)})
    with pytest.raises(ValueError, match=r'attack\.first_round=-1 to be an integer >= 0\.'):
        checks.check(config)


@pytest.mark.parametrize('seen', ['items', 'items+scorer', 'scorer+items/bias'])
def test_items_seen_with_the_batch_unknown(seen):
    config = config_with('observation.batch_known', False)
    config.observation.seen = ('scorer', seen)
    with pytest.raises(ValueError, match='Item rows reveal which items'):
        checks.check(config)


UNKNOWN = {'attack.step_sizes_known': False}


def test_fresh_negatives_with_the_batch_known():
    config = config_with('data.resample_negatives', True)
    checks.check(config)
    config.dynamics.name = ('free', 'unrolled')
    with pytest.raises(ValueError, match=r'dynamics\.name must be free or static'):
        checks.check(config)
    config.observation.update({'batch_known': False, 'seen': ('scorer',)})
    checks.check(config)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'observation.cohort': 2, 'attack.placebo': True}, r'it needs observation\.cohort=1'),
        ({'observation.cohort': 2, 'attack.wrong_items': 0.1}, r'attack\.wrong_items needs one'),
        ({'observation.cohort': 2, 'data.resample_negatives': True}, 'cohort above 1 needs'),
        ({'data.resample_negatives': True, 'attack.wrong_items': 0.1}, 'needs one client with a'),
        (
            {'client.learning_rate_decay': 0.5},
            r"learning_rate_decay needs client\.name='local_sgd'",
        ),
        ({'client.shuffle': True}, r"client\.shuffle needs client\.name='local_sgd'"),
        ({'client.learning_rate_decay': 1.5}, r'client\.learning_rate_decay=1\.5'),
        ({'client.item_rate_scale': 0.0}, r'client\.item_rate_scale=0\.0 > 0'),
        ({'client.name': 'local_sgd', 'client.num_epochs': 2, **UNKNOWN}, 'clients of one step'),
        (
            {'client.name': 'local_sgd', 'client.private_optimizer.name': 'adam', **UNKNOWN},
            'clients of one step',
        ),
        ({'observation.cohort': 2, **UNKNOWN}, 'needs the upload of one client'),
        ({'client.weight_decay': 0.01, **UNKNOWN}, 'leave weight_decay at its default'),
        ({'client.batch_share': 0.5, **UNKNOWN}, 'leave batch_share at its default'),
        ({'observation.clip': 1.0, **UNKNOWN}, 'leave clip at its default'),
        ({'attack.name': ('dlg',), **UNKNOWN}, r"attack\.name='dlg' knows the step sizes"),
        ({'attack.distance': 'cosine', **UNKNOWN}, 'a distance that no step size changes'),
        ({'attack.optimizer.name': 'gauss_newton', **UNKNOWN}, 'and no gauss_newton'),
    ],
    ids=str,
)
def test_what_an_attacker_may_lack_and_what_that_needs(changes, message):
    config = config_lib.default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        checks.check(config)


# 'scorer/items/kernel' is the block of NCF's first kernel that meets the item, not an item row.
@pytest.mark.parametrize('seen', ['scorer', 'scorer/items/kernel'])
def test_the_scorer_seen_with_the_batch_unknown(seen):
    config = config_with('observation.batch_known', False)
    config.observation.seen = (seen,)
    checks.check(config)
