"""Normal equations of the labels, without all derivatives in memory at once."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedinv_jax.attack.exact import identifiability
from fedinv_jax.attack.objective import Columns, Problem
from fedinv_jax.types import Array, Guess, PyTree

_BLOCK = 256  # rows and columns of a Gram matrix that are made at a time


class Features(NamedTuple):
    """The parts of a column, or of all columns `[K, ...]`, that a Gram matrix needs.

    Attributes:
        own: float `[E]`, the entries that only this label moves.
        flat: float `[M]`, the other entries, except those of outer products.
        factors: by leaf, `x [T, a]` of norm 1 (or 0) and `d [T, b]`; the leaf is `x ⊗ d`.
    """

    own: Array
    flat: Array
    factors: dict[str, tuple[Array, Array]]


class Entries(NamedTuple):
    """The entries of an upload, in the order of the `Features` of its columns.

    Attributes:
        own: float `[K, E]`, the entries that only one label moves.
        flat: float `[M]`, the other entries, except those of outer products.
        outer: float `[T, a, b]` by leaf, the entries of outer products.
    """

    own: Array
    flat: Array
    outer: dict[str, Array]


def features(column: Columns, outer: Sequence[str] = (), excluded: Sequence[str] = ()) -> Features:
    """The features of a column, without the axis K.

    Args:
        column: see `Problem.columns`.
        outer: names of leaves `[T, a, b]` that are outer products in every column.
        excluded: names of leaves that are left out.
    """
    flat, products = _split(column.common, outer, excluded)
    factors = {name: jax.vmap(_factors)(leaf) for name, leaf in products.items()}
    return Features(_flat(column.own), flat, factors)


def _split(
    common: PyTree, outer: Sequence[str], excluded: Sequence[str]
) -> tuple[Array, dict[str, Array]]:
    """The leaves that are not excluded: in one vector, and those of outer products by name."""
    leaves = flax.traverse_util.flatten_dict(common, sep='/')
    leaves = {name: leaf for name, leaf in leaves.items() if name not in excluded}
    products = {name: leaves.pop(name) for name in outer if name in leaves}
    return _flat(leaves), products


def _flat(leaves: PyTree) -> Array:
    """All entries in one vector; an empty float vector if there are none."""
    return jnp.concatenate([jnp.zeros(0), *(leaf.ravel() for leaf in jax.tree.leaves(leaves))])


def gram(columns: Features) -> Array:
    """`A'A [K, K]` of the columns A, from their features `[K, ...]`.

    A leaf whose columns are outer products `x_k ⊗ d_k` costs `K^2 (a + b)` instead of `K^2 a b`:
    `A'A = (X X') ∘ (D D')`. One step of power iteration on each column gives its factors.

    Example:
        >>> gram(Features(jnp.zeros((2, 0)), jnp.array([[1.0, 2.0], [0.0, 1.0]]), {})).tolist()
        [[5.0, 2.0], [2.0, 1.0]]
    """
    count = len(columns.flat)
    number = -(-count // _BLOCK)
    # Blocks of equal size; a JAX slice past the end moves up, so the last block may overlap.
    size = -(-count // number)
    corners = jnp.asarray(size * np.stack(np.tril_indices(number), axis=1))
    parts = jnp.sum(columns.own**2, 1), columns.flat, columns.factors

    def block(total: Array, corner: Array) -> tuple[Array, None]:
        """Fills in the block at a corner, and its mirror image."""
        i, j = corner
        cut = partial(jax.lax.dynamic_slice_in_dim, slice_size=size)
        own, flat, factors = jax.tree.map(partial(cut, start_index=i), parts)
        _, other, others = jax.tree.map(partial(cut, start_index=j), parts)
        same = jnp.eye(size, dtype=bool) & (i == j)
        values = flat @ other.T + jnp.where(same, own, 0)
        for name, (left, right) in factors.items():
            x, d = others[name]
            for step in range(left.shape[1]):
                values += (left[:, step] @ x[:, step].T) * (right[:, step] @ d[:, step].T)
        total = jax.lax.dynamic_update_slice(total, values, (i, j))
        return jax.lax.dynamic_update_slice(total, values.T, (j, i)), None

    return jax.lax.scan(block, jnp.zeros((count, count), columns.flat.dtype), corners)[0]


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
        factor: float `[K, K]`, `identifiability.factor(G)`: NaN on its diagonal unless all
            directions of the labels stand out from the noise.
        columns: those of A, leaves `[K, ...]`.
        origin: the residual at labels that are all 0.
        size: number of entries of the residual, including those of excluded leaves.
    """

    gram: Array
    rhs: Array
    factor: Array
    columns: Features
    origin: Entries
    size: int | Array


def equations(
    problem: Problem, guess: Guess, outer: Sequence[str] = (), excluded: Sequence[str] = ()
) -> Normal:
    """`G = A'A [K, K]` and `r = -A' residual(y = 0) [K]` at the guess's private states.

    Args:
        problem: of the whitened residual, which must be zero on the `excluded` leaves.
        guess: the private states; its labels are not used.
        outer: see `features`.
        excluded: see `features`.
    """
    if problem.columns is None:
        raise ValueError('The label solve needs a problem with columns.')
    columns = problem.columns(guess, partial(features, outer=outer, excluded=excluded))
    residual = dict(problem.residual(guess._replace(labels=jnp.zeros_like(guess.labels))))
    size = optax.tree.size(residual)
    rows = residual.pop('items', {}) if columns.own.shape[1] else {}
    own = jax.vmap(_flat, in_axes=1)(rows) if rows else columns.own
    origin = Entries(own, *_split(residual, outer, excluded))
    gram_ = gram(columns)
    factor = identifiability.factor(gram_)
    return Normal(gram_, -transposed(columns, origin), factor, columns, origin, size)


def transposed(columns: Features, entries: Entries) -> Array:
    """`A'v`, float `[K]`, of the columns A, leaves `[K, ...]`, and the entries v of an upload.

    Example:
        >>> columns = Features(jnp.zeros((2, 0)), jnp.array([[1.0, 2.0], [0.0, 1.0]]), {})
        >>> transposed(columns, Entries(columns.own, jnp.array([1.0, -1.0]), {})).tolist()
        [-1.0, -1.0]
    """
    total = jnp.sum(columns.own * entries.own, 1) + columns.flat @ entries.flat
    for name, (x, d) in columns.factors.items():
        total += jnp.sum(jnp.einsum('kta,tab->ktb', x, entries.outer[name]) * d, (1, 2))
    return total


def residual(equations: Normal, labels: Array) -> Entries:
    """The whitened residual `residual(0) + A y` of labels y `[K]`, without excluded leaves."""
    columns, origin = equations.columns, equations.origin
    return Entries(
        origin.own + labels[:, None] * columns.own,
        origin.flat + labels @ columns.flat,
        {
            name: origin.outer[name] + jnp.einsum('k,kta,ktb->tab', labels, x, d)
            for name, (x, d) in columns.factors.items()
        },
    )


def fit(equations: Normal, labels: Array) -> Array:
    """The mean squared residual `[]` of labels `[K]` at fixed states, as `label_solve.fit`.

    It is about 1 or below where only noise is left.
    """
    return optax.tree.norm(residual(equations, labels), squared=True) / equations.size
