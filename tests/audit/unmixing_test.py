"""`unmix` as a run: rows, readers, victims that take part in no round."""

import jax
import numpy as np
import pytest

from fedinv_jax.audit import checks, knowledge, plan, runner, unmixing
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import settings as settings_lib
from tests.audit.helpers import attacked

pytestmark = pytest.mark.exhaustive


def sampled(**attack):
    """Matrix factorisation, 8 of 24 clients summed in each of 40 rounds."""
    config = config_lib.default_config()
    config.data.synthetic.update({'num_users': 24, 'num_items': 60, 'median_activity': 10.0})
    config.data.max_positives = 14
    config.model.update({'name': 'matrix_factorization', 'dim': 4})
    config.server.update({'clients_per_round': 8, 'num_rounds': 40})
    config.observation.update({'cohort': 8, 'cohort_membership': 'sampled', 'seen': ('items',)})
    config.attack.update(
        {'name': ('unmix', 'popularity'), 'num_gradients': (40,), 'num_victims': 4, **attack}
    )
    return config


def rows(config):
    return list(attacked(plan.blocks(plan.make_cases(config))).values())


def mean(found, **of):
    own = [row for row in found if all(row[key] == value for key, value in of.items())]
    assert own
    return np.mean([row['metrics']['auc'] for row in own])


# Failed on the rows of another victim.
@pytest.mark.slow
def test_unmixed_rows_reveal_the_labels():
    found = rows(sampled(unmix_reader=('spectral', 'projection', 'summed')))
    assert mean(found, attack='unmix', reader='spectral') > 0.99
    assert mean(found, attack='unmix', reader='summed') > 0.99
    assert mean(found, attack='unmix', reader='projection') > 0.95
    assert {row['reader'] for row in found if row['attack'] == 'popularity'} == {None}
    assert {row['defence'] for row in found} == {'cohort 8 sampled'}
    assert {row['dtype'] for row in found if row['attack'] == 'unmix'} == {'float64'}


@pytest.mark.slow
def test_batches_need_not_be_known():
    config = sampled(unmix_reader=('projection',))
    config.observation.batch_known = False
    found = rows(config)
    assert mean(found, attack='unmix') > max(0.9, mean(found, attack='popularity'))
    config.model.update({'name': 'ncf', 'hidden': (8,)})
    config.attack.unmix_reader = ('replay',)
    found = rows(config)
    assert mean(found, attack='unmix') > max(0.98, mean(found, attack='popularity'))


@pytest.mark.slow
def test_labels_are_replayed_where_rows_drift():
    config = sampled(unmix_reader=('replay', 'spectral'))
    config.model.update({'name': 'ncf', 'hidden': (8,)})
    config.client.private_learning_rate = config.server.optimizer.learning_rate = 0.5
    found = rows(config)
    assert mean(found, reader='replay') > 0.95
    assert mean(found, reader='replay') > mean(found, reader='spectral')


# What is separated is the mean of what the client uploads in the rounds in which it took part, as
# long as nothing drifts. Failed on the mean over all rounds.
@pytest.mark.slow
def test_what_is_separated_is_the_clients_own_upload():
    config = sampled()
    config.server.optimizer.learning_rate = config.client.private_learning_rate = 0.0
    (case,) = plan.make_cases(config)
    recording = runner.train(case)
    setting = settings_lib.settings(config)[0]
    for user in case.victims:
        seen = knowledge.transcript(case, recording, setting, user)
        g = next(i for i, group in enumerate(recording.clients) if user in group.users)
        place = np.flatnonzero(recording.clients[g].users == user)
        own = recording.uploads(0, g, place)['items']['embedding'][0]
        real = seen.weights[0] > 0
        np.testing.assert_allclose(
            seen.seen['items']['embedding'][0][real],
            own[real],
            atol=1e-3 * np.abs(own).max(),
        )


# Failed on a row that says 'the upload is not finite'.
@pytest.mark.slow
def test_a_victim_in_no_sum_is_a_failed_row():
    found = rows(sampled(num_gradients=(1,), num_victims=8))
    absent = [row for row in found if row['attack'] == 'unmix' and row['status'] == 'failed']
    assert 0 < len(absent) < 8
    assert {row['reason'] for row in absent} == {
        'the client took part in none of the observed rounds'
    }
    assert {row['metrics']['auc'] for row in absent} == {0.5}


# Failed on zeros for clients that took part in no round.
@pytest.mark.parametrize(
    ('attack', 'reader'), [('unmix', 'spectral'), ('unmix', 'replay'), ('joint', 'spectral')]
)
def test_nothing_is_separated_for_clients_in_no_sum(attack, reader):
    config = sampled(
        name=(attack,), unmix_reader=(reader,), num_gradients=(1,), num_victims=24, num_iterations=4
    )
    if reader == 'replay':
        config.model.update({'name': 'ncf', 'hidden': (8,)})
    (case,) = plan.make_cases(config)
    separated = unmixing.separator(case, runner.train(case))(settings_lib.settings(config)[0])
    found = np.concatenate([leaf.reshape(24, -1) for leaf in jax.tree.leaves(separated.seen)], 1)
    assert separated.present.sum() == 8
    assert np.isfinite(found[separated.present]).all()
    assert np.isnan(found[~separated.present]).all()


# Failed on an error.
def test_a_run_whose_victims_are_all_in_no_sum():
    config = sampled(num_gradients=(1,), num_victims=2)
    config.server.clients_per_round = config.observation.cohort = 2
    found = [row for row in rows(config) if row['attack'] == 'unmix']
    assert [row['status'] for row in found] == ['failed'] * 2


# What tells clients apart is who took part: with the memberships of others, what is left is how
# many interactions an item has. Failed on the right memberships.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('attack', 'reader'), [('unmix', 'spectral'), ('joint', 'spectral'), ('unmix', 'unrolled')]
)
def test_wrong_memberships_reveal_no_more_than_popularity(attack, reader, monkeypatch):
    true_sums = unmixing.simulate.sums

    def wrong_sums(*args):
        sums = true_sums(*args)
        order = np.random.default_rng(0).permutation(len(sums.users))
        return sums._replace(members=sums.members[:, order])

    monkeypatch.setattr(unmixing.simulate, 'sums', wrong_sums)
    config = sampled(
        name=(attack, 'popularity'), unmix_reader=(reader,), num_gradients=(24,), num_victims=24,
        num_iterations=100,
    )  # fmt: skip
    if reader == 'unrolled':
        config.model.update({'name': 'ncf', 'hidden': (8,)})
    found = rows(config)
    assert mean(found, attack=attack) < mean(found, attack='popularity')


# Each reader gets the upload of one client. Failed on rows of unit weight taken for those of a mean
# loss, and on the structure of a cohort for that of a client.
@pytest.mark.slow
@pytest.mark.parametrize('reader', ['exact', 'mgradinv'])
def test_readers_get_the_upload_of_one_client(reader):
    config = sampled(unmix_reader=(reader,), num_iterations=400)
    config.server.optimizer.learning_rate = config.client.private_learning_rate = 0.0
    found = [row for row in rows(config) if row['attack'] == 'unmix']
    # Up to the symmetry y -> 1 - y, p -> -p of the model, which mgradinv without a prior has.
    assert min(abs(row['metrics']['auc'] - 0.5) for row in found) > 0.49
    assert {row['iterations'] for row in found} == {400 if reader == 'mgradinv' else 0}
    if reader == 'mgradinv':
        assert max(row['objective'] for row in found) < 0.01


# From sums that are too few for `unmix`. Failed on private parameters of another client.
@pytest.mark.slow
def test_all_clients_at_once_need_fewer_sums():
    config = sampled(name=('unmix', 'joint'), num_gradients=(10,), num_iterations=400)
    config.dynamics.name = ('unrolled',)
    found = rows(config)
    (loose,) = {row['iterations'] for row in found if row['attack'] == 'joint'}
    assert loose == 400
    assert mean(found, attack='joint') > mean(found, attack='unmix') + 0.05
    right = [row['metrics']['exact'] for row in found if row['attack'] == 'joint']
    assert np.mean(right) >= 0.5


@pytest.mark.slow
def test_clients_that_train_are_replayed_with_their_own_parameters():
    config = sampled(unmix_reader=('replay', 'unrolled'), num_gradients=(80,))
    config.server.num_rounds = 80
    config.model.update({'name': 'ncf', 'hidden': (8,)})
    config.client.update({'private_learning_rate': 5.0, 'weight_by_num_examples': True})
    found = rows(config)
    assert mean(found, reader='unrolled') > mean(found, reader='replay')
    assert mean(found, reader='unrolled') > 0.999
    config.attack.first_round = (1,)
    with pytest.raises(ValueError, match='trains all clients from the first round on'):
        checks.check(config)


# Clients whose embeddings move with each step that they take part in. Failed on embeddings that
# stay.
@pytest.mark.slow
def test_clients_that_train_are_unrolled_from_the_first_rounds_on():
    config = sampled(name=('unmix', 'joint'), num_gradients=(24,), num_iterations=400)
    config.client.update({'private_learning_rate': 1.0, 'weight_by_num_examples': True})
    config.dynamics.name = ('unrolled',)
    found = rows(config)
    assert mean(found, attack='joint') > mean(found, attack='unmix') + 0.02
    assert mean(found, attack='joint') > 0.999
    config.attack.interval = (2,)
    with pytest.raises(ValueError, match='it needs attack'):
        checks.check(config)


# Six cohorts that stay together; the search ends in a local minimum in one of them. Failed on the
# sums of all cohorts taken for those of one.
@pytest.mark.slow
def test_members_of_a_cohort_that_train_are_told_apart():
    config = sampled(
        name=('spectral', 'joint', 'popularity'),
        num_gradients=(8,),
        num_iterations=400,
        num_victims=8,
    )
    config.server.update({'clients_per_round': None, 'num_rounds': 8})
    config.observation.update({'cohort': 4, 'cohort_membership': 'fixed'})
    config.client.update({'private_learning_rate': 1.0, 'weight_by_num_examples': True})
    config.dynamics.name = ('unrolled',)
    found = rows(config)
    assert {row['defence'] for row in found} == {'cohort 4'}
    assert mean(found, attack='joint') > 0.03 + max(
        mean(found, attack=name) for name in ('spectral', 'popularity')
    )
    right = [row['metrics']['exact'] for row in found if row['attack'] == 'joint']
    assert np.mean(right) >= 0.75


# Failed on all rounds at once, and on a first stage that comes twice.
@pytest.mark.parametrize(('curriculum', 'stages'), [(True, (16, 32, 40)), (False, (40,))])
def test_joint_meets_the_rounds_a_few_at_a_time(curriculum, stages, monkeypatch):
    config = sampled(name=('joint',), curriculum=curriculum, num_victims=2)
    used = []

    def solve(sums, make, solver, key, first, unknown, stages, *_):
        used.append(stages)
        return first

    monkeypatch.setattr(unmixing.unmix.joint, 'solve', solve)
    (case,) = plan.make_cases(config)
    unmixing.separator(case, runner.train(case))(settings_lib.settings(config)[0])
    assert used == [stages]


# Failed on a computation for each reader.
def test_sums_are_separated_once_for_all_readers():
    config = sampled(unmix_reader=('spectral', 'projection'), num_gradients=(3,), num_victims=2)
    (case,) = plan.make_cases(config)
    separate = unmixing.separator(case, runner.train(case))
    one, other = (separate(setting) for setting in settings_lib.settings(config)[:2])
    assert one is other
    assert jax.tree.leaves(one.seen)[0].shape[0] == 2


# Failed on items of any round.
def test_items_that_come_back_are_a_row_where_negatives_are_new():
    config = config_lib.default_config()
    config.data.synthetic.update({'num_users': 12, 'num_items': 200})
    config.data.update({'resample_negatives': True, 'max_positives': 20})
    config.model.update({'name': 'matrix_factorization', 'dim': 2})
    config.attack.update(
        {'name': ('spectral',), 'num_victims': 3, 'num_gradients': (1, 4), 'interval': (1,)}
    )
    config.observation.seen = ('items',)
    found = [row for row in rows(config) if row['attack'] == 'intersection']
    by_count = {row['num_gradients']: row['metrics'] for row in found}
    assert by_count[4]['auc'] > 0.9
    assert by_count[4]['recall'] == 1
    assert by_count[4]['precision'] > 0.8
    assert by_count[1]['auc'] == 0.5
    config.observation.seen = ('items', 'scorer')
    assert 'intersection' not in {each.attack for each in settings_lib.settings(config)}


# Failed without the check of what clients have in common.
def test_rows_that_clients_do_not_share_are_not_replayed():
    config = sampled(unmix_reader=('replay',))
    with pytest.raises(ValueError, match='Those of matrix_factorization are not'):
        plan.make_cases(config)
    config.model.item_bias = True
    plan.make_cases(config)
    config.model.update({'item_bias': False, 'name': 'ncf', 'hidden': (8,)})
    plan.make_cases(config)


# Failed on a replay of the true client.
def test_what_is_believed_is_replayed():
    config = sampled(name=('joint',), num_gradients=(4,), num_iterations=4, num_victims=2)

    def found(config):
        (case,) = plan.make_cases(config)
        (setting,) = settings_lib.settings(config)
        seen = unmixing.separator(case, runner.train(case))(setting).seen
        return seen['items']['label']

    right = found(config)
    config.attack.believes = ('client.positive_weight=4.',)
    assert np.nanmax(np.abs(found(config) - right)) > 1e-3
