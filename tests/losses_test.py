"""The loss of explicit ratings, against the reference in units of ratings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import client, losses, models, types
from tests import reference

RATINGS = np.array([0.5, 3.5, 5.0, 2.0, 4.5])
WEIGHTS = np.array([1.0, 1, 1, 1, 0])
MODELS = {
    'matrix_factorization': lambda: models.matrix_factorization(5, 3, item_bias=True),
    'ncf': lambda: models.ncf(5, 3, (4, 3)),
}


# Failed on mutants: labels taken for ratings, `high` in place of `high - low`, half the error.
@pytest.mark.parametrize('name', MODELS)
def test_uploads_match_the_reference_in_stars(name):
    model = MODELS[name]()
    rng = np.random.default_rng(0)
    shared = reference.tree_map(
        lambda leaf: rng.normal(size=leaf.shape), model.init_shared(jax.random.key(0))
    )
    private = rng.normal(size=3)
    want, own = reference.gradients(
        shared, private, None, RATINGS, WEIGHTS, reference.squared_error
    )
    with jax.enable_x64():
        update = client.gradient_step(model, losses.rating_error(0.5, 5.0), 0.25)
        batch = types.Batch(None, jnp.asarray((RATINGS - 0.5) / 4.5), jnp.asarray(WEIGHTS))
        upload, moved = update(*jax.tree.map(jnp.asarray, (shared, private)), batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), upload, want)
    np.testing.assert_allclose(moved, private - 0.25 * own, atol=1e-12)
    assert np.abs(own).max() > 0.1


@pytest.mark.parametrize('bounds', [(5.0, 1.0), (1.0, 1.0), (float('nan'), 1.0), (0.0, np.inf)])
def test_refuses(bounds):
    with pytest.raises(ValueError, match=r'Expected (low|high)='):
        losses.rating_error(*bounds)
