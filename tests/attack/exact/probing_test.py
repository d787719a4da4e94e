"""What is probed on random draws: leaks, affine and separable clients, lossy channels."""

import jax
import jax.numpy as jnp
import optax
import pytest

from fedinv_jax import client, compress, losses, models, observe
from fedinv_jax.attack import exact
from fedinv_jax.attack.exact import embedding, label_solve, probing
from fedinv_jax.attack.exact.known import EmbeddingRecovery, uploads
from tests.attack.exact.helpers import ITEMS, draws, ncf, one_step, probed


def test_leaks_are_found():
    plain = ncf(4, (6, 5))
    update = one_step(plain)
    assert probed(plain, update, 'scorer').recovery == EmbeddingRecovery(
        'scorer/private/kernel', 0, 'scorer/items/bias'
    )
    assert probed(plain, update, 'items').recovery is None
    bare = ncf(4, (6, 5), False)
    found = probed(bare, one_step(bare), 'scorer').recovery
    assert found == EmbeddingRecovery('scorer/private/kernel', 0, None)
    mf = models.matrix_factorization(ITEMS, 4)
    found = probed(mf, one_step(mf), 'items').recovery
    assert found == EmbeddingRecovery('items/embedding', 1, None)


# Failed on mutants: any multiple, negative ones too; `scaled` ignored.
@pytest.mark.parametrize(
    ('factor', 'exact_', 'scaled'), [(1.0, True, True), (20.0, False, True), (-20.0, False, False)]
)
def test_a_multiple_of_a_product(factor, exact_, scaled):
    def update(shared, private, batch):
        del shared
        signals = jnp.outer(jnp.arange(1.0, 4.0), batch.labels[:1]).ravel()
        kernel = factor * jnp.outer(private, signals)
        return {'scorer': {'bias': signals, 'kernel': kernel, 'rest': kernel**2}}, private

    expected = EmbeddingRecovery('scorer/kernel', 0, 'scorer/bias')
    with jax.enable_x64():
        clients = draws(ncf(4, (6, 5)))
        for wanted, options in ((exact_, {}), (scaled, {'scaled': True})):
            upload = uploads(update, observe.share('scorer'))
            found = embedding.find_recovery(upload, clients, 0.9, **options)
            assert (found == expected) == wanted


def test_states_that_are_no_vector_do_not_leak():
    model = ncf(4, (6, 5))
    update = one_step(model)
    with jax.enable_x64():
        odd = [draw._replace(private=jnp.zeros((2, 2))) for draw in draws(model)]
    assert embedding.find_recovery(uploads(update, observe.share('scorer')), odd) is None


def test_structure_of_one_step():
    model = ncf(4, (6, 5))
    update = one_step(model)
    scorer, items = (probed(model, update, name).structure for name in ('scorer', 'items'))
    assert scorer.affine
    assert scorer.separable
    assert not scorer.items
    assert items.affine
    assert items.separable
    assert items.items
    assert 'scorer/layer_1/kernel' in scorer.outer
    assert items.outer == ()


@pytest.mark.slow
def test_affine_clients_are_told_from_others():
    model = ncf(4, (6, 5))
    step = probed(model, one_step(model), 'scorer').structure
    assert step.affine
    assert step.separable
    sgd = optax.sgd(0.5)
    once = client.local_sgd(model, losses.bce, sgd, sgd)
    assert probed(model, once, 'scorer').structure.affine
    thrice = client.local_sgd(model, losses.bce, sgd, sgd, num_epochs=3)
    structure = probed(model, thrice, 'scorer').structure
    assert not structure.affine
    with pytest.raises(ValueError, match=r'affine in the labels.*several'):
        label_solve.require_affine(structure)
    with pytest.raises(ValueError, match='affine'):
        exact.choose(probed(model, thrice, 'scorer'), solver='closed_form')


@pytest.mark.slow
def test_an_optimiser_that_is_not_linear_is_not_affine():
    model = ncf(4, (6, 5))
    adam = client.local_sgd(model, losses.bce, optax.adam(0.1), optax.sgd(0.1))
    assert not probed(model, adam, 'scorer').structure.affine


@pytest.mark.slow
def test_minibatches_are_not_affine():
    model = ncf(4, (6, 5))
    blocks = client.local_sgd(model, losses.bce, optax.sgd(0.1), optax.sgd(0.1), batch_size=2)
    assert not probed(model, blocks, 'scorer').structure.affine


# Failed on mutant: only what does both.
@pytest.mark.parametrize(
    ('stage', 'expected'),
    [
        pytest.param(observe.chain(), False, id='plain'),
        pytest.param(observe.add_gaussian_noise(0.1), True, id='noise'),
        pytest.param(compress.top_k(0.3), True, id='top'),
    ],
)
def test_a_channel_that_adds_noise_or_leaves_out_is_lossy(stage, expected):
    model = ncf(4, (8, 6))
    channel = observe.chain(stage, observe.share('scorer'))
    with jax.enable_x64():
        assert probing.is_lossy(one_step(model), channel, draws(model)[0]) == expected
