"""Configs: their flags, their smoke variants, and the config of each seed."""

import operator

import pytest
from absl import flags

from fedinv_jax.audit import checks, optional, study, training
from fedinv_jax.audit import config as config_lib
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import interactions as interactions_lib
from tests.audit.helpers import ROOT, parse, small

CONFIGS = sorted(path for path in (ROOT / 'configs').glob('*.py'))


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


def test_a_typo_in_a_config_file_is_refused():
    config = config_lib.default_config()
    with pytest.raises((AttributeError, KeyError), match='num_gradients'):
        config.attack.num_gradiens = 4
    with pytest.raises((AttributeError, KeyError), match='num_gradients'):
        config.attack.update({'num_gradiens': 4})


OPTIONAL = [
    ('observation.clip', '2.5', 2.5),
    ('client.batch_size', '8', 8),
    ('data.header', 'true', True),
    ('data.columns', "('user', 'item')", ('user', 'item')),
    ('attack.distance', 'cosine', 'cosine'),
    ('data.synthetic.max_activity', '9', 9),
]


# Failed on the flags of int, float and bool, which refused None, and of str, which took the word.
@pytest.mark.parametrize(('field', 'text', 'value'), OPTIONAL)
def test_none_switches_an_optional_field_off(tmp_path, field, text, value):
    path, default = tmp_path / 'own.py', config_lib.default_config()
    path.write_text(
        'from fedinv_jax.audit import config as config_lib\n\n\n'
        'def get_config(arg=None):\n    config = config_lib.default_config()\n'
        f'    config.{field} = {value!r}\n    return config\n'
    )
    of = operator.attrgetter(field)
    assert of(default) is None
    assert of(parse(path)) == value
    for word in ('None', 'none'):
        assert of(parse(path, f'--config.{field}={word}')) is None
        assert of(parse(path, f'--config.{field}={text}', f'--config.{field}={word}')) is None
    assert of(parse(path, f'--config.{field}=None', f'--config.{field}={text}')) == value


@pytest.mark.parametrize('flag', ['observation.clip=no', 'client.batch_size=1.5', 'seed=None'])
def test_a_flag_that_is_no_value(flag):
    with pytest.raises(flags.IllegalFlagValueError, match=flag):
        parse(CONFIGS[0], f'--config.{flag}')


# Failed on what absl says: ('Non-boolean argument to boolean flag', 'maybe').
@pytest.mark.parametrize(
    ('flag', 'kind'),
    [
        ('data.header=maybe', 'True or False'),
        ('data.leave_one_out=maybe', 'True or False'),
        ('seed=1.5', 'an integer'),
        ('data.max_positives=nan', 'an integer'),
        ('data.rating_threshold=4,5', 'a number'),
    ],
)
def test_flags_of_another_type_are_refused_in_plain_words(flag, kind):
    with pytest.raises(flags.IllegalFlagValueError) as error:
        parse(CONFIGS[0], f'--config.{flag}')
    assert optional.plain(str(error.value)) == f'Expected --config.{flag} to be {kind}.'
    assert optional.plain('Unknown command line flag') == 'Unknown command line flag'


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
