"""Flax modules as recommenders: several embeddings, layers that a client may have, and refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from fedinv_jax import client, losses, models, tree, types


class Normed(nn.Module):
    """A kernel on the concatenation [p; q], LayerNorm, gelu and tanh."""

    @nn.compact
    def __call__(self, private, rows):
        both = jnp.concatenate([jnp.broadcast_to(private, rows.shape), rows], axis=-1)
        x = nn.gelu(nn.LayerNorm()(nn.Dense(4)(both)))
        return nn.Dense(1)(nn.tanh(x))[..., 0]


class BatchNormed(nn.Module):
    @nn.compact
    def __call__(self, private, rows):
        return nn.BatchNorm(use_running_average=False)(rows)[..., 0] + private[0]


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, private, rows):
        return nn.Dropout(0.5, deterministic=False)(rows * private)[..., 0]


class Tables(nn.Module):
    @nn.compact
    def __call__(self, private, rows):
        return rows['one'] @ private['one'] + nn.Dense(1)(rows['other'])[..., 0]


def test_any_layer_without_state_trains():
    model = models.from_flax(Normed(), num_items=5, dim=3)
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    update = client.gradient_step(model, losses.bpr(), 0.1)
    batch = types.Batch(None, jnp.array([1.0, 0, 0, 1, 0]), jnp.ones(5))
    upload, _ = update(shared, private, batch)
    assert tree.names(upload) == tree.names(shared)
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(upload['scorer']))


def test_several_embeddings_have_names():
    model = models.from_flax(Tables(), num_items=5, dim={'one': 2, 'other': 3})
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    assert shared['items']['other'].shape == (5, 3)
    assert {name: leaf.shape for name, leaf in private.items()} == {'one': (2,), 'other': (3,)}
    assert model.score(shared, private, jnp.array([4, 0])).shape == (2,)


@pytest.mark.parametrize(
    ('module', 'message'),
    [(BatchNormed, r'BatchNormed has state .*batch_stats'), (Dropped, 'Dropped draws random')],
)
def test_state_and_randomness_are_refused(module, message):
    with pytest.raises(ValueError, match=message):
        models.from_flax(module(), num_items=5, dim=3).init_shared(jax.random.key(0))
