"""Normal equations against a dense Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax import losses, tree
from fedinv_jax.attack import objective
from fedinv_jax.attack.exact import label_solve, normal_equations
from tests.attack.exact.helpers import small_problem


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
        found = normal_equations.equations(problem, guess, excluded=(name,))
        rest = found.gram
        only = columns.common['scorer']['private']['kernel'].reshape(5, -1)
        whole = normal_equations.equations(problem, guess).gram
        np.testing.assert_allclose(rest + only @ only.T, whole, rtol=1e-9)
        residual = problem.residual(guess)
        residual['scorer']['private']['kernel'] *= 0
        expected = jnp.mean(tree.ravel(residual) ** 2)
        np.testing.assert_allclose(normal_equations.fit(found, guess.labels), expected, rtol=1e-9)


def test_a_problem_without_columns_is_refused():
    with jax.enable_x64():
        problem, guess, _ = small_problem()
        with pytest.raises(ValueError, match='columns'):
            normal_equations.equations(problem._replace(columns=None), guess)
