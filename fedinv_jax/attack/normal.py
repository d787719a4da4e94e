"""Normal equations of the labels, from derivatives that are never in memory all at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import identifiability
from fedinv_jax.attack.objective import Columns, Problem
from fedinv_jax.types import Array, Guess


class Features(NamedTuple):
    """What a Gram matrix needs of a column, or of all columns `[K, ...]`.

    Attributes:
        square: float `[]`, of the entries that this label alone moves.
        flat: float `[M]`, the other entries, but for those of outer products.
        factors: `x [T, a]` of norm 1 (or 0) and `d [T, b]` by leaf, whose entries are `x ⊗ d`.
    """

    square: Array
    flat: Array
    factors: dict[str, tuple[Array, Array]]


def features(column: Columns, outer: Sequence[str] = (), spent: Sequence[str] = ()) -> Features:
    """The features of a column, without the axis K.

    Args:
        column: see `Problem.columns`.
        outer: names of leaves `[T, a, b]` that are outer products in every column.
        spent: names of leaves that are left out.
    """
    leaves = flax.traverse_util.flatten_dict(column.common, sep='/')
    leaves = {name: leaf for name, leaf in leaves.items() if name not in spent}
    rest = [leaf.ravel() for name, leaf in leaves.items() if name not in outer]
    own = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(column.own)]
    return Features(
        jnp.sum(jnp.stack([jnp.zeros(()), *own])),
        jnp.concatenate([jnp.zeros(0), *rest]),
        {name: jax.vmap(_factors)(leaves[name]) for name in outer if name in leaves},
    )


def gram(columns: Features) -> Array:
    """`A'A [K, K]` of the columns A, from their features `[K, ...]`.

    A leaf whose columns are outer products `x_k ⊗ d_k` costs `K^2 (a + b)` instead of `K^2 a b`:
    `A'A = (X X') ∘ (D D')`, with the factors read off the columns by one step of power iteration.

    Example:
        >>> gram(Features(jnp.zeros(2), jnp.array([[1.0, 2.0], [0.0, 1.0]]), {})).tolist()
        [[5.0, 2.0], [2.0, 1.0]]
    """
    flat, factors = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), columns[1:])

    def row(one: Features) -> Array:
        total = one.flat @ flat
        for name, (left, right) in factors.items():
            x, d = one.factors[name]
            for step in range(len(x)):
                total += (x[step] @ left[step]) * (d[step] @ right[step])
        return total

    return tree.map_chunks(row, columns) + jnp.diag(columns.square)


def _factors(matrix: Array) -> tuple[Array, Array]:
    """`x [a]` of norm 1 (or 0) and `d [b]` with `matrix [a, b] = x ⊗ d`."""
    left = matrix @ jnp.cos(jnp.arange(matrix.shape[1], dtype=matrix.dtype) ** 2)
    norm = jnp.linalg.norm(left)
    left = left / jnp.where(norm > 0, norm, 1)
    return left, left @ matrix


class Normal(NamedTuple):
    """Normal equations of the label solve: `|residual|^2 = y'Gy - 2 r'y + c` at fixed states.

    Attributes:
        gram: float `[K, K]`, G.
        rhs: float `[K]`, r.
        factor: float `[K, K]`, `identifiability.factor(G)`: NaN unless all of the labels stand out
            of the noise.
    """

    gram: Array
    rhs: Array
    factor: Array


def equations(
    problem: Problem, guess: Guess, outer: Sequence[str] = (), spent: Sequence[str] = ()
) -> Normal:
    """`G = A'A [K, K]` and `r = -A' residual(y = 0) [K]` at the guess's private states.

    Args:
        problem: of the whitened residual; it must not weigh the `spent` leaves.
        guess: its labels do not matter.
        outer: see `features`.
        spent: see `features`.
    """
    if problem.columns is None:
        raise ValueError('The label solve needs a problem with columns.')
    keep = partial(features, outer=outer, spent=spent)
    gram_ = gram(problem.columns(guess, keep))
    return Normal(gram_, right(problem, guess)[1], identifiability.factor(gram_))


def right(problem: Problem, guess: Guess) -> tuple[Callable, Array]:
    """`A' v` as a function of a whitened tree v, and `r = -A' residual(y = 0)`."""
    zero = jnp.zeros_like(guess.labels)
    origin, pullback = jax.vjp(lambda labels: problem.residual(guess._replace(labels=labels)), zero)
    return pullback, -pullback(origin)[0]
