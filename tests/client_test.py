"""client_update against the float64 reference, and its laws (gather, padding, no weight)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import client, item_table, losses, models, regularizers, sampling, types
from tests import reference

N, D = 7, 3
# Item 2 is there three times, with both labels; fractions are legal labels.
ITEMS = np.array([2, 5, 0, 2, 6, 2], np.int32)
LABELS = np.array([1, 0, 0.25, 0, 1, 1], np.float32)
WEIGHTS = np.array([1, 1, 0.5, 2, 1, 1], np.float32)

MODELS = {
    'mf': models.matrix_factorization(N, D),
    'mf_bias': models.matrix_factorization(N, D, item_bias=True),
    'ncf': models.ncf(N, D, hidden=(4,)),
    'ncf_deep_no_bias': models.ncf(N, D, hidden=(5, 4, 2), use_bias=False),
    'ncf_deep': models.ncf(N, D, hidden=(4, 3)),
}
LOSSES = {
    'bce': (losses.bce, reference.bce),
    'squared_error': (losses.squared_error, reference.squared_error),
}


def parameters(model, seed=0, dtype=np.float64):
    """Random parameters of a model, biases included; as large as trained ones."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init_shared, jax.random.key(0))
    shared = jax.tree.map(lambda s: (0.6 * rng.normal(size=s.shape)).astype(dtype), shapes)
    return shared, (0.6 * rng.normal(size=D)).astype(dtype)


def clients(loss):
    """name -> (package's client, reference's client) as functions of a model."""
    ours, theirs = LOSSES[loss]

    def local(optimizer, reference_optimizer, **kwargs):
        def of(model):
            return client.local_sgd(model, ours, optimizer(0.2), optimizer(0.3), **kwargs)

        return of, reference.local_sgd(
            theirs, reference_optimizer(0.2), reference_optimizer(0.3), **kwargs
        )

    return {
        'gradient_step': (
            lambda model: client.gradient_step(model, ours, 0.3),
            reference.gradient_step(theirs, 0.3),
        ),
        'sgd': local(optax.sgd, reference.Sgd, num_epochs=2),
        'sgd_minibatches': local(optax.sgd, reference.Sgd, num_epochs=2, batch_size=4),
        'adam': local(optax.adam, reference.Adam, num_epochs=3, batch_size=2),
    }


def assert_trees_close(actual, expected, rtol=1e-6, atol=1e-12):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


class Drifting:
    """A reference optimiser of the loss plus `weight sum |q - q_start|` over the item rows."""

    def __init__(self, optimizer, weight):
        self.optimizer, self.weight = optimizer, weight

    def start(self, parameters):
        return reference.to_float64(parameters['items']), self.optimizer.start(parameters)

    def step(self, parameters, gradient, state):
        start, inner = state
        pulled = {}
        for name, slope in gradient['items'].items():
            pulled[name] = np.array(slope)
            for place in np.ndindex(slope.shape):
                moved = parameters['items'][name][place] - start[name][place]
                pulled[name][place] += self.weight * ((moved > 0) * 1.0 - (moved < 0) * 1.0)
        new, inner = self.optimizer.step(parameters, {**gradient, 'items': pulled}, inner)
        return new, (start, inner)


"""The reference's hand-derived gradients are the slopes of its own loss."""


@pytest.mark.parametrize('name', list(MODELS))
@pytest.mark.parametrize('loss', list(LOSSES))
def test_finite_differences(name, loss):
    loss = LOSSES[loss][1]
    shared, private = parameters(MODELS[name])
    labels, weights = LABELS.astype(np.float64), WEIGHTS.astype(np.float64)
    gradient, private_gradient = reference.gradients(shared, private, ITEMS, labels, weights, loss)
    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = reference.tree_map(lambda x: rng.normal(size=x.shape), shared)
        along = rng.normal(size=D)
        slope = private_gradient @ along + sum(
            np.sum(a * b)
            for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )
        h = 1e-6
        ahead, behind = (
            reference.mean_loss(
                reference.tree_map(lambda x, d, h=h: x + h * d, shared, direction),
                private + h * along,
                ITEMS,
                labels,
                weights,
                loss,
            )
            for h in (h, -h)
        )
        np.testing.assert_allclose((ahead - behind) / (2 * h), slope, rtol=1e-6, atol=1e-9)


# Failed on: mean over the batch's length instead of the weights' sum; `1 - labels` in bce; the
# private step with the wrong sign; `shared' - shared` as upload; Adam's moments started afresh
# every epoch.
@pytest.mark.parametrize(
    ('name', 'loss', 'kind', 'items'),
    [
        ('mf', 'bce', 'gradient_step', ITEMS),
        ('mf_bias', 'squared_error', 'gradient_step', ITEMS),
        ('ncf', 'bce', 'gradient_step', ITEMS),
        ('ncf_deep', 'bce', 'gradient_step', ITEMS),
        ('ncf_deep_no_bias', 'squared_error', 'gradient_step', ITEMS),
        ('mf_bias', 'bce', 'sgd', ITEMS),
        ('ncf', 'squared_error', 'sgd', ITEMS),
        ('mf', 'squared_error', 'sgd_minibatches', ITEMS),
        ('ncf_deep', 'bce', 'sgd_minibatches', ITEMS),
        ('mf_bias', 'bce', 'adam', ITEMS),
        ('ncf', 'bce', 'adam', ITEMS),
        # All rows in order.
        ('mf_bias', 'bce', 'adam', None),
        ('ncf', 'bce', 'gradient_step', None),
    ],
)
def test_matches_reference(name, loss, kind, items):
    shared, private = parameters(MODELS[name])
    size = N if items is None else len(items)
    labels, weights = np.resize(LABELS, size), np.resize(WEIGHTS, size)
    ours, theirs = clients(loss)[kind]
    expected = theirs(shared, private, items, labels.astype(np.float64), weights.astype(np.float64))
    with jax.enable_x64(True):
        batch = types.Batch(items, jnp.asarray(labels), jnp.asarray(weights))
        actual = jax.jit(ours(MODELS[name]))(shared, private, batch)
    assert_trees_close(actual, expected)


# Failed on: a penalty on all shared parameters; on the square; jnp.abs, whose slope at 0 is 1;
# the mean over a minibatch.
@pytest.mark.parametrize('name', ['mf_bias', 'ncf'])
@pytest.mark.parametrize('kind', ['sgd', 'adam'])
@pytest.mark.parametrize('batch_size', [None, 4])
@pytest.mark.parametrize('items', [True, False])
def test_item_drift_matches_reference(name, kind, batch_size, items):
    shared, private = parameters(MODELS[name])
    ids = ITEMS if items else None
    size = len(ITEMS) if items else N
    labels, weights = np.resize(LABELS, size), np.resize(WEIGHTS, size)
    make, reference_make = {
        'sgd': (optax.sgd, reference.Sgd),
        'adam': (optax.adam, reference.Adam),
    }[kind]
    options = {'num_epochs': 4, 'batch_size': batch_size}
    # The penalty is a mean: over the weighted rows, and the numbers of a row.
    entries = sum(weights) * sum(leaf[0].size for leaf in jax.tree.leaves(shared['items']))
    expected, free = (
        reference.local_sgd(
            reference.bce, Drifting(reference_make(0.2), weight), reference.Sgd(0.3), **options
        )(shared, private, ids, labels.astype(np.float64), weights.astype(np.float64))
        for weight in (0.05, 0.0)
    )
    with jax.enable_x64(True):
        update = client.local_sgd(
            MODELS[name],
            losses.bce,
            make(0.2),
            optax.sgd(0.3),
            regularizer=regularizers.item_drift(0.05 * entries),
            **options,
        )
        actual = jax.jit(update)(shared, private, types.Batch(ids, labels, weights))
    # Adam makes much of a rounding where the slopes cancel.
    assert_trees_close(actual, expected, rtol=1e-5)
    change = np.abs(free[0]['items']['embedding'] - expected[0]['items']['embedding'])
    assert change.max() > 1e-3


def test_item_drift_of_rows_that_stay():
    penalty = regularizers.item_drift(2.0)
    rows = {'items': {'embedding': jnp.ones((2, 3))}, 'scorer': jnp.ones(2)}
    batch = types.Batch(None, jnp.zeros(2), jnp.ones(2))
    gradient = jax.grad(penalty)(rows, None, rows, batch)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
    with pytest.raises(ValueError, match=r'Expected weight=-1 >= 0\.'):
        regularizers.item_drift(-1)


# Failed on rows that decay twice where they are used twice, on padding that decays, and on a
# private state that does not.
@pytest.mark.parametrize('name', ['mf_bias', 'ncf'])
def test_weight_decay_adds_a_multiple_of_what_is_trained(name):
    shared, private = parameters(MODELS[name])
    items, labels = np.array([3, 1, 3, 0]), np.array([1.0, 0.0, 0.0, 1.0])
    batch = types.Batch(items, labels, np.array([1.0, 2.0, 1.0, 0.0]))
    with jax.enable_x64(True):
        plain = client.gradient_step(MODELS[name], losses.bce, 0.3)
        decayed = client.gradient_step(
            MODELS[name], losses.bce, 0.3, regularizers.weight_decay(0.05)
        )
        before, own = plain(shared, private, batch)
        after, new = decayed(shared, private, batch)
    used = np.isin(np.arange(N), [1, 3])
    rows = jax.tree.map(lambda leaf: 0.05 * leaf * used.reshape(-1, *(1,) * (leaf.ndim - 1)),
                        shared['items'])  # fmt: skip
    scorer = jax.tree.map(lambda leaf: 0.05 * leaf, shared['scorer'])
    difference = jax.tree.map(np.subtract, after, before)
    assert_trees_close(difference['items'], rows, rtol=1e-8)
    assert_trees_close(difference['scorer'], scorer, rtol=1e-8)
    np.testing.assert_allclose(own - new, 0.3 * 0.05 * private, rtol=1e-8)


# Expected values as arithmetic; the gradient in z of BCE is `sigmoid(z) - y`.
def test_smoothed_and_weighted_losses():
    z, y = np.array([0.3, -1.2, 2.0, 0.5]), np.array([1.0, 0.0, 1.0, 0.0])
    s = 1 / (1 + np.exp(-z))

    def slope(loss):
        with jax.enable_x64(True):
            return jax.grad(lambda logits: jnp.sum(loss(logits, y)))(z)

    smooth = losses.smoothed(losses.bce, 0.2)
    np.testing.assert_allclose(slope(smooth), s - (0.8 * y + 0.1))
    weighted = losses.weighted_positives(losses.bce, 4.0)
    np.testing.assert_allclose(slope(weighted), np.where(y > 0, 4 * (s - 1), s))
    both = losses.smoothed(weighted, 0.2)
    t = 0.8 * y + 0.1
    np.testing.assert_allclose(slope(both), 4 * t * (s - 1) + (1 - t) * s)
    np.testing.assert_allclose(slope(losses.weighted_positives(losses.bce, 1.0)), slope(losses.bce))
    for wrong in (
        lambda: losses.smoothed(losses.bce, 1.5),
        lambda: losses.weighted_positives(losses.bce, -1),
        lambda: regularizers.weight_decay(-1),
    ):
        with pytest.raises(ValueError, match='Expected'):
            wrong()


# Failed on: gather() of the sorted rows.
@pytest.mark.parametrize('name', ['mf_bias', 'ncf'])
def test_gather_then_scatter_is_the_dense_gradient(name):
    shared, private = parameters(MODELS[name])
    update = jax.jit(client.gradient_step(MODELS[name], losses.bce, 0.3))
    with jax.enable_x64(True):
        dense, dense_private = update(shared, private, types.Batch(ITEMS, LABELS, WEIGHTS))
        local, local_private = update(
            item_table.gather(shared, ITEMS), private, types.Batch(None, LABELS, WEIGHTS)
        )
        table = jax.tree.map(
            lambda zero, rows: jnp.zeros_like(zero).at[ITEMS].add(rows),
            shared['items'],
            local['items'],
        )
    assert_trees_close(table, dense['items'], rtol=1e-10)
    assert_trees_close(local['scorer'], dense['scorer'], rtol=1e-10)
    assert_trees_close(local_private, dense_private, rtol=1e-10)


# Failed on: division by the sum of the weights without a guard (NaN).
@pytest.mark.parametrize(
    ('name', 'kind'), [('ncf', 'gradient_step'), ('mf_bias', 'sgd'), ('mf_bias', 'adam')]
)
def test_no_weight_changes_nothing(name, kind):
    shared, private = parameters(MODELS[name], dtype=np.float32)
    update = jax.jit(clients('bce')[kind][0](MODELS[name]))
    upload, new = update(shared, private, types.Batch(ITEMS, LABELS, np.zeros(6, np.float32)))
    for leaf in jax.tree.leaves(upload):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
    np.testing.assert_array_equal(new, private)


# Failed on: mean over the batch's length; blocks of padding that are not skipped (Adam).
@pytest.mark.parametrize(
    ('name', 'kind'),
    [('ncf', 'gradient_step'), ('mf_bias', 'sgd'), ('ncf', 'sgd_minibatches'), ('mf_bias', 'adam')],
)
def test_padding_equals_truncation(name, kind):
    shared, private = parameters(MODELS[name])
    update = jax.jit(clients('bce')[kind][0](MODELS[name]))
    pad = 5

    def padded(leaf, value):
        return np.concatenate([leaf, np.full(pad, value, leaf.dtype)])

    with jax.enable_x64(True):
        short = update(shared, private, types.Batch(ITEMS, LABELS, WEIGHTS))
        long = update(
            shared,
            private,
            # A label on padding must not matter.
            types.Batch(padded(ITEMS, 0), padded(LABELS, 1), padded(WEIGHTS, 0)),
        )
    assert_trees_close(long, short, rtol=1e-10)


@pytest.mark.parametrize('name', ['mf', 'ncf'])
def test_zero_private_rate(name):
    shared, private = parameters(MODELS[name], dtype=np.float32)
    batch = types.Batch(ITEMS, LABELS, WEIGHTS)
    for update in (
        client.gradient_step(MODELS[name], losses.bce, 0.0),
        client.local_sgd(MODELS[name], losses.bce, optax.sgd(0.1), optax.sgd(0.0), 2, 4),
    ):
        upload, new = jax.jit(update)(shared, private, batch)
        np.testing.assert_array_equal(new, private)
        assert float(optax.tree.norm(upload)) > 1e-3


# Failed on: `shared' - shared` as upload.
def test_one_sgd_epoch_is_rate_times_gradient():
    model = MODELS['mf_bias']
    shared, private = parameters(model)
    batch = types.Batch(ITEMS, LABELS, WEIGHTS)
    with jax.enable_x64(True):
        gradient, private_step = jax.jit(client.gradient_step(model, losses.bce, 0.3))(
            shared, private, batch
        )
        sgd = client.local_sgd(model, losses.bce, optax.sgd(0.2), optax.sgd(0.3))
        upload, private_sgd = jax.jit(sgd)(shared, private, batch)
        scaled = jax.tree.map(lambda leaf: 0.2 * leaf, gradient)
    assert_trees_close(upload, scaled, rtol=1e-10)
    assert_trees_close(private_sgd, private_step, rtol=1e-10)


class ItemRate:
    """A reference optimiser whose steps of the item rows are `scale` times as long."""

    def __init__(self, optimizer, scale):
        self.optimizer, self.scale = optimizer, scale
        self.start = optimizer.start

    def step(self, parameters, gradient, state):
        new, state = self.optimizer.step(parameters, gradient, state)
        rows = {}
        for name, old in parameters['items'].items():
            rows[name] = np.array(old)
            for place in np.ndindex(old.shape):
                rows[name][place] += self.scale * (new['items'][name][place] - old[place])
        return {**new, 'items': rows}, state


# Failed on mutants: the scorer at the rate of the items, the gradient scaled before the optimiser.
@pytest.mark.parametrize('name', ['mf_bias', 'ncf'])
@pytest.mark.parametrize('kind', ['gradient_step', 'sgd', 'adam'])
def test_item_rows_have_a_rate_of_their_own(name, kind):
    model, scale = MODELS[name], 80.0 * N
    shared, private = parameters(model)
    labels, weights = LABELS.astype(float), WEIGHTS.astype(float)
    if kind == 'gradient_step':
        expected = reference.gradient_step(reference.bce, 0.3)(
            shared, private, ITEMS, labels, weights
        )
        rows = {}
        for leaf, gradient in expected[0]['items'].items():
            rows[leaf] = np.zeros_like(gradient)
            for place in np.ndindex(gradient.shape):
                rows[leaf][place] = scale * gradient[place]
        expected = {**expected[0], 'items': rows}, expected[1]
        update = client.gradient_step(model, losses.bce, 0.3, item_rate_scale=scale)
    else:
        ours, theirs = (optax.sgd, reference.Sgd) if kind == 'sgd' else (optax.adam, reference.Adam)
        local = reference.local_sgd(
            reference.bce, ItemRate(theirs(0.01), scale), theirs(0.02), 2, batch_size=4
        )
        expected = local(shared, private, ITEMS, labels, weights)
        update = client.local_sgd(
            model, losses.bce, ours(0.01), ours(0.02), 2, 4, item_rate_scale=scale
        )
    with jax.enable_x64(True):
        found = jax.jit(update)(shared, private, types.Batch(ITEMS, labels, weights))
    assert_trees_close(found, expected, rtol=1e-6, atol=1e-9)


# Failed on mutants: the shared rate only, the private rate only, `decay**(number + 1)`.
def test_both_learning_rates_decay_from_epoch_to_epoch():
    shared, private = parameters(MODELS['mf_bias'])

    def update(rate, **how):
        model, sgd = MODELS['mf_bias'], (optax.sgd(0.2 * rate), optax.sgd(0.3 * rate))
        return client.local_sgd(model, losses.bce, *sgd, batch_size=2, **how)

    with jax.enable_x64(True):
        batch = types.Batch(ITEMS, LABELS, WEIGHTS)
        found = update(1, num_epochs=3, learning_rate_decay=0.5)(shared, private, batch)
        end = shared, private
        for rate in (1, 0.5, 0.25):
            upload, kept = update(rate)(*end, batch)
            end = jax.tree.map(jnp.subtract, end[0], upload), kept
        expected = jax.tree.map(jnp.subtract, shared, end[0]), end[1]
    assert_trees_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('kind', ['gradient_step', 'adam'])
@pytest.mark.parametrize('x64', [False, True])
def test_structure_and_dtypes(kind, x64):
    dtype = np.float64 if x64 else np.float32
    shared, private = parameters(MODELS['mf_bias'], dtype=dtype)
    with jax.enable_x64(x64):
        upload, new = jax.jit(clients('bce')[kind][0](MODELS['mf_bias']))(
            shared, private, types.Batch(ITEMS, LABELS, WEIGHTS)
        )
    for leaf, like in zip(
        jax.tree.leaves((upload, new)), jax.tree.leaves((shared, private)), strict=True
    ):
        assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)


def test_errors():
    model = MODELS['mf']
    with pytest.raises(ValueError, match=r'Expected private_learning_rate=-1 >= 0\.'):
        client.gradient_step(model, losses.bce, -1)
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r'Expected num_epochs=0 > 0\.'):
        client.local_sgd(model, losses.bce, sgd, sgd, num_epochs=0)
    with pytest.raises(ValueError, match=r'Expected batch_size=0 > 0\.'):
        client.local_sgd(model, losses.bce, sgd, sgd, batch_size=0)
    with pytest.raises(ValueError, match=r'Expected learning_rate_decay=-0\.5 >= 0'):
        client.local_sgd(model, losses.bce, sgd, sgd, learning_rate_decay=-0.5)
    with pytest.raises(ValueError, match=r'Expected item_rate_scale=0 > 0'):
        client.local_sgd(model, losses.bce, sgd, sgd, item_rate_scale=0)
    with pytest.raises(ValueError, match=r'Expected item_rate_scale=nan > 0'):
        client.gradient_step(model, losses.bce, 0.1, item_rate_scale=np.nan)


# Failed on mutant: the optimiser as it is (NaN where a row has no gradient).
def test_adam_on_padding_has_a_derivative_and_takes_the_same_steps():
    model = MODELS['mf_bias']
    shared, private = parameters(model, dtype=np.float32)
    weights = np.array([1, 1, 1, 1, 0, 0], np.float32)
    adam = optax.adam(0.01)
    own = client.differentiable(optax.adam)(0.01)

    def upload(labels, optimizer):
        update = client.local_sgd(model, losses.bce, optimizer, optimizer, num_epochs=3)
        batch = types.Batch(None, labels, weights)
        return update(item_table.gather(shared, ITEMS), private, batch)[0]

    labels = jnp.asarray(LABELS, jnp.float32)
    assert_trees_close(upload(labels, own), upload(labels, adam), rtol=1e-6)
    slope = jax.tree.leaves(jax.jacrev(lambda y: upload(y, own))(labels))
    assert all(np.all(np.isfinite(leaf)) for leaf in slope)
    assert any(np.any(leaf != 0) for leaf in slope)


# Failed on mutants: positives may be drawn, padding is redrawn, one draw for every slot.
def test_negatives_are_uniform_among_the_other_items():
    items = jnp.array([3, 1, 4, 0, 0], jnp.int32)
    labels, weights = jnp.array([0.0, 1, 0.75, 0, 0]), jnp.array([1.0, 1, 1, 1, 0])
    draw = lambda key: sampling.resample_negatives(items, labels, weights, 7, key)  # noqa: E731
    drawn = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000)))
    assert drawn.dtype == np.int32
    np.testing.assert_array_equal(drawn[:, [1, 2, 4]], np.tile([1, 4, 0], (4000, 1)))
    assert np.all(drawn[:, 0] != drawn[:, 3])
    pairs = np.zeros((7, 7))
    np.add.at(pairs, (drawn[:, 0], drawn[:, 3]), 1)
    others = [0, 2, 3, 5, 6]
    assert pairs[np.ix_(others, others)].sum() == 4000
    # 20 ordered pairs at 200 each: chi-square with 19 degrees of freedom, 1e-6 quantile 62.
    cells = pairs[np.ix_(others, others)][~np.eye(5, dtype=bool)]
    assert np.sum((cells - 200) ** 2 / 200) < 62
