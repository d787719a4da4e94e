"""Labels where the upload has the direction of the private state only."""

import pytest

from fedinv_jax import models
from tests.attack.exact.helpers import ITEMS, assert_recovered, attacked, ncf, one_step


@pytest.mark.slow
def test_recovers_every_label_of_matrix_factorisation_but_certifies_none():
    model = models.matrix_factorization(ITEMS, 6)
    member, found = attacked(model, one_step(model), ('items',))
    assert member.solver == 'scaled'
    assert_recovered(found)
    assert not any(answer.certificate.certified for answer, _, _ in found)


@pytest.mark.slow
def test_recovers_every_label_of_a_scorer_without_biases():
    model = ncf(6, (16, 12), False)
    member, found = attacked(model, one_step(model), ('scorer',))
    assert member.solver == 'scaled'
    assert_recovered(found)
