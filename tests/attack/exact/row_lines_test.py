"""Attacks on item rows that lie on one line or on two, and on coefficients, for any loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedinv_jax import client, item_table, losses, models, observe, regularizers, tree, types
from fedinv_jax.attack import exact
from fedinv_jax.attack.exact import blocks, coefficients
from fedinv_jax.attack.exact.known import Block, Draw

N, K, D = 60, 40, 6
KEY = jax.random.key(0)
LABELS = (np.arange(K) % 5 == 0).astype(float)
MODELS = {
    'fedrap': models.fedrap(N, D, scale=0.5),
    'gmf': models.gmf(N, D, scale=0.5),
    'lightgcn': models.lightgcn(N, D, num_layers=1, scale=0.5),
    'lightgcn_3': models.lightgcn(N, D, num_layers=3, scale=0.5),
    'matrix_factorization': models.matrix_factorization(N, D, scale=0.5),
    'ncf': models.ncf(N, D, hidden=(12, 6), scale=0.5),
    'neumf': models.neumf(N, D, hidden=(12, 6), scale=0.5),
    'pfedrec': models.pfedrec(N, D, scale=0.5),
    'two_tower': models.two_tower(N, D, scale=0.5),
}
LOSSES = {
    'bce': losses.bce,
    'bpr': losses.bpr(),
    'sampled_softmax': losses.sampled_softmax(),
    'softmax': losses.softmax(),
}
compiled = functools.cache(jax.jit)  # the same client or attack once, not once a test


@functools.cache
def started(model):
    """Initial parameters by key, compiled."""

    @jax.jit
    def start(key, items):
        keys = jax.random.split(key)
        whole = model.init_shared(keys[0]), model.init_private(keys[1])
        return item_table.gather_both(*whole, items)

    return start


def drawn(model, seed, size):
    """Parameters with the rows of the first items, in float64, no bias at 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + 0.05 * rng.normal(size=leaf.shape)),
        started(model)(jax.random.key(seed), np.arange(size)),
    )


@functools.cache
def probed(model, loss, seen, stage=None, terms=None):
    update, linear = (client.gradient_step(model, one, 0.1, terms) for one in (loss, losses.linear))
    channel = observe.chain(*([stage] if stage else []), observe.share(*seen))
    draws = [
        Draw(
            *drawn(model, seed, 8),
            types.Batch(None, jnp.asarray(np.random.default_rng(seed).random(8)), jnp.ones(8)),
        )
        for seed in (1, 2)
    ]
    return (
        update,
        channel,
        exact.probe(update, channel, model.init_private, draws, linear_update=linear, signs=True),
    )


def transcript(
    update, channel, model, steps, labels=LABELS, change=lambda *rows: rows, dtype=float
):
    """What is seen of a client in several rounds with parameters of their own."""
    batch = types.Batch(None, jnp.asarray(labels), jnp.ones(len(labels)))
    shared, seen = [], []
    for t in range(steps):
        rows = change(*drawn(model, 10 + t, K))
        sent = tree.cast_floats((*rows, batch), dtype)
        upload = tree.cast_floats(compiled(update)(*sent)[0], float)
        shared.append(rows[0])
        seen.append(channel.observe(upload, channel.init(upload), jax.random.key(t))[0])
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    return types.Transcript(
        shared=stack(shared),
        seen=stack(seen),
        rounds=jnp.arange(steps),
        participated=jnp.ones(steps, bool),
        items=jnp.arange(K),
        slot=None,
        weights=jnp.ones((steps, K)),
        log_odds=jnp.zeros(K),
    )


def answered(name, loss, seen, steps=1, solver='auto', labels=LABELS):
    with jax.enable_x64():
        model = MODELS[name]
        update, channel, known = probed(model, LOSSES[loss], seen)
        choice = exact.choose(known, solver=solver)
        answer = jax.jit(choice.attack)(
            transcript(update, channel, model, steps, labels), jax.random.key(0)
        )
    return choice, answer


# Failed on mutants: rows of all leaves for NeuMF, distances to the origin for LightGCN.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'loss', 'steps'),
    [
        ('fedrap', 'bce', 1),
        ('gmf', 'bce', 2),
        ('lightgcn', 'bce', 1),
        ('lightgcn_3', 'bpr', 2),
        ('matrix_factorization', 'bpr', 1),
        ('neumf', 'bpr', 2),
        ('pfedrec', 'bpr', 1),
        ('two_tower', 'bce', 2),
    ],
)
def test_item_rows_reveal_the_labels_of_any_loss(name, loss, steps):
    choice, answer = answered(name, loss, ('items',), steps)
    assert np.array_equal(answer.labels, LABELS > 0)
    assert choice.solver == ('two_lines' if name.startswith('lightgcn') else 'one_line')
    assert answer.scores.shape == (K,)


# NeuMF's rows of its MLP are on no line; those of GMF are. Failed on: two hidden units, whose rows
# are in a plane.
def test_which_leaves_are_on_a_line():
    with jax.enable_x64():
        of = {
            name: probed(MODELS[name], LOSSES['bpr'], ('items',))[2].structure
            for name in ('fedrap', 'lightgcn', 'ncf', 'neumf')
        }
        two = probed(models.ncf(N, D, hidden=(2,), scale=0.5), LOSSES['bpr'], ('items',))[2]
    assert not two.structure.on_plane
    assert of['neumf'].on_line == ('items/gmf',)
    assert of['ncf'].on_line == ()
    assert of['fedrap'].on_line == ('items/embedding',)
    assert [name for name, found in of.items() if found.on_plane] == ['lightgcn']


# Failed on the coefficients of p = 0, and on steps that do not share signs.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'seen', 'loss', 'steps'),
    [
        ('ncf', 'scorer', 'bpr', 2),
        ('ncf', 'items+scorer', 'sampled_softmax', 1),
        ('neumf', 'scorer', 'bce', 1),
        ('neumf', 'scorer', 'bpr', 2),
    ],
)
def test_coefficients_of_a_scorer(name, seen, loss, steps):
    choice, answer = answered(name, loss, tuple(seen.split('+')), steps)
    assert choice.solver == 'coefficients'
    assert np.array_equal(answer.labels, LABELS > 0)
    assert answer.fits == (1 if name == 'ncf' else -1)


# Failed on: coefficients that explain any loss.
@pytest.mark.slow
def test_the_loss_is_tested_by_replaying_the_client():
    with jax.enable_x64():
        model = MODELS['ncf']
        update, channel, _ = probed(model, LOSSES['softmax'], ('scorer',))
        seen = transcript(update, channel, model, 2)
        known = probed(model, LOSSES['bpr'], ('scorer',))[2]
        assert jax.jit(exact.choose(known).attack)(seen, jax.random.key(0)).fits == 0


def test_where_signs_are_no_labels_the_reason_says_so():
    with jax.enable_x64():
        known = probed(MODELS['gmf'], LOSSES['softmax'], ('items',))[2]
    assert 'is the label' in exact.choose(known).why
    assert 'is a guess at the label' in exact.choose(known._replace(signs=False)).why


# The label solve of an affine loss and the coefficients of the same uploads say the same.
def test_coefficients_agree_with_the_label_solve():
    labels = {}
    with jax.enable_x64():
        model = MODELS['ncf']
        update, channel, known = probed(model, losses.bce, ('scorer',))
        assert known.linear is None
        linear = probed(model, LOSSES['bpr'], ('scorer',))[2].linear
        seen = transcript(update, channel, model, 1)
        for solver, given in (
            ('closed_form', known),
            ('coefficients', known._replace(linear=linear)),
        ):
            answer = jax.jit(exact.choose(given, solver=solver).attack)(seen, jax.random.key(0))
            labels[solver] = np.asarray(answer.labels)
    assert np.array_equal(labels['closed_form'], labels['coefficients'])
    assert np.array_equal(labels['coefficients'], LABELS > 0)


# Several local steps and a clipped upload are no sums of the logits' gradients.
def test_what_is_no_sum_of_gradients_has_no_coefficients():
    with jax.enable_x64():
        model = MODELS['ncf']
        stage = observe.clip_by_global_norm(1e-3)
        known = probed(model, LOSSES['bpr'], ('scorer',), stage)[2]
        assert known.linear is None
        with pytest.raises(ValueError, match='one gradient of a loss'):
            exact.choose(known, solver='coefficients')
        none = probed(MODELS['gmf'], LOSSES['bpr'], ('scorer',))[2]
        with pytest.raises(ValueError, match='kernel and the bias'):
            exact.choose(none, solver='coefficients')
        for solver in ('one_line', 'two_lines'):
            with pytest.raises(ValueError, match='needs'):
                exact.choose(known, solver=solver)


# Matrix factorisation with BPR, GMF and a private head explain the opposite labels as well.
@pytest.mark.parametrize(
    ('name', 'loss', 'flips'),
    [
        ('gmf', 'bce', False),  # it has a bias in the scorer
        ('matrix_factorization', 'bpr', True),
        ('pfedrec', 'bce', True),
        ('two_tower', 'bpr', True),
        ('ncf', 'bpr', False),
    ],
)
def test_flips_are_found(name, loss, flips):
    with jax.enable_x64():
        known = probed(MODELS[name], LOSSES[loss], ('items',))[2]
    assert bool(known.symmetries) == flips


class Concatenated(nn.Module):
    """A layer on `[q_i; p]`, as most public code has it; no ReLU."""

    @nn.compact
    def __call__(self, private, rows):
        both = jnp.concatenate([rows, jnp.broadcast_to(private, rows.shape)], axis=-1)
        return nn.Dense(1)(nn.tanh(nn.Dense(12)(both)))[..., 0]


# Failed on: a kernel that is left out as a whole, and one that is not split in what is seen.
@pytest.mark.slow
@pytest.mark.parametrize(('loss', 'solver'), [('bce', 'closed_form'), ('bpr', 'coefficients')])
def test_a_kernel_of_concatenated_inputs_is_split(loss, solver):
    with jax.enable_x64():
        model = models.from_flax(Concatenated(), N, D, scale=0.5)
        update, channel, known = probed(model, LOSSES[loss], ('scorer',))
        assert known.block[:4] == ('scorer/Dense_1/kernel', 0, D, 2 * D)
        choice = exact.choose(known)
        answer = jax.jit(choice.attack)(transcript(update, channel, model, 1), KEY)
    assert choice.solver == solver
    assert np.array_equal(answer.labels, LABELS > 0)
    assert answer.certificate.certified
    assert answer.fits == 1


# What clients add to their loss. Failed on: uploads as they are seen.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'loss', 'terms'),
    [
        ('fedrap', 'bce', regularizers.additive_personalization(0.1, 0.1)),
        ('gmf', 'bpr', regularizers.weight_decay(0.5)),
        ('lightgcn', 'bce', regularizers.weight_decay(0.5)),
    ],
)
def test_what_is_added_to_the_loss_is_subtracted(name, loss, terms):
    with jax.enable_x64():
        model = MODELS[name]
        update, channel, known = probed(model, LOSSES[loss], ('items',), terms=terms)
        choice = exact.choose(known)
        answer = jax.jit(choice.attack)(transcript(update, channel, model, 1), jax.random.key(0))
    assert choice.solver == ('two_lines' if name == 'lightgcn' else 'one_line')
    assert np.array_equal(answer.labels, LABELS > 0)


# Failed on the line with most rows near it.
@pytest.mark.parametrize('share', [0.5, 0.8])
def test_lines_of_a_client_with_few_negatives(share):
    labels = (np.arange(K) < share * K).astype(float)
    _, answer = answered('lightgcn', 'bce', ('items',), labels=labels)
    assert np.array_equal(answer.labels, labels > 0)


# BPR with item biases: the sign of a bias says which side is which. Failed on the smaller side.
def test_item_biases_tell_the_side():
    labels = 1 - LABELS
    with jax.enable_x64():
        model = models.matrix_factorization(N, D, item_bias=True, scale=0.5)
        update, channel, known = probed(model, LOSSES['bpr'], ('items',))
        assert known.structure.signed == ('items/bias',)
        assert 'items/bias says which side' in exact.choose(known).why
        seen = transcript(update, channel, model, 1, labels)
        answer = jax.jit(exact.choose(known, solver='one_line').attack)(seen, jax.random.key(0))
    assert np.array_equal(answer.labels, labels > 0)


# Failed on: certificates behind a channel that adds noise, of a loss whose signs are no labels, of
# a client with a symmetry, of a step with dependent columns, and of a sign that is not sure.
def test_signs_are_certified_only_where_they_are_sure_and_labels():
    with jax.enable_x64():
        known = probed(MODELS['ncf'], LOSSES['bpr'], ('scorer',))[2]
    apart, labels = jnp.array([[-9.0, 8.0], [-1.0, 50.0]]), jnp.array([True, False])

    def made(given, full=(True, True), noise=(5.0, 5.0), labels=labels, fits=1):
        steps = coefficients.Step(
            apart,
            jnp.ones((2, 4)),
            jnp.array(noise),
            jnp.zeros(2),
            jnp.array([2, 2]),
            jnp.array(full),
        )
        where = jnp.ones(2, bool)
        return coefficients.certify(given, steps, apart, labels, where, jnp.asarray(fits))

    found = made(known)
    assert found.certified
    assert (float(found.margin), int(found.determined)) == (9.0, 2)
    for given in (
        known._replace(lossy=True), known._replace(signs=False), known._replace(symmetries=('y',))
    ):  # fmt: skip
        assert not made(given).certified
    assert not made(known, full=(False, True)).certified
    assert not made(known, noise=(9.5, 9.5)).certified
    assert not made(known, labels=~labels).certified
    assert not made(known, fits=0).certified


# Clients that are trained upload next to nothing for negatives, less than what private rows add.
# Failed on: the sign of every row.
def test_rows_within_what_private_rows_add_are_of_negatives():
    terms = regularizers.additive_personalization(0.1, 0.1)
    with jax.enable_x64():
        model = MODELS['fedrap']
        update, channel, known = probed(model, losses.bce, ('items',), terms=terms)
        seen = transcript(
            update, channel, model, 2, change=lambda s, p: (s, {**p, 'bias': jnp.asarray(-12.0)})
        )
        answer = jax.jit(exact.choose(known).attack)(seen, KEY)
    assert np.array_equal(answer.labels, LABELS > 0)


# Failed on: a row of 0 is on no side.
@pytest.mark.slow
def test_rows_rounded_to_zero_are_of_interactions():
    with jax.enable_x64():
        model = MODELS['pfedrec']
        update, channel, known = probed(model, losses.bce, ('items',))

        def change(shared, private):  # half of the interactions are sure
            sure = (np.arange(K) % 10 == 0)[:, None]
            rows = shared['items']['embedding'] * ~sure
            own = private['weight'] / jnp.sum(private['weight'] ** 2)
            rows = rows + sure * (25 - private['bias']) * own
            return {**shared, 'items': {'embedding': rows}}, private

        seen = transcript(update, channel, model, 1, change=change, dtype=np.float32)
        zero = ~np.any(np.asarray(seen.seen['items']['embedding'])[0] != 0, axis=1)
        assert np.array_equal(zero, np.arange(K) % 10 == 0)
        answer = jax.jit(exact.choose(known._replace(interactions_vanish=True)).attack)(seen, KEY)
    assert np.array_equal(answer.labels, LABELS > 0)


# Coefficients less than what rounding leaves: uploads in float32. Failed on: the sign of every one.
@pytest.mark.slow
def test_coefficients_within_rounding_are_of_negatives():
    def change(shared, private):
        scorer = shared['scorer']
        output = {**scorer['mlp'], 'bias': jnp.full(1, -22.0)}
        return {**shared, 'scorer': {**scorer, 'mlp': output}}, private

    with jax.enable_x64():
        model = MODELS['neumf']
        update, channel, known = probed(model, losses.bce, ('scorer',))
        seen = transcript(update, channel, model, 1, change=change, dtype=np.float32)
        answer = jax.jit(exact.choose(known).attack)(seen, KEY)
    assert np.array_equal(answer.labels, LABELS > 0)
    assert not answer.certificate.certified


# Both layouts, [in, out] and PyTorch's [out, in], and a block in the middle.
@pytest.mark.parametrize('axis', [0, 1])
def test_a_block_is_split_and_joined(axis):
    whole = np.arange(12.0).reshape(6, 2) if axis == 0 else np.arange(12.0).reshape(6, 2).T
    block = Block('scorer/kernel', axis, 1, 3, 6)
    upload = {'scorer': {'kernel': jnp.asarray(whole)}, 'items': jnp.ones(2)}
    parts = blocks.split(block, upload)['scorer']
    assert [parts[f'kernel[{rows}]'].tolist() for rows in ('0:1', '1:3', '3:6')] == [
        [[0, 1]], [[2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]
    ]  # fmt: skip
    channel = blocks.observation(block, observe.chain(observe.add_gaussian_noise(2.0)))
    predicted, _ = channel.predict(upload, {'scorer': parts, 'items': upload['items']}, ())
    assert jax.tree.all(jax.tree.map(np.array_equal, predicted['scorer'], parts))
    restored = []

    def keep(upload, seen, state):
        restored.append(seen)
        return seen, state

    keeping = observe.chain()._replace(predict=keep)
    blocks.observation(block, keeping).predict(upload, {'scorer': parts}, ())
    assert np.array_equal(restored[0]['scorer']['kernel'], whole)
    variance = channel.variance(predicted)
    assert variance['scorer']['kernel[1:3]'].shape == (2, 2)
    assert np.all(variance['scorer']['kernel[1:3]'] == 4)
