"""Variable projection: labels and private states together, for uploads that are not affine.

After several local steps no leaf determines p exactly and no linear system determines the labels.
Gauss-Newton on the replayed client finds both, `r(y + dy, p + dp) = r + A dy + B dp`: for given
labels the best `dp` is linear in `dy`, so that each iteration is a label solve.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.scipy.linalg as linalg
import optax

from fedinv_jax import _validate, tree
from fedinv_jax.attack import inversion
from fedinv_jax.attack.exact import box_qp, embedding, problems
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Guess, Key, Transcript

EXPLAINED = 1e-3
"""A search ends at binary labels of a smaller squared residual, relative to what was seen."""

# The damping grows when a step fails; the search ends when the damping exceeds the last value.
_DAMPING, _RAISE, _LOWER, _LEAST, _MOST = 1e-2, 5.0, 0.1, 1e-9, 1e6
_DIRECTIONS = 32  # derivatives taken at once: more need more memory
_ITERATIONS, _STARTS = 30, 3
_FIXED = 6  # first iterations, with p fixed: labels of 1/2 would pull p away
_PRIOR = 1e-5  # residual by the prior of an entry of p of typical size, relative to what was seen


def gauss_newton(damping: float = _DAMPING) -> Inversion:
    """Levenberg-Marquardt on the residual, with the labels kept in their box.

    An iteration minimises `|r + A dy + B dp|^2 + damping (|dy|^2_A + |dp|^2_B)` over
    `0 <= y + dy <= 1`, where the norms of the steps are scaled by the norms of the columns.
    Eliminating the private states leaves a box-constrained least-squares problem in the labels. Its
    solution and the rounded labels, each with their best `dp`, replace the guess if the residual
    falls. On an upload that is affine in the labels, with p given, one undamped iteration is the
    label solve.

    The objective of a state is the squared norm of the residual. Uploads jump where a ReLU turns
    on, which leaves the private states uncertain by some percent, but not binary labels. A residual
    or a derivative that is not finite ends the run (Adam's derivative is not finite at a gradient
    of zero, because of its square root). If this happens at the first point, the objective of the
    state stays inf.

    Args:
        damping: initial damping, relative to the squared columns, >= 0.

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
        return jnp.sum(tree.ravel(problem.residual(guess)) ** 2)

    def init(problem: Problem, key: Key) -> State:
        guess = problem.init(key)
        guess = guess._replace(labels=jnp.clip(guess.labels, 0, 1))
        memory = jnp.asarray(damping, guess.labels.dtype)
        return State(guess, jnp.full_like(memory, jnp.inf), jnp.asarray(False), memory)

    def update(problem: Problem, state: State) -> State:
        damping = state.memory
        step = _linearized(problem, state.guess, damping)
        best = state._replace(objective=step.square)
        for labels in (step.labels, jnp.round(step.labels)):
            guess = step.moved(labels)
            best = inversion.keep_best(best, guess, value(problem, guess))
        least, labels = best.objective, best.guess.labels
        damping = jnp.where(least < step.square, _LOWER, _RAISE) * damping
        explained = jnp.all(labels == jnp.round(labels)) & (least < EXPLAINED)
        new = best._replace(
            done=~(damping < _MOST) | explained, memory=jnp.maximum(damping, _LEAST)
        )
        return inversion.advance(state, new, step.finite)

    return Inversion(init, update)


class _Step(NamedTuple):
    """A damped Gauss-Newton step.

    Attributes:
        square: `[]`, the squared residual before the step.
        finite: bool `[]`, whether the residual and its derivatives are finite.
        labels: float `[K]` in their box, with the least squared residual to first order.
        moved: `moved(labels) -> guess`, with the private states that are best for these labels.
    """

    square: Array
    finite: Array
    labels: Array
    moved: Callable[[Array], Guess]


def _linearized(problem: Problem, guess: Guess, damping: Array) -> _Step:
    """The Gauss-Newton step from a guess: private states eliminated, labels in their box."""
    latent, unravel = jax.flatten_util.ravel_pytree(guess.latent)
    size = len(guess.labels)

    def residual(unknowns: Array) -> Array:
        labels, latent = unknowns[:size], unravel(unknowns[size:])
        return tree.ravel(problem.residual(guess._replace(labels=labels, latent=latent)))

    unknowns = jnp.concatenate([guess.labels, latent])
    current, push = jax.linearize(residual, unknowns)
    directions = jnp.eye(len(unknowns), dtype=unknowns.dtype)
    jacobian = jax.lax.map(push, directions, batch_size=_DIRECTIONS)
    gram, slope = jacobian @ jacobian.T, jacobian @ current
    diagonal = jnp.diag(gram)
    # An unknown that does not change the residual keeps its value.
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

    square = current @ current
    finite = jnp.isfinite(square) & jnp.all(jnp.isfinite(slope))
    return _Step(square, finite, box_qp.box_least_squares(reduced, rhs), moved)


def variable_projection(known: Known) -> Attack:
    """`gauss_newton` from an approximate p, where a leaf determines one, and from fresh draws.

    A further start is tried only if no start before it explained what was seen; the least residual
    wins. A weak normal prior keeps p near the size of a fresh one. The residual of each step is
    divided by the norm of its whole upload. It is not divided by the rounding error of each leaf,
    which does not say how far a linear model holds.

    Args:
        known: only the client, the channel, the initialisation and the approximate embedding
            recovery are used.

    Returns:
        The attack; its objective is the squared residual relative to what was seen, summed over
        steps, or NaN if it never was finite.
    """

    def attack(transcript: Transcript, key: Key) -> Answer:
        plain = problems.free_problem(known, transcript)
        latent = tree.ravel(tree.take(plain.init(key).latent, 0))
        size = problems.typical_norm(known).astype(latent.dtype)
        prior = _PRIOR * jnp.sqrt(float(latent.size)) / size
        start = partial(_start, known, plain, transcript, key)

        def search(carry: tuple[Array, State]) -> tuple[Array, State]:
            index, best = carry
            state = _search_from(plain, start(index), prior)
            return index + 1, inversion.keep_best(best, state.guess, state.objective)

        least = jnp.asarray(jnp.inf, prior.dtype)
        none = State(start(jnp.asarray(_STARTS)), least, jnp.asarray(False), least)
        state = jax.lax.while_loop(
            lambda carry: (carry[0] < _STARTS) & (carry[1].objective >= EXPLAINED),
            search,
            (jnp.asarray(0), none),
        )[1]
        value = jnp.where(jnp.isfinite(state.objective), state.objective, jnp.nan)
        return plain.answer(state.guess, value)

    return attack


def _start(known: Known, plain: Problem, transcript: Transcript, key: Key, index: Array) -> Guess:
    """Start number `index`: labels of 1/2, and an approximate p (the first) or a fresh one."""
    guess = plain.init(jax.random.fold_in(key, index))
    guess = guess._replace(labels=jnp.full_like(guess.labels, 0.5))
    if known.approximate_recovery is None or known.approximate_recovery.bias is None:
        return guess
    approximate = jax.vmap(partial(embedding.exact, known.approximate_recovery))(transcript.seen)
    take = (index == 0) & jnp.all(jnp.isfinite(approximate))
    return guess._replace(latent=jnp.where(take, approximate, guess.latent))


def _search_from(plain: Problem, start: Guess, prior: Array) -> State:
    """The final state of `gauss_newton` from a start, with its private states fixed at first."""
    solver = gauss_newton()

    def problem(fixed: bool | Array) -> Problem:
        def residual(guess: Guess) -> tuple:
            latent = optax.tree.where(fixed, start.latent, guess.latent)
            return plain.residual(guess._replace(latent=latent)), prior * tree.ravel(latent)

        return plain._replace(init=lambda key: start, residual=residual)

    return jax.lax.while_loop(
        lambda carry: ~carry[0].done & (carry[1] < _ITERATIONS),
        lambda carry: (solver.update(problem(carry[1] < _FIXED), carry[0]), carry[1] + 1),
        (solver.init(problem(True), jax.random.key(0)), 0),
    )[0]
