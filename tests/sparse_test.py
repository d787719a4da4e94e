"""The attack without the batch, on clients whose batch the test draws itself."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from absl.testing import absltest, parameterized

from fedinv_jax import client, losses, models, observe, tree
from fedinv_jax.attack import leak, quadratic, sparse
from fedinv_jax.types import Batch, Transcript

N, D = 40, 12
MODEL = models.ncf(N, D, hidden=(16, 8), scale=0.5)
UPDATE = client.gradient_step(MODEL, losses.bce, 0.1)


class Structure(NamedTuple):
    """Duck-typed `labels.Structure`."""

    affine: bool = True
    separable: bool = True


class Known(NamedTuple):
    """Duck-typed `exact.Known`."""

    client_update: Any
    observation: Any
    init_private: Any
    structure: Structure
    leak: leak.Leak
    rounding: float = 2.0**-24


KNOWN = Known(
    UPDATE,
    observe.share('scorer'),
    MODEL.init_private,
    Structure(),
    leak.Leak('scorer/private/kernel', 0, 'scorer/items/bias'),
)


def make(seed, steps=1, positives=4, negatives=8, fresh=False):
    """A float32 transcript in float64, whether an item is in the first batch, and its label."""
    random = np.random.default_rng(seed)
    order = random.permutation(N)
    label = np.zeros(N, bool)
    label[order[:positives]] = True
    shareds, seens, first = [], [], None
    for t in range(steps):
        shared = MODEL.init_shared(jax.random.key(100 * seed + t))
        private = MODEL.init_private(jax.random.key(100 * seed + t + 50))
        rest = random.permutation(order[positives:]) if fresh else order[positives:]
        member = label.copy()
        member[rest[:negatives]] = True
        first = member if first is None else first
        batch = Batch(None, jnp.asarray(label, jnp.float32), jnp.asarray(member, jnp.float32))
        upload = UPDATE(shared, private, batch)[0]
        shareds.append(shared)
        seens.append({'scorer': upload['scorer']})
    stack = lambda values: jax.tree.map(lambda *x: np.stack(x), *values)  # noqa: E731
    transcript = Transcript(
        shared=stack(shareds), seen=stack(seens), rounds=np.arange(steps),
        participated=np.ones(steps, bool), items=np.arange(N), slot=None, weights=None,
        log_odds=np.zeros(N),
    )  # fmt: skip
    return tree.cast_floats(transcript, jnp.float64), first, label


class UnknownBatchTest(parameterized.TestCase):
    @parameterized.parameters(
        {}, {'steps': 2}, {'steps': 2, 'fresh': True}, {'positives': 1}, {'positives': 0}
    )
    @pytest.mark.slow
    def test_finds_the_batch_and_its_positives(self, fresh=False, **kwargs):
        with jax.enable_x64():
            transcript, member, label = make(1, fresh=fresh, **kwargs)
            answer = jax.jit(sparse.unknown_batch(KNOWN, fresh))(transcript, jax.random.key(0))
            steps = sparse.steps_of(KNOWN, transcript, jax.vmap(
                lambda seen: leak.exact(KNOWN.leak, seen))(transcript.seen))  # fmt: skip
            found = jax.jit(sparse.recover, static_argnums=1)(steps, fresh)
        np.testing.assert_array_equal(answer.labels, label)
        np.testing.assert_array_equal(found.members, member)
        self.assertLess(float(answer.objective), 4.0)
        self.assertTrue(np.all((answer.scores >= 0) & (answer.scores <= 1)))

    @pytest.mark.slow
    def test_clients_side_by_side_are_clients_one_by_one(self):
        with jax.enable_x64():
            cases = [make(seed)[0] for seed in (2, 3)]
            attack = sparse.unknown_batch(KNOWN)
            both = jax.tree.map(lambda *x: jnp.stack(x), *cases)
            answers = jax.jit(lambda both: jax.lax.map(
                lambda one: attack(one, jax.random.key(0)), both))(both)  # fmt: skip
            alone = [jax.jit(attack)(one, jax.random.key(0)) for one in cases]
        for i, one in enumerate(alone):
            np.testing.assert_array_equal(answers.labels[i], one.labels)
            np.testing.assert_allclose(answers.scores[i], one.scores, atol=1e-6)

    @pytest.mark.slow
    def test_nothing_uploaded_is_a_failure_with_finite_scores(self):
        with jax.enable_x64():
            transcript = make(4)[0]
            zero = transcript.replace(seen=jax.tree.map(np.zeros_like, transcript.seen))
            answer = jax.jit(sparse.unknown_batch(KNOWN))(zero, jax.random.key(0))
        self.assertTrue(np.isnan(answer.objective))
        np.testing.assert_array_equal(answer.scores, 0)

    def test_interior_points_agree_with_scipy(self):
        random = np.random.default_rng(0)
        matrix = random.normal(size=(15, 30))
        truth = np.where(random.random(30) < 0.2, 1.0, 0.0)
        target = matrix @ truth
        with jax.enable_x64():
            ours = sparse._nonnegative(jnp.asarray(matrix), jnp.asarray(target))
            box = quadratic.box_least_squares(matrix.T @ matrix, matrix.T @ target, 0.0, 0.9)
        _, best = scipy.optimize.nnls(matrix, target)
        self.assertLess(float(jnp.linalg.norm(matrix @ ours - target)), best + 1e-2)
        peer = scipy.optimize.lsq_linear(matrix, target, (0, 0.9), method='bvls')
        np.testing.assert_allclose(
            np.linalg.norm(matrix @ np.asarray(box) - target), np.sqrt(2 * peer.cost), atol=1e-5
        )

    def test_a_client_without_a_leak_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'bias'):
            sparse.unknown_batch(KNOWN._replace(leak=None))


if __name__ == '__main__':
    absltest.main()
