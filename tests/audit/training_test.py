"""Config fields do what they say: each changes the objective, the answer or the data."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import client, models, observe, transcripts, tree
from fedinv_jax.attack import inversion, objective
from fedinv_jax.audit import attackers, capture, checks, plan, runner, threat_model, training
from fedinv_jax.audit import config as config_lib
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import interactions as interactions_lib
from fedinv_jax.types import Answer, Batch, Guess, Transcript


def small_config():
    config = config_lib.default_config()
    config.data.synthetic.update({'num_users': 30, 'num_items': 80, 'median_activity': 10.0})
    config.data.max_positives = 12
    config.model.update({'dim': 2, 'hidden': (4,)})
    config.observation.seen = ('scorer',)
    config.attack.update({'num_victims': 2, 'num_iterations': 5, 'block': 2})
    return config


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    """A transcript of T = 2 uploads, as a file."""
    path = tmp_path_factory.mktemp('capture') / 't.npz'
    capture.save_transcript(small_config(), str(path), log=lambda line: None)
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
    return capture.attack_transcript(config, str(seen), str(tmp_path), log=lambda line: None)


# Failed, field by field, on mutants of `build` that ignored it (attack.precision: no x64 scope in
# `capture`).
@pytest.mark.parametrize(
    'changes',
    [
        {'attack__private_rate': 5.0, 'dynamics__name': ('unrolled',)},
        {'attack__num_restarts': 8, 'attack__num_iterations': 50},
        {'attack__label_gain': 2.0},
        {'attack__distance': 'squared'},
        {'attack__priors__norm': 10.0},
        {'attack__priors__binary': 10.0},
        {'attack__precision': 'float64'},
        {'attack__optimizer__learning_rate': 0.3},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_field_changes_the_answer(seen, tmp_path, changes):
    same = ('dynamics__name', 'attack__num_iterations')
    base = {key: value for key, value in changes.items() if key in same}
    before, after = answer(seen, tmp_path, **base), answer(seen, tmp_path, **changes)
    rounding = 0.0 if 'attack__precision' in changes else 1e-5
    assert not math.isclose(after['objective'], before['objective'], rel_tol=rounding)
    assert before == answer(seen, tmp_path, **base)


# Failed on the mutant that ignores the field.
def test_the_config_names_the_kernels_of_a_start():
    config = small_config()
    for kernel_init in models.KERNELS:
        config.model.update({'dim': 5, 'hidden': (4,), 'kernel_init': kernel_init})
        start = training.make_model(config.model, 3).init_shared(jax.random.key(0))
        expected = models.ncf(3, 5, (4,), kernel_init=kernel_init).init_shared(jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, start['scorer'], expected['scorer'])


# Failed, field by field, on mutants of `make_client_update` that ignored it.
@pytest.mark.parametrize('change', [{'item_drift': 10.0}, {'private_optimizer': {'name': 'adam'}}])
def test_a_field_of_local_sgd_changes_the_client(change):
    config = small_config()
    epochs = 3 if 'item_drift' in change else 1
    config.client.update({'name': 'local_sgd', 'num_epochs': epochs, 'private_rate': 0.01})
    model = training.make_model(config.model, 4)
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    batch = Batch(None, jnp.array([1.0, 0, 0, 1]), jnp.ones(4))
    before = training.make_client_update(config.client, model)(shared, private, batch)
    config.client.update(change)
    upload, after = training.make_client_update(config.client, model)(shared, private, batch)
    if 'item_drift' in change:
        moved = [np.abs(u['items']['embedding']).sum() for u in (upload, before[0])]
        assert moved[0] < moved[1]
    else:
        # The first step of Adam is of its rate.
        np.testing.assert_allclose(np.abs(after - private), 0.01, rtol=0.01)
        assert np.abs(before[1] - private).max() < 0.005


def starts(private):
    """A stand-in of `make_exact`, which answers that the first item alone is one."""

    def make(config, setting, probe):
        def attack(transcript, key, num_iterations):
            scores = jnp.zeros(transcript.items.shape).at[0].set(1.0)
            return Answer(scores, scores > 0.5, private, jnp.zeros(()))

        return attackers.Choice(setting.attack, 'for the test', attack)

    return make


# Failed on the mutant that ignores the start.
@pytest.mark.parametrize('dynamics', ['free', 'unrolled'])
@pytest.mark.parametrize(
    'private', [None, jnp.array([3.0, -4.0]), jnp.full(2, jnp.nan)], ids=['none', 'some', 'nan']
)
def test_a_start_is_where_the_attack_begins(seen, monkeypatch, dynamics, private):
    monkeypatch.setattr(attackers, 'make_exact', starts(private))
    config = small_config()
    config.attack.update({'start': 'spectral', 'num_iterations': 1})
    config.dynamics.name = (dynamics,)
    transcript, _ = transcripts.load(seen)
    setting = next(s for s in config_lib.settings(config) if s.num_gradients == 2 and s.dynamics)
    model = training.make_model(config.model, 80)
    choice = attackers.make_attack(config, setting, model, 0.2, None)
    assert (choice.solver, choice.why) == ('adam from spectral', 'starts there: for the test')
    key = jax.random.key(0)
    # The best point of one iteration is the start.
    answer = choice.attack(transcript, key, 1)
    assert answer.scores[0] > 0.99
    assert answer.scores[1:].max() < 0.01
    config.attack.start = None
    drawn = attackers.make_attack(config, setting, model, 0.2, None).attack(transcript, key, 1)
    assert 0.1 < drawn.scores[0] < 0.9
    expected = private if private is not None and jnp.isfinite(private).all() else drawn.private
    np.testing.assert_allclose(answer.private, expected)


# One choice serves every first round and interval, and is made before anything is trained.
def test_the_solver_of_an_exact_attack_is_chosen_once(monkeypatch):
    made, make = [], attackers.make_exact
    monkeypatch.setattr(attackers, 'make_exact', lambda *a: made.append(a[1]) or make(*a))
    config = small_config()
    config.num_seeds = 2
    config.attack.update({'name': ('exact',), 'first_round': (0, 5), 'interval': (1, 3)})
    cases = plan.make_cases(config)
    assert [setting.num_gradients for setting in made] == [1, 2]
    for case in cases:
        for setting in config_lib.settings(config):
            columns = plan.columns(case, setting)
            choice = case.attacks[plan.alike(setting)]
            assert columns['solver'] == choice.solver
            assert choice.why
    assert choice.solver in threat_model.describe(config, cases)


# Failed on the mutant `priors.norm_prior()` without the model's scale.
def test_the_norm_prior_knows_the_models_scale():
    config = small_config()
    config.attack.priors.norm = 1.0
    config.model.scale = 0.5
    ((_, prior),) = attackers.make_priors(config)
    np.testing.assert_allclose(prior(None, jnp.array([0.5, 1.0]), None), (1 + 4) / 2)


def test_the_saved_transcript_has_the_most_gradients(seen):
    transcript, meta = transcripts.load(seen)
    assert transcript.rounds.tolist() == [0, 1]
    assert meta['known'] == {'batch': True, 'step_sizes': True}


# Failed on `k_core` alone, which leaves items without interactions in the catalogue.
def test_a_filter_leaves_no_item_without_interactions():
    config = small_config()
    config.data.core = 3
    data = training.make_interactions(config)[0]
    assert data.num_items < 80
    assert np.bincount(data.items, minlength=data.num_items).min() >= 3


def test_leave_one_out_leaves_one_out():
    config = small_config()
    everything = training.make_interactions(config)[0]
    config.data.leave_one_out = True
    train = training.make_interactions(config)[0]
    assert len(everything.items) - len(train.items) == everything.num_users


# Failed on the batch's share used for the whole catalogue.
def test_guessers_know_the_share_of_the_candidates():
    config = small_config()
    batch = plan.make_case(config)
    assert batch.share == pytest.approx(clients_lib.public_share(batch.clients))
    config.observation.batch_known = False
    case = plan.make_case(config)
    positives = [group.num_positives for group in case.clients]
    assert case.share == pytest.approx(np.concatenate(positives).mean() / 80)


def test_float64_uploads_need_a_float64_solver():
    config = small_config()
    config.client.precision = 'float64'
    with pytest.raises(ValueError, match=r'attack\.precision=float64'):
        checks.check(config)
    config.attack.precision = 'float64'
    checks.check(config)


def test_lbfgs_sets_its_own_step():
    config = small_config()
    config.attack.optimizer.name = 'lbfgs'
    make = training.make_optimizer('attack.optimizer', config.attack.optimizer, 10)
    assert isinstance(make, optax.GradientTransformationExtraArgs)


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


# Failed on the mutant whose `done` looked at the value only.
def test_a_gradient_that_is_not_finite_is_a_failure():
    problem = objective.Problem(
        init=lambda key: Guess(jnp.zeros(2), None, ()),
        predict=None,
        whiten=None,
        residual=None,
        columns=None,
        objective=lambda guess: jnp.sum(jnp.sqrt(guess.labels)),
        answer=lambda guess, value: Answer(guess.labels, guess.labels > 0.5, None, value),
    )
    solver = inversion.descent(optax.adam(0.1))
    assert np.isnan(inversion.invert(problem, solver, jax.random.key(0), 5).objective)


def test_ratings_lie_above_the_threshold():
    data = interactions_lib.make([1, 1, 2], [1, 2, 3], ratings=[1, 3, 5])
    labels = np.concatenate(
        [g.labels[g.weights > 0] for g in clients_lib.build(data, labels='ratings')]
    )
    assert set(labels.tolist()) <= {0.0, *((1 + np.float32([1, 3, 5]) / 5) / 2).tolist()}


def test_share_of_unknown_parts_names_the_known_ones():
    with pytest.raises(ValueError, match='items/embedding'):
        observe.share('scorers').observe({'items': {'embedding': 1}}, (), jax.random.key(0))


# Failed on the threat model that named the private step size only.
def test_the_threat_model_says_which_step_sizes_are_known():
    config = small_config()
    config.client.name = 'local_sgd'
    config.attack.learning_rate = 0.5
    text = threat_model.describe(config, plan.make_cases(config))
    assert '1 epochs of sgd at rate 0.1 (unknown, taken for 0.5)' in text
    assert 'step size 0.1 (known)' in text


# Failed on: weight decay of a part that nobody uploads.
def test_a_part_that_is_not_uploaded_stays_as_it_was_drawn():
    config = small_config()
    config.observation.update({'uploaded': ('items',), 'seen': ('items',)})
    config.server.optimizer.update({'name': 'adamw', 'learning_rate': 0.1})
    with config.server.optimizer.unlocked():
        config.server.optimizer.weight_decay = 0.5
    config.server.num_rounds = 4
    (case,) = plan.make_cases(config)
    snapshots = runner.train(case).snapshots
    first, last = snapshots[min(snapshots)], snapshots[max(snapshots)]
    assert len(snapshots) > 1
    jax.tree.map(np.testing.assert_array_equal, first.shared['scorer'], last.shared['scorer'])
    assert np.any(first.shared['items']['embedding'] != last.shared['items']['embedding'])


# Failed on: the meta's observation checked against the config's own `seen`.
def test_a_transcript_of_one_part_can_be_attacked(tmp_path):
    config = small_config()
    config.observation.update({'uploaded': ('items',), 'seen': ('items',)})
    path = str(tmp_path / 't.npz')
    capture.save_transcript(config, path, log=lambda line: None)
    config = config_lib.default_config()
    config.attack.name = ('spectral',)
    capture.attack_transcript(config, path, str(tmp_path / 'out'), log=lambda line: None)


# 0.2 of the batch are interactions. Failed on: rates of the defence that blind attackers know.
@pytest.mark.parametrize(
    ('fields', 'share'),
    [
        ({}, 0.2),
        ({'label_epsilon': 0.0}, 0.5),
        ({'pseudo': 0.5}, 0.6),
        ({'label_epsilon': float(np.log(3)), 'pseudo': 0.5}, 0.675),
    ],
)
def test_the_share_that_trains_as_interactions(fields, share):
    config = small_config()
    config.observation.update(fields)
    assert attackers.trained_share(config, 0.2) == pytest.approx(share)
    assert attackers.trained_share(config, 0.2, adaptive=False) == 0.2


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


# Failed on: entries that the noise fills, read as those that the client kept.
def test_behind_noise_nobody_reads_off_what_was_kept():
    upload = {'items': jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    seen = {'items': jnp.array([[0.0, 0.0], [0.0, 3.0]])}
    config = small_config()
    config.observation.update({'top': 0.25, 'uploaded': ('items',)})

    def predicted():
        channel = attackers.make_observation(config, ('items',))
        return channel.predict(upload, seen, channel.init(upload))[0]['items']

    np.testing.assert_array_equal(predicted(), seen['items'])
    config.observation.noise = 0.1
    np.testing.assert_array_equal(predicted(), upload['items'])


# Failed on: clipping forgotten behind any noise, which made it a defence.
def test_faint_noise_hides_no_clipping():
    upload = {'items': jnp.array([[3.0, 0.0], [0.0, 4.0]])}
    config = small_config()
    config.observation.update({'clip': 1.0, 'uploaded': ('items',)})
    for noise, factor in ((0.0, 0.2), (1e-6, 0.2), (0.1, 1.0)):
        config.observation.noise = noise
        channel = attackers.make_observation(config, ('items',))
        predicted = channel.predict(upload, upload, channel.init(upload))[0]['items']
        np.testing.assert_allclose(predicted, factor * upload['items'], rtol=1e-6)


# Failed on: the norm of the whole upload, of which half is not sent.
def test_a_cohort_is_clipped_by_what_is_uploaded():
    config = small_config()
    config.observation.update({'uploaded': ('items',), 'clip': 1e-3, 'cohort': 2})
    model = training.make_model(config.model, 6)
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    batch = Batch(None, jnp.array([1.0, 0, 0]), jnp.ones(3))
    own = client.gather(shared, jnp.arange(3))
    upload = training.make_client_update(config.client, model)(own, private, batch)[0]
    channel = training.make_channel(config)
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
    config.observation.update({'pseudo': 0.75, 'seen': ('items',)})  # 0.8 of the labels are 1
    config.attack.name = (name,)
    setting = config_lib.settings(config)[0]._replace(seen=('items',))
    model = training.make_model(config.model, 10)
    choice = attackers.make_attack(
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
    config.observation.update({'top': 0.5, 'seen': ('items',)})
    model = training.make_model(config.model, 6)
    adaptive, blind = (attackers.probe(config, model, ('items',), knows) for knows in (True, False))
    assert adaptive.largest
    assert not blind.largest
