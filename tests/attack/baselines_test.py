"""Baselines that use no upload."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax.attack import baselines
from tests.helpers import KEY, B, make_transcript, pad


# Failed on: `rank <= count`; the share of K instead of that of the candidates.
@pytest.mark.parametrize(('share', 'count'), [(0.0, 0), (0.25, 1), (0.5, 2), (0.8, 3), (1.0, 4)])
def test_top_share(share, count):
    transcript = pad(make_transcript('mf', ('items',), 'gradient_step')[0])
    popular = baselines.popularity(transcript, share)
    for answer in (popular, baselines.random(transcript, KEY, share)):
        assert int(jnp.sum(answer.labels)) == count
        # The padding has the largest log odds of all.
        assert not jnp.any(answer.labels[B:])
        assert jnp.all((answer.scores >= 0) & (answer.scores <= 1))
        assert answer.private is None
        assert answer.labels.dtype == bool
    # Log odds rise along the candidates.
    np.testing.assert_array_equal(popular.labels[:B], np.arange(B) >= B - count)


def test_ties_keep_the_count():
    transcript, _, _ = make_transcript('mf', ('items',), 'gradient_step')
    flat = transcript.replace(log_odds=np.zeros(B, np.float32))
    assert int(jnp.sum(baselines.popularity(flat, 0.5).labels)) == 2


def test_random_depends_on_the_key_only():
    transcript, _, _ = make_transcript('mf', ('items',), 'gradient_step')
    a, b, c = (baselines.random(transcript, jax.random.key(s), 0.5).scores for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert jnp.any(a != c)
