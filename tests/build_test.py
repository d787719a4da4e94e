"""Config fields do what they say: each changes the objective, the answer or the data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import build, capture, experiment, observe, plan, transcripts
from fedinv_jax.attack import inversion, objective
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import interactions as interactions_lib
from fedinv_jax.types import Answer, Guess


def small_config():
    config = experiment.default_config()
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
        {'attack__num_restarts': 4},
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
    base = {key: value for key, value in changes.items() if key == 'dynamics__name'}
    before, after = answer(seen, tmp_path, **base), answer(seen, tmp_path, **changes)
    assert after['objective'] != before['objective']
    assert before == answer(seen, tmp_path, **base)


# Failed on the mutant `priors.norm_prior()` without the model's scale.
def test_the_norm_prior_knows_the_models_scale():
    config = small_config()
    config.attack.priors.norm = 1.0
    config.model.scale = 0.5
    ((_, prior),) = build.make_priors(config)
    np.testing.assert_allclose(prior(None, jnp.array([0.5, 1.0]), None), (1 + 4) / 2)


def test_the_saved_transcript_has_the_most_gradients(seen):
    transcript, meta = transcripts.load(seen)
    assert transcript.rounds.tolist() == [0, 1]
    assert meta['known'] == {'batch': True, 'step_sizes': True}


# Failed on `k_core` alone, which leaves items without interactions in the catalogue.
def test_a_filter_leaves_no_item_without_interactions():
    config = small_config()
    config.data.core = 3
    data = build.make_interactions(config)
    assert data.num_items < 80
    assert np.bincount(data.items, minlength=data.num_items).min() >= 3


def test_leave_one_out_leaves_one_out():
    config = small_config()
    everything = build.make_interactions(config)
    config.data.leave_one_out = True
    train = build.make_interactions(config)
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
        experiment.check(config)
    config.attack.precision = 'float64'
    experiment.check(config)


def test_lbfgs_sets_its_own_step():
    config = small_config()
    config.attack.optimizer.name = 'lbfgs'
    make = build.make_optimizer('attack.optimizer', config.attack.optimizer, 10)
    assert isinstance(make, optax.GradientTransformationExtraArgs)


# Failed on the mutant whose `done` looked at the value only.
def test_a_gradient_that_is_not_finite_is_a_failure():
    problem = objective.Problem(
        init=lambda key: Guess(jnp.zeros(2), None, ()),
        predict=None,
        whiten=None,
        residual=None,
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
    case = plan.make_case(config)
    text = experiment.threat_model(config, case.model, case.clients, case.victims)
    assert '1 epochs of sgd at rate 0.1 (unknown, taken for 0.5)' in text
    assert 'step size 0.1 (known)' in text
