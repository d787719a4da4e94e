"""Unmix: clients' uploads from the sums of cohorts that change, against dense float64 solves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from fedinv_jax import client, item_table, losses, models, observe, types
from fedinv_jax.attack import inversion, relax, truncated_newton, unmix
from fedinv_jax.attack.unmix import by_item, filters, joint, replayed
from fedinv_jax.types import Sums

pytestmark = pytest.mark.usefixtures('float64')
C, N, B, F, T = 12, 9, 4, 3, 30
KEY = jax.random.key(0)
NCF = models.ncf(N, 4, hidden=(6,), scale=0.5)
FACTORS = models.matrix_factorization(N, 2, scale=0.3)
compiled = functools.cache(jax.jit)  # the same client once, not once a test


@functools.cache
def one_step(model, rate):
    return client.gradient_step(model, losses.bce, rate)


def federation(seed=0, drift=0.0, groups=1, weights=None):
    """Sums of clients whose rows are constant but for `drift`, and the clients' mean rows."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.choice(N, B, replace=False) for _ in range(C)])
    real = np.ones((C, B))
    real[0, -1] = 0  # padding
    rows = rng.normal(size=(C, B, F)) * real[..., None]
    scorer = rng.normal(size=(C, 2))
    members = rng.integers(-1, groups, size=(T, C))
    counted = np.ones(C) if weights is None else weights
    seen = []
    for of in members:
        total = {'items': {'embedding': np.zeros((groups, N, F))}, 'scorer': np.zeros((groups, 2))}
        for c in np.flatnonzero(of >= 0):
            moved = rows[c] + drift * rng.normal(size=(B, F)) * real[c][:, None]
            for b in range(B):
                total['items']['embedding'][of[c], items[c, b]] += counted[c] * moved[b]
            total['scorer'][of[c]] += counted[c] * scorer[c]
        seen.append(total)
    sums = Sums([], seen, members, np.arange(T), np.arange(C), items, real)
    return sums, rows, scorer


def table(sums, rows, c):
    """A client's rows in the catalogue, zero elsewhere."""
    found = np.zeros((N, F))
    np.add.at(found, sums.items[c], rows[c])
    return found


# Failed on members counted from 1, and on cohorts of a round in another order than the sums.
@pytest.mark.parametrize('groups', [1, 3])
def test_uploads_that_do_not_drift_are_found(groups):
    sums, rows, scorer = federation(groups=groups)
    found = unmix.mean_uploads(sums, [0, 5], KEY)
    for v, c in enumerate([0, 5]):
        np.testing.assert_allclose(found['scorer'][v], scorer[c], atol=1e-5)
        np.testing.assert_allclose(found['items']['embedding'][v], table(sums, rows, c), atol=1e-5)
    np.testing.assert_allclose(unmix.mean_rows(sums, [0, 5]), rows[[0, 5]], atol=1e-5)


# With fewer sums than clients the items' own systems are still determined: each has few clients.
# Failed on systems of all clients.
def test_known_batches_need_fewer_sums():
    sums, rows, _ = federation(seed=1)
    few = sums._replace(seen=sums.seen[:10], members=sums.members[:10])
    touching = np.bincount(sums.items[sums.weights > 0], minlength=N)
    assert len(few.seen) < C
    assert touching.max() < len(few.seen)
    np.testing.assert_allclose(unmix.mean_rows(few, [3]), rows[[3]], atol=1e-4)
    wide = unmix.mean_uploads(few, [3], KEY)['items']['embedding'][0]
    assert np.abs(wide - table(sums, rows, 3)).max() > 0.1


# Failed on the ridge left out, and on the dual and the primal form exchanged.
@pytest.mark.parametrize('shape', [(7, 12), (12, 7), (9, 9)])
def test_the_filter_is_that_of_a_dense_solve(shape):
    rng = np.random.default_rng(3)
    mixture = (rng.random(shape) < 0.5).astype(float)
    data = rng.normal(size=(shape[0], 5))
    clients = np.arange(3)
    found = unmix.filters_of(jnp.asarray(mixture), clients, jnp.asarray(data))
    solved = unmix.ridge_solve(jnp.asarray(mixture), jnp.asarray(data))
    mean = np.trace(mixture @ mixture.T) / np.linalg.matrix_rank(mixture)
    best, score = None, np.inf
    for ridge in np.logspace(-8, 2, 41) * mean:
        inverse = np.linalg.inv(mixture @ mixture.T + ridge * np.eye(shape[0]))
        hat = mixture @ mixture.T @ inverse
        value = np.sum((data - hat @ data) ** 2) / np.trace(np.eye(shape[0]) - hat) ** 2
        if value < score * (1 - 1e-9):
            best, score = inverse, value
    np.testing.assert_allclose(found, best @ mixture[:, :3], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(solved, mixture.T @ best @ data, rtol=1e-5, atol=1e-8)


# Failed on a pass that leaves the last rounds out.
def test_streaming_is_the_same_as_all_at_once(monkeypatch):
    sums, *_ = federation(drift=0.3, groups=2)
    whole = unmix.mean_uploads(sums, [0, 1], KEY), unmix.mean_rows(sums, [0, 1])
    monkeypatch.setattr(filters, '_ENTRIES', 7 * 2 * (N * F + 2))
    monkeypatch.setattr(by_item, '_ENTRIES', 1)
    parts = unmix.mean_uploads(sums, [0, 1], KEY), unmix.mean_rows(sums, [0, 1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), whole, parts)


# Failed on weights that are left out.
def test_weights_of_a_sum():
    weights = np.linspace(1, 5, C)
    sums, rows, scorer = federation(weights=weights)
    found = unmix.mean_uploads(sums, [4], KEY, weights)
    np.testing.assert_allclose(found['scorer'][0], scorer[4], atol=1e-5)
    np.testing.assert_allclose(unmix.mean_rows(sums, [4], weights), rows[[4]], atol=1e-5)
    unweighted = unmix.mean_rows(sums, [4])
    np.testing.assert_allclose(unweighted, weights[4] * rows[[4]], atol=1e-4)


# Failed on an estimate of 0.
def test_a_client_in_no_sum_has_no_upload():
    sums, *_ = federation()
    members = sums.members.copy()
    members[:, 2] = -1  # nobody knows that client 2 took part
    absent = sums._replace(members=members)
    found = unmix.mean_rows(absent, [2, 3])
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
    assert np.isnan(unmix.mean_uploads(absent, [2], KEY)['scorer']).all()
    assert np.isnan(unmix.mean_rows(absent, [2])).all()


# Who took part is what the filter knows: with the memberships of other rounds, nothing is found.
def test_wrong_memberships_find_nothing():
    sums, rows, _ = federation(seed=5)
    wrong = sums._replace(members=np.roll(sums.members, 1, axis=0))
    found = unmix.mean_rows(wrong, range(C))
    signs = np.sign(found) == np.sign(rows)
    share = signs[rows != 0].mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(np.sum(rows != 0))


def test_what_must_be_known():
    sums, *_ = federation()
    with pytest.raises(ValueError, match='Expected sums with batches'):
        unmix.mean_rows(sums._replace(items=None, weights=None), [0])
    hidden = sums._replace(seen=[{'scorer': part['scorer']} for part in sums.seen])
    with pytest.raises(ValueError, match='Expected item rows to be seen'):
        unmix.mean_rows(hidden, [0])


def clients_alike(weighted):
    """Sums of clients with one private embedding, their labels, and what replays their rows."""
    model, rng = NCF, np.random.default_rng(2)
    update = one_step(model, 0.0)
    sent = jax.jit(client.weighted_by_num_examples(update) if weighted else update)
    sums, _, _ = federation(seed=2)
    private = model.init_private(KEY)
    labels = (rng.random((C, B)) < 0.4).astype(float)
    shared, seen = [], []
    for t, of in enumerate(sums.members):
        shared.append(compiled(model.init_shared)(jax.random.fold_in(KEY, t)))
        total = np.zeros((1, N, 4))
        for c in np.flatnonzero(of >= 0):
            batch = client.Batch(None, labels[c], sums.weights[c])
            rows = item_table.gather(shared[-1], sums.items[c])
            upload = sent(rows, private, batch)[0]['items']['embedding']
            for b in np.flatnonzero(sums.weights[c]):
                total[0, sums.items[c, b]] += upload[b]
        seen.append({'items': {'embedding': total}})

    def replay(shared):
        return unmix.replayed_rows(update, private[None], shared)

    return sums._replace(shared=shared, seen=seen), labels, replay


# The clients' own update, replayed with their own private embedding, gives their labels although
# every round has other parameters. Failed on the label-0 rows left out.
def test_labels_where_parameters_drift():
    sums, labels, replay = clients_alike(weighted=False)
    found = unmix.labels(sums, range(C), replay, 0.4, 1 / sums.weights.sum(axis=1))
    real = sums.weights > 0
    np.testing.assert_allclose(found[real], labels[real], atol=1e-3)


# Failed on negatives that count as interactions, on blocks of items in another order, on estimates
# without bounds.
@pytest.mark.parametrize('items', [4, 256])
def test_interactions_are_found_in_the_catalogue(items, monkeypatch):
    monkeypatch.setattr(replayed, '_ITEMS', items)
    sums, labels, replay = clients_alike(weighted=True)
    truth = np.zeros((C, N))
    for c, b in zip(*np.nonzero(sums.weights > 0), strict=True):
        truth[c, sums.items[c, b]] = labels[c, b]
    hidden, told = sums._replace(items=None, weights=None), []
    found = unmix.catalogue_labels(
        hidden, range(C), replay, 0.15, 0.25, np.ones(C), 2000, lambda *done: told.append(done)
    )
    np.testing.assert_allclose(found, truth, atol=0.25)
    assert told[-1] == (N, N)
    absent = hidden._replace(members=np.where(np.arange(C) == 3, -1, hidden.members))
    some = unmix.catalogue_labels(absent, [3, 4], replay, 0.15, 0.25, np.ones(C), 10)
    assert np.isnan(some[0]).all()
    assert np.isfinite(some[1]).all()


# Three rounds: what sums do not move tells clients apart. Failed on bounds that do not know it.
def test_items_whose_rows_stay_are_nobodys():
    sums, labels, replay = clients_alike(weighted=True)
    truth, batches = np.zeros((C, N)), np.zeros((C, N), bool)
    for c, b in zip(*np.nonzero(sums.weights > 0), strict=True):
        truth[c, sums.items[c, b]] = labels[c, b]
        batches[c, sums.items[c, b]] = True
    few = unmix.first_rounds(sums._replace(items=None, weights=None), 3)
    moved = np.stack([[batches[of == 0].any(axis=0)] for of in few.members])
    able = unmix.possible(few.members, moved)
    assert not (batches & ~able).any()
    assert 0 < able.sum() < able.size

    def error(possible):
        found = unmix.catalogue_labels(
            few, range(C), replay, 0.15, 0.25, np.ones(C), 2000, possible=possible
        )
        assert possible is None or not found[~possible].any()
        there = (few.members >= 0).any(axis=0)
        return np.abs(found - truth)[there].mean()

    assert error(able) < 0.9 * error(None)


def clients_that_train(model, update, rounds, rate=0.0, groups=1):
    """Sums of clients that train in some of the rounds, with what they have and hide."""
    rng = np.random.default_rng(4)
    items = np.stack([rng.choice(N, B, replace=False) for _ in range(C)])
    weights = np.ones((C, B))
    weights[:4, 2:] = 0  # batches of two sizes
    labels = (rng.random((C, B)) < 0.4) * weights
    privates = jax.vmap(model.init_private)(jax.random.split(KEY, C))
    first, members = np.asarray(privates), rng.integers(-1, groups, size=(rounds, C))
    shared, seen = [], []
    for t, of in enumerate(members):
        shared.append(compiled(model.init_shared)(jax.random.fold_in(KEY, t)))
        total = jax.tree.map(lambda leaf: np.zeros((groups, *leaf.shape)), shared[-1])
        for c in np.flatnonzero(of >= 0):
            batch = types.Batch(None, labels[c], weights[c])
            rows = item_table.gather(shared[-1], items[c])
            upload, new = compiled(update)(rows, privates[c], batch)
            for b in np.flatnonzero(weights[c]):
                total['items']['embedding'][of[c], items[c, b]] += upload['items']['embedding'][b]
            jax.tree.map(
                lambda sum_, leaf, g=of[c]: sum_.__setitem__(g, sum_[g] + leaf),
                total['scorer'], upload['scorer'],
            )  # fmt: skip
            privates = privates.at[c].set(new)
        seen.append(total)
    sums = Sums(shared, seen, members, np.arange(rounds), np.arange(C), items, weights)
    return sums, labels, first


# The float64 sums above are added up client by client. Failed on clients of one group that take
# part in a round in which another does not; on private parameters that stay where they train; on
# padding that trains; on participants of one round with the private parameters of another.
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('hypothesis', ['static', 'free', 'unrolled'])
def test_joint_replays_the_sums_at_the_truth(hypothesis, groups):
    model = NCF
    update = one_step(model, 0.5 if hypothesis == 'unrolled' else 0.0)
    sums, labels, privates = clients_that_train(model, update, 5, groups=groups)
    parts = joint.groups(sums)
    assert sum(len(part.clients) for part in parts) == C
    assert len(parts) > 1
    problem = joint.problem(
        sums, parts, update, observe.share('items', 'scorer'), model.init_private,
        relax.identity(), labels, hypothesis,
    )  # fmt: skip
    guess, latent = problem.init(KEY), []
    for part in parts:
        own = np.asarray(privates[part.clients])
        some = np.minimum(part.active, len(own) - 1)
        latent.append(jnp.asarray(own[some] if hypothesis == 'free' else own))
    assert jax.tree.map(jnp.shape, guess.latent) == jax.tree.map(jnp.shape, tuple(latent))
    guess = guess._replace(latent=tuple(latent))
    assert problem.objective(guess) < 1e-12  # uploads are float32
    np.testing.assert_array_equal(joint.by_client(parts, guess.labels, labels), labels)
    wrong = guess._replace(labels=guess.labels.at[0].set(1 - guess.labels[0]))
    assert problem.objective(wrong) > 1e-6
    if hypothesis == 'unrolled':
        still = joint.problem(
            sums, parts, update, observe.share('items', 'scorer'), model.init_private,
            relax.identity(), labels, 'static',
        )  # fmt: skip
        assert still.objective(guess) > 1e-8


def joint_labels(
    sums, update, model, start, stages, iterations, hypothesis='static', solver=None, **options
):
    def make(sums, parts, start):
        return joint.problem(
            sums, parts, update, observe.share('items'), model.init_private, relax.sigmoid(30.0),
            start, hypothesis,
        )  # fmt: skip

    solver = solver or inversion.descent(optax.adam(0.01))
    return joint.solve(sums, make, lambda _: solver, KEY, start, 0.2, stages, iterations, **options)


@pytest.mark.parametrize(('hypothesis', 'stages'), [('static', (8,)), ('unrolled', (4, 8))])
def test_joint_finds_the_labels(hypothesis, stages):
    model = FACTORS
    update = one_step(model, 2.0 if hypothesis == 'unrolled' else 0.0)
    sums, labels, _ = clients_that_train(model, update, 8)
    sums = sums._replace(seen=[{'items': part['items']} for part in sums.seen])
    real, told = sums.weights > 0, []
    found = joint_labels(
        sums, update, model, np.where(labels > 0, 0.8, 0.2), stages, 1500, hypothesis,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    np.testing.assert_allclose(found[real], labels[real], atol=0.1)
    assert told == sorted(told)
    assert told[-1] == (1500 * len(stages),) * 2


def test_joint_by_gauss_newton_finds_the_labels():
    model = FACTORS
    update = one_step(model, 2.0)
    sums, labels, _ = clients_that_train(model, update, 8)
    sums = sums._replace(seen=[{'items': part['items']} for part in sums.seen])
    start, real = np.where(labels > 0, 0.8, 0.2), sums.weights > 0
    newton = truncated_newton.truncated_newton()
    options = {'hypothesis': 'unrolled', 'solver': newton}
    found = joint_labels(sums, update, model, start, (8,), 24, **options)
    np.testing.assert_allclose(found[real], labels[real], atol=0.05)


# Failed on a residual that labels still change.
def test_private_parameters_are_searched_for_alone():
    solver = truncated_newton.truncated_newton()
    model = FACTORS
    update = one_step(model, 0.0)
    sums, labels, _ = clients_that_train(model, update, 8)
    sums = sums._replace(seen=[{'items': part['items']} for part in sums.seen])
    alone = joint.private_alone(
        joint.problem(
            sums, joint.groups(sums), update, observe.share('items'), model.init_private,
            relax.sigmoid(30.0), np.full(labels.shape, 0.4), 'static',
        )
    )  # fmt: skip
    later = solver.init(alone, KEY)
    for _ in range(10):
        later = solver.update(alone, later)
    np.testing.assert_array_equal(later.guess.labels, alone.init(KEY).labels)
    assert later.objective < alone.objective(alone.init(KEY))


# What is drawn for a client depends on the client alone. Failed on keys by position.
def test_private_parameters_are_drawn_for_each_user():
    model = FACTORS
    sums, labels, _ = clients_that_train(model, one_step(model, 0.0), 4)
    few = sums._replace(members=np.where(np.arange(len(sums.users)) < 2, -1, sums.members))

    def drawn(sums):
        parts = joint.groups(sums)
        init = joint.problem(
            sums, parts, one_step(model, 0.0), observe.share('items'),
            model.init_private, relax.identity(), np.asarray(labels), 'static',
        ).init  # fmt: skip
        latent = [np.asarray(one) for one in jax.tree.leaves(init(KEY).latent)]
        clients = np.concatenate([part.clients for part in parts])
        return dict(zip(clients.tolist(), np.concatenate(latent), strict=True))

    every, some = drawn(sums), drawn(few)
    assert set(some) < set(every)
    for client_, private in some.items():
        np.testing.assert_array_equal(private, every[client_])


# Failed on a second stage that starts from the first labels again, and on one that starts a client
# of later rounds from the labels of a search that it was not part of.
def test_a_stage_of_joint_starts_from_the_labels_of_the_stage_before():
    model = FACTORS
    update = one_step(model, 0.0)
    sums, labels, _ = clients_that_train(model, update, 4)
    sums = sums._replace(seen=[{'items': part['items']} for part in sums.seen])
    sums.members[:2, 0], sums.members[2:, 0] = -1, 0
    starts = []

    def make(sums, parts, start):
        starts.append(start)
        return joint.problem(
            sums, parts, update, observe.share('items'), model.init_private,
            relax.sigmoid(30.0), start, 'static',
        )  # fmt: skip

    first, counts = np.where(labels > 0, 0.6, 0.4), []

    def make_solver(count):
        counts.append(count)
        return inversion.descent(optax.adam(0.01))

    found = joint.solve(sums, make, make_solver, KEY, first, 0.3, (2, 4), 8)
    assert counts == [2, 6, 2, 6]  # of a schedule that ends with each search
    there = (sums.members[:2] >= 0).any(axis=0)
    np.testing.assert_array_equal(starts[0], first)
    assert not there[0]
    np.testing.assert_array_equal(starts[1][~there], 0.3)
    assert np.all(np.any(starts[1][there] != first[there], axis=1))
    assert np.all(np.any(found != starts[1], axis=1))


def unrolled_labels(sums, update, model, privates, start, passes=1, iterations=400, **options):
    gradient = one_step(model, 0.0)
    options = {'stages': (len(sums.seen),)} | options
    return unmix.unrolled.labels(
        sums, update, gradient, jnp.asarray(privates), start, 0.5, num_passes=passes,
        num_iterations=iterations, **options,
    )  # fmt: skip


# Weights and clipping scale an upload. Failed on rows of clients that do not train, on rows that
# are not scaled, on cohorts that are confused, on padding that counts.
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('clip', [None, 0.05])
def test_labels_are_found_where_each_clients_rows_are_replayed(clip, groups):
    model = NCF
    update = client.weighted_by_num_examples(one_step(model, 0.5))
    if clip:
        update = client.through(update, observe.clip_by_global_norm(clip))
    sums, labels, privates = clients_that_train(model, update, 30, groups=groups)
    sums = sums._replace(seen=[{'items': part['items']} for part in sums.seen])
    real = sums.weights > 0
    found = unrolled_labels(sums, update, model, privates, labels)
    np.testing.assert_allclose(found[real], labels[real], atol=0.05)
    other = unrolled_labels(sums, update, model, 0 * privates + 1.0, labels)
    assert np.max(np.abs(other - labels)[real]) > 0.1


# Failed on clients that are trained on the first labels in every pass, and on all rounds at once.
def test_a_pass_of_unrolled_starts_from_the_labels_of_the_pass_before(monkeypatch):
    model = NCF
    update = one_step(model, 2.0)
    sums, labels, privates = clients_that_train(model, update, 30)
    sums = sums._replace(seen=[{'items': part['items']} for part in sums.seen])
    real, start, told = sums.weights > 0, np.full(labels.shape, 0.5), []
    off = [  # with as many iterations
        np.mean(np.abs(unrolled_labels(sums, update, model, privates, start, n, m) - labels)[real])
        for n, m in ((1, 2400), (6, 400))
    ]
    assert off[1] < 0.1 * off[0]
    used, first_rounds = [], filters.first_rounds
    monkeypatch.setattr(filters, 'first_rounds', lambda *a: used.append(a[1]) or first_rounds(*a))
    unrolled_labels(
        sums, update, model, privates, start, 1, 2, stages=(10, 30),
        progress=lambda *done: told.append(done),
    )  # fmt: skip
    assert told == [(1, 2), (2, 2)]
    assert used == [10, 30]


# Failed on rounds that have one weight.
def test_the_labels_of_unrolled_are_those_of_bounded_least_squares():
    model = NCF
    update = one_step(model, 0.5)
    sums, labels, privates = clients_that_train(model, update, 6)
    seen = [{'items': jax.tree.map(lambda leaf: 1.3 * leaf, one['items'])} for one in sums.seen]
    found = unrolled_labels(sums._replace(seen=seen), update, model, privates, labels, 1, 4000)
    real = sums.weights > 0

    matrix, target = [], []
    ends = np.cumsum([0, *real.sum(axis=1)])
    for shared, one, of in zip(sums.shared, seen, sums.members, strict=True):
        left, mixed = one['items']['embedding'][0].copy(), np.zeros((N, 4, ends[-1]))
        for c in np.flatnonzero(of >= 0):
            rows = item_table.gather(shared, sums.items[c])
            zeros, ones, own = (
                compiled(update)(rows, privates[c], types.Batch(None, y, sums.weights[c]))
                for y in (0 * labels[c], 0 * labels[c] + 1, labels[c])
            )
            before, after = zeros[0]['items']['embedding'], ones[0]['items']['embedding']
            for place, b in enumerate(np.flatnonzero(real[c])):
                left[sums.items[c, b]] -= before[b]
                mixed[sums.items[c, b], :, ends[c] + place] = after[b] - before[b]
            privates = privates.copy()
            privates[c] = own[1]
        mixed, left = mixed.reshape(-1, ends[-1]), left.ravel()
        misfit = np.linalg.norm(mixed @ labels[real] - left)
        matrix.append(mixed / misfit)
        target.append(left / misfit)
    dense = scipy.optimize.lsq_linear(np.concatenate(matrix), np.concatenate(target), (0, 1)).x
    assert np.mean((dense > 1e-3) & (dense < 1 - 1e-3)) > 0.1
    np.testing.assert_allclose(found[real], dense, atol=0.03)
