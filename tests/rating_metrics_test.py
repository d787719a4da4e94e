"""Metrics of explicit ratings, as arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import rating_metrics, types

SCALE = (0.5, 5.0, 0.5)


def evaluate(guessed, true, where=None, private=None):
    def label(stars):
        return (jnp.asarray(stars, float) - 0.5) / 4.5

    where = jnp.ones(len(true)) if where is None else jnp.asarray(where)
    answer = types.Answer(label(guessed), label(guessed) > 0.5, private, 0.0)
    truth = types.GroundTruth(0, label(true), where, jnp.array([[3.0, 4.0]]))
    found = rating_metrics.evaluate(answer, truth, SCALE)
    return {name: float(value) for name, value in found.items()}


# Failed on: errors of labels, padding counted, rounding to whole stars.
def test_ratings_as_arithmetic():
    found = evaluate([4.2, 3.0, 0.6, 1.0], [4.0, 3.5, 0.5, 5.0], [1, 1, 1, 0])
    assert found['rmse'] == pytest.approx(np.sqrt((0.2**2 + 0.5**2 + 0.1**2) / 3), rel=1e-5)
    assert found['accuracy'] == pytest.approx(2 / 3)
    assert found['exact'] == 0
    assert set(found) == {'rmse', 'accuracy', 'exact', 'private_error', 'private_cosine'}
    assert np.isnan(found['private_error'])


def test_all_right_after_rounding():
    found = evaluate([4.2, 3.4, 0.5], [4.0, 3.5, 0.5], private=jnp.array([3.0, 4.0]))
    assert (found['accuracy'], found['exact'], found['private_error']) == (1, 1, 0)


def test_nothing_evaluated_is_undefined():
    found = evaluate([4.0], [4.0], [0])
    assert all(np.isnan(found[name]) for name in ('rmse', 'accuracy', 'exact'))
