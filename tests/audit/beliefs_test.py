"""What attacks are made for where the attacker is wrong about the clients."""

import pytest

from fedinv_jax.audit import attackers, beliefs, checks, plan
from tests.audit.helpers import small_config


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


@pytest.mark.parametrize(
    ('entry', 'match'),
    [
        ('client.num_epochs', "to be like 'client.num_epochs=1'"),
        ('model.dim=3', 'a field of client, observation, data'),
        ('client=3', "to be like 'client.num_epochs=1'"),
        ('client.num_epoch=3', "client.num_epoch=3 is not possible. Did you mean 'num_epochs'"),
        ('client.num_epochs.x=3', 'client.num_epochs.x=3 is not possible'),
        ('client.num_epochs=text', "client.num_epochs='text' is not possible"),
        ('client.num_epochs=0', r'client\.num_epochs=0'),
    ],
)
def test_wrong_beliefs_are_refused(entry, match):
    with pytest.raises(ValueError, match=match):
        checks.check(believing(entry))


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
