"""Step sizes that the attacker does not know, from the config to the rows."""

import numpy as np
import pytest

from fedinv_jax.audit import plan, threat_model
from fedinv_jax.report import stats
from tests.audit.helpers import attacked, small_config


@pytest.mark.slow
@pytest.mark.parametrize('name', ['gradient_step', 'local_sgd'])
def test_rows_have_the_step_sizes_that_were_estimated_and_their_errors(name):
    config = small_config()
    config.client.update({'name': name, 'item_rate_scale': 10.0})
    config.observation.seen = ('items+scorer',)
    config.model.update({'dim': 3, 'hidden': (8,)})
    config.data.update({'min_positives': 10, 'max_positives': 10})
    config.attack.update(
        {'name': ('exact', 'mgradinv'), 'num_gradients': (1,), 'step_sizes_known': False}
    )
    cases = plan.make_cases(config)
    assert '\n  step size unknown: ' in threat_model.describe(config, cases)
    found = list(attacked(plan.blocks(cases)).values())
    rate = {'gradient_step': 1.0, 'local_sgd': 0.1}[name]
    exact = [row for row in found if row['attack'] == 'exact']
    assert len(exact) == 2
    for row in exact:
        assert row['fits']
        assert row['metrics']['exact'] == 1
        assert row['step_sizes']['items'] == pytest.approx(10 * rate, rel=1e-3)
        assert row['step_sizes']['scorer'] == pytest.approx(rate, rel=1e-3)
        assert max(map(abs, row['step_size_errors'].values())) < 1e-3
    # After five iterations MGradInv has no good ones.
    assert {row['step_sizes'].keys() == {'items', 'scorer'} for row in found} == {True}
    summary = stats.summarize([{**row, 'seconds': 0.0} for row in found])['rows']
    for row in summary:
        own = [each for each in found if each['attack'] == row['attack']]
        errors = [abs(each['step_size_errors']['items']) for each in own]
        assert row['step_size_errors']['items'] == pytest.approx(np.mean(errors))
