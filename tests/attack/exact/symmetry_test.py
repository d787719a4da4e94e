"""Symmetries that exchange the labels are found by probing, whatever the model is called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedinv_jax import client, item_table, losses, models, observe
from fedinv_jax.attack import exact
from fedinv_jax.attack.exact import symmetry
from fedinv_jax.types import Model
from tests.attack.exact.helpers import ITEMS, draws, ncf, probed

FLIP = 'y -> 1 - y, p -> -p'


class GMF(nn.Module):
    """`z = h . (p * q)`."""

    @nn.compact
    def __call__(self, private, rows):
        weights = self.param('h', nn.initializers.normal(1.0), private.shape)
        return rows @ (weights * private)


def private_head(bias=True):
    """A private linear score head `(w, b)` over item embeddings (PFedRec)."""
    like = models.matrix_factorization(ITEMS, 3)

    def init_private(key):
        head = {'w': jax.random.normal(key, (3,))}
        return {**head, 'b': jax.random.normal(key, ())} if bias else head

    def score(shared, private, items):
        rows = item_table.gather(shared, items)['items']['embedding']
        return rows @ private['w'] + private.get('b', 0.0)

    return Model(like.init_shared, init_private, score)


CASES = {
    'mf': (models.matrix_factorization(ITEMS, 3), (FLIP,)),
    'mf with item bias': (models.matrix_factorization(ITEMS, 3, item_bias=True), ()),
    'gmf': (models.from_flax(GMF(), ITEMS, 3), (FLIP,)),
    'ncf': (ncf(3, (4,)), ()),
    'ncf without bias': (ncf(3, (4,), False), ()),
    'private head': (private_head(), ('y -> 1 - y, b -> -b, w -> -w',)),
    'private weights': (private_head(bias=False), (FLIP,)),
}


# Failed on: labels that stay (no symmetry is found); the first leaf's sign alone.
@pytest.mark.parametrize('name', CASES)
def test_symmetries(name):
    model, expected = CASES[name]
    update = client.gradient_step(model, losses.bce, 0.1)
    scored = bool(jax.eval_shape(model.init_shared, jax.random.key(0))['scorer'])
    known = probed(model, update, *(('items', 'scorer') if scored else ('items',)))
    assert known.symmetries == expected


def test_item_rows_alone_have_the_flip_of_what_is_seen():
    model = models.matrix_factorization(ITEMS, 3)
    squared = client.gradient_step(model, losses.squared_error, 0.1)
    assert probed(model, squared, 'items').symmetries == ()


def test_an_upload_that_is_not_finite_has_none():
    def upload(private, labels):
        return jnp.full(3, jnp.nan)

    assert symmetry.flips([(upload, jnp.ones(2), jnp.zeros(3))]) == ()


def test_many_leaves_are_flipped_as_a_whole():
    names = [f'p{index}' for index in range(7)]

    def upload(private, labels):
        return (labels - 0.5) * sum(private.values())

    private = {name: jnp.asarray(1.0 + index) for index, name in enumerate(names)}
    (found,) = symmetry.flips([(upload, private, jnp.array([0.0, 0.4]))])
    assert found == 'y -> 1 - y, ' + ', '.join(f'{name} -> -{name}' for name in names)


def test_no_answer_of_a_symmetric_client_is_certified():
    model = models.from_flax(GMF(), ITEMS, 3, scale=1.0)
    update = client.gradient_step(model, losses.bce, 0.1)
    with jax.enable_x64():
        known = exact.probe(update, observe.share('items'), model.init_private, draws(model))
    choice = exact.choose(known)
    assert (choice.solver, choice.symmetries) == ('one_line', (FLIP,))
    assert np.all([name.startswith('y -> 1 - y') for name in choice.symmetries])
