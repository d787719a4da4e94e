"""Quadratic programs of the attacks: least squares over a box, and over binary vectors.

Everything is in terms of the normal equations `min_x x'Gx / 2 - r'x` of `min_x |A x - b|^2 / 2`,
`G = A'A`, `r = A'b`. Work in float64: a Gram matrix squares the condition number.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as linalg

from fedinv_jax.types import Array, PyTree

_ITERATIONS = 60
_MATRIX_FREE_ITERATIONS = 3000


class _Point(NamedTuple):
    """A primal-dual interior point: `lower < x < upper`, positive multipliers `[2, K]`."""

    x: Array
    multipliers: Array
    iteration: Array
    done: Array


def cholesky(gram: Array, level: float | Array = 0.0) -> Array:
    """The lower factor `[K, K]` of `G - level I`, its columns scaled to a unit diagonal of G.

    Its diagonal holds NaN unless every singular value of A, zero columns aside, is above
    `sqrt(level)`.

    Args:
        gram: float `[K, K]`, positive semi-definite.
        level: `[]`, >= 0.

    Example:
        >>> cholesky(jnp.diag(jnp.array([4.0, 16.0]))).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        >>> jnp.diag(cholesky(jnp.diag(jnp.array([4.0, 16.0])), level=9.0)).tolist()
        [nan, nan]
    """
    scale, scaled = _equilibrated(gram)
    shift = jnp.where(jnp.diag(gram) > 0, -level * scale**2, 1)
    # Transposed, as LAPACK stores matrices by columns; else the matrix is copied.
    return jax.lax.linalg.cholesky((scaled + jnp.diag(shift)).T, symmetrize_input=False)


def least_squares(gram: Array, factor: Array, rhs: Array) -> Array:
    """The minimiser `[K]` of `x'Gx / 2 - r'x`, refined once; 0 for a zero column.

    Args:
        gram: float `[K, K]`.
        factor: float `[K, K]`, `cholesky(gram, level)`. The relative error is `(level / e)^2` for
            the least eigenvalue e of G.
        rhs: float `[K]`.

    Example:
        >>> gram = jnp.diag(jnp.array([4.0, 16.0]))
        >>> least_squares(gram, cholesky(gram), jnp.array([2.0, 4.0])).tolist()
        [0.5, 0.25]
    """
    x = approximate(gram, factor, rhs)
    return x + approximate(gram, factor, rhs - gram @ x)


def approximate(gram: Array, factor: Array, rhs: Array) -> Array:
    """`least_squares` unrefined: the relative error is `level / e`, e the least eigenvalue of G."""
    scale = _inverse_root(jnp.diag(gram))
    return scale * linalg.cho_solve((factor, True), scale * rhs)


def box_least_squares(
    gram: Array,
    rhs: Array,
    lower: float | Array = 0.0,
    upper: float | Array = 1.0,
) -> Array:
    """The minimiser of `x'Gx / 2 - r'x` over `lower <= x <= upper`, by an interior point method.

    Mehrotra's predictor and corrector, with one Cholesky factorisation per iteration. If there are
    several minimisers, the result is near their analytic centre.

    Args:
        gram: float `[K, K]`, positive semi-definite.
        rhs: float `[K]`.
        lower: lower bounds, `[K]` or one number.
        upper: upper bounds, above the lower ones.

    Returns:
        float `[K]`, inside the box; relative accuracy about 1e-9 in float64.

    Example:
        >>> gram, rhs = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 3.0])
        >>> [round(x, 3) for x in box_least_squares(gram, rhs).tolist()]
        [0.5, 1.0]

    References:
        Nocedal, Wright, Numerical optimization, 2nd edition, Springer 2006, algorithm 16.4.
    """
    dtype = gram.dtype
    epsilon = jnp.finfo(dtype).eps
    scale, scaled = _equilibrated(gram)
    # In the units of the scaled columns; x of a zero column stays at the centre of its box.
    low, high = (jnp.broadcast_to(bound, rhs.shape) / scale for bound in (lower, upper))
    target = scale * rhs
    size = jnp.maximum(jnp.max(jnp.abs(target)), 1e-30)
    side = jnp.array([[1.0], [-1.0]], dtype)  # slacks, multipliers: [lower, upper]

    def update(point: _Point) -> _Point:
        x, multipliers, iteration, _ = point
        slacks = jnp.stack([x - low, high - x])
        dual = scaled @ x - target - jnp.sum(side * multipliers, 0)
        gap = jnp.vdot(slacks, multipliers) / slacks.size
        diagonal = jnp.sum(multipliers / slacks, 0) + 4 * epsilon
        factor = jax.lax.linalg.cholesky(scaled + jnp.diag(diagonal), symmetrize_input=False)

        def newton(products: Array) -> tuple[Array, Array, Array]:
            """A step to these products of slacks and multipliers, and its largest feasible size."""
            right = jnp.sum(side * products / slacks, 0) - dual
            move = linalg.cho_solve((factor, True), right)
            change = (products - multipliers * side * move) / slacks
            moves = jnp.stack([side * move, change])
            ratios = -jnp.stack([slacks, multipliers]) / jnp.where(moves < 0, moves, -1)
            return move, change, jnp.minimum(1, jnp.min(jnp.where(moves < 0, ratios, jnp.inf)))

        now = slacks * multipliers
        move, change, reach = newton(-now)
        after = jnp.vdot(slacks + reach * side * move, multipliers + reach * change) / slacks.size
        centre = gap * jnp.clip(after / gap, 0, 1) ** 3
        move, change, reach = newton(centre - now - side * move * change)
        new = x + 0.995 * reach * move
        ok = jnp.all(jnp.isfinite(new) & (new > low) & (new < high))
        small = jnp.maximum(gap, jnp.max(jnp.abs(dual))) < 1e3 * epsilon * size
        return _Point(
            jnp.where(ok, new, x),
            jnp.where(ok, multipliers + 0.995 * reach * change, multipliers),
            iteration + 1,
            ~ok | small | (reach < 1e-6),
        )

    multipliers = jnp.full((2, len(rhs)), size, dtype)
    start = _Point((low + high) / 2, multipliers, jnp.asarray(0), jnp.asarray(False))
    end = jax.lax.while_loop(
        lambda point: ~point.done & (point.iteration < _ITERATIONS), update, start
    )
    return jnp.clip(end.x * scale, lower, upper)


def accelerated(descend: Callable[[PyTree], PyTree], start: PyTree, num_iterations: int) -> PyTree:
    """The point after accelerated projected descent.

    Args:
        descend: `descend(x) -> x`, a step along the gradient, projected.
        start: the first point, in the projected set.
        num_iterations: calls of `descend`.

    Example:
        >>> accelerated(lambda x: jnp.clip(x - 0.5 * (x - 3), 0, 1), jnp.zeros(2), 5).tolist()
        [1.0, 1.0]

    References:
        Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse
        problems, SIAM J. Imaging Sciences 2(1), 2009, doi:10.1137/080716542.
    """

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        before, ahead, momentum = state
        new = descend(ahead)
        return (new, *_ahead(new, before, momentum)), None

    dtype = jnp.result_type(*jax.tree.leaves(start))
    state = start, start, jnp.ones((), dtype)
    return jax.lax.scan(step, state, None, length=num_iterations)[0][0]


def _ahead(new: PyTree, before: PyTree, momentum: Array) -> tuple[PyTree, Array]:
    """The point from which the next step is taken, and the next momentum; 1 is at rest."""
    following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
    push = (momentum - 1) / following
    return jax.tree.map(lambda to, old: to + push * (to - old), new, before), following


def box_least_squares_matrix_free(
    normal: Callable[[Array], Array],
    rhs: Array,
    diagonal: Array,
    lower: float | Array = 0.0,
    upper: float | Array = 1.0,
    num_iterations: int = _MATRIX_FREE_ITERATIONS,
) -> Array:
    """`box_least_squares` without G, by accelerated projected gradients with restarts.

    Args:
        normal: `normal(x) -> G x`, one product with the Jacobian and one with its transpose.
        rhs: float `[K]`.
        diagonal: float `[K]`, the diagonal of G or an estimate; used as a scale only.
        lower: lower bounds.
        upper: upper bounds.
        num_iterations: most iterations; each calls `normal` once.

    Returns:
        float `[K]`, inside the box.

    References:
        O'Donoghue, Candès, Adaptive restart for accelerated gradient schemes, Foundations of
        Computational Mathematics 15, 2015, arXiv:1204.3982, section 3.2.
        Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse
        problems, SIAM J. Imaging Sciences 2(1), 2009, doi:10.1137/080716542.
    """
    scale = _inverse_root(diagonal)

    def product(x: Array) -> Array:
        return scale * normal(scale * x)

    target = scale * rhs
    low, high = (jnp.broadcast_to(bound, rhs.shape) / scale for bound in (lower, upper))

    def power(_: int, vector: Array) -> Array:
        image = product(vector)
        return image / jnp.maximum(jnp.linalg.norm(image), 1e-30)

    start = jnp.sin(1.0 + jnp.arange(len(rhs), dtype=rhs.dtype))
    top = jax.lax.fori_loop(0, 30, power, start)
    rate = 1 / jnp.maximum(1.05 * jnp.linalg.norm(product(top)), 1e-30)

    def update(carry: tuple) -> tuple:
        x, ahead, momentum, iteration, _ = carry
        gradient = product(ahead) - target
        new = jnp.clip(ahead - rate * gradient, low, high)
        restart = (ahead - new) @ (new - x) > 0
        change = jnp.max(jnp.abs(scale * (new - x)))
        return new, *_ahead(new, x, jnp.where(restart, 1.0, momentum)), iteration + 1, change

    first = jnp.broadcast_to((low + high) / 2, rhs.shape)
    one = jnp.ones((), rhs.dtype)
    end = jax.lax.while_loop(
        lambda carry: (carry[3] < num_iterations) & (carry[4] > 1e-9),
        update,
        (first, first, one, jnp.asarray(0), one),
    )
    return jnp.clip(end[0] * scale, lower, upper)


def flip_descent(gram: Array, rhs: Array, labels: Array) -> tuple[Array, Array]:
    """Descends `x'Gx / 2 - r'x` over binary x by the best flip of one or two labels at a time.

    Args:
        gram: float `[K, K]`.
        rhs: float `[K]`.
        labels: bool `[K]`, the start.

    Returns:
        bool `[K]`, labels of which no flip of one or two lowers the objective, and float `[K]`, the
        least increase of the objective by a flip that includes each label.

    Example:
        >>> flip_descent(jnp.eye(2), jnp.array([0.9, 0.25]), jnp.array([False, True]))[0].tolist()
        [True, False]
    """

    def changes(binary: Array, gradient: Array) -> Array:
        """What flipping i and j (i alone on the diagonal) adds to the objective, `[K, K]`."""
        sign = 1 - 2 * binary
        single = sign * gradient + jnp.diag(gram) / 2
        double = single[:, None] + single[None, :] + sign[:, None] * sign[None, :] * gram
        return jnp.where(jnp.eye(len(rhs), dtype=bool), single, double)

    def update(carry: tuple) -> tuple:
        binary, gradient, _, iteration, _ = carry
        pairs = changes(binary, gradient)
        i, j = jnp.unravel_index(jnp.argmin(pairs), pairs.shape)
        sign = 1 - 2 * binary
        flip = jnp.zeros_like(binary).at[i].set(sign[i]).at[j].set(sign[j])
        better = pairs[i, j] < -1e-12 * jnp.max(jnp.diag(gram))
        flip = jnp.where(better, flip, 0)
        raised = jnp.min(pairs, axis=0)
        return binary + flip, gradient + gram @ flip, ~better, iteration + 1, raised

    binary = labels.astype(gram.dtype)
    start = (
        binary, gram @ binary - rhs, jnp.asarray(False), jnp.asarray(0),
        jnp.full(rhs.shape, jnp.inf, rhs.dtype),
    )  # fmt: skip
    end = jax.lax.while_loop(lambda c: ~c[2] & (c[3] < 4 * len(rhs)), update, start)
    return end[0] > 0.5, end[4]


def _inverse_root(diagonal: Array) -> Array:
    """`1 / sqrt(diagonal)`, 1 where it is 0."""
    positive = diagonal > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, diagonal, 1)), 1)


def _equilibrated(gram: Array) -> tuple[Array, Array]:
    """Column scales `[K]`, and G with unit diagonal (zero columns stay zero)."""
    diagonal = jnp.diag(gram)
    scale = _inverse_root(diagonal)
    return scale, scale[:, None] * gram * scale[None, :]
