"""Which entries are candidates, and their odds."""

import jax.numpy as jnp
import numpy as np

from fedinv_jax.attack import candidates
from fedinv_jax.types import Transcript
from tests.helpers import B, make_transcript, pad


# Failed on: slots ignored.
def test_candidates():
    transcript = pad(make_transcript('mf', ('items',), 'gradient_step')[0])
    np.testing.assert_array_equal(candidates.mask(transcript), [True] * B + [False] * 3)
    unknown = transcript.replace(weights=None)
    np.testing.assert_array_equal(candidates.mask(unknown), [True] * 7)
    slots = transcript.replace(
        slot=np.array([[0, 5, 2], [1, 0, 0]]), weights=np.array([[1.0, 1, 0], [1, 1, 0]])
    )
    np.testing.assert_array_equal(
        candidates.mask(slots), [True, True, False, False, False, True, False]
    )


# A client's batches all have its interactions. Failed on: the share of all candidates.
def test_interactions_are_expected_in_a_batch_where_negatives_change():
    transcript = make_transcript('mf', ('items',), 'gradient_step')[0]
    assert candidates.expected(transcript, 0.25) == 0.25 * B
    weights = np.array([[1.0, 1, 1, 0], [1, 0, 1, 1]])
    fresh = transcript.replace(weights=weights)
    np.testing.assert_array_equal(candidates.mask(fresh), [True] * 4)
    np.testing.assert_allclose(candidates.expected(fresh, 0.25), 0.75)
    assert candidates.expected(fresh.replace(rows=np.arange(4)), 0.25) == 1
    assert candidates.expected(fresh.replace(weights=None), 0.25) == 1


# Failed on mutant: the sum over padding too.
def test_odds_add_up_to_the_expected_count():
    weights = jnp.array([[1.0, 1, 1, 1, 0]])
    transcript = Transcript(
        shared={}, seen={}, rounds=jnp.zeros(1, int), participated=jnp.ones(1, bool),
        items=jnp.arange(5), slot=None, weights=weights,
        log_odds=jnp.log(jnp.array([1.0, 2.0, 3.0, 2.0, 9.0])),
    )  # fmt: skip
    log_odds = jnp.exp(candidates.log_odds(transcript, 0.25))
    np.testing.assert_allclose(log_odds, [1 / 8, 2 / 8, 3 / 8, 2 / 8, 0], rtol=1e-6)
