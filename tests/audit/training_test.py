"""Config fields do what they say: each changes the objective, the answer or the data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import models, tree
from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import plan, runner, training
from fedinv_jax.data import interactions
from fedinv_jax.types import Batch
from tests.audit.helpers import small, small_config


# Failed on the mutant that ignores the field.
def test_the_config_names_the_kernels_of_a_start():
    config = small_config()
    for kernel_init in models.KERNELS:
        config.model.update({'dim': 5, 'hidden': (4,), 'kernel_init': kernel_init})
        start = training.make_model(config.model, 3).init_shared(jax.random.key(0))
        expected = models.ncf(3, 5, (4,), kernel_init=kernel_init).init_shared(jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, start['scorer'], expected['scorer'])


# Failed, field by field, on mutants of `make_client_update` that ignored it.
@pytest.mark.parametrize('change', [{'item_drift': 10.0}, {'private_optimizer': {'name': 'adam'}}])
def test_a_field_of_local_sgd_changes_the_client(change):
    config = small_config()
    epochs = 3 if 'item_drift' in change else 1
    config.client.update({'name': 'local_sgd', 'num_epochs': epochs, 'private_learning_rate': 0.01})
    model = training.make_model(config.model, 4)
    shared, private = model.init_shared(jax.random.key(0)), model.init_private(jax.random.key(1))
    batch = Batch(None, jnp.array([1.0, 0, 0, 1]), jnp.ones(4))
    before = training.make_client_update(config, model)(shared, private, batch)
    config.client.update(change)
    upload, after = training.make_client_update(config, model)(shared, private, batch)
    if 'item_drift' in change:
        moved = [np.abs(u['items']['embedding']).sum() for u in (upload, before[0])]
        assert moved[0] < moved[1]
    else:
        # The first step of Adam is of its rate.
        np.testing.assert_allclose(np.abs(after - private), 0.01, rtol=0.01)
        assert np.abs(before[1] - private).max() < 0.005


# Failed on `k_core` alone, which leaves items without interactions in the catalogue.
def test_a_filter_leaves_no_item_without_interactions():
    config = small_config()
    config.data.k_core = 3
    data = training.make_interactions(config)[0]
    assert data.num_items < 80
    assert np.bincount(data.items, minlength=data.num_items).min() >= 3


def test_leave_one_out_leaves_one_out():
    config = small_config()
    everything = training.make_interactions(config)[0]
    config.data.leave_one_out = True
    train = training.make_interactions(config)[0]
    assert len(everything.items) - len(train.items) == everything.num_users


# Failed, field by field, on the mutants that ignore it.
@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('batch_share', 0.5),
        ('item_rate_scale', 0.5),
        ('label_smoothing', 0.1),
        ('learning_rate_decay', 0.5),
        ('positive_weight', 4.0),
        ('shuffle', True),
        ('weight_decay', 0.1),
    ],
)
def test_how_a_client_trains_reaches_its_upload(field, value):
    config = small_config()
    config.client.update({'name': 'local_sgd', 'num_epochs': 2, 'batch_size': 3})
    model = training.make_model(config.model, 6)
    shared = model.init_shared(jax.random.key(0))
    private = model.init_private(jax.random.key(1))
    batch = Batch(None, np.array([1.0, 0, 0, 1, 0, 1]), np.ones(6), jax.random.key(2))

    def upload():
        update = training.make_client_update(config, model)
        return tree.ravel(update(shared, private, batch)[0])

    usual = upload()
    config.client[field] = value
    assert not np.allclose(upload(), usual, rtol=1e-3)


def test_lbfgs_sets_its_own_step():
    config = small_config()
    config.attack.optimizer.name = 'lbfgs'
    make = training.make_optimizer('attack.optimizer', config.attack.optimizer, 10)
    assert isinstance(make, optax.GradientTransformationExtraArgs)


# Failed on: weight decay of a part that nobody uploads.
def test_a_part_that_is_not_uploaded_stays_as_it_was_drawn():
    config = small_config()
    config.observation.update({'uploaded': ('items',), 'seen': ('items',)})
    config.server.optimizer.update({'name': 'adamw', 'learning_rate': 0.1})
    with config.server.optimizer.unlocked():
        config.server.optimizer.weight_decay = 0.5
    config.server.num_rounds = 4
    (case,) = plan.make_cases(config)
    snapshots = runner.train(case).snapshots
    first, last = snapshots[min(snapshots)], snapshots[max(snapshots)]
    assert len(snapshots) > 1
    jax.tree.map(np.testing.assert_array_equal, first.shared['scorer'], last.shared['scorer'])
    assert np.any(first.shared['items']['embedding'] != last.shared['items']['embedding'])


# Failed on the mutants without the filter, and of the first ones in the order of the groups.
def test_only_the_first_users_are_clients():
    config = small()
    config.data.synthetic.update({'num_users': 40, 'num_items': 400})
    interactions = training.make_interactions(config)[0]
    everyone = training.make_clients(config, interactions)
    users = np.sort(np.concatenate([group.users for group in everyone]))
    assert len(everyone) > 1
    config.data.max_users = 4
    first = training.make_clients(config, interactions)
    assert np.sort(np.concatenate([group.users for group in first])).tolist() == users[:4].tolist()
    for group in first:
        assert len(group.users)
        whole = next(other for other in everyone if group.users[0] in other.users)
        place = np.flatnonzero(whole.users == group.users[0])[0]
        for name, leaf in vars(group).items():
            np.testing.assert_array_equal(leaf[0], getattr(whole, name)[place])
    config.data.max_users = 10**6
    assert len(training.make_clients(config, interactions)) == len(everyone)


def test_data_sections_reach_the_data(tmp_path):
    path = tmp_path / 'ratings.csv'
    path.write_text(''.join(f'{u},{i},{(u + i) % 5 + 1}\n' for u in range(8) for i in range(8)))
    config = small(name=str(path), rating_threshold=4.0, k_core=2)
    interactions = training.make_interactions(config)[0]
    assert interactions.ratings.min() >= 4
    counts = np.bincount(interactions.users)
    assert counts.min() >= 2
    assert np.bincount(interactions.items).min() >= 2
    clients = training.make_clients(config, interactions)
    assert {float(x) for group in clients for x in np.unique(group.labels)} == {0.0, 1.0}
    config.data.labels = 'ratings'
    groups = training.make_clients(config, interactions)
    assert {round(float(x), 6) for group in groups for x in np.unique(group.labels)} == {0, 0.9, 1}


# Failed on the reader that gave every interaction without a rating the rating 1.
def test_what_needs_ratings_is_refused_without(tmp_path):
    path = tmp_path / 'pairs.csv'
    path.write_text('user_id,item_id\n1,7\n1,8\n2,7\n')
    for field, value in {'rating_threshold': 4.0, 'labels': 'ratings'}.items():
        config = small(name=str(path), **{field: value})
        message = (
            rf'data\.{field}={value!r} needs ratings, and pairs\.csv was read without .*columns'
        )
        with pytest.raises(ValueError, match=message):
            training.make_interactions(config)
    path.write_text('user_id,item_id,click\n1,7,1\n1,8,0\n2,7,1\n')
    config = small(name=str(path), rating_threshold=1.0)
    assert len(training.make_interactions(config)[0].users) == 2


# Failed on: 'data set ... has no interactions (after its filters)', which names neither.
def test_a_filter_that_leaves_nothing_is_named(tmp_path):
    path = tmp_path / 'x.csv'
    path.write_text('1,7,2\n1,8,4\n2,7,5\n')
    for fields, message in (
        ({'rating_threshold': 9.0}, r'data\.rating_threshold=9 leaves none of 3 .* of 2 to 5\.'),
        ({'k_core': 3}, r'data\.k_core=3 leaves none of 3 interactions'),
        ({'k_core': 2, 'rating_threshold': 3.0}, r'data\.k_core=2 leaves none of 2 interactions'),
    ):
        with pytest.raises(ValueError, match=message):
            training.make_interactions(small(name=str(path), **fields))


def test_columns_and_header_of_the_config_reach_the_reader(tmp_path):
    path = tmp_path / 'x.csv'
    path.write_text('user,item\nal,bo\nal,cy\n')
    config = small(name=str(path), columns=('item', 'user'), header=False)
    data = training.make_interactions(config)[0]
    assert data.user_ids == ('bo', 'cy', 'item')


# Failed on: the one item of a user of all items held out, whose only negative it then was.
def test_users_of_every_item_have_nothing_held_out(tmp_path):
    path = tmp_path / 'x.csv'
    rows = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (3, 2), (3, 1)]
    path.write_text('\n'.join(f'{user} {item}' for user, item in rows))
    train, test = training.make_interactions(small(name=str(path), leave_one_out=True))
    assert (test.users.tolist(), test.items.tolist()) == ([1, 2], [2, 0])
    assert (train.users.tolist(), train.items.tolist()) == ([0, 0, 0, 1, 2], [0, 1, 2, 0, 1])
    assert [list(users) for users in interactions.left_out(train).values()] == [[0]]


def test_optimizers_of_optax_by_name():
    config = config_lib.default_config()
    section = config.attack.optimizer
    for name in ('adam', 'sgd', 'rmsprop', 'adamw'):
        section.name = name
        made = training.make_optimizer('attack.optimizer', section, 10)
        assert callable(made.init)
        assert callable(made.update)


def test_the_cosine_decay_ends_at_zero():
    config = config_lib.default_config()
    section = config.attack.optimizer
    section.update({'name': 'sgd', 'learning_rate': 0.5, 'decay': 'cosine'})
    optimizer = training.make_optimizer('attack.optimizer', section, 4)
    state, steps = optimizer.init(np.zeros(1)), []
    for _ in range(5):
        update, state = optimizer.update(np.ones(1), state)
        steps.append(-float(update[0]))
    # .5 (1 + cos(pi t / 4)) / 2
    expected = [0.5 * (1 + np.cos(np.pi * t / 4)) / 2 for t in range(5)]
    np.testing.assert_allclose(steps, expected, atol=1e-6)


# Failed on a message that was optax's own words alone.
def test_an_argument_that_optax_lacks_is_refused_by_name():
    section = config_lib.default_config().client.optimizer
    section.name = 'adam'
    with section.unlocked():
        section.momentum = 0.9
    message = r"client\.optimizer has a field that optax does not take: .*'momentum'\. Leave it out"
    with pytest.raises(ValueError, match=message):
        training.make_optimizer('client.optimizer', section)


def test_only_binary_cross_entropy_rounds_interactions_to_zero():
    config = config_lib.default_config()
    found = {}
    for loss in ('bce', 'bpr', 'squared_error', 'hinge'):
        config.client.loss = loss
        found[loss] = training.interactions_vanish(config)
    assert found == {'bce': True, 'bpr': False, 'squared_error': False, 'hinge': False}
    config.client.update({'loss': 'bce', 'batch_share': 0.5})  # what is not drawn uploads 0, too
    assert not training.interactions_vanish(config)
    config.client.update({'batch_share': 1.0, 'name': 'local_sgd'})  # so do small steps
    assert not training.interactions_vanish(config)
