"""What is random in a client's round: with a key only, and never in a replay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import client, losses, models, sampling, types
from tests.helpers import assert_close

N, KEY = 40, jax.random.key(3)
MODEL = models.ncf(N, 3, hidden=(4,), scale=0.5)
SHARED = MODEL.init_shared(jax.random.key(0))
PRIVATE = jnp.array([0.5, -1.0, 0.2])
BATCH = types.Batch(None, jnp.arange(N) % 3 == 0, (jnp.arange(N) < 35).astype(float))
BATCH = BATCH._replace(labels=BATCH.labels.astype(float))


def differ(one, other):
    return any(
        not np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


# Failed on weights drawn without the key, and on a replay that draws too.
def test_a_part_of_the_batch_is_trained_on():
    whole = client.gradient_step(MODEL, losses.bce, 0.1)
    part = sampling.subsampled(whole, 0.5)
    assert_close(part(SHARED, PRIVATE, BATCH), whole(SHARED, PRIVATE, BATCH))
    drawn = [part(SHARED, PRIVATE, BATCH._replace(key=jax.random.key(i)))[0] for i in (1, 2, 1)]
    assert_close(drawn[0], drawn[2])
    assert differ(drawn[0], drawn[1])
    touched = np.any(np.asarray(drawn[0]['items']['embedding']) != 0, axis=1)
    assert 5 < touched.sum() < 30
    assert not touched[35:].any()
    own = BATCH._replace(weights=jnp.where(touched, 1.0, 0.0))
    assert_close(drawn[0], whole(SHARED, PRIVATE, own)[0])


def local(**options):
    return client.local_sgd(MODEL, losses.bce, optax.sgd(0.5), optax.sgd(0.5), 2, **options)


# Failed on the same order in each epoch, on padding among the first minibatches, and on a shuffled
# replay.
def test_minibatches_have_another_order_in_each_epoch():
    stored = local(batch_size=5)(SHARED, PRIVATE, BATCH)
    shuffled = local(batch_size=5, shuffle=True)
    assert_close(shuffled(SHARED, PRIVATE, BATCH), stored)
    ones = [shuffled(SHARED, PRIVATE, BATCH._replace(key=jax.random.key(i))) for i in (1, 2)]
    assert differ(ones[0], stored)
    assert differ(*ones)
    # The full batch has no order.
    whole = local(shuffle=True)
    assert_close(
        whole(SHARED, PRIVATE, BATCH._replace(key=KEY)), local()(SHARED, PRIVATE, BATCH), atol=1e-6
    )
    orders = []
    for epoch in (0, 1):
        blocks = client._blocks(BATCH._replace(key=jax.random.fold_in(KEY, epoch)), 5, True)
        orders.append(np.asarray(blocks.items).ravel())
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(N))
        np.testing.assert_array_equal(np.sort(orders[-1][35:]), np.arange(35, N))
    assert not np.array_equal(*orders)


# Failed on a dropout of the score that recommends, on one mask for all items, and on a replay with
# dropout.
def test_hidden_units_are_dropped_in_training_only():
    model = models.ncf(N, 3, hidden=(4,), scale=0.5, dropout=0.5)
    assert_close(model.score(SHARED, PRIVATE, None), MODEL.score(SHARED, PRIVATE, None))
    plain = client.gradient_step(MODEL, losses.bce, 0.1)
    noisy = client.gradient_step(model, losses.bce, 0.1)
    assert_close(noisy(SHARED, PRIVATE, BATCH), plain(SHARED, PRIVATE, BATCH))
    drawn = [noisy(SHARED, PRIVATE, BATCH._replace(key=jax.random.key(i)))[0] for i in (1, 2)]
    assert differ(*drawn)
    same = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) + leaf[:1], SHARED['items'])
    logits = model.batch_score({**SHARED, 'items': same}, PRIVATE, BATCH._replace(key=KEY))
    assert len(np.unique(np.asarray(logits).round(5))) > 2
    many = jax.vmap(lambda key: model.batch_score(SHARED, PRIVATE, BATCH._replace(key=key)))(
        jax.random.split(KEY, 4000)
    )
    # One hidden layer: the logit is linear in what is dropped, and its mean stays.
    np.testing.assert_allclose(
        jnp.mean(many, axis=0), MODEL.score(SHARED, PRIVATE, None), atol=0.15
    )


@pytest.mark.parametrize('value', [-0.1, 1.0])
def test_a_dropout_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r'dropout=.* in \[0, 1\)'):
        models.ncf(3, 2, dropout=value)


def test_a_share_out_of_range_is_refused():
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=f'share={share}'):
            sampling.subsampled(None, share)
