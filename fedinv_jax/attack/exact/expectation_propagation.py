"""Expectation propagation for unknowns with few states each, at a decreasing noise level.

A Gaussian factor replaces the distribution over the states of each unknown. It has the same mean
and covariance, given the other factors and what was seen. Each iteration assumes less noise, from
the size of what was seen down to the size of the noise itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedinv_jax.attack.exact import label_solve
from fedinv_jax.types import Array, PyTree

SOFT = 0.05
"""Least variance of a state per squared noise level, so that no state is certain too early."""
LEAST = 1e-8
"""Least variance of a state without noise."""
_DAMPING = 0.5


class Point(NamedTuple):
    """The state of an iteration, with factors `exp(-x'precision x / 2 + shift'x)` of K unknowns.

    Attributes:
        precision: float `[K, ...]`.
        shift: float `[K, ...]`.
        memory: what else the solver needs from one iteration to the next.
        found: what the iteration of least residual found.
        residual: float `[]`, the mean squared residual of the likeliest states of that iteration.
    """

    precision: Array
    shift: Array
    memory: Any
    found: PyTree
    residual: Array


class Proposal(NamedTuple):
    """What an iteration proposes.

    Attributes:
        precision: float `[K, ...]`, change of the precision.
        shift: float `[K, ...]`, change of the shift.
        proper: bool `[K]`, whether the changed factor is a Gaussian; if not, it is not changed.
        memory: for the next iteration.
        found: what this iteration finds.
        residual: float `[]`, the mean squared residual of its likeliest states.
    """

    precision: Array
    shift: Array
    proper: Array
    memory: Any
    found: PyTree
    residual: Array


def propagate(
    update: Callable[[Point, Array], Proposal], start: Point, cooling: float, most: int
) -> Point:
    """The last point; its `found` is that of the iteration of least residual.

    The iterations end when noise explains that residual.

    Args:
        update: `update(point, level) -> proposal`, for a noise level `[]` in units of what was
            seen, but not less than the noise itself.
        start: the first point, with a residual of inf.
        cooling: the level is `cooling**iteration`.
        most: most iterations.

    References:
        Minka, Expectation propagation for approximate Bayesian inference, UAI 2001.
        Hernández-Lobato, Hernández-Lobato, Suárez, Expectation propagation in linear regression
        models with spike-and-slab priors, Machine Learning 99, 2015.
    """

    def damped(old: Array, change: Array, proper: Array) -> Array:
        where = proper.reshape(proper.shape + (1,) * (change.ndim - proper.ndim))
        return old + _DAMPING * jnp.where(where, change, 0)

    def turn(carry: tuple[Point, Array]) -> tuple[Point, Array]:
        point, iteration = carry
        new = update(point, cooling**iteration)
        better = new.residual < point.residual
        found, residual = jax.tree.map(
            lambda this, best: jnp.where(better, this, best),
            (new.found, new.residual),
            (point.found, point.residual),
        )
        precision = damped(point.precision, new.precision, new.proper)
        shift = damped(point.shift, new.shift, new.proper)
        return Point(precision, shift, new.memory, found, residual), iteration + 1

    return jax.lax.while_loop(
        lambda carry: (carry[1] < most) & (carry[0].residual > label_solve.EXPLAINED),
        turn,
        (start, jnp.asarray(0)),
    )[0]
