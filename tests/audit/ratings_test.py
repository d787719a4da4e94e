"""Explicit ratings end to end: from a config to rows and a report."""

import jax
import numpy as np
import pytest

from fedinv_jax import quality
from fedinv_jax.audit import checks, knowledge, plan
from fedinv_jax.data import ratings
from fedinv_jax.models import matrix_factorization
from tests.audit.helpers import small_config
from tests.helpers import rows_of, run


def explicit(**fields):
    config = small_config()
    config.data.update({'labels': 'explicit', 'leave_one_out': True})
    config.data.synthetic.num_ratings = 5
    config.client.loss = 'squared_error'
    config.model.hidden = (16,)
    config.server.num_rounds = 2
    config.attack.update({'name': ('exact', 'popularity', 'mean_rating'), 'num_gradients': (1,)})
    for name, value in fields.items():
        config.update_from_flattened_dict({name.replace('__', '.'): value})
    return config


# Failed on: scores in [0, 1] compared with stars; negatives in the batch; AUC of ratings in rows.
@pytest.mark.slow
def test_one_gradient_reveals_every_rating(tmp_path):
    config = explicit()
    lines = []
    run(config, tmp_path, lines.append)
    rows = rows_of(tmp_path).values()
    case = plan.make_case(config)
    truth = {
        user: case.interactions.ratings[case.interactions.users == user] for user in case.victims
    }
    mean = 1 + 4 * case.share
    assert mean == pytest.approx(np.mean(case.interactions.ratings), abs=0.3)
    for row in rows:
        own = truth[row['user']]
        assert (row['num_positives'], row['num_negatives']) == (len(own), 0)
        assert set(row['metrics']) == {
            'rmse', 'accuracy', 'exact', 'private_error', 'private_cosine'
        }  # fmt: skip
        assert row['quality'].keys() == {'held_out_rmse'}
        assert 'scores' not in row
        found = row['metrics']
        if row['attack'] == 'exact':
            assert (found['exact'], found['accuracy'], row['solver']) == (1, 1, 'closed_form')
            assert found['rmse'] < 0.01
            assert row['certified']
        elif row['attack'] == 'mean_rating':
            assert found['rmse'] == pytest.approx(np.sqrt(np.mean((own - mean) ** 2)), rel=1e-5)
    text = '\n'.join(lines)
    assert 'ratings of 1 to 5 in steps of 1 unknown' in text
    report = (tmp_path / 'report.md').read_text()
    assert 'RMSE' in report
    assert 'accuracy' in report
    assert 'AUC' not in report.split('## Results')[1].split('## ')[0]


# Failed on: the victim's own rating in the mean.
def test_popularity_is_the_mean_rating_of_the_others():
    case = plan.make_case(explicit(attack__name=('popularity',)))
    user, data = case.victims[0], case.interactions
    items = np.arange(data.num_items)
    odds = knowledge.mean_ratings(case, [user], items[None])[0]
    labels = ratings.labels(data.ratings, ratings.Scale(1, 5, 1))
    for item in items:
        others = labels[(data.items == item) & (data.users != user)]
        want = (others.sum() + case.share) / (len(others) + 1)
        assert 1 / (1 + np.exp(-odds[item])) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'client__loss': 'bce'}, r"explicit' needs client.loss='squared_error', not 'bce': a mod"),
        ({'client__label_smoothing': 0.1}, 'needs client.label_smoothing=0.0, not 0.1'),
        ({'data__negatives_per_positive': 2}, 'needs data.negatives_per_positive=4, not 2'),
        ({'attack__priors__sparsity': 0.1}, 'needs attack.priors.sparsity=0.0, not 0.1'),
        ({'data__rating_scale': (1.0, 5.0, 3.0)}, 'a whole number of steps apart'),
        ({'model__name': 'lightgcn'}, 'lightgcn.* has the interactions as edges'),
        ({'attack__name': ('spectral',)}, "'spectral' finds binary labels.*use random, popularity"),
        ({'attack__warm_start': 'sign'}, "'sign' finds binary labels, not ratings"),
        ({'observation__label_epsilon': 1.0}, 'change binary labels: they need data.labels'),
        (
            {'data__labels': 'implicit', 'client__loss': 'bce'},
            "attack.name='mean_rating' needs data.labels='explicit'",
        ),
    ],
)
def test_wrong_use_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        checks.check(explicit(**fields))


def test_ratings_of_another_scale_are_refused():
    config = explicit()
    config.data.synthetic.num_ratings = 8
    with pytest.raises(ValueError, match=r'set data.rating_scale to \(1, 8, 1\)'):
        plan.make_case(config)


# Failed on the error of labels in [0, 1], and on users in the order of the groups.
def test_the_error_of_held_out_ratings():
    case = plan.make_case(explicit(attack__name=('mean_rating',)))
    held, model = case.held, matrix_factorization(case.interactions.num_items, 2)
    shared = model.init_shared(jax.random.key(0))
    private = [
        np.random.default_rng(index).normal(size=(len(group.users), 2))
        for index, group in enumerate(case.clients)
    ]
    found = quality.rmse(model, shared, private, case.clients, held)['held_out_rmse']
    table, errors = np.asarray(shared['items']['embedding']), []
    for group, own in zip(case.clients, private, strict=True):
        for user, p in zip(group.users, own, strict=True):
            for place in np.flatnonzero(held.users == user):
                errors.append(table[held.items[place]] @ p - held.ratings[place])
    assert len(errors) > 5
    assert found == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-5)
