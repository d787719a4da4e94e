"""Relaxations: binary labels as unconstrained numbers."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedinv_jax import _validate
from fedinv_jax.types import Array


class Relaxation(NamedTuple):
    """A bijection between unconstrained numbers and (0, 1).

    Attributes:
        encode: `encode(labels) -> unconstrained`; labels 0 and 1 map to finite numbers.
        decode: `decode(unconstrained) -> labels`.
    """

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]


def sigmoid(gain: float = 1.0, margin: float = 1e-4) -> Relaxation:
    """`decode(a) = 1 / (1 + exp(-gain a))`; `encode` clips labels to `[margin, 1 - margin]`.

    Args:
        gain: labels move `gain` times as fast as the private parameters under an optimiser with
            one step size for both, such as Adam.
        margin: distance of the clipped labels from 0 and 1.

    Raises:
        ValueError: if `gain` is not positive, or `margin` not in (0, 1/2).

    Example:
        >>> relaxation = sigmoid()
        >>> relaxation.decode(relaxation.encode(jnp.array([0.25, 0.5]))).round(4).tolist()
        [0.25, 0.5]
    """
    _validate.check_range('gain', gain, above=True)
    if not 0 < margin < 0.5:
        raise ValueError(f'Expected 0 < margin={margin} < 0.5.')

    def encode(labels: Array) -> Array:
        clipped = jnp.clip(labels, margin, 1 - margin)
        return (jnp.log(clipped) - jnp.log1p(-clipped)) / gain

    return Relaxation(encode, lambda unconstrained: jax.nn.sigmoid(gain * unconstrained))


def identity() -> Relaxation:
    """The labels themselves, for solvers that keep labels in [0, 1].

    Example:
        >>> identity().decode(jnp.array([0.0, 1.0])).tolist()
        [0.0, 1.0]
    """
    return Relaxation(lambda labels: labels, lambda unconstrained: unconstrained)
