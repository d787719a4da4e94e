"""Scores of matrix factorisation against the float64 reference, and its start."""

import jax
import numpy as np
import pytest

from fedinv_jax import models
from tests.helpers import scores_match_reference


# Failed on mutant: the bias of item 0 for all.
@pytest.mark.parametrize('item_bias', [False, True])
def test_score_matches_reference(item_bias):
    scores_match_reference(models.matrix_factorization(7, 3, item_bias))


# Failed on mutant: `scale` ignored.
def test_start():
    model = models.matrix_factorization(300, 50, item_bias=True, scale=0.3)
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    assert shared['scorer'] == {}
    assert not shared['items']['bias'].any()
    embedding = shared['items']['embedding']
    assert abs(np.std(embedding) / 0.3 - 1) < 4 / np.sqrt(2 * embedding.size)
    assert 0.15 < np.std(private) < 0.45


@pytest.mark.parametrize('sizes', [{'num_items': 0, 'dim': 2}, {'num_items': 2, 'dim': 0}])
def test_errors(sizes):
    with pytest.raises(ValueError, match=r'Expected (num_items|dim)=0 > 0\.'):
        models.matrix_factorization(**sizes)
