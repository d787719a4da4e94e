"""Which attack is chosen, and what the config may say of it."""

import functools

import jax
import numpy as np
import pytest

from fedinv_jax import models, tree
from fedinv_jax.attack import exact
from fedinv_jax.audit import attackers, plan, settings, training
from fedinv_jax.audit import config as config_lib
from tests.attack.exact.helpers import ITEMS, ncf, one_step, own_federation, probed


def test_item_biases_make_the_item_rows_a_layer_with_bias():
    model = models.matrix_factorization(ITEMS, 4, item_bias=True)
    choice = exact.choose(probed(model, one_step(model), 'items'))
    assert choice.solver == 'closed_form'
    assert 'items/bias' in choice.why


# Failed before `aligned` was compared: 10% of the entries of 16 clients, F1 .541 for its .604.
def test_where_entries_are_lost_the_search_by_rows_is_compared_too():
    model = ncf(4, (6, 5))
    known = probed(model, one_step(model), 'items', 'scorer')
    usual = ('closed_form', 'spectral', 'levels')
    assert exact.choose(known).compared == usual
    assert exact.choose(known._replace(lossy=True)).compared == (*usual, 'aligned')
    half = known._replace(lossy=True, smallest=2.0**-25)
    assert exact.choose(half).compared == usual


def test_an_unknown_member_names_the_choices():
    model = ncf(4, (6, 5))
    update = one_step(model)
    with pytest.raises(ValueError, match=r"'nope'.*closed_form"):
        exact.choose(probed(model, update, 'scorer'), solver='nope')


# Failed on: a bound on matrices that is not the config's, or that the member does not ask for.
@pytest.mark.parametrize(('dense', 'certified'), [(8, True), (7, False)])
@pytest.mark.slow
def test_the_config_says_for_how_many_candidates_matrices_are_formed(dense, certified):
    config = config_lib.default_config()
    config.attack.max_dense_candidates, config.observation.seen = dense, ('scorer',)
    config.model.update({'dim': 6, 'hidden': (16, 12)})
    probe = functools.partial(attackers.probe, config, training.make_model(config.model, 8))
    setting = settings.settings(config)[0]._replace(attack='exact')
    choice = plan.make_attack(config, setting, training.make_model(config.model, 8), 0.2, probe)
    y = [1, 0, 0, 1, 0, 1, 0, 0]
    _, _, transcript, _ = own_federation(y)
    with jax.enable_x64():
        transcript = tree.cast_floats(transcript, np.float64)
        answer = jax.jit(choice.attack)(transcript, jax.random.key(0), 1)
    assert (answer.certificate is not None) == certified
    np.testing.assert_array_equal(answer.labels, np.array(y) > 0)
