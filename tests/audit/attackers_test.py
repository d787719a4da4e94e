"""Attacks as a config describes them: each field does what it says."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import item_table, transcripts, tree
from fedinv_jax.audit import attackers, mgradinv, plan, precision, training, transcript_file
from fedinv_jax.audit import channel as channel_lib
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import settings as settings_lib
from fedinv_jax.types import Answer, Batch, Transcript
from tests.audit.helpers import attacked, small, small_config
from tests.helpers import silent


def test_every_name_of_the_choices_can_be_made():
    config = small(min_positives=8, max_positives=10)
    for model_name in training.MODELS:
        config.model.name = model_name
        model = training.make_model(config.model, 5)
        for name in training.CLIENTS:
            config.client.name = name
            for loss in training.LOSSES:
                config.client.loss = loss
                training.make_client_update(config, model)
        for dynamics in attackers.DYNAMICS:
            attackers.make_dynamics(dynamics, [0, 2], model)
        for setting in settings_lib.settings(config):
            assert callable(plan.make_attack(config, setting, model, 0.2, None).attack)
    for prior in config.attack.priors:
        config.attack.priors[prior] = 0.5
    assert [weight for weight, _ in mgradinv.make_priors(config)] == [0.5] * 4


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    """A transcript of T = 2 uploads, as a file."""
    path = tmp_path_factory.mktemp('capture') / 't.npz'
    transcript_file.save_transcript(small_config(), str(path), log=silent)
    return path


def answer(seen, tmp_path, **changes):
    config = small_config()
    for field, value in changes.items():
        section, name = field.split('__', 1)
        if '__' in name:
            section, inner, name = section, *name.split('__')
            config[section][inner][name] = value
        else:
            config[section][name] = value
    return transcript_file.attack_transcript(config, str(seen), str(tmp_path), log=silent)


@pytest.fixture(scope='module')
def unchanged(seen, tmp_path_factory):
    """The answer without what a test changes, which many tests share."""
    return functools.cache(lambda **base: answer(seen, tmp_path_factory.mktemp('base'), **base))


# Failed, field by field, on mutants of `attackers` that ignored it (attack.dtype: no x64 scope
# in `capture`).
@pytest.mark.parametrize(
    'changes',
    [
        {
            'attack__believes': ('client.private_learning_rate=5',),
            'dynamics__name': ('unrolled',),
        },
        {'attack__optimizer__name': 'gauss_newton'},
        pytest.param(
            {'attack__num_restarts': 8, 'attack__num_iterations': 50},
            id='attack__num_restarts',
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {'attack__label_rate_scale': 2.0}, id='attack__label_rate_scale', marks=pytest.mark.slow
        ),
        {'attack__distance': 'squared'},
        pytest.param(
            {'attack__priors__norm': 10.0}, id='attack__priors__norm', marks=pytest.mark.slow
        ),
        pytest.param(
            {'attack__priors__binary': 10.0}, id='attack__priors__binary', marks=pytest.mark.slow
        ),
        {'attack__dtype': 'float64'},
        pytest.param(
            {'attack__optimizer__learning_rate': 0.3},
            id='attack__optimizer__learning_rate',
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_field_changes_the_answer(seen, unchanged, tmp_path, changes):
    same = ('dynamics__name', 'attack__num_iterations')
    base = {key: value for key, value in changes.items() if key in same}
    before, after = unchanged(**base), answer(seen, tmp_path, **changes)
    rounding = 0.0 if 'attack__dtype' in changes else 1e-5
    assert not math.isclose(after['objective'], before['objective'], rel_tol=rounding)
    assert before == answer(seen, tmp_path, **base)


def starts(private):
    """A start whose answer says that the first item alone is an interaction."""

    def make(target, name):
        def attack(transcript, key, num_iterations):
            scores = jnp.zeros(transcript.items.shape).at[0].set(1.0)
            return Answer(scores, scores > 0.5, private, jnp.zeros(()))

        return attackers.Choice(name, 'for the test', attack)

    return make


# Failed on the mutant that ignores the start.
@pytest.mark.parametrize('dynamics', ['free', pytest.param('unrolled', marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    'private', [None, jnp.array([3.0, -4.0]), jnp.full(2, jnp.nan)], ids=['none', 'some', 'nan']
)
def test_a_start_is_where_the_attack_begins(seen, dynamics, private):
    config = small_config()
    config.attack.update({'warm_start': 'spectral', 'num_iterations': 1})
    config.dynamics.name = (dynamics,)
    transcript, _ = transcripts.load(seen)
    setting = next(s for s in settings_lib.settings(config) if s.num_gradients == 2 and s.dynamics)
    model = training.make_model(config.model, 80)
    target = attackers.Target(
        config, 'mgradinv', setting.seen, True, dynamics, tuple(setting.rounds), model, 0.2, None
    )
    choice = mgradinv.make_mgradinv(target, starts(private))
    assert (choice.solver, choice.why) == ('adam from spectral', 'the start: for the test')
    key = jax.random.key(0)
    # The best point of one iteration is the start.
    answer = jax.jit(choice.attack, static_argnums=2)(transcript, key, 1)
    assert answer.scores[0] > 0.99
    assert answer.scores[1:].max() < 0.01
    config.attack.warm_start = None
    attack = mgradinv.make_mgradinv(target).attack
    drawn = jax.jit(attack, static_argnums=2)(transcript, key, 1)
    assert 0.1 < drawn.scores[0] < 0.9
    expected = private if private is not None and jnp.isfinite(private).all() else drawn.private
    np.testing.assert_allclose(answer.private, expected)


# Failed on the mutant `priors.norm_prior()` without the model's scale.
def test_the_norm_prior_knows_the_models_scale():
    config = small_config()
    config.attack.priors.norm = 1.0
    config.model.scale = 0.5
    ((_, prior),) = mgradinv.make_priors(config)
    np.testing.assert_allclose(prior(None, jnp.array([0.5, 1.0]), None), (1 + 4) / 2)


# Failed on mutant: a batch of three, which such a client takes in one step.
@pytest.mark.slow
def test_a_client_of_minibatches_is_not_taken_for_one_step():
    config = config_lib.default_config()
    config.data.synthetic.update({'num_users': 12, 'num_items': 60})
    config.model.update({'dim': 4, 'hidden': (6, 5)})
    config.client.update({'name': 'local_sgd', 'batch_size': 8})
    config.observation.seen = ('scorer',)
    config.attack.update({'name': ('exact',), 'num_gradients': (1,), 'num_victims': 2})
    (choice,) = plan.make_case(config).attacks.values()
    assert choice.solver == 'variable_projection'


def test_a_blind_attacker_knows_of_no_penalty():
    config = small_config()
    config.client.update({'name': 'local_sgd', 'num_epochs': 2, 'item_drift': 5.0})
    model = training.make_model(config.model, 6)
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    batch = Batch(None, jnp.array([1.0, 0, 0, 0, 1, 0]), jnp.ones(6))

    def upload(adaptive):
        return attackers.make_replay(config, model, adaptive)(shared, private, batch)[0]

    knowing, blind = upload(True), upload(False)
    config.client.item_drift = 0.0
    jax.tree.map(np.testing.assert_array_equal, blind, upload(True))
    assert np.any(knowing['items']['embedding'] != blind['items']['embedding'])


# Failed on: the norm of the whole upload, of which half is not sent.
def test_a_cohort_is_clipped_by_what_is_uploaded():
    config = small_config()
    config.observation.update({'uploaded': ('items',), 'clip': 1e-3, 'cohort': 2})
    model = training.make_model(config.model, 6)
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    batch = Batch(None, jnp.array([1.0, 0, 0]), jnp.ones(3))
    own = item_table.gather(shared, jnp.arange(3))
    upload = training.make_client_update(config, model)(own, private, batch)[0]
    channel = channel_lib.channel(config)
    sent = channel.observe(upload, channel.init(upload), jax.random.key(2))[0]['items']
    two = Batch(jnp.arange(6), jnp.tile(batch.labels, 2), jnp.ones(6))
    both = {**shared, 'items': tree.take(own['items'], jnp.tile(jnp.arange(3), 2))}
    replayed = attackers.make_replay(config, model)(both, jnp.stack([private, private]), two)[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:3], b, rtol=1e-4), replayed['items'], sent
    )


# Failed on: a share of 0.2, whatever the clients do to their labels.
@pytest.mark.parametrize('name', ['spectral', 'summed'])
def test_attacks_on_rows_name_the_classes_by_the_share_that_trains(name):
    config = small_config()
    config.observation.update({'pseudo_rate': 0.75, 'seen': ('items',)})  # 0.8 of the labels are 1
    config.attack.name = (name,)
    setting = settings_lib.settings(config)[0]._replace(seen=('items',))
    model = training.make_model(config.model, 10)
    choice = plan.make_attack(
        config, setting, model, 0.2, functools.partial(attackers.probe, config, model)
    )
    few = np.arange(10) < 2
    rows = np.where(few, 1.0, -1.0)[None, :, None] * np.ones(3)
    transcript = Transcript(
        shared={}, seen={'items': {'embedding': rows}}, rounds=np.arange(1),
        participated=np.ones(1, bool), items=np.arange(10), slot=None, weights=np.ones((1, 10)),
        log_odds=np.zeros(10),
    )  # fmt: skip
    answer = choice.attack(transcript, jax.random.key(0), 1)
    np.testing.assert_array_equal(answer.labels, ~few)


def test_who_knows_of_top_k_knows_that_small_rows_are_missing():
    config = small_config()
    config.observation.update({'top_k_share': 0.5, 'seen': ('items',)})
    model = training.make_model(config.model, 6)
    adaptive, blind = (attackers.probe(config, model, ('items',), knows) for knows in (True, False))
    assert adaptive.largest
    assert not blind.largest


# Failed on stages that leave the last one no iteration: no finite objective then.
@pytest.mark.parametrize(('steps', 'iterations'), [(4, 4), (8, 9)])
def test_every_stage_of_a_short_curriculum_has_an_iteration(steps, iterations):
    config = small_config()
    config.server.num_rounds = steps
    config.attack.update({'name': ('mgradinv',), 'num_gradients': (steps,), 'interval': (1,)})
    config.attack.num_iterations = iterations
    rows = attacked(plan.blocks(plan.make_cases(config)))
    assert {row['status'] for row in rows.values()} == {'ok'}
    config.attack.num_iterations = 2
    with pytest.raises(ValueError, match=r'at least [34], one for each'):
        plan.make_cases(config)


# Failed on a curriculum that starts from the warm start and leaves it.
def test_a_warm_start_has_all_steps_from_the_beginning():
    section = small_config().attack
    section.warm_start = 'exact'
    solver = mgradinv.make_solver(section, 8)
    section.curriculum = False
    assert solver.init.__qualname__ == mgradinv.make_solver(section, 8).init.__qualname__


# Failed on a probe that took uploads in half precision for coarsely rounded, but exact, ones: the
# same uploads from a file were read with the smallest number of their type.
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_uploads_in_half_precision_are_known_as_those_of_a_file_are(dtype):
    config = small_config()
    model = training.make_model(config.model, 20)
    finer = attackers.probe(config, model, ('items', 'scorer'))
    config.client.upload_dtype = dtype
    known = attackers.probe(config, model, ('items', 'scorer'))
    assert known.lossy
    file = precision.assumed(finer, precision.declared({'a': np.zeros(1, jnp.dtype(dtype))}))
    assert (known.rounding, known.smallest) == (file.rounding, file.smallest)
