"""Chain laws of the observation channel, and share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import observe, types

KEY = jax.random.key(3)
UPLOAD = {
    'items': {'bias': jnp.array([1.0, -2.0]), 'embedding': jnp.array([[1.0, 2.0], [3.0, 4.0]])},
    'scorer': {'layer_1': {'bias': jnp.array([0.5]), 'kernel': jnp.array([[1.5], [2.5]])}},
}
BATCH = types.Batch(
    jnp.arange(3, dtype=jnp.int32), jnp.array([0.0, 1.0, 0.0]), jnp.array([1.0, 1.0, 0.0])
)


def scale(factor):
    """Multiplies the upload."""

    def times(upload):
        return jax.tree.map(lambda leaf: factor * leaf, upload)

    return observe.chain()._replace(
        observe=lambda upload, state, key: (times(upload), state),
        predict=lambda upload, seen, state: (times(upload), state),
        variance=lambda predicted: jax.tree.map(
            lambda leaf: jnp.full_like(leaf, factor), predicted
        ),
    )


def offset(amount):
    """Adds a constant: does not commute with `scale`."""

    def plus(upload):
        return jax.tree.map(lambda leaf: leaf + amount, upload)

    return observe.chain()._replace(
        observe=lambda upload, state, key: (plus(upload), state),
        predict=lambda upload, seen, state: (plus(upload), state),
    )


def accumulate():
    """Error feedback in miniature: sees the sum of all uploads so far; the state is that sum."""

    def init(upload):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), upload)

    def total(upload, state):
        new = jax.tree.map(jnp.add, upload, state)
        return new, new

    return observe.chain()._replace(
        init=init,
        observe=lambda upload, state, key: total(upload, state),
        predict=lambda upload, seen, state: total(upload, state),
    )


def noise(sigma=1.0):
    """Random on the data and on the upload; the attacker predicts its mean, which is 0."""

    def add(upload, key):
        leaves, structure = jax.tree.flatten(upload)
        keys = jax.random.split(key, len(leaves))
        return structure.unflatten(
            [
                leaf + sigma * jax.random.normal(k, leaf.shape)
                for leaf, k in zip(leaves, keys, strict=True)
            ]
        )

    return types.Observation(
        init=lambda upload: (),
        perturb=lambda batch, key: batch._replace(
            labels=batch.labels + sigma * jax.random.normal(key, batch.labels.shape)
        ),
        observe=lambda upload, state, key: (add(upload, key), state),
        predict=observe.identity,
        variance=lambda predicted: jax.tree.map(
            lambda leaf: jnp.full_like(leaf, sigma**2), predicted
        ),
    )


STAGES = {
    'scale': scale(3.0),
    'offset': offset(1.0),
    'accumulate': accumulate(),
    'share': observe.share('scorer'),
}


def run(stage, uploads=(UPLOAD, UPLOAD), key=KEY):
    """Observed and predicted uploads of several rounds, with the states threaded through."""
    state, predict_state = stage.init(UPLOAD), stage.init(UPLOAD)
    seen, predicted = [], []
    for t, upload in enumerate(uploads):
        out, state = stage.observe(upload, state, jax.random.fold_in(key, t))
        guess, predict_state = stage.predict(upload, out, predict_state)
        seen.append(out)
        predicted.append(guess)
    return seen, predicted


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_empty_chain_is_the_identity():
    stage = observe.chain()
    seen, predicted = run(stage)
    assert_equal(seen, [UPLOAD, UPLOAD])
    assert_equal(predicted, [UPLOAD, UPLOAD])
    assert_equal(stage.perturb(BATCH, KEY), BATCH)
    assert_equal(stage.variance(UPLOAD), jax.tree.map(jnp.zeros_like, UPLOAD))


# Failed on: stages applied in reverse order in `observe`.
@pytest.mark.parametrize('a', list(STAGES))
@pytest.mark.parametrize('b', list(STAGES))
@pytest.mark.parametrize('c', ['scale', 'offset', 'accumulate'])
def test_associative(a, b, c):
    a, b, c = STAGES[a], STAGES[b], STAGES[c]
    flat = run(observe.chain(a, b, c))
    assert_equal(run(observe.chain(a, observe.chain(b, c))), flat)
    assert_equal(run(observe.chain(observe.chain(a, b), c)), flat)


@pytest.mark.parametrize('name', STAGES)
def test_chain_of_one_is_the_stage(name):
    assert_equal(run(observe.chain(STAGES[name])), run(STAGES[name]))
    assert_equal(run(observe.chain(observe.chain(), STAGES[name])), run(STAGES[name]))


# Failed on: stages applied in reverse order in `observe`; in `predict`.
def test_stages_apply_from_left_to_right():
    seen, predicted = run(observe.chain(scale(3.0), offset(1.0)), (UPLOAD,))
    expected = jax.tree.map(lambda leaf: 3 * leaf + 1, UPLOAD)
    assert_equal((seen[0], predicted[0]), (expected, expected))


# Failed on: `predict` that returns the old state of a stage.
def test_state_threads_through():
    first = jax.tree.map(lambda leaf: 2 * leaf, UPLOAD)
    seen, predicted = run(observe.chain(accumulate(), scale(2.0), accumulate()))
    # Sums 1, 2 are doubled to 2, 4 and summed again: 2, 6.
    expected = [first, jax.tree.map(lambda leaf: 6 * leaf, UPLOAD)]
    assert_equal(seen, expected)
    assert_equal(predicted, expected)


# Failed on: init that gives every stage the first stage's upload.
def test_init_sees_what_the_stage_sees():
    state = observe.chain(observe.share('scorer'), accumulate()).init(UPLOAD)
    assert_equal(state[1], {'scorer': jax.tree.map(jnp.zeros_like, UPLOAD['scorer'])})


def test_init_reads_shapes_only():
    shapes = jax.eval_shape(lambda: UPLOAD)
    stage = observe.chain(noise(), observe.share('items'), accumulate())
    assert_equal(stage.init(shapes), stage.init(UPLOAD))


# Failed on: the same key for every stage in `perturb`; in `observe`.
def test_every_stage_has_its_own_randomness():
    twice = observe.chain(noise(), noise())
    state = twice.init(UPLOAD)
    once = noise()

    def labels_noise(stage):
        return stage.perturb(BATCH, KEY).labels - BATCH.labels

    def bias_noise(stage, state):
        return stage.observe(UPLOAD, state, KEY)[0]['items']['bias'] - UPLOAD['items']['bias']

    alone = observe.chain(once)
    # With one key the second stage would add the very same noise.
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(labels_noise(twice), 2 * labels_noise(alone), atol=1e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            bias_noise(twice, state), 2 * bias_noise(alone, alone.init(UPLOAD)), atol=1e-4
        )
    # And another key, another draw; the same key, the same one.
    assert_equal(labels_noise(twice), labels_noise(twice))
    other = twice.perturb(BATCH, jax.random.key(4)).labels
    assert float(jnp.max(jnp.abs(other - twice.perturb(BATCH, KEY).labels))) > 1e-3


# Failed on: only the last stage's variance.
def test_variances_add():
    total = observe.chain(noise(2.0), scale(1.0), noise(3.0)).variance(UPLOAD)
    assert_equal(total, jax.tree.map(lambda leaf: jnp.full_like(leaf, 4.0 + 1.0 + 9.0), UPLOAD))


def test_blind_attacker():
    stage = observe.chain(scale(3.0)._replace(predict=observe.identity), offset(1.0))
    seen, predicted = run(stage, (UPLOAD,))
    assert_equal(seen[0], jax.tree.map(lambda leaf: 3 * leaf + 1, UPLOAD))
    assert_equal(predicted[0], jax.tree.map(lambda leaf: leaf + 1, UPLOAD))
    whole = observe.chain(scale(3.0), noise())._replace(predict=observe.identity)
    assert_equal(run(whole, (UPLOAD,))[1][0], UPLOAD)


def test_predict_is_deterministic():
    a, b = (run(noise(), (UPLOAD,), jax.random.key(seed)) for seed in (0, 1))
    assert_equal(a[1], b[1])
    assert float(jnp.max(jnp.abs(a[0][0]['items']['bias'] - b[0][0]['items']['bias']))) > 1e-3


@pytest.mark.parametrize(
    'names',
    [('items',), ('scorer',), ('items/bias', 'scorer/layer_1'), ('scorer/layer_1/kernel', 'items')],
)
def test_predict_equals_observe(names):
    seen, predicted = run(observe.share(*names))
    assert_equal(seen, predicted)


# Failed on: only the last name kept.
def test_values():
    def seen(*names):
        return run(observe.share(*names), (UPLOAD,))[0][0]

    assert_equal(seen('items'), {'items': UPLOAD['items']})
    assert_equal(
        seen('items/bias', 'scorer'),
        {'items': {'bias': UPLOAD['items']['bias']}, 'scorer': UPLOAD['scorer']},
    )
    assert_equal(seen('items', 'scorer'), UPLOAD)
    assert_equal(seen('items', 'items/bias'), seen('items'))


# Failed on: only the last name kept.
def test_order_of_names_is_irrelevant():
    a = run(observe.share('items/bias', 'scorer'))
    b = run(observe.share('scorer', 'items/bias'))
    assert_equal(a, b)
    assert jax.tree.leaves(a)[0].shape == jax.tree.leaves(b)[0].shape


# Failed on: a share that keeps every leaf.
@pytest.mark.parametrize(
    ('first', 'second', 'expected'),
    [
        (
            ('items', 'scorer/layer_1/bias'),
            ('scorer', 'items/bias'),
            {'items/bias', 'scorer/layer_1/bias'},
        ),
        (('items',), ('items/embedding',), {'items/embedding'}),
        (
            ('scorer/layer_1/kernel', 'scorer/layer_1/bias'),
            ('scorer/layer_1/bias',),
            {'scorer/layer_1/bias'},
        ),
    ],
)
def test_twice_is_the_intersection(first, second, expected):
    chained = run(observe.chain(observe.share(*first), observe.share(*second)), (UPLOAD,))

    def leaves(names):
        flat = jax.tree_util.tree_leaves_with_path(run(observe.share(*names), (UPLOAD,))[0][0])
        return {jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in flat}

    both = leaves(first) & leaves(second)
    assert both == expected
    assert_equal(chained, run(observe.share(*both), (UPLOAD,)))


def test_idempotent():
    stage = observe.share('items/bias', 'scorer')
    assert_equal(run(observe.chain(stage, stage)), run(stage))


# Failed on: `startswith(prefix)` without the slash.
def test_a_name_is_a_whole_path_component():
    upload = {'items': jnp.ones(2), 'items_too': jnp.zeros(2), 'scorer': jnp.ones(1)}
    seen = observe.share('items').observe(upload, (), KEY)[0]
    assert_equal(seen, {'items': jnp.ones(2)})


def test_errors():
    with pytest.raises(ValueError, match=r'at least one name of what is shared'):
        observe.share()
    with pytest.raises(
        ValueError,
        match=r"Expected 'scorers' to name a part of the upload; it has items/bias, "
        r'items/embedding, scorer/layer_1/bias',
    ):
        observe.share('scorers').observe(UPLOAD, (), KEY)
    with pytest.raises(ValueError, match=r"Expected 'scorer' to name a part"):
        observe.share('items', 'scorer').predict({'items': jnp.ones(2), 'scorer': {}}, {}, ())


# Failed on: one key for every leaf; `scale` as the variance; one draw for a whole row.
@pytest.mark.parametrize('scale', [0.5, 3.0])
@pytest.mark.parametrize('x64', [False, True])
def test_statistics(scale, x64):
    size = 200
    with jax.enable_x64(x64):
        upload = {'items': jnp.full((size, size), 2.0), 'scorer': jnp.zeros((size, size))}
        stage = observe.add_gaussian_noise(scale)
        seen = stage.observe(upload, stage.init(upload), KEY)[0]
        noise = jax.tree.map(lambda a, b: np.asarray(a - b) / scale, seen, upload)
        for leaf, like in zip(jax.tree.leaves(seen), jax.tree.leaves(upload), strict=True):
            assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
    entries = size * size
    for leaf in jax.tree.leaves(noise):
        # Means of n normal entries, their squares, fourth powers and products with neighbours
        # have standard deviations 1, sqrt 2, sqrt 96 and 1, over sqrt n. Five of them.
        for value, expected, deviation in (
            (leaf, 0, 1),
            (leaf**2, 1, 2**0.5),
            (leaf**4, 3, 96**0.5),
            (leaf[1:] * leaf[:-1], 0, 1),
            (leaf[:, 1:] * leaf[:, :-1], 0, 1),
            (noise['items'] * noise['scorer'], 0, 1),
        ):
            assert abs(value.mean() - expected) < 5 * deviation / entries**0.5


def test_the_attacker_predicts_the_mean_and_knows_the_variance():
    stage = observe.chain(observe.add_gaussian_noise(0.5), observe.share('scorer'))
    seen, predicted = run(stage)
    expected = {'scorer': UPLOAD['scorer']}
    assert_equal(predicted, [expected, expected])
    assert abs(float(seen[0]['scorer']['layer_1']['bias'][0]) - 0.5) > 1e-3
    assert_equal(
        stage.variance(seen[0]), jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.25), expected)
    )


def test_the_same_key_is_the_same_noise():
    stage = observe.add_gaussian_noise(0.5)
    first, again, other = (stage.observe(UPLOAD, (), jax.random.key(seed))[0] for seed in (0, 0, 1))
    assert_equal(first, again)
    assert first['items']['bias'][0] != other['items']['bias'][0]


def test_edge_cases():
    none = observe.add_gaussian_noise(0.0)
    assert_equal(run(none), run(observe.chain()))
    assert_equal(none.variance(UPLOAD), jax.tree.map(jnp.zeros_like, UPLOAD))
    stage = observe.add_gaussian_noise(1.0)
    assert stage.observe({}, (), KEY)[0] == {}
    for scale in (-0.1, float('nan')):
        with pytest.raises(ValueError, match=rf'Expected scale={scale} >= 0\.'):
            observe.add_gaussian_noise(scale)


def test_share_of_unknown_parts_names_the_known_ones():
    with pytest.raises(ValueError, match='items/embedding'):
        observe.share('scorers').observe({'items': {'embedding': 1}}, (), jax.random.key(0))
