"""Attacks on models of items with features: determined where the features of a batch are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import client, data, item_table, losses, models, observe, tree, types
from fedinv_jax.attack import exact
from fedinv_jax.attack.exact import rank_one
from fedinv_jax.attack.exact.known import Draw, uploads

K, F, D = 20, 30, 4
LABELS = (np.arange(K) % 5 == 0).astype(float)
MODELS = {
    'gmf': lambda size: models.gmf(size, D, scale=0.5),
    'matrix_factorization': lambda size: models.matrix_factorization(size, D, scale=0.5),
    'biases': lambda size: models.matrix_factorization(size, D, item_bias=True, scale=0.5),
    'ncf': lambda size: models.ncf(size, D, hidden=(8, 6), scale=0.5),
    'neumf': lambda size: models.neumf(size, D, hidden=(8, 6), scale=0.5),
    'pfedrec': lambda size: models.pfedrec(size, D, scale=0.5),
    'two_tower': lambda size: models.two_tower(size, D, width=4, scale=0.5),
    'lightgcn': lambda size: models.lightgcn(size, D, scale=0.5),
}
LOSSES = {'bce': losses.bce, 'bpr': losses.bpr(), 'sampled_softmax': losses.sampled_softmax()}


def independent(seed=0):
    """One to three features an item, the rows linearly independent."""
    rng = np.random.default_rng(seed)
    flags = np.eye(K, F)
    for row in flags:
        row[rng.integers(K, F, rng.integers(0, 3))] = 1
    assert np.linalg.matrix_rank(flags) == K
    return flags


def alike(seed=0):
    """Items 1 and 5 have the same features: a negative and an interaction."""
    flags = independent(seed)
    flags[1] = flags[5]
    return flags


def few(seed=0):
    """Five features for all items."""
    flags = (np.random.default_rng(seed).random((K, 5)) < 0.3).astype(float)
    flags[np.arange(K), np.arange(K) % 5] = 1
    return flags


def drawn(model, seed):
    rng = np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(seed))
    shared, private = model.init_shared(keys[0]), model.init_private(keys[1])
    moved = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.05 * rng.normal(size=leaf.shape)),
        (shared['scorer'], private),
    )
    items = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), shared['items'])
    return {'items': items, 'scorer': moved[0]}, moved[1]


@functools.cache
def probed(name, loss, size=F):
    """The client of a model with `size` features, what is known of it, and the random clients."""
    with jax.enable_x64():
        model = models.with_item_features(MODELS[name](size), data.features.draw(8, size).incidence)
        return _probed(model, LOSSES[loss])


def _probed(model, loss):
    update, linear = (client.gradient_step(model, one, 0.1) for one in (loss, losses.linear))
    draws = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        shared, private = drawn(model, seed)
        shared = item_table.gather(shared, jnp.arange(8))
        shared['items']['features'] += 0.05 * rng.normal(size=shared['items']['features'].shape)
        batch = types.Batch(None, jnp.asarray(rng.random(8)), jnp.asarray(0.5 + rng.random(8)))
        draws.append(Draw(shared, private, batch))
    share = observe.share('scorer')
    known = exact.probe(update, share, model.init_private, draws, linear_update=linear, signs=True)
    return update, known, draws


def attacked(name, loss, flags, steps=1, weights=None, dtype=np.float32):
    with jax.enable_x64():
        model = models.with_item_features(MODELS[name](flags.shape[1]), flags)
        update, known, _ = probed(name, loss, flags.shape[1])
        weights = np.ones(K) if weights is None else weights
        batch = types.Batch(None, jnp.asarray(LABELS), jnp.asarray(weights))
        sent = [drawn(model, 10 + t) for t in range(steps)]
        seen = []
        for shared, private in sent:
            upload = update(*tree.cast_floats((shared, private, batch), dtype))[0]
            seen.append({'scorer': tree.cast_floats(upload['scorer'], np.float64)})
        stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
        transcript = types.Transcript(
            shared=tree.cast_floats(
                tree.cast_floats(stack([shared for shared, _ in sent]), dtype), np.float64
            ),
            seen=stack(seen),
            rounds=np.arange(steps),
            participated=jnp.ones(steps, bool),
            items=jnp.arange(K),
            slot=None,
            weights=jnp.tile(weights, (steps, 1)),
            log_odds=jnp.zeros(K),
        )
        choice = exact.choose(known)
        answer = jax.jit(choice.attack)(transcript, jax.random.key(0))
    return choice, answer


SOLVERS = {
    ('matrix_factorization', 'bce'): 'scaled',
    ('biases', 'bce'): 'closed_form',
    ('biases', 'bpr'): 'coefficients',
    ('ncf', 'bce'): 'closed_form',
    ('ncf', 'bpr'): 'coefficients',
    ('neumf', 'bce'): 'coefficients',
}
FOUND = [
    ('matrix_factorization', 'bce', 1),
    ('matrix_factorization', 'bpr', 1),
    ('gmf', 'bce', 2),
    ('gmf', 'sampled_softmax', 1),
    ('pfedrec', 'bpr', 2),
    ('two_tower', 'bce', 1),
    ('biases', 'bce', 1),
    ('biases', 'bpr', 1),
    ('ncf', 'bce', 1),
    ('ncf', 'bpr', 2),
    ('neumf', 'bce', 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'loss', 'steps'), FOUND)
def test_labels_follow_where_features_are_independent(name, loss, steps):
    choice, answer = attacked(name, loss, independent(), steps)
    assert choice.solver == SOLVERS.get((name, loss), 'rank_one')
    np.testing.assert_array_equal(answer.labels, LABELS > 0)
    flip = choice.solver in ('rank_one', 'scaled')
    assert bool(answer.certificate.certified) != flip
    if choice.solver == 'rank_one':
        assert answer.certificate.rank == K


# An MLP on the means of five feature rows determines more labels than there are features.
@pytest.mark.slow
@pytest.mark.parametrize('flags', [alike, few])
@pytest.mark.parametrize(
    ('name', 'loss'),
    [
        ('matrix_factorization', 'bce'),
        ('gmf', 'bce'),
        ('biases', 'bce'),
        ('biases', 'bpr'),
        ('ncf', 'bce'),
        ('ncf', 'bpr'),
        ('neumf', 'bce'),
    ],
)
def test_what_is_not_determined_is_not_certified(name, loss, flags):
    choice, answer = attacked(name, loss, flags())
    found, right = answer.certificate, np.array_equal(answer.labels, LABELS > 0)
    linear = name in ('matrix_factorization', 'gmf', 'biases')
    assert not found.locally_unique
    assert not found.certified or (right and flags is few and not linear)
    if choice.solver == 'rank_one':
        assert found.rank == (K - 1 if flags is alike else 5)


# An interaction and a negative of the same features: all others are found, the two get one score.
@pytest.mark.parametrize('name', ['gmf', 'matrix_factorization'])
def test_items_of_the_same_features_are_not_told_apart(name):
    choice, answer = attacked(name, 'bpr', alike())
    assert choice.solver == 'rank_one'
    rest = np.delete(np.arange(K), [1, 5])
    np.testing.assert_array_equal(answer.labels[rest], LABELS[rest] > 0)
    np.testing.assert_allclose(answer.scores[1], answer.scores[5], rtol=1e-6)


def test_padding_has_no_score():
    weights = (np.arange(K) < 16).astype(float)
    _, answer = attacked('gmf', 'bce', independent(), 2, weights)
    np.testing.assert_array_equal(answer.labels, (LABELS > 0) & (weights > 0))
    assert answer.certificate.rank == 16
    assert not np.any(answer.scores[16:])


# Labels in the score: no upload of a random client is a sum over items.
def test_a_graph_of_interactions_is_no_mixture():
    known = probed('lightgcn', 'bce')[1]
    with jax.enable_x64():
        assert exact.choose(known).solver == 'variable_projection'
        with pytest.raises(ValueError, match='rank_one needs a leaf'):
            exact.choose(known, solver='rank_one')


# Failed on: one private state for all columns, which finds the rows of an MLP whose items have the
# same ReLUs on.
@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('gmf', 'scorer/feature_rows/embedding'),
        ('neumf', 'scorer/feature_rows/gmf'),
        ('ncf', None),
    ],
)
def test_the_leaf_is_found_by_probing(name, expected, float64):
    _, known, draws = probed(name, 'bpr')
    found = rank_one.find(uploads(known.linear.client_update, known.observation), draws)
    assert found == expected == known.linear.mixture
