"""Distances between the predicted and the seen upload of one step: pytrees in, `[]` out.

All are scale-free and 0 at equality, with finite gradients everywhere.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedinv_jax.types import Array, PyTree

Distance = Callable[[PyTree, PyTree], Array]


def squared_norm(tree: PyTree) -> Array:
    """Sum of squares over all leaves, `[]`."""
    return optax.tree.norm(tree, squared=True)


def floor(value: Array) -> Array:
    """The larger of `value` and the smallest normal number, for use as a divisor."""
    return jnp.maximum(value, jnp.finfo(value.dtype).tiny)


def squared_distance(predicted: PyTree, seen: PyTree) -> Array:
    """Normalised squared distance `|g' - g|^2 / |g|^2` over the whole upload.

    Example:
        >>> squared_distance({'w': jnp.array([1.0, 1.0])}, {'w': jnp.array([2.0, 0.0])}).item()
        0.5
    """
    return squared_norm(optax.tree.sub(predicted, seen)) / floor(squared_norm(seen))


def _unit(tree: PyTree) -> PyTree:
    """A tree divided by its norm; zero, with zero gradients, if the norm is zero."""
    squared = squared_norm(tree)
    positive = squared > floor(jnp.zeros_like(squared))
    # Both branches of a `where` are differentiated: the unused one must be finite too.
    scale = jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, squared, 1)), 0)
    return jax.tree.map(lambda leaf: scale * leaf, tree)


def scale(seen: PyTree) -> PyTree:
    """`s`, a scalar per leaf, with `squared_distance(g', g) = sum |(g' - g) / s|^2`: `|g|`.

    Example:
        >>> scale({'a': jnp.array([3.0]), 'b': jnp.array([4.0])})['a'].item()
        5.0
    """
    norm = jnp.sqrt(floor(squared_norm(seen)))
    return jax.tree.map(lambda leaf: norm, seen)


def scale_per_leaf(seen: PyTree) -> PyTree:
    """`s`, a scalar per leaf, with `squared_distance_per_leaf(g', g) = sum |(g' - g) / s|^2`.

    Example:
        >>> found = scale_per_leaf((jnp.array([3.0]), jnp.array([4.0])))
        >>> [round(leaf.item() ** 2, 4) for leaf in found]
        [18.0, 32.0]
    """
    least, count = _least(seen), len(jax.tree.leaves(seen))
    return jax.tree.map(lambda leaf: jnp.sqrt(count * jnp.maximum(jnp.sum(leaf**2), least)), seen)


def cosine_distance(predicted: PyTree, seen: PyTree) -> Array:
    """`1 - <g', g> / (|g'| |g|)` over the whole upload; 1 where either is zero.

    Example:
        >>> cosine_distance({'w': jnp.array([1.0, 0.0])}, {'w': jnp.array([0.0, 2.0])}).item()
        1.0

    References:
        Geiping, Bauermeister, Dröge, Moeller, Inverting gradients, NeurIPS 2020,
        arXiv:2003.14053, equation 4.
    """
    return 1 - optax.tree.vdot(_unit(predicted), _unit(seen))


def squared_distance_per_leaf(predicted: PyTree, seen: PyTree) -> Array:
    """The mean over leaves of `|g' - g|^2 / |g|^2`: small leaves weigh as much as large ones.

    A leaf's divisor is at least 1e-12 of the squared norm of the whole upload, so that the distance
    of a leaf of zeros is finite.

    Example:
        >>> seen = {'a': jnp.array([100.0]), 'b': jnp.array([1.0])}
        >>> predicted = {'a': jnp.array([100.0]), 'b': jnp.array([0.0])}
        >>> squared_distance_per_leaf(predicted, seen).item()
        0.5
    """
    least = _least(seen)
    ratios = jax.tree.map(
        lambda p, s: jnp.sum((p - s) ** 2) / jnp.maximum(jnp.sum(s**2), least), predicted, seen
    )
    return jnp.mean(jnp.stack(jax.tree.leaves(ratios)))


def _least(seen: PyTree) -> Array:
    return floor(1e-12 * squared_norm(seen))


def row_gaps(predicted: PyTree, seen: PyTree) -> Array:
    """Euclidean distances `[K]` between predicted and seen item rows; other leaves are ignored.

    Example:
        >>> rows = {'items': {'q': jnp.array([[3.0, 4.0], [0.0, 0.0]])}}
        >>> row_gaps(rows, jax.tree.map(jnp.zeros_like, rows)).tolist()
        [5.0, 0.0]
    """
    leaves = jax.tree.leaves(optax.tree.sub(predicted['items'], seen['items']))
    squares = sum(jnp.sum(leaf.reshape(len(leaf), -1) ** 2, axis=1) for leaf in leaves)
    # Both branches of a `where` are differentiated: the unused one must be finite too.
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def rows_distance(predicted: PyTree, seen: PyTree) -> Array:
    """`sum_i |g'_i - g_i| / sum_i |g_i|` over item rows; other leaves are ignored.

    Example:
        >>> seen = {'items': {'q': jnp.array([[3.0, 4.0], [0.0, 5.0]])}}
        >>> rows_distance({'items': {'q': jnp.array([[3.0, 4.0], [0.0, 0.0]])}}, seen).item()
        0.5

    References:
        Pham, Kulkarni, Houmansadr, RAIFLE, NDSS 2025, arXiv:2310.19163 (its code).
    """
    zeros = jax.tree.map(jnp.zeros_like, seen)
    return jnp.sum(row_gaps(predicted, seen)) / floor(jnp.sum(row_gaps(seen, zeros)))


def cosine_distance_per_part(predicted: PyTree, seen: PyTree) -> Array:
    """The mean over parts (item rows, scorer) of the cosine distance, for unknown step sizes.

    Leaves are in units of the norms of the seen ones, as in `squared_distance_per_leaf`. The best
    positive step size s of a part leaves `min |s g' - g|^2 / |g|^2 = 1 - cos^2` where the cosine is
    positive, which increases with the distance `1 - cos`.

    Example:
        >>> seen = {'items': jnp.array([100.0]), 'scorer': jnp.array([1.0])}
        >>> predicted = {'items': jnp.array([1.0]), 'scorer': jnp.array([-2.0])}
        >>> cosine_distance_per_part(predicted, seen).item()
        1.0
    """
    units = scale_per_leaf(seen)
    pairs = (jax.tree.map(jnp.divide, whole, units) for whole in (predicted, seen))
    parts = [
        cosine_distance(*pair)
        for pair in zip(*(whole.values() for whole in pairs), strict=True)
        if jax.tree.leaves(pair)
    ]
    return jnp.mean(jnp.stack(parts))


def cosine_distance_per_leaf(predicted: PyTree, seen: PyTree) -> Array:
    """The mean over leaves of the cosine distance.

    Example:
        >>> seen = {'a': jnp.array([100.0]), 'b': jnp.array([1.0])}
        >>> predicted = {'a': jnp.array([100.0]), 'b': jnp.array([0.0])}
        >>> cosine_distance_per_leaf(predicted, seen).item()
        0.5
    """
    leaves = jax.tree.map(cosine_distance, predicted, seen)
    return jnp.mean(jnp.stack(jax.tree.leaves(leaves)))
