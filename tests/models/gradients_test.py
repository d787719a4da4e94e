"""Uploads of every model and loss against central differences of a float64 NumPy loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import client, losses, models, tree, types
from tests import reference

N, D = 5, 3
LABELS = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
MODELS = {
    'fedrap': lambda: models.fedrap(N, D),
    'gmf': lambda: models.gmf(N, D),
    'lightgcn': lambda: models.lightgcn(N, D, num_layers=1),
    'lightgcn_3': lambda: models.lightgcn(N, D, num_layers=3),
    'matrix_factorization': lambda: models.matrix_factorization(N, D, item_bias=True),
    'ncf': lambda: models.ncf(N, D, hidden=(4, 2)),
    'neumf': lambda: models.neumf(N, D, hidden=(4, 2)),
    'pfedrec': lambda: models.pfedrec(N, D),
    'two_tower': lambda: models.two_tower(N, D, width=4),
}
LOSSES = {
    'bce': losses.bce,
    'bpr': losses.bpr(),
    'hinge': losses.hinge,
    'sampled_softmax': losses.sampled_softmax(),
    'smoothed': losses.smoothed(losses.bce, 0.2),
    'softmax': losses.softmax(),
    'squared_error': losses.squared_error,
    'weighted': losses.weighted_positives(losses.bce, 3.0),
}


def mlp(x, scorer, layers):
    for name in layers:
        x = np.maximum(scorer[name]['kernel'].T @ x + scorer[name]['bias'], 0)
    return x


def ncf(scorer, p, q, last):
    x = scorer['private']['kernel'].T @ p + scorer['items']['kernel'].T @ q
    x = mlp(np.maximum(x + scorer['items']['bias'], 0), scorer, ('layer_1',))
    return (last['kernel'].T @ x + last['bias'])[0]


def logits(name, shared, private, labels):
    """The logits `[N]` of a model, item after item."""
    rows, scorer = shared['items'], shared['scorer']
    if name.startswith('lightgcn'):
        return lightgcn(rows['embedding'], private, labels, 3 if name.endswith('3') else 1)
    scored = []
    for i in range(N):
        q = {leaf: rows[leaf][i] for leaf in rows}
        if name == 'matrix_factorization':
            scored.append(q['embedding'] @ private + q['bias'])
        elif name == 'gmf':
            output = scorer['output']
            z = sum(output['kernel'][d, 0] * private[d] * q['embedding'][d] for d in range(D))
            scored.append(z + output['bias'][0])
        elif name == 'ncf':
            scored.append(ncf(scorer, private, q['embedding'], scorer['layer_2']))
        elif name == 'neumf':
            z = (scorer['gmf']['kernel'].T @ (private['gmf'] * q['gmf']))[0]
            scored.append(z + ncf(scorer, private['mlp'], q['mlp'], scorer['mlp']))
        elif name == 'pfedrec':
            scored.append(q['embedding'] @ private['weight'] + private['bias'])
        elif name == 'fedrap':
            row = q['embedding'] + private['items']['embedding'][i]
            scored.append(row @ private['weight'] + private['bias'])
        else:
            hidden = private['embedding'] @ private['hidden']['kernel'] + private['hidden']['bias']
            output = private['output']
            user = np.maximum(hidden, 0) @ output['kernel'] + output['bias']
            scored.append(q['embedding'] @ user)
    return np.array(scored)


def lightgcn(rows, private, labels, layers):
    """Messages along the edges of the star graph, edge after edge."""
    linked = [i for i in range(N) if labels[i] and WEIGHTS[i]]
    degree = len(linked)
    user, items = [private], [[rows[i] for i in range(N)]]
    for _ in range(layers):
        message = sum(items[-1][i] / np.sqrt(degree * 1) for i in linked)
        own = [user[-1] / np.sqrt(degree * 1) if i in linked else np.zeros(D) for i in range(N)]
        user, items = [*user, message], [*items, own]
    mean = np.mean(user, axis=0)
    return np.array([np.mean([layer[i] for layer in items], axis=0) @ mean for i in range(N)])


def pairs(z):
    """Logits of each interaction, and those of the negatives."""
    used = [i for i in range(N) if WEIGHTS[i]]
    return [z[i] for i in used if LABELS[i]], [z[i] for i in used if not LABELS[i]]


def loss_of(name, z):
    positives, negatives = pairs(z)
    if name == 'bpr':
        return np.mean([np.log1p(np.exp(n - p)) for p in positives for n in negatives])
    if name == 'sampled_softmax':
        return np.mean([-np.log(np.exp(p) / sum(map(np.exp, [p, *negatives]))) for p in positives])
    if name == 'softmax':
        total = sum(map(np.exp, positives + negatives))
        return np.mean([-np.log(np.exp(p) / total) for p in positives])
    each = {
        'bce': lambda z, y: np.log1p(np.exp(z)) - y * z,
        'hinge': lambda z, y: max(0, 1 - (2 * y - 1) * z),
        'smoothed': lambda z, y: np.log1p(np.exp(z)) - (0.8 * y + 0.1) * z,
        'squared_error': lambda z, y: (z - y) ** 2,
        'weighted': lambda z, y: (3 if y else 1) * (np.log1p(np.exp(z)) - y * z),
    }[name]
    return np.mean([each(z[i], LABELS[i]) for i in range(N) if WEIGHTS[i]])


def drawn(model):
    """Parameters of a size at which nothing is close to linear, in float64."""
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    rng = np.random.default_rng(0)
    return (
        reference.tree_map(
            lambda leaf: rng.normal(scale=0.7, size=leaf.shape),
            {'shared': shared, 'private': private},
        )
        if isinstance(private, dict)
        else {
            'shared': reference.tree_map(
                lambda leaf: rng.normal(scale=0.7, size=leaf.shape), shared
            ),
            'private': rng.normal(scale=0.7, size=private.shape),
        }
    )


def numeric(function, parameters, step=1e-6):
    """Central differences of a function of a tree, entry after entry."""
    gradient = jax.tree.map(np.zeros_like, parameters)
    leaves, slots = jax.tree.leaves(parameters), jax.tree.leaves(gradient)
    for leaf, slot in zip(leaves, slots, strict=True):
        for index in np.ndindex(leaf.shape):
            old = leaf[index]
            values = []
            for sign in (1, -1):
                leaf[index] = old + sign * step
                values.append(function(parameters))
            leaf[index] = old
            slot[index] = (values[0] - values[1]) / (2 * step)
    return gradient


# Failed on mutants: a layer of LightGCN more, NeuMF's branches exchanged, BPR with padding as a
# negative, sampled softmax over the other interactions too.
@pytest.mark.parametrize(
    ('name', 'loss'),
    [(name, loss) for name in sorted(MODELS) for loss in ('bce', 'bpr')]
    + [('lightgcn', loss) for loss in sorted(set(LOSSES) - {'bce', 'bpr'})],
)
def test_uploads_match_differences_of_the_reference(name, loss):
    model = MODELS[name]()
    parameters = drawn(model)
    want = numeric(
        lambda p: loss_of(loss, logits(name, p['shared'], p['private'], LABELS)), parameters
    )
    with jax.enable_x64():
        update = client.gradient_step(model, LOSSES[loss], private_learning_rate=1.0)
        shared, private = jax.tree.map(jnp.asarray, (parameters['shared'], parameters['private']))
        batch = types.Batch(None, jnp.asarray(LABELS), jnp.asarray(WEIGHTS))
        upload, moved = update(shared, private, batch)
        found = {'shared': upload, 'private': jax.tree.map(jnp.subtract, private, moved)}
    assert tree.names(found) == tree.names(want)
    for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-8)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(want['shared'])) > 1e-3


# What the server scores without a batch is what a client without interactions has.
@pytest.mark.parametrize('name', sorted(MODELS))
def test_score_is_that_of_a_batch_without_interactions(name):
    model = MODELS[name]()
    parameters = jax.tree.map(jnp.asarray, drawn(model))
    batch = types.Batch(None, jnp.zeros(N), jnp.ones(N))
    shared, private = parameters['shared'], parameters['private']
    np.testing.assert_allclose(
        model.score(shared, private, None), client.scores(model, shared, private, batch), rtol=1e-5
    )
    some = model.score(shared, private, jnp.array([3, 1]))
    np.testing.assert_allclose(
        some, model.score(shared, private, None)[jnp.array([3, 1])], rtol=1e-5
    )


@pytest.mark.parametrize('name', sorted(MODELS))
def test_sizes_are_checked(name):
    make = getattr(models, name.removesuffix('_3'))
    for arguments in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match='> 0'):
            make(*arguments)
    with pytest.raises(ValueError, match='scale'):
        make(2, 2, scale=-1.0)


def slopes(loss, logits):
    """`dL/dz` of a loss at given logits: the model's scores are its item biases."""
    model = types.Model(None, None, lambda shared, private, items: shared)
    value = client.mean_loss(model, LOSSES[loss])
    batch = types.Batch(None, jnp.asarray(LABELS), jnp.asarray(WEIGHTS))
    return np.asarray(jax.grad(value)(jnp.array(logits), None, batch))


# Failed on BPR with the ends of each pair exchanged.
@pytest.mark.parametrize('loss', ['bce', 'bpr', 'sampled_softmax', 'weighted'])
def test_signs_of_coefficients_are_the_labels(loss):
    found = slopes(loss, [4.0, -3.0, 2.0, 5.0, 0.0])
    assert np.array_equal(found[:4] < 0, LABELS[:4] > 0)
    assert np.all(found[:4] != 0)
    assert found[4] == 0


# An interaction with more than its share of the softmax, one whose smoothed label is passed, and
# one beyond the margin.
@pytest.mark.parametrize(('loss', 'z'), [('softmax', 4.0), ('smoothed', 4.0), ('hinge', 2.0)])
def test_signs_of_coefficients_that_are_no_labels(loss, z):
    assert slopes(loss, [z, -3.0, -1.0, 0.0, 0.0])[0] >= 0
    assert slopes(loss, [0.1, -3.0, -1.0, 0.0, 0.0])[0] < 0
