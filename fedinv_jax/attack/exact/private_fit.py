"""The private states that explain given labels best, and how much they leave unexplained.

Which of several label vectors explains what was seen is a question about all private states: each
vector is given its own best ones, by Levenberg-Marquardt on the whitened residual.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack.exact.label_solve import EXPLAINED
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Array, Guess, PyTree

_ITERATIONS = 40
_DAMPING, _RAISE, _LOWER, _LEAST = 1e-2, 5.0, 0.2, 1e-12
_CONVERGED = 1e-3  # decrease that a step still promises, relative to the squared residual


class Fit(NamedTuple):
    """Private states for given labels.

    Attributes:
        latent: leaves `[T, ...]`.
        square: float `[]`, mean square of the whitened residual there.
        converged: bool `[]`, whether no step promises to lower it much.
    """

    latent: PyTree
    square: Array
    converged: Array


class _State(NamedTuple):
    """Private states `[T, P]`; of each step damping, squared residual, promised decrease `[T]`."""

    flat: Array
    damping: Array
    squares: Array
    promised: Array


def flatten(latent: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Private states `[T, ...]` as `[T, P]`, and the way back."""
    unravel = jax.flatten_util.ravel_pytree(tree.take(latent, 0))[1]
    flat = jax.vmap(lambda state: jax.flatten_util.ravel_pytree(state)[0])(latent)
    return flat, jax.vmap(unravel)


def fit(problem: Problem, labels: Array, start: PyTree, iterations: int = _ITERATIONS) -> Fit:
    """The private states near a start that leave least of what was seen, for labels `[K]`.

    The hypothesis must be `dynamics.free`: each step has a private state of its own, so that the
    steps are fitted side by side, at the cost of P forward derivatives an iteration.

    Args:
        problem: with `relax.identity()`.
        labels: `[K]`.
        start: private states, leaves `[T, ...]`.
        iterations: most of them.
    """
    flat, unravel = flatten(start)
    labels = labels.astype(flat.dtype)

    def residual(flat: Array) -> Array:
        leaves = jax.tree.leaves(problem.residual(Guess(labels, None, unravel(flat))))
        return jnp.concatenate([leaf.reshape(len(flat), -1) for leaf in leaves], axis=1)

    def update(state: _State) -> _State:
        current, push = jax.linearize(residual, state.flat)
        directions = jnp.eye(flat.shape[1], dtype=flat.dtype)
        slopes = jax.vmap(lambda e: push(jnp.broadcast_to(e, flat.shape)))(directions)  # [P, T, M]
        gram = jnp.einsum('atm,btm->tab', slopes, slopes)
        rhs = jnp.einsum('atm,tm->ta', slopes, current)
        diagonal = jnp.diagonal(gram, axis1=1, axis2=2)
        scale = jnp.where(diagonal > 0, diagonal, 1)
        damped = gram + jax.vmap(jnp.diag)(state.damping[:, None] * scale)
        move = -jnp.linalg.solve(damped, rhs[..., None])[..., 0]
        squares = jnp.sum(residual(state.flat + move) ** 2, axis=1)
        better = squares < state.squares
        return _State(
            jnp.where(better[:, None], state.flat + move, state.flat),
            jnp.maximum(state.damping * jnp.where(better, _LOWER, _RAISE), _LEAST),
            jnp.where(better, squares, state.squares),
            -jnp.sum(move * rhs, axis=1),
        )

    squares = jnp.sum(residual(flat) ** 2, axis=1)
    state = _State(flat, jnp.full_like(squares, _DAMPING), squares, squares)
    size = residual(flat).size

    def settled(state: _State) -> Array:
        return jnp.all((state.promised <= _CONVERGED * state.squares) | (state.squares < size))

    state = jax.lax.while_loop(
        lambda carry: ~settled(carry[0]) & (carry[1] < iterations),
        lambda carry: (update(carry[0]), carry[1] + 1),
        (state, 0),
    )[0]
    return Fit(unravel(state.flat), jnp.sum(state.squares) / size, settled(state))


def around(problem: Problem, latent: PyTree, drawn: PyTree, labels: Array) -> Fit:
    """The best of the fits from some private states, fresh ones, and the negatives of both.

    Args:
        problem: with `relax.identity()`.
        latent: private states, leaves `[T, ...]`.
        drawn: fresh ones.
        labels: `[K]`.

    Returns:
        The fit that leaves least; converged where all of them are.
    """
    starts = [
        latent,
        jax.tree.map(jnp.negative, latent),
        drawn,
        jax.tree.map(jnp.negative, drawn),
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.nan_to_num(jnp.stack(leaves)), *starts)
    fits = jax.lax.map(lambda start: fit(problem, labels, start), stacked)
    least = jnp.argmin(jnp.where(jnp.isfinite(fits.square), fits.square, jnp.inf))
    return tree.take(fits, least)._replace(converged=jnp.all(fits.converged))


def likeliest(squares: Array, surprise: Array) -> Array:
    """Index of the least mean square; of several that explain as much, that of least surprise."""
    squares = jnp.where(jnp.isfinite(squares), squares, jnp.inf)
    least = jnp.min(squares)
    alike = squares <= jnp.maximum(EXPLAINED, 1.1 * least)
    return jnp.argmin(jnp.where(alike, surprise, jnp.inf))
