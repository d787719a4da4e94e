"""Exact recovery: leaks, the label solve, and the members on a small federation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedinv_jax import (
    client,
    compress,
    data,
    losses,
    models,
    observe,
    server,
    simulate,
    train,
    tree,
)
from fedinv_jax.attack import dynamics, exact, objective, relax, whitening
from fedinv_jax.attack.exact import (
    embedding,
    identifiability,
    known,
    label_solve,
    normal_equations,
    probing,
)
from fedinv_jax.attack.exact.known import Leak
from fedinv_jax.attack.exact.probing import Draw
from fedinv_jax.audit import attackers, training
from fedinv_jax.audit import config as config_lib
from fedinv_jax.types import Batch, Guess, Transcript

ITEMS = 60


def draws(model, size=3):
    """Two random clients in float64."""
    found = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        keys = jax.random.split(jax.random.key(seed))
        shared, private = tree.cast_floats(
            (model.init_shared(keys[0]), model.init_private(keys[1])), np.float64
        )
        shared = jax.tree.map(
            lambda leaf, rng=rng: leaf + 0.05 * rng.normal(size=leaf.shape),
            client.gather(shared, jnp.arange(size)),
        )
        batch = Batch(None, jnp.asarray(rng.random(size)), jnp.asarray(0.5 + rng.random(size)))
        found.append(Draw(shared, private, batch))
    return found


@functools.cache
def ncf(dim, hidden, use_bias=True):
    return models.ncf(ITEMS, dim, hidden, use_bias=use_bias)


@functools.cache
def one_step(model, loss=losses.bce):
    return client.gradient_step(model, loss, 0.1)


@functools.cache
def probed(model, update, *seen):
    with jax.enable_x64():
        return exact.probe(update, observe.share(*seen), model.init_private, draws(model))


def attacked(model, update, seen, rounds=(0,), solver='auto', users=3):
    """Answers and truths of a few clients of a synthetic federation."""
    interactions = data.synthetic.generate(
        seed=0, num_users=12, num_items=ITEMS, median_activity=6.0, min_activity=4, max_activity=8
    )
    clients = data.clients.build(interactions)
    run = train.federation(model, update, observe.chain(), server.server(optax.sgd(0.1)), clients)
    victims = [int(user) for user in clients[0].users[:users]]
    recording = simulate.record(run, jax.random.key(0), victims, rounds)
    member = exact.choose(probed(model, update, *seen), solver=solver)
    found = []
    with jax.enable_x64():
        attack = jax.jit(member.attack)
        for user in victims:
            pair = simulate.transcript(recording, user, rounds, seen)
            transcript, truth = tree.cast_floats(pair, np.float64)
            found.append((attack(transcript, jax.random.key(user)), truth, transcript))
    return member, found


def test_leaks_are_found():
    plain = ncf(4, (6, 5))
    update = one_step(plain)
    assert probed(plain, update, 'scorer').leak == Leak(
        'scorer/private/kernel', 0, 'scorer/items/bias'
    )
    assert probed(plain, update, 'items').leak is None
    bare = ncf(4, (6, 5), False)
    found = probed(bare, one_step(bare), 'scorer').leak
    assert found == Leak('scorer/private/kernel', 0, None)
    mf = models.matrix_factorization(ITEMS, 4)
    found = probed(mf, one_step(mf), 'items').leak
    assert found == Leak('items/embedding', 1, None)


def test_item_biases_make_the_item_rows_a_layer_with_bias():
    model = models.matrix_factorization(ITEMS, 4, item_bias=True)
    choice = exact.choose(probed(model, one_step(model), 'items'))
    assert choice.solver == 'closed_form'
    assert 'items/bias' in choice.why


@pytest.mark.slow
def test_affine_clients_are_told_from_others():
    model = ncf(4, (6, 5))
    step = probed(model, one_step(model), 'scorer').structure
    assert step.affine
    assert step.separable
    sgd = optax.sgd(0.5)
    once = client.local_sgd(model, losses.bce, sgd, sgd)
    assert probed(model, once, 'scorer').structure.affine
    thrice = client.local_sgd(model, losses.bce, sgd, sgd, num_epochs=3)
    structure = probed(model, thrice, 'scorer').structure
    assert not structure.affine
    with pytest.raises(ValueError, match=r'affine in the labels.*several'):
        label_solve.require_affine(structure)
    with pytest.raises(ValueError, match='affine'):
        exact.choose(probed(model, thrice, 'scorer'), solver='closed_form')


def test_an_unknown_member_names_the_choices():
    model = ncf(4, (6, 5))
    update = one_step(model)
    with pytest.raises(ValueError, match=r"'nope'.*closed_form"):
        exact.choose(probed(model, update, 'scorer'), solver='nope')


# Failed on mutants: blocks not mirrored; squares on every block.
@pytest.mark.parametrize('size', [1, 5, 256, 257, 601])
def test_a_gram_of_outer_products_is_the_gram(size):
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(2, size, 2, 3)), rng.normal(size=(2, size, 2, 4))
    kernel = np.einsum('kta,ktb->ktab', x[0], d[0])
    kernel[size // 2] = 0
    own, common = {'e': x[1]}, {'w': kernel, 'b': d[1]}
    flat = np.concatenate([leaf.reshape(size, -1) for leaf in (kernel, d[1])], axis=1)
    expected = flat @ flat.T + np.diag(np.sum(x[1] ** 2, axis=(1, 2)))
    with jax.enable_x64():
        columns = jax.tree.map(jnp.asarray, objective.Columns(own, common))
        for outer in ((), ('w',)):
            features = jax.vmap(lambda x, outer=outer: normal_equations.features(x, outer))(columns)
            np.testing.assert_allclose(normal_equations.gram(features), expected, atol=1e-12)


@pytest.mark.parametrize(
    ('bias', 'name', 'seen', 'solver', 'certified'),
    [
        pytest.param(True, 'ncf', ('scorer',), 'closed_form', True, id='bias'),
        pytest.param(True, 'ncf', ('items',), 'aligned', None, id='items'),
        pytest.param(True, 'matrix_factorization', ('items',), 'scaled', False, id='symmetric'),
        pytest.param(False, 'ncf', ('scorer',), 'scaled', None, id='no_bias'),
    ],
)
@pytest.mark.slow
def test_recovers_every_label(bias, name, seen, solver, certified):
    model = ncf(6, (16, 12), bias) if name == 'ncf' else models.matrix_factorization(ITEMS, 6)
    update = one_step(model)
    member, found = attacked(model, update, seen)
    assert member.solver == solver
    for answer, truth, _ in found:
        real = truth.weights > 0
        np.testing.assert_array_equal(answer.labels[real], truth.labels[real] > 0)
        np.testing.assert_allclose(answer.private, truth.private[0], rtol=2e-3, atol=1e-4)
        if certified is not None:
            assert bool(answer.certificate.certified) == certified


@pytest.mark.slow
def test_certified_answers_are_exact_where_one_gradient_is_not_enough():
    model = ncf(4, (4,))
    update = one_step(model)
    for rounds in ((0,), (0, 30)):
        _, found = attacked(model, update, ('scorer',), rounds, users=6)
        for answer, truth, _ in found:
            right = np.all((answer.labels == (truth.labels > 0))[truth.weights > 0])
            assert right or not answer.certificate.certified


# Failed on mutants: no steps of the private state; steps that the largest residuals rule.
@pytest.mark.slow
def test_noisy_uploads_tell_more_of_the_private_state_than_the_leak():
    model, scale = ncf(6, (16, 12)), 1e-5
    update = one_step(model)
    _, found = attacked(model, update, ('scorer',))
    stages = observe.add_gaussian_noise(scale), observe.share('scorer')
    errors, certified = [], 0
    with jax.enable_x64():
        attacker = exact.probe(update, observe.chain(*stages), model.init_private, draws(model))
        assert attacker.lossy
        attack = jax.jit(exact.choose(attacker).attack)
        for user, (_, truth, transcript) in enumerate(found):
            seen, _ = stages[0].observe(transcript.seen, (), jax.random.key(user))
            answer = attack(transcript.replace(seen=seen), jax.random.key(0))
            real = truth.weights > 0
            np.testing.assert_array_equal(answer.labels[real], truth.labels[real] > 0)
            leaked = embedding.exact(attacker.leak, tree.take(seen, 0))
            states = (answer.private, leaked)
            errors.append([np.linalg.norm(state - truth.private[0]) for state in states])
            certified += int(answer.certificate.certified)
    joint, leaked = np.array(errors).T
    assert np.all(joint < leaked), errors
    assert np.mean(joint / leaked) < 0.75
    assert certified >= 2


@pytest.mark.slow
def test_a_zero_upload_fails_and_identical_items_are_not_certified():
    model = ncf(6, (16, 12))
    update = one_step(model)
    member, found = attacked(model, update, ('scorer',), users=1)
    _, _, transcript = found[0]
    with jax.enable_x64():
        zero = transcript.replace(seen=jax.tree.map(jnp.zeros_like, transcript.seen))
        answer = member.attack(zero, jax.random.key(0))
        assert not np.isfinite(answer.objective)
        assert not answer.certificate.certified
        table = np.array(transcript.shared['items']['embedding'])
        table[:, 1] = table[:, 0]
        twin = {**transcript.shared, 'items': {'embedding': table}}
        answer = member.attack(transcript.replace(shared=twin), jax.random.key(0))
        assert not answer.certificate.certified


# Failed on mutants: means over padded rows, of the replays' gaps and of what was seen.
@pytest.mark.slow
def test_padding_does_not_change_them():
    model = ncf(4, (6, 5))
    update, size = one_step(model), 5
    private = model.init_private(jax.random.key(1))
    shared = model.init_shared(jax.random.key(0))

    def deviations(padded):
        items = jnp.concatenate([jnp.arange(size), jnp.zeros(padded - size, int)])
        weights = (jnp.arange(padded) < size).astype(float)
        rows = client.gather(shared, items)
        labels_ = (jnp.arange(padded) < 2).astype(float)
        seen = update(rows, private, Batch(None, labels_, weights))[0]
        transcript = Transcript(
            shared=rows, seen=seen, rounds=jnp.zeros((), int), participated=jnp.ones((), bool),
            items=items, slot=None, weights=weights, log_odds=jnp.zeros(padded),
        )  # fmt: skip
        transcript = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], transcript)
        transcript = tree.cast_floats(transcript, jnp.float64).replace(
            items=items, log_odds=jnp.zeros(padded)
        )
        hypothesis = dynamics.free(model.init_private, 1)
        latent = private.astype(jnp.float64)[None]
        found = whitening.deviations(transcript, update, observe.chain(), hypothesis, latent)
        return float(found['items']['embedding'][0])

    with jax.enable_x64():
        np.testing.assert_allclose(deviations(80), deviations(size), rtol=0.1)


@pytest.mark.parametrize('bias', [True, False])
def test_private_state_of_a_float64_upload(bias):
    model = ncf(4, (6, 5), bias)
    update = one_step(model)
    share = observe.share('scorer')
    with jax.enable_x64():
        found = probing.find_leak(update, share, draws(model))
        for draw in draws(model, 7):
            seen = probing.upload_of(update, share, draw)
            along = np.asarray(embedding.direction(found, seen))
            assert np.linalg.norm(along) == pytest.approx(1, abs=1e-12)
            unit = draw.private / np.linalg.norm(draw.private)
            assert abs(along @ unit) == pytest.approx(1, abs=1e-9)
            if bias:
                np.testing.assert_allclose(embedding.exact(found, seen), draw.private, rtol=1e-9)
            else:
                with pytest.raises(ValueError, match='with a bias'):
                    embedding.exact(found, seen)


def test_item_rows_of_matrix_factorisation():
    model = models.matrix_factorization(ITEMS, 4)
    update = one_step(model)
    share = observe.share('items')
    with jax.enable_x64():
        found = probing.find_leak(update, share, draws(model))
        for draw in draws(model, 7):
            along = embedding.direction(found, probing.upload_of(update, share, draw))
            unit = draw.private / np.linalg.norm(draw.private)
            assert abs(float(along @ unit)) == pytest.approx(1, abs=1e-9)


def test_an_upload_of_zeros():
    found = Leak('kernel', 0, 'bias')
    zero = {'kernel': jnp.zeros((3, 4)), 'bias': jnp.zeros(4)}
    np.testing.assert_array_equal(embedding.direction(found, zero), np.zeros(3))
    assert np.all(np.isnan(embedding.exact(found, zero)))


def test_uploads_of_extreme_size_have_a_direction():
    found = Leak('kernel', 1, None)
    p = jnp.array([3.0, 0.0, -4.0])
    for scale in (1e-30, 1e30):
        along = embedding.direction(found, {'kernel': scale * jnp.outer(jnp.array([1.0, 2.0]), p)})
        np.testing.assert_allclose(np.abs(along), [0.6, 0, 0.8], atol=1e-6)


# Failed on mutants: any multiple, negative ones too; `scaled` ignored.
@pytest.mark.parametrize(
    ('factor', 'exact_', 'scaled'), [(1.0, True, True), (20.0, False, True), (-20.0, False, False)]
)
def test_a_multiple_of_a_product(factor, exact_, scaled):
    def update(shared, private, batch):
        del shared
        signals = jnp.outer(jnp.arange(1.0, 4.0), batch.labels[:1]).ravel()
        kernel = factor * jnp.outer(private, signals)
        return {'scorer': {'bias': signals, 'kernel': kernel, 'rest': kernel**2}}, private

    expected = Leak('scorer/kernel', 0, 'scorer/bias')
    with jax.enable_x64():
        clients = draws(ncf(4, (6, 5)))
        for wanted, options in ((exact_, {}), (scaled, {'scaled': True})):
            found = probing.find_leak(update, observe.share('scorer'), clients, 0.9, **options)
            assert (found == expected) == wanted


def test_states_that_are_no_vector_do_not_leak():
    model = ncf(4, (6, 5))
    update = one_step(model)
    with jax.enable_x64():
        odd = [draw._replace(private=jnp.zeros((2, 2))) for draw in draws(model)]
    assert probing.find_leak(update, observe.share('scorer'), odd) is None


@functools.cache
def small_problem(seed=0, size=5, model=None, loss=losses.bce, noise=1e-3, separable=True):
    """A problem of one step with unit noise, its guess at the true state, its true labels."""
    model = model or ncf(4, (8, 6))
    update = one_step(model, loss)
    draw = draws(model, size)[seed]
    rng = np.random.default_rng(seed)
    y = jnp.asarray(rng.integers(0, 2, size).astype(float))
    batch = Batch(None, y, jnp.ones(size))
    share = observe.share('items', 'scorer')
    seen = probing.upload_of(update, share, draw._replace(batch=batch))
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (draw.shared, seen))
    transcript = Transcript(
        shared=one[0], seen=one[1], rounds=np.zeros(1, int), participated=np.ones(1, bool),
        items=np.arange(size), slot=None, weights=np.ones((1, size)), log_odds=np.zeros(size),
    )  # fmt: skip
    problem = objective.problem(
        transcript,
        update,
        share,
        dynamics.free(model.init_private, 1),
        relaxation=relax.identity(),
        deviation=jax.tree.map(lambda leaf: jnp.full(1, noise), one[1]),
        separable=separable,
    )
    guess = Guess(jnp.full(size, 0.5), None, draw.private[None])
    return problem._replace(init=lambda key: guess), guess, np.asarray(y)


# Failed on mutants: no rows of the items, or no factors, in the right-hand side or the fit.
@pytest.mark.parametrize('loss', [losses.bce, losses.squared_error])
@pytest.mark.parametrize('separable', [True, False])
def test_normal_equations_against_a_dense_jacobian(loss, separable):
    with jax.enable_x64():
        problem, guess, y = small_problem(loss=loss, separable=separable)

        def residual(labels):
            return tree.ravel(problem.residual(guess._replace(labels=labels)))

        jacobian = np.asarray(jax.jit(jax.jacfwd(residual))(guess.labels))
        origin = np.asarray(residual(jnp.zeros(len(y))))
        leaves = jax.tree.leaves_with_path(problem.columns(guess, lambda x: x).common)
        names = ['/'.join(str(key.key) for key in path) for path, _ in leaves]
        kernels = [name for name in names if name.endswith('kernel')]
        for outer in ((), kernels):
            found = jax.jit(lambda outer=outer: normal_equations.equations(problem, guess, outer))()
            scale = np.max(jacobian.T @ jacobian)
            np.testing.assert_allclose(
                found.gram, jacobian.T @ jacobian, rtol=1e-9, atol=1e-12 * scale
            )
            np.testing.assert_allclose(
                found.rhs, -jacobian.T @ origin, rtol=1e-9, atol=1e-12 * scale
            )
            for labels_ in (y, 1 - y, np.linspace(-1, 2, len(y))):
                expected = label_solve.fit(problem, guess._replace(labels=jnp.asarray(labels_)))
                np.testing.assert_allclose(
                    normal_equations.fit(found, labels_),
                    expected,
                    rtol=1e-9,
                    atol=1e-15 * scale,
                )
        soft, _, raised = jax.jit(label_solve.solve)(found)
        # Refined once: the noise level that the factor leaves out is 1e-14 of the trace.
        np.testing.assert_allclose(soft, y, atol=1e-6)
        assert np.all(raised > 25)


def test_spent_leaves_are_left_out():
    with jax.enable_x64():
        problem, guess, _ = small_problem()
        columns = problem.columns(guess, lambda column: column)
        name = 'scorer/private/kernel'
        found = normal_equations.equations(problem, guess, spent=(name,))
        rest = found.gram
        only = columns.common['scorer']['private']['kernel'].reshape(5, -1)
        whole = normal_equations.equations(problem, guess).gram
        np.testing.assert_allclose(rest + only @ only.T, whole, rtol=1e-9)
        residual = problem.residual(guess)
        residual['scorer']['private']['kernel'] *= 0
        expected = jnp.mean(tree.ravel(residual) ** 2)
        np.testing.assert_allclose(normal_equations.fit(found, guess.labels), expected, rtol=1e-9)


# Failed on: the right-hand side with the other sign; matrices whatever `dense` says.
def test_matrix_free_agrees_with_dense():
    with jax.enable_x64():
        problem, guess, y = small_problem()
        found = []
        for dense in (known.DENSE, 0):
            solver = label_solve.label_solve(dense=dense)
            update = jax.jit(
                lambda solver=solver: solver.update(
                    problem, solver.init(problem, jax.random.key(0))
                )
            )
            assert ('cholesky' in str(jax.make_jaxpr(update)())) == (dense > 0)
            found.append(update())
    dense, free = found
    np.testing.assert_allclose(dense.guess.labels, y, atol=1e-6)
    np.testing.assert_allclose(free.guess.labels, dense.guess.labels, atol=1e-3)
    assert float(dense.objective) < 1e-6
    assert float(free.objective) < 1e-6
    assert bool(dense.done)
    assert bool(free.done)
    np.testing.assert_array_equal(free.guess.latent, guess.latent)


def test_a_label_that_nothing_tells_of_stays_finite():
    gram, rhs = jnp.diag(jnp.array([1e4, 0.0, 1e4])), jnp.array([1e4, 0.0, 0.0])
    with jax.enable_x64():
        gram, rhs = gram.astype(float), rhs.astype(float)
        columns = normal_equations.Features(jnp.zeros((3, 0)), jnp.sqrt(gram), {})
        origin = normal_equations.Entries(columns.own, jnp.array([-1e2, 0.0, 0.0]), {})
        found = normal_equations.Normal(gram, rhs, identifiability.factor(gram), columns, origin, 3)
        for ridge in (0.0, 0.1):
            soft, _, _ = jax.jit(label_solve.solve, static_argnums=1)(found, ridge)
            assert np.all(np.isfinite(soft))
            np.testing.assert_allclose(soft[jnp.array([0, 2])], [1, 0], atol=1e-3)


# Failed on mutant: the factor without the prior.
def test_the_prior_pulls_to_the_middle():
    with jax.enable_x64():
        matrix = jnp.array([[1e3, 0.0], [800.0, 600.0]])
        columns = normal_equations.Features(jnp.zeros((2, 0)), matrix, {})
        origin = normal_equations.Entries(columns.own, -matrix[0], {})
        gram, rhs = (
            normal_equations.gram(columns),
            -normal_equations.transposed(columns, origin),
        )
        found = normal_equations.Normal(gram, rhs, identifiability.factor(gram), columns, origin, 2)
        soft, _, _ = label_solve.solve(found, ridge=1e5)
        expected = jnp.linalg.solve(gram + 1e5 * jnp.eye(2), rhs + 5e4)
    np.testing.assert_allclose(soft, expected, rtol=1e-6)


# Failed on mutant: binary labels whatever they leave.
@pytest.mark.parametrize(('rest', 'expected'), [(0.0, [1, 1, 0, 0]), (1e3, None)])
def test_binary_labels_where_they_explain_what_was_seen(rest, expected):
    with jax.enable_x64():
        column = jnp.array([1000.0, 2100.0, 3300.0, 4700.0])
        columns = normal_equations.Features(
            jnp.zeros((4, 0)), jnp.stack([column, jnp.zeros(4)], 1), {}
        )
        origin = normal_equations.Entries(columns.own, jnp.array([-3100.0, rest]), {})
        gram, rhs = (
            normal_equations.gram(columns),
            -normal_equations.transposed(columns, origin),
        )
        factor = identifiability.factor(gram)
        found = normal_equations.Normal(gram, rhs, factor, columns, origin, 2)
        soft, hard, _ = label_solve.solve(found)
        assert np.any(hard != (soft > 0.5))
        got = label_solve.believed(found)
    if expected is None:
        np.testing.assert_array_equal(got, soft)
    else:
        np.testing.assert_array_equal(got > 0.5, expected)


# Failed on mutant: what the labels leave that are not rounded.
def test_the_objective_is_that_of_rounded_labels():
    with jax.enable_x64():
        problem, guess, _ = small_problem()
        start = guess._replace(latent=guess.latent + 0.3)
        at = problem._replace(init=lambda key: start)
        solver = label_solve.label_solve()
        state = solver.update(at, solver.init(at, jax.random.key(0)))
        soft = state.guess.labels
        assert float(jnp.max(jnp.abs(soft - jnp.round(soft)))) > 0.05
        expected = label_solve.fit(problem, state.guess._replace(labels=jnp.round(soft)))
    np.testing.assert_allclose(state.objective, expected, rtol=1e-9)


# Failed on mutant: only what does both.
@pytest.mark.parametrize(
    ('stage', 'expected'),
    [
        pytest.param(observe.chain(), False, id='plain'),
        pytest.param(observe.add_gaussian_noise(0.1), True, id='noise'),
        pytest.param(compress.keep_top(0.3), True, id='top'),
    ],
)
def test_a_channel_that_adds_noise_or_leaves_out_is_lossy(stage, expected):
    model = ncf(4, (8, 6))
    channel = observe.chain(stage, observe.share('scorer'))
    with jax.enable_x64():
        assert probing.is_lossy(one_step(model), channel, draws(model)[0]) == expected


def test_a_problem_without_columns_is_refused():
    with jax.enable_x64():
        problem, guess, _ = small_problem()
        with pytest.raises(ValueError, match='columns'):
            normal_equations.equations(problem._replace(columns=None), guess)


@pytest.mark.slow
def test_an_optimiser_that_is_not_linear_is_not_affine():
    model = ncf(4, (6, 5))
    adam = client.local_sgd(model, losses.bce, optax.adam(0.1), optax.sgd(0.1))
    assert not probed(model, adam, 'scorer').structure.affine


@pytest.mark.slow
def test_minibatches_are_not_affine():
    model = ncf(4, (6, 5))
    blocks = client.local_sgd(model, losses.bce, optax.sgd(0.1), optax.sgd(0.1), batch_size=2)
    assert not probed(model, blocks, 'scorer').structure.affine


def test_structure_of_one_step():
    model = ncf(4, (6, 5))
    update = one_step(model)
    scorer, items = (probed(model, update, name).structure for name in ('scorer', 'items'))
    assert scorer.affine
    assert scorer.separable
    assert not scorer.items
    assert items.affine
    assert items.separable
    assert items.items
    assert 'scorer/layer_1/kernel' in scorer.outer
    assert items.outer == ()


def own_federation(batch_labels, table=None, seed=0, loss=losses.bce):
    """A float32 client of one's own, one gradient of a small NCF: the transcript in float64."""
    model = ncf(6, (16, 12))
    update = one_step(model, loss)
    size = len(batch_labels)
    keys = jax.random.split(jax.random.key(seed), 3)
    shared = client.gather(model.init_shared(keys[0]), jnp.arange(size))
    if table is not None:
        shared = {**shared, 'items': {'embedding': table(shared['items']['embedding'])}}
    private = model.init_private(keys[1])
    y = jnp.asarray(batch_labels, jnp.float32)
    upload, _ = jax.jit(update)(shared, private, Batch(None, y, jnp.ones(size)))
    transcript = Transcript(
        shared=jax.tree.map(lambda leaf: np.asarray(leaf)[None], shared),
        seen={'scorer': jax.tree.map(lambda leaf: np.asarray(leaf)[None], upload['scorer'])},
        rounds=np.zeros(1, int), participated=np.ones(1, bool), items=np.arange(size),
        slot=None, weights=np.ones((1, size), np.float32), log_odds=np.zeros(size),
    )  # fmt: skip
    return model, update, transcript, np.asarray(private)


@functools.cache
def closed_form(loss=losses.bce):
    """The member for the model of `own_federation`, compiled once a batch size."""
    model = ncf(6, (16, 12))
    update = one_step(model, loss)
    member = exact.choose(probed(model, update, 'scorer'))
    assert member.solver == 'closed_form'
    return jax.jit(member.attack)


# Failed on: a bound on matrices that is not the config's, or that the member does not ask for.
@pytest.mark.parametrize(('dense', 'certified'), [(8, True), (7, False)])
@pytest.mark.slow
def test_the_config_says_for_how_many_candidates_matrices_are_formed(dense, certified):
    config = config_lib.default_config()
    config.attack.dense, config.observation.seen = dense, ('scorer',)
    config.model.update({'dim': 6, 'hidden': (16, 12)})
    probe = functools.partial(attackers.probe, config, training.make_model(config.model, 8))
    setting = config_lib.settings(config)[0]._replace(attack='exact')
    choice = attackers.make_exact(config, setting, probe)
    y = [1, 0, 0, 1, 0, 1, 0, 0]
    _, _, transcript, _ = own_federation(y)
    with jax.enable_x64():
        transcript = tree.cast_floats(transcript, np.float64)
        answer = jax.jit(choice.attack)(transcript, jax.random.key(0), 1)
    assert (answer.certificate is not None) == certified
    np.testing.assert_array_equal(answer.labels, np.array(y) > 0)


@pytest.mark.parametrize(
    'y',
    [
        pytest.param([0] * 8, id='all_negatives'),
        pytest.param([0, 0, 0, 1, 0, 0, 0, 0], id='one_positive'),
        pytest.param([1] * 8, id='all_positives'),
        pytest.param([1, 0, 0, 1, 0, 1, 0, 0], id='mixed'),
    ],
)
def test_closed_form(y):
    for seed in range(3):
        _, _, transcript, private = own_federation(y, seed=seed)
        with jax.enable_x64():
            transcript = tree.cast_floats(transcript, np.float64)
            answer = closed_form()(transcript, jax.random.key(0))
        np.testing.assert_array_equal(answer.labels, np.array(y) > 0)
        np.testing.assert_allclose(answer.private, private, rtol=1e-4, atol=1e-5)
        assert answer.certificate.certified
        assert np.isfinite(answer.objective)
        assert int(answer.certificate.determined) == 8


# Two candidates of equal rows and different labels: the upload holds their sum only.
def test_twins():
    def table(rows):
        return rows.at[1].set(rows[0])

    for seed, y in enumerate(
        ([1, 0, 0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [1, 1] + [0] * 6)
    ):
        _, _, transcript, _ = own_federation(y, table, seed)
        with jax.enable_x64():
            transcript = tree.cast_floats(transcript, np.float64)
            answer = closed_form()(transcript, jax.random.key(0))
        assert np.all(np.isfinite(answer.scores))
        np.testing.assert_array_equal(answer.labels[2:], np.array(y[2:]) > 0)
        # Not to rounding: twins that are both positive are split by it, then clipped.
        total = float(answer.scores[0] + answer.scores[1])
        assert total == pytest.approx(y[0] + y[1], abs=0.25)
        if y[0] != y[1]:
            assert not answer.certificate.certified
        elif bool(answer.certificate.certified):
            np.testing.assert_array_equal(answer.labels, np.array(y) > 0)


def test_nothing_seen():
    _, _, transcript, _ = own_federation([1, 0, 0, 1, 0, 0, 0, 0])
    silent = transcript.replace(seen=jax.tree.map(np.zeros_like, transcript.seen))
    with jax.enable_x64():
        answer = closed_form()(tree.cast_floats(silent, np.float64), jax.random.key(0))
    # An answer that failed says so, and is not certified.
    assert not np.isfinite(answer.objective)
    assert not answer.certificate.certified


# One upload of a head far too small, and noisy uploads: certified still implies exact.
@pytest.mark.parametrize('noise', [0.0, 1e-4, 1e-2])
def test_certified_implies_exact(noise):
    check_certified_implies_exact(noise, 8)


@pytest.mark.parametrize('noise', [0.0, 1e-4, 1e-2])
@pytest.mark.slow
def test_certified_implies_exact_of_many(noise):
    check_certified_implies_exact(noise, 40)


def check_certified_implies_exact(noise, size):
    rng = np.random.default_rng(size)
    for seed in range(2):
        y = (rng.random(size) < 0.25).astype(np.float32)
        _, _, transcript, _ = own_federation(y, seed=seed)
        seen = jax.tree.map(
            lambda leaf: leaf + noise * np.std(leaf) * rng.normal(size=leaf.shape),
            transcript.seen,
        )
        with jax.enable_x64():
            noisy = tree.cast_floats(transcript.replace(seen=seen), np.float64)
            answer = closed_form()(noisy, jax.random.key(0))
        right = np.array_equal(answer.labels, y > 0)
        assert right or not bool(answer.certificate.certified)
        if np.isfinite(answer.objective):
            assert np.all(np.isfinite(answer.scores))
            assert np.all((answer.scores >= 0) & (answer.scores <= 1))


# Ratings as labels: the soft solution is the ratings, but binary labels explain nothing.
@pytest.mark.slow
def test_ratings():
    y = np.array([0.6, 0.0, 1.0, 0.8, 0.0, 0.0, 0.0, 0.8])
    _, _, transcript, _ = own_federation(y, loss=losses.squared_error)
    with jax.enable_x64():
        transcript = tree.cast_floats(transcript, np.float64)
        answer = closed_form(losses.squared_error)(transcript, jax.random.key(0))
    np.testing.assert_allclose(answer.scores, y, atol=1e-2)
    np.testing.assert_array_equal(answer.labels, y > 0.5)
    assert not answer.certificate.certified
