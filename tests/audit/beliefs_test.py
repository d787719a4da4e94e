"""What attacks are made for where the attacker is wrong about the clients."""

import re

import numpy as np
import pytest

from fedinv_jax.audit import attackers, beliefs, checks, knowledge, plan, runner
from fedinv_jax.audit import settings as settings_lib
from tests.audit.helpers import attacked, small_config


def believing(*entries):
    config = small_config()
    config.attack.believes = entries
    return config


def test_values_are_literals_or_names():
    config = beliefs.believed(
        believing('client.loss=squared_error', 'data.negatives_per_positive = 9',
                  'observation.clip=None', 'client.optimizer.learning_rate=0.5')
    )  # fmt: skip
    assert config.client.loss == 'squared_error'
    assert config.data.negatives_per_positive == 9
    assert config.observation.clip is None
    assert config.client.optimizer.learning_rate == 0.5


# Failed on messages without 'attack.believes: ', and on `_known` of the last name of the field in
# the place of a section's.
@pytest.mark.parametrize(
    ('entry', 'match'),
    [
        ('client.num_epochs', "to be like 'client.num_epochs=1'"),
        ('model.dim=3', 'a field of client, observation, data'),
        ('client=3', "to be like 'client.num_epochs=1'"),
        ('client.num_epoch=3', "no field 'client.num_epoch'. Did you mean 'num_epochs'?"),
        ('client.optimiser.name=x', "no field 'client.optimiser.name'. Did you mean 'optimizer'"),
        ('client.num_epochs.x=3', "no field 'client.num_epochs.x'."),
        ('client.num_epochs=text', "client.num_epochs='text' is not possible"),
        ('client.num_epochs=0', 'Expected client.num_epochs=0 >= 1.'),
        ('client.loss=bse', "Unknown client.loss='bse'. Did you mean 'bce'?"),
    ],
)
def test_wrong_beliefs_are_refused(entry, match):
    with pytest.raises(ValueError, match=r'^attack\.believes: .*' + re.escape(match)) as caught:
        checks.check(believing(entry))
    assert 'fields present' not in str(caught.value)


# Failed on the name of the field itself as the nearest one.
def test_a_believed_value_of_another_type_has_no_nearest_name():
    with pytest.raises(ValueError, match="'tuple'") as caught:
        checks.check(believing('observation.seen=items'))
    assert str(caught.value).startswith("attack.believes: observation.seen='items' is not possible")
    assert 'Did you mean' not in str(caught.value)


# Failed on beliefs that are checked before the rounds.
def test_what_is_wrong_with_the_config_is_no_belief():
    config = believing('client.private_learning_rate=0.3')
    config.server.num_rounds = 1
    config.attack.num_gradients = (2,)
    with pytest.raises(ValueError, match=r'^The last observed round'):
        checks.check(config)


# Failed on victims that train as is believed, on attacks made for the true config, and on a share
# of interactions that is always the true one.
def test_clients_train_by_the_truth_and_attacks_are_made_for_the_belief(monkeypatch):
    made = []
    monkeypatch.setattr(
        attackers, 'probe', lambda config, *_: pytest.fail('no probe is needed to make mgradinv')
    )
    original = plan.registry.ATTACKS['mgradinv']
    monkeypatch.setitem(
        plan.registry.ATTACKS, 'mgradinv',
        original._replace(make=lambda target: made.append(target) or original.make(target)),
    )  # fmt: skip
    config = believing('client.private_learning_rate=0.3', 'data.negatives_per_positive=1')
    case = plan.make_case(config)
    assert case.config.client.private_learning_rate == 0.1
    assert {target.config.client.private_learning_rate for target in made} == {0.3}
    assert {target.share for target in made} == {0.5}
    config.observation.batch_known = False  # then it is a share of the whole catalogue
    made.clear()
    share = plan.make_case(config).share
    assert {target.share for target in made} == {share}


# Failed on: padding counted, items of the batch taken for others of it, none wrong at 1%.
@pytest.mark.parametrize('share', [0.01, 0.2])
def test_wrong_items_are_of_no_batch_and_at_least_one(share):
    config = small_config()
    config.attack.num_victims, config.attack.wrong_items = 8, share
    case = plan.make_case(config)
    recording = runner.train(case)
    setting = settings_lib.settings(config)[0]
    padded = False
    for user in case.victims:
        seen = knowledge.transcript(case, recording, setting, user)
        (place,) = np.flatnonzero(plan.group_of(case, user).users == user)
        items = plan.group_of(case, user).items[place]
        real = seen.weights[0] > 0
        wrong = seen.items != items
        assert wrong[real].sum() == np.ceil(share * real.sum())
        assert not wrong[~real].any()
        assert not set(seen.items[wrong]) & set(items[real])
        shared = recording.snapshots[0].shared['items']['embedding']
        np.testing.assert_array_equal(seen.shared['items']['embedding'][0], shared[seen.items])
        popular = settings_lib.settings(config)[1]
        assert popular.dynamics is None
        believed = knowledge.transcript(case, recording, popular, user)
        np.testing.assert_array_equal(believed.items, items)
        padded |= not real.all()
    assert padded


# An answer for a batch that is not the client's. Failed on `margin > sqrt(size)` alone, of
# `certificate.certify`.
def test_an_answer_for_wrong_items_is_not_certified():
    def rows(share):
        config = small_config()
        config.model.update({'dim': 4, 'hidden': (16, 8)})
        config.data.min_positives = 8
        config.attack.update({'name': ('exact',), 'num_victims': 8, 'wrong_items': share})
        return list(attacked(plan.blocks(plan.make_cases(config))).values())

    right, wrong = rows(0.0), rows(0.01)
    assert all(row['fits'] for row in right)
    assert sum(row['certified'] for row in right) > 8
    assert not any(row['certified'] or row['locally_unique'] for row in wrong)
    assert {row['fits'] for row in wrong} <= {False, None}
    # Most labels are right all the same.
    assert np.mean([row['metrics']['auc'] for row in wrong]) > 0.9


# Failed on: the participation of the recording, where the attacker does not know it.
def test_participation_in_every_round_is_believed():
    config = small_config()
    config.dynamics.name, config.attack.num_gradients = ('unrolled',), (2,)
    config.attack.interval, config.server.clients_per_round = (8,), 2
    known = plan.make_case(config)
    recording = runner.train(known)
    (setting, *_) = settings_lib.settings(config)
    other = config.copy_and_resolve_references()
    other.attack.participation_known = False
    unknown = plan.make_case(other)
    absent = 0
    for user in known.victims:
        truth, believed = (
            knowledge.transcript(case, recording, setting, user).participated
            for case in (known, unknown)
        )
        absent += np.sum(~truth)
        assert believed.shape == truth.shape == (9,)
        assert believed.all()
    assert absent
