"""Scores of NCF against the float64 reference, and its start."""

import jax
import numpy as np
import pytest

from fedinv_jax import models
from tests.helpers import scores_match_reference


# Failed on mutant: a bias in the private block too.
@pytest.mark.parametrize('use_bias', [False, True])
@pytest.mark.parametrize('hidden', [(4,), (5, 4, 2)])
def test_score_matches_reference(hidden, use_bias):
    scores_match_reference(models.ncf(7, 3, hidden, use_bias))


# Failed on the mutants that ignore the field, and on the fan-in of one block of the first layer.
def test_kernels_of_a_start():
    def scorer(kernel_init):
        model = models.ncf(3, 50, (40, 30), kernel_init=kernel_init)
        return model.init_shared(jax.random.key(0))['scorer']

    bounds = {'private': 100**-0.5, 'items': 100**-0.5, 'layer_1': 40**-0.5, 'layer_2': 30**-0.5}
    uniform, normal = scorer('uniform'), scorer('he_normal')
    assert set(uniform) == set(bounds)
    for name, bound in bounds.items():
        for leaf in uniform[name].values():
            assert np.abs(leaf).max() <= bound
            if leaf.size > 20:
                assert np.abs(leaf).max() > 0.85 * bound
                assert abs(leaf.mean()) < 3 * bound / np.sqrt(3 * leaf.size)
        kernel = normal[name]['kernel']
        assert abs(kernel.std() / (2**0.5 * bound) - 1) < 4 / np.sqrt(2 * kernel.size)
    assert np.unique(uniform['items']['bias']).size == 40
    assert not normal['items']['bias'].any()


def test_errors():
    with pytest.raises(ValueError, match=r"Unknown kernel_init='zeros'\. Choices: he_normal, unif"):
        models.ncf(3, 2, kernel_init='zeros')
    for hidden in ((), (4, 0), (2.5,), ('4',), (None,)):
        with pytest.raises(ValueError, match='to be one or more positive integers'):
            models.ncf(3, 2, hidden)
    with pytest.raises(ValueError, match=r'Expected num_items=0 > 0\.'):
        models.ncf(0, 2)
