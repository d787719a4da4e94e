"""Several solvers on one client: the labels that explain most are kept."""

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import client, item_table, losses, models
from fedinv_jax.attack.exact import alignment, compare, item_rows, private_fit, problems
from fedinv_jax.types import Answer, Batch, Certificate, Model
from tests.attack.exact.helpers import ROW_MODELS, ROW_UPDATES, ROWS, probed, row_client

YES, ONE = jnp.asarray(True), jnp.asarray(1.0)
SURE = Certificate(YES, ~YES, ONE, ONE, jnp.asarray(3), jnp.asarray(3))


def known_of(name):
    return probed(ROW_MODELS[name], ROW_UPDATES[name], 'items')


def answering(labels, private):
    """A solver that says these labels and private states, and is sure of them."""

    def attack(transcript, key):
        scores = jnp.asarray(labels, float)
        return Answer(scores, scores > 0.5, jnp.asarray(private), jnp.zeros(()), SURE)

    return attack


def spectral(transcript, key):
    return item_rows.spectral(transcript)


def compared(known, transcript, first):
    with jax.enable_x64():
        attack = jax.jit(compare.best_of(known, first, {'spectral': spectral}))
        return attack(transcript, jax.random.key(0))


# Failed on: the largest residual; certificates of the first solver kept.
def test_labels_that_explain_more_take_the_place_and_are_not_certified():
    transcript, labels, privates = row_client('mf_bias', seed=1)
    wrong = labels ^ (np.arange(len(labels)) % 3 == 0)
    answer = compared(known_of('mf_bias'), transcript, answering(wrong, privates[0]))
    np.testing.assert_array_equal(answer.labels, labels)
    assert int(answer.kept) == 1
    assert not answer.certificate.certified
    assert answer.certificate.margin == 0
    np.testing.assert_array_equal(answer.private, privates[0])


def test_an_answer_that_explains_all_is_kept_as_it_is():
    transcript, labels, privates = row_client('mf_bias', seed=1)
    answer = compared(known_of('mf_bias'), transcript, answering(labels, privates[0]))
    np.testing.assert_array_equal(answer.labels, labels)
    assert int(answer.kept) == 0
    assert answer.certificate.certified


def test_behind_a_lossy_channel_both_are_compared():
    transcript, labels, privates = row_client('mf_bias', seed=1)
    wrong = labels.copy()
    wrong[:2] ^= True
    known = known_of('mf_bias')._replace(lossy=True)
    answer = compared(known, transcript, answering(wrong, privates[0]))
    np.testing.assert_array_equal(answer.labels, labels)


# Failed on: flips taken for explanations of an NCF; starts without the negatives.
def test_flipped_labels_explain_matrix_factorisation_only():
    for name, explained in (('mf', True), ('mf_bias', False), ('ncf', False)):
        transcript, labels, privates = row_client(name, steps=2, seed=2)
        with jax.enable_x64():
            known = known_of(name)
            latent, drawn = jnp.asarray(privates), jnp.asarray(privates[::-1]) / 2
            problem = problems.whitened_problem(known, transcript, latent)
            true, flipped = (
                private_fit.around(problem, latent, drawn, jnp.asarray(y, float))
                for y in (labels, ~labels)
            )
        assert true.square < 1
        assert bool(flipped.square < 1) == explained
        assert flipped.converged


def test_private_states_are_found_from_afar():
    transcript, labels, privates = row_client('mf_bias', steps=2, seed=3)
    with jax.enable_x64():
        problem = problems.whitened_problem(known_of('mf_bias'), transcript, jnp.asarray(privates))
        start = jnp.zeros(privates.shape)
        found = jax.jit(private_fit.fit, static_argnums=0)(
            problem, jnp.asarray(labels, float), start
        )
    np.testing.assert_allclose(found.latent, privates, rtol=1e-4)
    assert found.square < 1


def test_of_labels_that_explain_as_much_the_less_surprising_ones():
    squares, surprise = jnp.array([0.5, 3.0, 90.0]), jnp.array([0.6, 0.1, 0.0])
    assert private_fit.likeliest(squares, surprise) == 1
    assert private_fit.likeliest(1e6 * squares, surprise) == 0
    assert private_fit.likeliest(jnp.array([jnp.nan, 5.0]), surprise[:2]) == 1


# Failed on `jnp.where` of the private states.
def test_a_private_state_of_several_leaves_goes_through_the_search():
    like = models.matrix_factorization(ROWS, 2)

    def init_private(key):
        return {'w': jax.random.normal(key, (2,)), 'b': jax.random.normal(key, ())}

    def score(shared, private, items):
        rows = item_table.gather(shared, items)['items']['embedding']
        return rows @ private['w'] + private['b']

    update = client.gradient_step(Model(like.init_shared, init_private, score), losses.bce, 0.1)
    with jax.enable_x64():
        known = probed(Model(like.init_shared, init_private, score), update, 'items')
        transcript, labels, _ = row_client('mf', seed=4)
        shared = jax.tree.map(lambda leaf: leaf[..., :2], transcript.shared)
        private = {'w': jnp.array([0.5, -1.0]), 'b': jnp.asarray(0.3)}
        batch = Batch(None, jnp.asarray(labels, float), jnp.asarray(transcript.weights[0]))
        upload, _ = update(jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), shared), private, batch)
        seen = {'items': jax.tree.map(lambda leaf: leaf[None], upload['items'])}
        transcript = transcript.replace(shared=shared, seen=seen)
        answer = jax.jit(alignment.aligned(known))(transcript, jax.random.key(0))
    assert known.symmetries
    assert set(answer.private) == {'w', 'b'}
    assert not answer.certificate.certified
    assert not answer.certificate.locally_unique
    np.testing.assert_array_equal(answer.labels, labels)
