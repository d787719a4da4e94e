"""Exact recovery: its parts against scipy and NumPy, its members on a small federation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from absl.testing import absltest, parameterized

from fedinv_jax import client, data, losses, models, observe, server, simulate, tree
from fedinv_jax.attack import exact, identifiability, labels, leak, quadratic
from fedinv_jax.types import Batch

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
        found.append(leak.Draw(shared, private, batch))
    return found


def known(model, update, *seen):
    with jax.enable_x64():
        return exact.probe(update, observe.share(*seen), model.init_private, draws(model))


def attacked(model, update, seen, rounds=(0,), solver='auto', users=3):
    """Answers and truths of a few clients of a synthetic federation."""
    interactions = data.synthetic.generate(
        seed=0, num_users=12, num_items=ITEMS, median_activity=6.0, min_activity=4, max_activity=8
    )
    clients = data.clients.build(interactions)
    run = simulate.federation(
        model, update, observe.chain(), server.server(optax.sgd(0.1)), clients
    )
    victims = [int(user) for user in clients[0].users[:users]]
    recording = simulate.record(run, jax.random.key(0), victims, rounds)
    member = exact.choose(known(model, update, *seen), solver=solver)
    found = []
    with jax.enable_x64():
        attack = jax.jit(member.attack)
        for user in victims:
            pair = simulate.transcript(recording, user, rounds, seen)
            transcript, truth = tree.cast_floats(pair, np.float64)
            found.append((attack(transcript, jax.random.key(user)), truth, transcript))
    return member, found


class QuadraticTest(parameterized.TestCase):
    @parameterized.product(rows=(4, 8, 30), scale=(0.0, 4.0))
    def test_box_least_squares_agrees_with_scipy(self, rows, scale):
        rng = np.random.default_rng(rows)
        matrix = rng.normal(size=(rows, 8)) * np.logspace(0, -scale, rows)[:, None]
        target = matrix @ rng.integers(0, 2, 8) + 0.1 * rng.normal(size=rows)
        with jax.enable_x64():
            gram, rhs = jnp.asarray(matrix.T @ matrix), jnp.asarray(matrix.T @ target)
            dense = np.asarray(quadratic.box_least_squares(gram, rhs))
            free = np.asarray(
                quadratic.box_least_squares_matrix_free(lambda x: gram @ x, rhs, jnp.diag(gram))
            )
        best = scipy.optimize.lsq_linear(matrix, target, (0, 1), method='bvls').cost
        for x in (dense, free):
            self.assertTrue(np.all((x >= 0) & (x <= 1)))
            self.assertLess(np.sum((matrix @ x - target) ** 2) / 2 - best, 1e-6)

    def test_columns_of_zeros_and_skipped_lanes(self):
        with jax.enable_x64():
            x = quadratic.box_least_squares(jnp.zeros((3, 3)), jnp.zeros(3))
            self.assertTrue(np.all(np.isfinite(x)))
            skipped = quadratic.box_least_squares(jnp.eye(3), jnp.ones(3), skip=True)
            np.testing.assert_allclose(skipped, 0.5)

    def test_no_flip_of_one_or_two_labels_helps_after_polish(self):
        rng = np.random.default_rng(0)
        matrix = rng.normal(size=(5, 8))
        target = matrix @ rng.integers(0, 2, 8)
        start = rng.integers(0, 2, 8).astype(bool)

        def cost(y):
            return np.sum((matrix @ y - target) ** 2)

        with jax.enable_x64():
            end, raised = quadratic.polish(
                jnp.asarray(matrix.T @ matrix), jnp.asarray(matrix.T @ target), jnp.asarray(start)
            )
        end = np.asarray(end).astype(float)
        self.assertLessEqual(cost(end), cost(start.astype(float)))
        for i, j in itertools.combinations_with_replacement(range(8), 2):
            other = end.copy()
            for k in {i, j}:
                other[k] = 1 - other[k]
            self.assertGreaterEqual(cost(other), cost(end) - 1e-9)
            self.assertGreaterEqual(cost(other) - cost(end), 2 * float(raised[i]) - 1e-9)


class IdentifiabilityTest(parameterized.TestCase):
    @parameterized.parameters(0, 1, 3, 6)
    def test_rank_of_a_matrix_of_known_rank(self, rank):
        rng = np.random.default_rng(rank)
        matrix = rng.normal(size=(9, rank)) @ rng.normal(size=(rank, 6))
        with jax.enable_x64():
            self.assertEqual(int(identifiability.rank(jnp.asarray(matrix), 1e-9)), rank)

    @parameterized.product(rows=(3, 6, 12), seed=(0, 1, 2, 3))
    def test_margins_bound_every_other_binary_answer(self, rows, seed):
        rng = np.random.default_rng(seed)
        matrix, y = rng.normal(size=(rows, 7)), rng.integers(0, 2, 7)
        others = [np.array(z) for z in itertools.product((0, 1), repeat=7) if np.any(z != y)]
        moved = {tuple(z): np.linalg.norm(matrix @ (z - y)) for z in others}
        signed = matrix * (1 - 2 * y)
        # The nearest point of the convex hull of the signed columns, by non-negative least squares.
        weight = 1e4
        stacked = np.vstack([signed, np.full(7, weight)])
        x, _ = scipy.optimize.nnls(stacked, np.append(np.zeros(rows), weight))
        nearest = np.linalg.norm(signed @ (x / x.sum()))
        with jax.enable_x64():
            each = np.asarray(
                identifiability.margins(
                    jnp.asarray(matrix.T @ matrix), jnp.asarray(y > 0), jnp.ones(7, bool)
                )
            )
        for z, change in moved.items():
            for i in np.flatnonzero(np.array(z) != y):
                self.assertLessEqual(each[i], change + 1e-6)
        self.assertAlmostEqual(each.min(), nearest if nearest > 1e-3 else 0, delta=1e-3)
        self.assertEqual(identifiability.box_unique(matrix, y), nearest > 1e-6)

    def test_gaussian_systems_turn_unique_between_two_fifths_and_three_fifths(self):
        rng = np.random.default_rng(0)
        for rows, expected in ((28, False), (54, True)):
            y = rng.integers(0, 2, 80)
            matrix = rng.normal(size=(rows, 80))
            self.assertEqual(identifiability.box_unique(matrix, y), expected)

    def test_zero_and_duplicate_columns_are_never_unique(self):
        y = np.array([1, 0])
        self.assertFalse(identifiability.box_unique(np.array([[1.0, 0.0]]), y))
        self.assertFalse(identifiability.box_unique(np.array([[1.0, 1.0]]), y))
        with jax.enable_x64():
            each = identifiability.margins(
                jnp.zeros((2, 2)), jnp.array([True, False]), jnp.ones(2, bool)
            )
        np.testing.assert_array_equal(each, 0)

    def test_project_takes_out_the_private_directions(self):
        rng = np.random.default_rng(0)
        a, j = rng.normal(size=(9, 4)), rng.normal(size=(9, 2))
        q, _ = np.linalg.qr(j)
        with jax.enable_x64():
            projected = identifiability.project(jnp.asarray(a), jnp.asarray(j))
        np.testing.assert_allclose(projected, a - q @ (q.T @ a), atol=1e-9)


class ProbeTest(absltest.TestCase):
    def test_leaks_are_found(self):
        ncf = models.ncf(ITEMS, 4, (6, 5))
        update = client.gradient_step(ncf, losses.bce, 0.1)
        self.assertEqual(
            known(ncf, update, 'scorer').leak,
            leak.Leak('scorer/private/kernel', 0, 'scorer/items/bias'),
        )
        self.assertIsNone(known(ncf, update, 'items').leak)
        bare = models.ncf(ITEMS, 4, (6, 5), use_bias=False)
        found = known(bare, client.gradient_step(bare, losses.bce, 0.1), 'scorer').leak
        self.assertEqual(found, leak.Leak('scorer/private/kernel', 0, None))
        mf = models.matrix_factorization(ITEMS, 4)
        found = known(mf, client.gradient_step(mf, losses.bce, 0.1), 'items').leak
        self.assertEqual(found, leak.Leak('items/embedding', 1, None))

    def test_affine_clients_are_told_from_others(self):
        model = models.ncf(ITEMS, 4, (6,))
        step = known(model, client.gradient_step(model, losses.bce, 0.1), 'scorer').structure
        self.assertTrue(step.affine and step.separable)
        sgd = optax.sgd(0.5)
        once = client.local_sgd(model, losses.bce, sgd, sgd)
        self.assertTrue(known(model, once, 'scorer').structure.affine)
        thrice = client.local_sgd(model, losses.bce, sgd, sgd, num_epochs=3)
        structure = known(model, thrice, 'scorer').structure
        self.assertFalse(structure.affine)
        with self.assertRaisesRegex(ValueError, 'affine in the labels.*several'):
            labels.require_affine(structure)
        with self.assertRaisesRegex(ValueError, 'affine'):
            exact.choose(known(model, thrice, 'scorer'), solver='closed_form')

    def test_an_unknown_member_names_the_choices(self):
        model = models.ncf(ITEMS, 4, (6,))
        update = client.gradient_step(model, losses.bce, 0.1)
        with self.assertRaisesRegex(ValueError, "'nope'.*closed_form"):
            exact.choose(known(model, update, 'scorer'), solver='nope')

    def test_a_gram_of_outer_products_is_the_gram(self):
        rng = np.random.default_rng(0)
        x, d = rng.normal(size=(2, 5, 1, 3)), rng.normal(size=(2, 5, 1, 4))
        kernel = np.einsum('kta,ktb->ktab', x[0], d[0])
        kernel[2] = 0
        with jax.enable_x64():
            columns = labels.Columns({}, {'w': jnp.asarray(kernel), 'b': jnp.asarray(d[1])})
            np.testing.assert_allclose(
                labels.gram(columns, ('w',)), labels.gram(columns), atol=1e-12
            )


class MembersTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ('bias', True, 'ncf', ('scorer',), 'closed_form', True),
        ('items', True, 'ncf', ('items',), 'aligned', None),
        ('symmetric', True, 'matrix_factorization', ('items',), 'scaled', False),
        ('no_bias', False, 'ncf', ('scorer',), 'scaled', None),
    )
    @pytest.mark.slow
    def test_recovers_every_label(self, bias, name, seen, solver, certified):
        model = (
            models.ncf(ITEMS, 6, (16, 12), use_bias=bias)
            if name == 'ncf'
            else models.matrix_factorization(ITEMS, 6)
        )
        update = client.gradient_step(model, losses.bce, 0.1)
        member, found = attacked(model, update, seen)
        self.assertEqual(member.solver, solver)
        for answer, truth, _ in found:
            real = truth.weights > 0
            np.testing.assert_array_equal(answer.labels[real], truth.labels[real] > 0)
            np.testing.assert_allclose(answer.private, truth.private[0], rtol=2e-3, atol=1e-4)
            if certified is not None:
                self.assertEqual(bool(answer.certificate.certified), certified)

    @pytest.mark.slow
    def test_certified_answers_are_exact_where_one_gradient_is_not_enough(self):
        model = models.ncf(ITEMS, 4, (4,))
        update = client.gradient_step(model, losses.bce, 0.1)
        for rounds in ((0,), (0, 30)):
            _, found = attacked(model, update, ('scorer',), rounds, users=6)
            for answer, truth, _ in found:
                right = np.all((answer.labels == (truth.labels > 0))[truth.weights > 0])
                self.assertTrue(right or not answer.certificate.certified)

    @pytest.mark.slow
    def test_a_zero_upload_fails_and_identical_items_are_not_certified(self):
        model = models.ncf(ITEMS, 6, (16, 12))
        update = client.gradient_step(model, losses.bce, 0.1)
        member, found = attacked(model, update, ('scorer',), users=1)
        _, _, transcript = found[0]
        with jax.enable_x64():
            zero = transcript.replace(seen=jax.tree.map(jnp.zeros_like, transcript.seen))
            answer = member.attack(zero, jax.random.key(0))
            self.assertFalse(np.isfinite(answer.objective))
            self.assertFalse(answer.certificate.certified)
            table = np.array(transcript.shared['items']['embedding'])
            table[:, 1] = table[:, 0]
            twin = {**transcript.shared, 'items': {'embedding': table}}
            answer = member.attack(transcript.replace(shared=twin), jax.random.key(0))
            self.assertFalse(answer.certificate.certified)


if __name__ == '__main__':
    absltest.main()
