"""Models of items with features: scores, gradients, what is refused, and a training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import client, data, losses, models, observe, server, train, tree, types

FLAGS = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 2, 2], [0, 1, 0, 0]], float)
N, F, D = 5, 4, 3
LABELS = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
WEIGHTS = np.array([1.0, 1.0, 2.0, 1.0, 0.0])
MODELS = {
    'gmf': lambda: models.gmf(F, D),
    'lightgcn': lambda: models.lightgcn(F, D),
    'matrix_factorization': lambda: models.matrix_factorization(F, D, item_bias=True),
    'ncf': lambda: models.ncf(F, D, hidden=(4, 2)),
    'neumf': lambda: models.neumf(F, D, hidden=(4, 2)),
    'pfedrec': lambda: models.pfedrec(F, D),
    'two_tower': lambda: models.two_tower(F, D, width=4),
}


def drawn(model, seed=0):
    """Parameters in float64, features as they are."""
    rng = np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(seed))
    shared, private = model.init_shared(keys[0]), model.init_private(keys[1])
    normal = lambda leaf: rng.normal(scale=0.7, size=leaf.shape)  # noqa: E731
    shared['scorer'], private = jax.tree.map(normal, (shared['scorer'], private))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (shared, private))


def coefficients(z):
    """`dL/dz_i` of BCE."""
    return [w * (1 / (1 + np.exp(-z[i])) - LABELS[i]) / sum(WEIGHTS) for i, w in enumerate(WEIGHTS)]


# Failed on mutants: the sum of the feature rows, the mean over all features.
@pytest.mark.parametrize('which', [None, (3, 0, 3, 2, 1)])
def test_gradient_is_the_coefficients_through_the_incidence(which, float64):
    model = models.with_item_features(MODELS['matrix_factorization'](), FLAGS)
    shared, private = drawn(model)
    items = range(N) if which is None else which
    table, biases, p = (
        np.asarray(leaf)
        for leaf in (*(shared['scorer']['feature_rows'][n] for n in ('embedding', 'bias')), private)
    )
    z, shares = [], []
    for i in items:
        share = [FLAGS[i, f] / sum(FLAGS[i]) for f in range(F)]
        shares.append(share)
        z.append(sum(share[f] * (table[f] @ p + biases[f]) for f in range(F)))
    c = coefficients(z)
    want = {'embedding': np.zeros((F, D)), 'bias': np.zeros(F)}
    slope = np.zeros(D)
    for i in range(N):
        for f in range(F):
            want['embedding'][f] += c[i] * shares[i][f] * p
            want['bias'][f] += c[i] * shares[i][f]
            slope += c[i] * shares[i][f] * table[f]
    index = None if which is None else jnp.array(which)
    batch = types.Batch(index, jnp.asarray(LABELS), jnp.asarray(WEIGHTS))
    upload, moved = client.gradient_step(model, losses.bce, 1.0)(shared, private, batch)
    np.testing.assert_allclose(model.score(shared, private, index), z)
    for name, expected in want.items():
        np.testing.assert_allclose(upload['scorer']['feature_rows'][name], expected, rtol=1e-12)
    np.testing.assert_allclose(private - moved, slope, rtol=1e-12)
    assert not np.any(upload['items']['features'])


# With a feature of its own each item has a row of its own.
@pytest.mark.parametrize('name', sorted(MODELS))
def test_items_of_one_feature_each_have_its_row(name, float64):
    plain, mixed = MODELS[name](), models.with_item_features(MODELS[name](), 3 * np.eye(F))
    shared, private = drawn(mixed)
    scorer = dict(shared['scorer'])
    same = {'items': scorer.pop('feature_rows'), 'scorer': scorer}
    batch = types.Batch(jnp.array([2, 0]), jnp.array([1.0, 0.0]), jnp.ones(2))
    np.testing.assert_allclose(
        client.scores(mixed, shared, private, batch), client.scores(plain, same, private, batch)
    )
    whole = types.Batch(None, jnp.asarray(LABELS[:F]), jnp.asarray(WEIGHTS[:F]))
    ours, theirs = (
        client.gradient_step(model, losses.bpr(), 1.0)(parameters, private, whole)
        for model, parameters in ((mixed, shared), (plain, same))
    )
    got = {**ours[0]['scorer']}
    want = {**theirs[0]['scorer'], 'feature_rows': theirs[0]['items']}
    assert tree.names(got) == tree.names(want)
    for one, other in zip(
        jax.tree.leaves((got, ours[1])), jax.tree.leaves((want, theirs[1])), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize('name', sorted(MODELS))
def test_uploads_are_differences_of_the_loss(name, float64):
    model = models.with_item_features(MODELS[name](), FLAGS)
    shared, private = drawn(model)
    batch = types.Batch(None, jnp.asarray(LABELS), jnp.asarray(WEIGHTS))
    value = client.mean_loss(model, losses.bce)
    rows = shared['scorer']['feature_rows']
    upload = client.gradient_step(model, losses.bce, 1.0)(shared, private, batch)[0]
    for leaf, table in rows.items():
        for index in np.ndindex(table.shape):
            ends = [
                value(
                    {
                        **shared,
                        'scorer': {
                            **shared['scorer'],
                            'feature_rows': {**rows, leaf: table.at[index].add(step)},
                        },
                    },
                    private,
                    batch,
                )
                for step in (1e-6, -1e-6)
            ]
            got = upload['scorer']['feature_rows'][leaf][index]
            np.testing.assert_allclose(got, (ends[0] - ends[1]) / 2e-6, atol=2e-8)


# Weight decay on the server, local steps of AdamW: neither changes what a feature means. Failed on
# rows that are not divided by their sums.
def test_a_server_trains_it_and_features_keep_their_meaning():
    interactions = data.synthetic.generate(num_users=20, num_items=40, min_activity=4)
    flags = data.features.draw(interactions.num_items, 12).incidence
    model = models.with_item_features(models.matrix_factorization(12, 4), flags)
    run = train.federation(
        model,
        client.local_sgd(model, losses.bce, optax.adamw(0.01), optax.sgd(1.0), 2),
        observe.share('scorer'),
        server.server(optax.adamw(0.02, weight_decay=0.5)),
        data.clients.build(interactions),
    )
    state = run.init(jax.random.key(0))
    before = float(run.loss(state))
    step = jax.jit(run.step)
    for _ in range(15):
        state, _ = step(
            state, jax.random.key(1), tuple(np.zeros(len(g.users), bool) for g in run.clients)
        )
    assert float(run.loss(state)) < before - 0.05
    kept, p = {**state.shared, 'items': {'features': jnp.asarray(flags)}}, jnp.ones(4)
    assert np.max(np.abs(state.shared['items']['features'] - flags)) > 0.05
    np.testing.assert_allclose(
        model.score(state.shared, p, None), model.score(kept, p, None), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ('model', 'incidence', 'message'),
    [
        (models.gmf(4, 2), np.ones(4), r'numbers >= 0, \[N, F\], got float32 \[4\]'),
        (models.gmf(4, 2), -FLAGS, 'numbers >= 0'),
        (models.gmf(4, 2), np.full((2, 4), np.nan), 'numbers >= 0'),
        (models.gmf(4, 2), FLAGS * [[1], [1], [0], [1], [0]], '2 of 5 items .* such as item 2'),
        (models.gmf(5, 2), FLAGS, r'each of 4 features, got \{5\} rows'),
        (models.fedrap(4, 2), FLAGS, 'private item table'),
    ],
)
def test_what_is_no_model_is_refused(model, incidence, message):
    with pytest.raises(ValueError, match=message):
        models.with_item_features(model, incidence)
