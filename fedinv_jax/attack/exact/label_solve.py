"""The label solve: with the private states given, uploads are affine in the labels.

`predicted(y) = predicted(0) + A y` for one gradient of a loss like BCE or the squared error, so the
labels solve a box-constrained linear least-squares problem with one optimum, and T steps stack T
systems over the same labels. Whether a client is affine is probed, not read from its model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import box_qp
from fedinv_jax.attack.exact import known, normal_equations
from fedinv_jax.attack.exact.known import Structure
from fedinv_jax.attack.exact.normal_equations import Normal
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Array, Guess, Key, PyTree

EXPLAINED = 4.0
"""Noise may explain a whitened residual of at most this mean square."""
_PHASES = (0.6180339887498949, 0.41421356237309515, 0.7320508075688772, 0.23606797749978969)


def require_affine(structure: Structure) -> None:
    """Raises an error for a client whose upload is not affine in the labels.

    Raises:
        ValueError: if the upload is not affine.
    """
    if not structure.affine:
        raise ValueError(
            'The label solve needs an upload that is affine in the labels: one gradient step of a '
            "loss like 'bce' or 'squared_error', and a linear channel. This client's upload is not "
            '(several local steps, or a nonlinear optimiser or channel); use '
            "attack.name='mgradinv'."
        )


def fit(problem: Problem, guess: Guess) -> Array:
    """Mean square of the whitened residual, `[]`: about 1 or below where only noise is left."""
    return jnp.mean(tree.ravel(problem.residual(guess)) ** 2)


def solve(equations: Normal) -> tuple[Array, Array, Array]:
    """Labels in the box, and binary labels.

    If every entry of the plain least-squares solution is within 1/4 of a binary label, that
    solution is the answer. If not, the box-constrained optimum is rounded, and flips of one or two
    labels lower the residual.

    Args:
        equations: of the whitened residual, which has unit variance.

    Returns:
        float `[K]` in the box; bool `[K]`; float `[K]`, the increase of the squared whitened
        residual if that label is flipped (alone or with another), inf where flips were not tried.
    """
    gram, rhs, factor = equations[:3]
    known = jnp.diag(gram) > 0
    plain = box_qp.least_squares(gram, factor, rhs)
    settled = jnp.all(jnp.abs(plain - jnp.clip(jnp.round(plain), 0, 1)) < 0.25, where=known)

    def search() -> tuple[Array, Array, Array]:
        boxed = box_qp.box_least_squares(gram, rhs)
        hard, raised = box_qp.flip_descent(gram, rhs, boxed > 0.5)
        return boxed, hard, 2 * raised

    return jax.lax.cond(
        settled,
        lambda: (jnp.clip(plain, 0, 1), plain > 0.5, jnp.full(plain.shape, jnp.inf)),
        search,
    )


def nearest(labels: Array, grid: float = 1.0) -> Array:
    """The nearest multiples of the grid: binary labels, or those of ratings.

    Example:
        >>> nearest(jnp.array([0.2, 0.9]), 0.25).tolist()
        [0.25, 1.0]
    """
    return grid * jnp.round(labels / grid)


def estimate(equations: Normal) -> Array:
    """Labels `[K]` from `solve`: those in the box, or binary ones where these are certain.

    A binary label replaces one that rounds differently only if the binary labels explain what was
    seen and flipping that label raises the squared residual by more than 25 (five standard
    deviations). Labels that are not determined are better rounded from the optimum in the box,
    which is near the centre of all optima.
    """
    soft, hard, raised = solve(equations)
    change = (raised > 25) & (hard != (soft > 0.5))
    binary = hard.astype(soft.dtype)
    change &= normal_equations.fit(equations, binary) < EXPLAINED
    return jnp.where(change, binary, soft)


def boxed(equations: Normal) -> Array:
    """Labels `[K]` in [0, 1] of least squares, where they may have any value: those of ratings."""
    return box_qp.box_least_squares(equations.gram, equations.rhs)


def label_solve(
    outer: Sequence[str] = (),
    excluded: Sequence[str] = (),
    max_dense_candidates: int = known.MAX_DENSE_CANDIDATES,
    grid: float = 1.0,
) -> Inversion:
    """The label solve as a solver: one update finds the labels of the guess's private states.

    The relaxation must be `relax.identity()`. With more than `max_dense_candidates` candidates no
    matrix is formed and no flips are tried.

    Args:
        outer: see `normal_equations.features`.
        excluded: see `normal_equations.equations`.
        max_dense_candidates: most candidates K for which matrices `[K, K]` are formed.
        grid: see `known.Known`; labels other than binary ones are those of the box.

    References:
        Deng et al., ICDM 2025 (the setting); the solve is this project's own.
    """

    def update(problem: Problem, state: State) -> State:
        guess = state.guess
        if len(guess.labels) > max_dense_candidates:
            labels = _matrix_free(problem, guess)
            left = fit(problem, guess._replace(labels=nearest(labels, grid)))
        else:
            equations = normal_equations.equations(problem, guess, outer, excluded)
            labels = estimate(equations) if grid == 1 else boxed(equations)
            left = normal_equations.fit(equations, nearest(labels, grid))
        return State(guess._replace(labels=labels), left, jnp.asarray(True), state.memory)

    def init(problem: Problem, key: Key) -> State:
        guess = problem.init(key)
        infinite = jnp.asarray(jnp.inf, guess.labels.dtype)
        return State(guess, infinite, jnp.asarray(False), ())

    return Inversion(init, update)


def _matrix_free(problem: Problem, guess: Guess) -> Array:
    """Soft labels `[K]` by products with A only; sign vectors probe the diagonal of `A'A`."""
    zero = jnp.zeros_like(guess.labels)

    def residual(labels: Array) -> PyTree:
        return problem.residual(guess._replace(labels=labels))

    origin, pullback = jax.vjp(residual, zero)
    rhs = -pullback(origin)[0]

    def product(labels: Array) -> Array:
        return pullback(jax.jvp(residual, (zero,), (labels,))[1])[0]

    ranks = jnp.arange(1, len(zero) + 1)
    signs = [jnp.where((ranks * phase) % 1.0 < 0.5, -1.0, 1.0) for phase in _PHASES]
    estimate = jnp.mean(jnp.stack([sign * product(sign) for sign in signs]), 0)
    floor_ = 1e-3 * jnp.mean(jnp.abs(estimate))
    return box_qp.box_least_squares_matrix_free(product, rhs, jnp.maximum(estimate, floor_))
