"""Gauss-Newton on problems whose Jacobian is too large to form, such as those of many clients."""

import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg

from fedinv_jax import _validate
from fedinv_jax.attack import distances, inversion
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Array, Guess, Key, PyTree

_RAISE, _LOWER, _MOST = 10.0, 1 / 3, 1e6


def truncated_newton(num_products: int = 60, damping: float = 1e-5) -> Inversion:
    """Levenberg-Marquardt whose steps are approximate: conjugate gradients on the normal equations.

    A step x solves `(J^T J + damping I) x = -J^T r` with at most `num_products` products by J and
    by J^T, which are a forward and a reverse derivative of the residual r. It is taken if the
    objective falls; the damping then falls too, and grows if not. Unlike `gauss_newton` it needs
    memory for a few residuals only, and labels are kept in [0, 1] by the relaxation.

    Args:
        num_products: most iterations of conjugate gradients in each step, >= 1.
        damping: initial damping, in units of the squared residual, > 0.

    Returns:
        The solver, for problems whose objective is the squared norm of the residual.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> quadratic = Problem(
        ...     init=lambda key: Guess(jnp.ones(2), None, ()), predict=None, whiten=None,
        ...     residual=lambda guess: guess.labels - 3,
        ...     objective=lambda guess: jnp.sum((guess.labels - 3) ** 2), answer=None)
        >>> solver = truncated_newton()
        >>> state = solver.update(quadratic, solver.init(quadratic, jax.random.key(0)))
        >>> state.guess.labels.round(2).tolist()
        [3.0, 3.0]

    References:
        Nocedal, Wright, Numerical optimization, 2nd edition, Springer 2006, sections 7.1 and 10.3.
    """
    _validate.check_range('num_products', num_products, above=True)
    _validate.check_range('damping', damping, above=True)

    def init(problem: Problem, key: Key) -> State:
        guess = problem.init(key)
        value = problem.objective(guess)
        return State(guess, value, ~jnp.isfinite(value), jnp.asarray(damping, value.dtype))

    def update(problem: Problem, state: State) -> State:
        residual, push = jax.linearize(problem.residual, state.guess)
        transposed = jax.linear_transpose(push, state.guess)

        def pull(values: PyTree) -> Guess:
            return transposed(values)[0]

        def normal(step: Guess) -> Guess:
            return optax.tree.add_scale(pull(push(step)), state.memory, step)

        step, _ = cg(normal, optax.tree.scale(-1, pull(residual)), maxiter=num_products, tol=1e-4)
        guess = optax.tree.add(state.guess, step)
        new = inversion.keep_best(
            state._replace(objective=distances.squared_norm(residual)),
            guess,
            problem.objective(guess),
        )
        fell: Array = new.objective < state.objective
        ridge = state.memory * jnp.where(fell, _LOWER, _RAISE)
        new = new._replace(memory=ridge, done=ridge > _MOST)
        return inversion.advance(state, new, jnp.isfinite(new.objective))

    return Inversion(init, update)
