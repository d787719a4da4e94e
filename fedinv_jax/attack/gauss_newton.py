"""Gauss-Newton on an inversion problem, with labels in a box and private states eliminated.

An objective of squares, `|r(y, p)|^2 + penalty`, is minimised by linear least squares:
`r(y + dy, p + dp) = r + A dy + B dp`. For given labels the best `dp` is linear in `dy`, so that
each iteration is a label solve (variable projection).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.linalg as linalg

from fedinv_jax import _validate, tree
from fedinv_jax.attack import box_qp, inversion
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Array, Guess, Key

EXPLAINED = 1e-3
"""A search ends at binary labels of a smaller objective, relative to what was seen."""

# The damping grows when a step fails; the search ends when the damping exceeds the last value.
_DAMPING, _RAISE, _LOWER, _LEAST, _MOST = 1e-2, 5.0, 0.1, 1e-9, 1e6
_DIRECTIONS = 32  # derivatives taken at once: more need more memory


def gauss_newton(
    damping: float = _DAMPING, stop_below: float = EXPLAINED, tolerance: float = 0.0
) -> Inversion:
    """Levenberg-Marquardt on `|residual|^2 + penalty`, with the labels kept in their box.

    An iteration minimises `|r + A dy + B dp|^2 + damping (|dy|^2_A + |dp|^2_B)`, plus the penalty
    to second order where it is convex, over `0 <= y + dy <= 1`. The norms of the steps are scaled
    by the norms of the columns. Eliminating the private states leaves a box-constrained
    least-squares problem in the labels. Its solution and the rounded labels, each with their best
    `dp`, replace the guess if the objective falls. On an upload that is affine in the labels, with
    p given, one undamped iteration is the label solve.

    The objective of a state is `|residual|^2 + penalty`, which is the problem's own if its
    distance is a square and `residual` has its weights (`objective.problem`). Uploads jump where a
    ReLU turns on, which leaves the private states uncertain by some percent, but not binary labels.
    A residual or a derivative that is not finite ends the run (Adam's derivative is not finite at
    a gradient of zero, because of its square root). If this happens at the first point, the
    objective of the state stays inf.

    Args:
        damping: initial damping, relative to the squared columns, >= 0.
        stop_below: the run ends at binary labels of a smaller objective; 0: it does not.
        tolerance: the run ends at an iteration that lowers the objective, but by a smaller share.

    Returns:
        The solver; the relaxation must be `relax.identity()`. An iteration needs `K + P` forward
        derivatives of the client, for K labels and P private parameters, and memory
        `[K + P, size]`.

    Raises:
        ValueError: if `damping` is negative.

    References:
        Golub, Pereyra, Separable nonlinear least squares: the variable projection method and its
        applications, Inverse Problems 19(2), 2003, doi:10.1088/0266-5611/19/2/201.
        Nocedal, Wright, Numerical optimization, 2nd edition, Springer 2006, section 10.3.
    """
    _validate.check_range('damping', damping)

    def value(problem: Problem, guess: Guess) -> Array:
        return jnp.sum(tree.ravel(problem.residual(guess)) ** 2) + problem.penalty(guess)

    def init(problem: Problem, key: Key) -> State:
        guess = problem.init(key)
        guess = guess._replace(labels=jnp.clip(guess.labels, 0, 1))
        memory = jnp.asarray(damping, guess.labels.dtype)
        return State(guess, jnp.full_like(memory, jnp.inf), jnp.asarray(False), memory)

    def update(problem: Problem, state: State) -> State:
        damping = state.memory
        step = _linearized(problem, state.guess, damping)
        best = state._replace(objective=step.value)
        for labels in (step.labels, jnp.round(step.labels)):
            guess = step.moved(labels)
            best = inversion.keep_best(best, guess, value(problem, guess))
        least, labels = best.objective, best.guess.labels
        damping = jnp.where(least < step.value, _LOWER, _RAISE) * damping
        stalled = (least < step.value) & (step.value - least < tolerance * step.value)
        explained = jnp.all(labels == jnp.round(labels)) & (least < stop_below)
        new = best._replace(
            done=~(damping < _MOST) | explained | stalled, memory=jnp.maximum(damping, _LEAST)
        )
        return inversion.advance(state, new, step.finite)

    return Inversion(init, update)


class _Step(NamedTuple):
    """A damped Gauss-Newton step.

    Attributes:
        value: `[]`, the objective before the step.
        finite: bool `[]`, whether the objective and its derivatives are finite.
        labels: float `[K]` in their box, with the least objective to second order.
        moved: `moved(labels) -> guess`, with the private states that are best for these labels.
    """

    value: Array
    finite: Array
    labels: Array
    moved: Callable[[Array], Guess]


def _linearized(problem: Problem, guess: Guess, damping: Array) -> _Step:
    """The Gauss-Newton step from a guess: private states eliminated, labels in their box."""
    latent, unravel = jax.flatten_util.ravel_pytree(guess.latent)
    size = len(guess.labels)

    def at(unknowns: Array) -> Guess:
        return guess._replace(labels=unknowns[:size], latent=unravel(unknowns[size:]))

    def residual(unknowns: Array) -> Array:
        return tree.ravel(problem.residual(at(unknowns)))

    def half_penalty(unknowns: Array) -> Array:
        return problem.penalty(at(unknowns)) / 2

    unknowns = jnp.concatenate([guess.labels, latent])
    current, push = jax.linearize(residual, unknowns)
    directions = jnp.eye(len(unknowns), dtype=unknowns.dtype)
    jacobian = jax.lax.map(push, directions, batch_size=_DIRECTIONS)
    # Penalties are sums over unknowns: their Hessian is diagonal.
    tilt, bend = jax.jvp(jax.grad(half_penalty), (unknowns,), (jnp.ones_like(unknowns),))
    slope = jacobian @ current + tilt
    gram = jacobian @ jacobian.T + jnp.diag(jnp.maximum(bend, 0))
    diagonal = jnp.diag(gram)
    # An unknown that does not change the objective keeps its value.
    gram += jnp.diag(jnp.where(diagonal > 0, damping * diagonal, 1))
    cross = gram[:size, size:]
    factor = linalg.cho_factor(gram[size:, size:])
    carried = linalg.cho_solve(factor, cross.T)
    reduced = gram[:size, :size] - cross @ carried
    rhs = reduced @ guess.labels - slope[:size] + carried.T @ slope[size:]

    def moved(labels: Array) -> Guess:
        right = slope[size:] + cross.T @ (labels - guess.labels)
        new = unravel(latent - linalg.cho_solve(factor, right))
        return guess._replace(labels=labels, latent=new)

    value = current @ current + 2 * half_penalty(unknowns)
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
    return _Step(value, finite, box_qp.box_least_squares(reduced, rhs), moved)
