"""Configs: what is refused before anything is computed, the settings, and who the victims are."""

import pathlib
import sys

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from fedinv_jax import _validate
from fedinv_jax.audit import attackers, checks, plan, study, threat_model, training
from fedinv_jax.audit import config as config_lib
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import interactions as interactions_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def config_with(path, value):
    config = config_lib.default_config()
    *sections, field = path.split('.')
    section = config
    for name in sections:
        section = section[name]
    section[field] = value
    return config


def small(**data):
    """A config whose data takes no time."""
    config = config_lib.default_config()
    config.data.synthetic.update({'num_users': 12, 'num_items': 60})
    config.data.update(data)
    config.attack.num_victims = 4
    return config


def prepare(config):
    """All that a run does before it computes; what is seen has names once there is a model."""
    threat_model.describe(config, plan.make_cases(config))


def parse(path, *overrides):
    """The config as the scripts get it from their flags."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values)
    with pytest.MonkeyPatch.context() as patch:
        # The overrides are read from there.
        patch.setattr(sys, 'argv', ['attack.py', f'--config={path}', *overrides])
        values(sys.argv)
    return values.config


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
        ('attack.start', 'spectrl', 'spectral'),
        ('dynamics.name', ('free', 'unroled'), 'unrolled'),
        ('attack.name', ('mgradinw',), 'mgradinv'),
        ('attack.distance', 'cosin', 'cosine'),
        ('attack.precision', 'float46', 'float64'),
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


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('adm', r"Unknown x\.name='adm'\. Did you mean 'adam' or .* Choices: 'adabelief', "),
        ('zzzzzz', r"Unknown x\.name='zzzzzz'\. Choices: "),
    ],
)
def test_lookup(name, message):
    choices = {'adam': 1, 'adabelief': 2, 'adan': 3}
    with pytest.raises(ValueError, match=message):
        _validate.lookup('x.name', name, choices)
    assert _validate.lookup('x.name', 'adam', choices) == 1
    assert _validate.lookup('x.name', 'adam', tuple(choices)) == 'adam'


def test_every_name_of_the_choices_can_be_made():
    config = small(min_positives=8, max_positives=10)
    for name in config_lib.MODELS:
        config.model.name = name
        model = training.make_model(config.model, 5)
        for client in config_lib.CLIENTS:
            config.client.name = client
            for loss in config_lib.LOSSES:
                config.client.loss = loss
                training.make_client_update(config.client, model)
        for dynamics in config_lib.DYNAMICS:
            attackers.make_dynamics(dynamics, [0, 2], model)
        for setting in config_lib.settings(config):
            assert callable(attackers.make_attack(config, setting, model, 0.2, None).attack)
    for prior in config_lib.PRIORS:
        config.attack.priors[prior] = 0.5
    assert [weight for weight, _ in attackers.make_priors(config)] == [0.5] * 4


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
        ('attack.block', 0),
        ('server.num_rounds', 0),
        ('data.per_positive', 0),
    ],
)
def test_counts_below_one(field, value):
    number = value[-1] if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=rf'Expected {field}={number} to be an integer >= 1\.'):
        checks.check(config_with(field, value))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'seed': -1}, r'Expected seed=-1 >= 0\.'),
        ({'observation.noise': -0.5}, r'Expected observation\.noise=-0\.5 >= 0\.'),
        ({'client.item_drift': -1.0}, r'Expected client\.item_drift=-1\.0 >= 0\.'),
        ({'data.max_users': 0}, r'Expected data\.max_users=0 >= 1\.'),
        ({'num_seeds': 5, 'attack.num_victims': 4}, r'num_victims=4 to be at least num_seeds=5'),
        ({'client.item_drift': 0.1}, r"client\.item_drift needs client\.name='local_sgd'"),
        ({'client.num_epochs': 5}, r"client\.num_epochs needs client\.name='local_sgd'"),
        ({'client.batch_size': 8}, r"client\.batch_size needs client\.name='local_sgd'"),
        ({'client.optimizer.name': 'adam'}, r"client\.optimizer needs client\.name='local_sgd'"),
        ({'data.labels': 'ratings', 'attack.name': ('exact',)}, r"needs data\.labels='implicit'"),
        ({'observation.seen': ('scorer',), 'attack.name': ('sign',)}, r"seen='scorer' has none"),
        ({'client.private_optimizer.name': 'adam'}, r"needs client\.name='local_sgd'"),
        ({'attack.start': 'exact'}, r"attack\.start='exact' needs attack\.precision='float64'"),
        ({'client.precision': 'float64'}, r'attack\.precision=float64'),
        ({'observation.delta': 0.0}, r'Expected observation\.delta=0\.0 between 0 and 1'),
        *(
            (
                {
                    'data.fresh_negatives': True,
                    'observation.batch_known': False,
                    'observation.seen': ('scorer',),
                    **defence,
                },
                'fresh_negatives allows no',
            )
            for defence in (
                {'observation.label_epsilon': 1.0},
                {'observation.pseudo': 0.1},
                {'observation.noise': 0.1},
                {'observation.top': 0.1, 'observation.error_feedback': True},
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


def test_values_that_agree():
    for changes in (
        {'num_seeds': 5, 'attack.num_victims': 0},
        {'client.name': 'local_sgd', 'client.item_drift': 0.1},
        {'attack.start': 'exact', 'attack.precision': 'float64'},
        {'attack.start': 'sign'},
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
        match=r'runs past the training: first_round=10, num_gradients=4, interval=30 observe '
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
    with pytest.raises(ValueError, match='Item rows reveal the batch'):
        checks.check(config)


def test_fresh_negatives_with_the_batch_known():
    config = config_with('data.fresh_negatives', True)
    with pytest.raises(ValueError, match=r'needs observation\.batch_known=False'):
        checks.check(config)


# 'scorer/items/kernel' is the block of NCF's first kernel that meets the item, not an item row.
@pytest.mark.parametrize('seen', ['scorer', 'scorer/items/kernel'])
def test_the_scorer_seen_with_the_batch_unknown(seen):
    config = config_with('observation.batch_known', False)
    config.observation.seen = (seen,)
    checks.check(config)


# Failed on the mutants that keep the interval at T = 1 and the hypothesis of a guesser.
def test_settings_are_the_product_without_duplicates():
    config = config_lib.default_config()
    config.observation.seen = ('scorer', 'items+scorer')
    config.dynamics.name = ('free', 'unrolled')
    config.attack.update({'num_gradients': (1, 2, 4), 'first_round': (0, 7), 'interval': (1, 10)})
    found = config_lib.settings(config)
    assert len(set(found)) == len(found)
    # T = 1 has no interval, T = 2 and 4 have two; guessers have no hypothesis.
    lengths = 1 + 2 * 2
    assert len(found) == 2 * 2 * lengths * (2 + 1 + 1)
    assert {s.interval for s in found if s.num_gradients == 1} == {None}
    assert {s.interval for s in found if s.num_gradients > 1} == {1, 10}
    assert {s.dynamics for s in found if s.attack == 'mgradinv'} == {'free', 'unrolled'}
    assert {s.dynamics for s in found if s.attack != 'mgradinv'} == {None}
    assert {s.seen for s in found} == {('scorer',), ('items', 'scorer')}


# Failed on the mutant that crosses them with the hypotheses.
def test_exact_attacks_have_one_hypothesis():
    config = config_lib.default_config()
    config.dynamics.name = ('unrolled', 'static')
    config.attack.update({'name': ('exact', 'sign', 'mgradinv'), 'num_gradients': (1, 2)})
    config.attack.precision = 'float32'
    found = [(s.attack, s.dynamics) for s in config_lib.settings(config) if s.num_gradients == 2]
    assert found == [
        ('exact', 'free'),
        ('sign', 'free'),
        ('mgradinv', 'unrolled'),
        ('mgradinv', 'static'),
    ]
    kinds = {name: config_lib.precision(config, name) for name in config_lib.ATTACKS}
    assert {name for name, kind in kinds.items() if kind == 'float64'} == set(config_lib.EXACT)


def test_single_seeds_share_the_victims():
    config = small()
    config.update({'seed': 7, 'num_seeds': 3})
    for total, expected in ((8, [3, 3, 2]), (3, [1, 1, 1]), (0, [0, 0, 0])):
        config.attack.num_victims = total
        singles = config_lib.single_seeds(config)
        assert [one.seed for one in singles] == [7, 8, 9]
        assert [one.attack.num_victims for one in singles] == expected
        assert {one.num_seeds for one in singles} == {1}
    # A config of one seed is its own, and the first victims are those of a run of that seed alone.
    (single,) = config_lib.single_seeds(singles[0])
    assert single.to_dict() == singles[0].to_dict()


def test_cases_of_several_seeds():
    config = small()
    config.num_seeds = 2
    first, second = plan.make_cases(config)
    assert (first.config.seed, second.config.seed) == (0, 1)
    assert [len(case.victims) for case in (first, second)] == [2, 2]
    one = small()
    assert plan.make_case(one).victims[:2] == first.victims
    # Data of their own, and the choice of a solver once.
    assert len(first.interactions.items) != len(second.interactions.items)
    for setting, choice in first.attacks.items():
        assert (second.attacks[setting] is choice) == (setting.attack == 'mgradinv')


def test_the_data_set_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / 'ratings.csv'
    path.write_text(''.join(f'{u},{(u + i) % 9},5\n' for u in range(8) for i in range(6)))
    config = small(name=str(path))
    config.num_seeds = 2
    first, second = plan.make_cases(config)
    assert first.interactions is second.interactions
    assert first.victims != second.victims


def test_rounds_of_a_setting():
    setting = config_lib.Setting('mgradinv', 'free', 3, 5, 10, ('scorer',))
    assert setting.rounds == [5, 15, 25]
    assert setting._replace(num_gradients=1, interval=None).rounds == [5]


# Failed on the mutants without the seed, and `users[:count]` without the permutation.
def test_victims_are_drawn_by_seed():
    config = small()
    interactions = training.make_interactions(config)[0]
    clients = training.make_clients(config, interactions)
    users = {int(user) for group in clients for user in group.users}
    victims = plan.choose_victims(config, clients)
    assert len(set(victims)) == 4
    assert set(victims) <= users
    assert victims == plan.choose_victims(config, clients)
    assert victims == plan.choose_victims(config, clients[::-1])
    draws = set()
    for seed in range(5):
        config.seed = seed
        draws.add(tuple(plan.choose_victims(config, clients)))
    assert len(draws) == 5
    # More victims leave the first ones as they are.
    config.seed = 0
    config.attack.num_victims = 6
    assert plan.choose_victims(config, clients)[:4] == victims
    config.attack.num_victims = 0
    assert set(plan.choose_victims(config, clients)) == users


# Failed on the mutants without the filter, and of the first ones in the order of the groups.
def test_only_the_first_users_are_clients():
    config = small()
    config.data.synthetic.update({'num_users': 40, 'num_items': 400})
    interactions = training.make_interactions(config)[0]
    everyone = training.make_clients(config, interactions)
    users = np.sort(np.concatenate([group.users for group in everyone]))
    assert len(everyone) > 1
    config.data.max_users = 4
    first = training.make_clients(config, interactions)
    assert np.sort(np.concatenate([group.users for group in first])).tolist() == users[:4].tolist()
    for group in first:
        assert len(group.users)
        whole = next(other for other in everyone if group.users[0] in other.users)
        place = np.flatnonzero(whole.users == group.users[0])[0]
        for name, leaf in vars(group).items():
            np.testing.assert_array_equal(leaf[0], getattr(whole, name)[place])
    config.data.max_users = 10**6
    assert len(training.make_clients(config, interactions)) == len(everyone)


@pytest.mark.parametrize('count', [-1, 13])
def test_too_many_victims(count):
    config = small()
    clients = training.make_clients(config, training.make_interactions(config)[0])
    assert sum(len(group.users) for group in clients) == 12
    config.attack.num_victims = count
    with pytest.raises(ValueError, match=rf'attack\.num_victims={count} <= 12 clients'):
        plan.choose_victims(config, clients)


def test_data_sections_reach_the_data(tmp_path):
    path = tmp_path / 'ratings.csv'
    path.write_text(''.join(f'{u},{i},{(u + i) % 5 + 1}\n' for u in range(8) for i in range(8)))
    config = small(name=str(path), threshold=4.0, core=2)
    interactions = training.make_interactions(config)[0]
    assert interactions.ratings.min() >= 4
    counts = np.bincount(interactions.users)
    assert counts.min() >= 2
    assert np.bincount(interactions.items).min() >= 2
    clients = training.make_clients(config, interactions)
    assert {float(x) for group in clients for x in np.unique(group.labels)} == {0.0, 1.0}
    config.data.labels = 'ratings'
    groups = training.make_clients(config, interactions)
    assert {round(float(x), 6) for group in groups for x in np.unique(group.labels)} == {0, 0.9, 1}


def test_optimizers_of_optax_by_name():
    config = config_lib.default_config()
    section = config.attack.optimizer
    for name in ('adam', 'sgd', 'rmsprop', 'adamw'):
        section.name = name
        made = training.make_optimizer('attack.optimizer', section, 10)
        assert callable(made.init)
        assert callable(made.update)


def test_the_cosine_decay_ends_at_zero():
    config = config_lib.default_config()
    section = config.attack.optimizer
    section.update({'name': 'sgd', 'learning_rate': 0.5, 'decay': 'cosine'})
    optimizer = training.make_optimizer('attack.optimizer', section, 4)
    state, steps = optimizer.init(np.zeros(1)), []
    for _ in range(5):
        update, state = optimizer.update(np.ones(1), state)
        steps.append(-float(update[0]))
    # .5 (1 + cos(pi t / 4)) / 2
    expected = [0.5 * (1 + np.cos(np.pi * t / 4)) / 2 for t in range(5)]
    np.testing.assert_allclose(steps, expected, atol=1e-6)


def test_threat_model_counts_knowns_and_unknowns():
    config = small(min_positives=8, max_positives=8)
    config.model.update({'name': 'matrix_factorization', 'dim': 4})
    config.observation.seen = ('items',)
    config.attack.num_gradients = (1, 3)
    config.attack.num_victims = 1
    text = threat_model.describe(config, plan.make_cases(config))
    # 8 positives and 32 negatives, 4 numbers a row.
    assert '160 : 40 + 4 = 3.64' in text
    assert '480 : 40 + 12 = 9.23' in text
    assert 'items known, labels unknown' in text


# Failed on: the numbers of one member's rows.
def test_threat_model_counts_the_whole_cohort():
    config = small(min_positives=8, max_positives=8)
    config.model.update({'name': 'matrix_factorization', 'dim': 4})
    config.observation.update({'seen': ('items',), 'cohort': 3})
    config.attack.update({'name': ('sign',), 'num_gradients': (1,), 'num_victims': 1})
    text = threat_model.describe(config, plan.make_cases(config))
    assert '480 : 120 + 12 = 3.64' in text


def test_a_row_says_how_many_of_the_cohorts_take_part():
    config = config_lib.default_config()
    config.observation.update({'cohort': 3, 'sum_noise': 0.5})
    assert config_lib.defence(config) == 'cohort 3, sum noise 0.5'
    config.server.clients_per_round = 10
    assert config_lib.defence(config) == 'cohort 3, 10 clients a round, sum noise 0.5'


# Failed on: the same rows twice, of attackers who use nothing that a blind one does not know.
def test_attacks_on_rows_alone_are_run_once():
    config = config_lib.default_config()
    config.observation.noise = 0.1
    config.attack.update({'name': ('sign', 'spectral', 'summed'), 'adaptive': (True, False)})
    found = {(setting.attack, setting.adaptive) for setting in config_lib.settings(config)}
    assert found == {('sign', True), ('sign', False), ('spectral', True), ('summed', True)}
    # A blind one takes the public share for the one that trains, and missing rows for any.
    for defence in ({'pseudo': 0.5, 'top': 1.0}, {'pseudo': 0.0, 'top': 0.5}):
        config.observation.update(defence)
        found = {(setting.attack, setting.adaptive) for setting in config_lib.settings(config)}
        assert ('spectral', False) in found


def test_threat_model_counts_only_the_leaves_that_are_seen():
    config = small(min_positives=8, max_positives=8)
    config.model.update({'name': 'matrix_factorization', 'dim': 4, 'item_bias': True})
    config.observation.seen = ('items/bias',)
    config.attack.num_gradients = (1,)
    config.attack.num_victims = 1
    text = threat_model.describe(config, plan.make_cases(config))
    assert ' 40 : 40 + 4 ' in text


def test_threat_model_says_what_defends_and_how_many_runs():
    config = small()
    config.num_seeds = 2
    text = threat_model.describe(config, plan.make_cases(config))
    assert '4 victims of 2 training runs (seeds 0 to 1), batches of' in text
    assert 'defence   none' in text
    config.client.update({'name': 'local_sgd', 'item_drift': 0.5})
    config.client.private_optimizer.name = 'adam'
    config.observation.noise = 0.01
    text = threat_model.describe(config, plan.make_cases(config))
    assert 'defence   Gaussian noise of standard deviation 0.01 on every entry of an up' in text
    assert 'defence   mean L1 penalty of weight 0.5 on moved item rows' in text
    assert 'defence   the attacker knows of them' in text
    assert 'privacy   epsilon = inf (Gaussian noise on each upload' in text
    assert 'step size of adam 0.1 (known)' in text
    assert config_lib.defence(config) == 'item_drift 0.5, noise 0.01'


def test_a_typo_in_a_config_file_is_refused():
    config = config_lib.default_config()
    with pytest.raises((AttributeError, KeyError), match='num_gradients'):
        config.attack.num_gradiens = 4
    with pytest.raises((AttributeError, KeyError), match='num_gradients'):
        config.attack.update({'num_gradiens': 4})


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_flags(path):
    for arm in study.arms(parse(path)).values():
        checks.check(arm)
    with pytest.raises(AttributeError, match='Did you mean "num_gradients"'):
        parse(path, '--config.attack.num_gradiens=4')
    assert parse(path, '--config.attack.num_gradients=4').attack.num_gradients == (4,)
    assert parse(path, '--config.attack.num_gradients=(1,4)').attack.num_gradients == (1, 4)
    assert parse(path, '--config.data.max_positives=9').data.max_positives == 9


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_smoke_shrinks_and_nothing_else_is_accepted(path):
    full, smoke = parse(path), parse(f'{path}:smoke')
    for arm in study.arms(smoke).values():
        checks.check(arm)
    assert smoke.attack.num_victims <= 4
    assert smoke.attack.num_iterations <= 50
    assert smoke.data.name == full.data.name or 'arms' in full
    assert smoke.model.name == full.model.name
    with pytest.raises((ValueError, flags.IllegalFlagValueError), match="Did you mean 'smoke'"):
        parse(f'{path}:smok')


def test_smoke_is_the_same_experiment_but_smaller():
    config = config_lib.default_config()
    config.attack.update({'num_gradients': (1, 2, 4), 'interval': (5, 50), 'first_round': (0, 9)})
    smoke = config_lib.variant(config, 'smoke')
    assert smoke.attack.num_gradients == (1, 2)
    assert smoke.attack.first_round == (0,)
    assert smoke.attack.interval == (1,)
    checks.check(smoke)
    interactions, held_out = training.make_interactions(smoke)
    assert isinstance(interactions, interactions_lib.Interactions)
    assert held_out is None
    clients = training.make_clients(smoke, interactions)
    assert 0 < clients_lib.public_share(clients) < 1
