"""Deviations of rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import item_table, observe, tree
from fedinv_jax.attack import dynamics, whitening
from fedinv_jax.types import Batch, Transcript
from tests.attack.exact.helpers import ncf, one_step


# Failed on mutants: means over padded rows, of the replays' gaps and of what was seen.
@pytest.mark.slow
def test_padding_does_not_change_them():
    model = ncf(4, (6, 5))
    update, size = one_step(model), 5
    private = model.init_private(jax.random.key(1))
    shared = model.init_shared(jax.random.key(0))

    def deviations(padded):
        items = jnp.concatenate([jnp.arange(size), jnp.zeros(padded - size, int)])
        weights = (jnp.arange(padded) < size).astype(float)
        rows = item_table.gather(shared, items)
        labels_ = (jnp.arange(padded) < 2).astype(float)
        seen = update(rows, private, Batch(None, labels_, weights))[0]
        transcript = Transcript(
            shared=rows, seen=seen, rounds=jnp.zeros((), int), participated=jnp.ones((), bool),
            items=items, slot=None, weights=weights, log_odds=jnp.zeros(padded),
        )  # fmt: skip
        transcript = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], transcript)
        transcript = tree.cast_floats(transcript, jnp.float64).replace(
            items=items, log_odds=jnp.zeros(padded)
        )
        hypothesis = dynamics.free(model.init_private, 1)
        latent = private.astype(jnp.float64)[None]
        found = whitening.deviations(transcript, update, observe.chain(), hypothesis, latent)
        return float(found['items']['embedding'][0])

    with jax.enable_x64():
        np.testing.assert_allclose(deviations(80), deviations(size), rtol=0.1)
