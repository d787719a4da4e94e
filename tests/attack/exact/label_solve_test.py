"""Labels by linear solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax.attack.exact import identifiability, known, label_solve, normal_equations
from tests.attack.exact.helpers import small_problem


# Failed on: the right-hand side with the other sign; matrices whatever `max_dense_candidates` says.
def test_matrix_free_agrees_with_dense():
    with jax.enable_x64():
        problem, guess, y = small_problem()
        found = []
        for most in (known.MAX_DENSE_CANDIDATES, 0):
            solver = label_solve.label_solve(max_dense_candidates=most)
            update = jax.jit(
                lambda solver=solver: solver.update(
                    problem, solver.init(problem, jax.random.key(0))
                )
            )
            assert ('cholesky' in str(jax.make_jaxpr(update)())) == (most > 0)
            found.append(update())
    most, free = found
    np.testing.assert_allclose(most.guess.labels, y, atol=1e-6)
    np.testing.assert_allclose(free.guess.labels, most.guess.labels, atol=1e-3)
    assert float(most.objective) < 1e-6
    assert float(free.objective) < 1e-6
    assert bool(most.done)
    assert bool(free.done)
    np.testing.assert_array_equal(free.guess.latent, guess.latent)


def test_a_label_that_nothing_tells_of_stays_finite():
    gram, rhs = jnp.diag(jnp.array([1e4, 0.0, 1e4])), jnp.array([1e4, 0.0, 0.0])
    with jax.enable_x64():
        gram, rhs = gram.astype(float), rhs.astype(float)
        columns = normal_equations.Features(jnp.zeros((3, 0)), jnp.sqrt(gram), {})
        origin = normal_equations.Entries(columns.own, jnp.array([-1e2, 0.0, 0.0]), {})
        found = normal_equations.Normal(gram, rhs, identifiability.factor(gram), columns, origin, 3)
        soft, _, _ = jax.jit(label_solve.solve)(found)
        assert np.all(np.isfinite(soft))
        np.testing.assert_allclose(soft[jnp.array([0, 2])], [1, 0], atol=1e-3)


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
        got = label_solve.estimate(found)
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
