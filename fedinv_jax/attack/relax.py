"""Relaxations: binary labels as unconstrained numbers."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedinv_jax.types import Array


class Relaxation(NamedTuple):
    """A bijection between unconstrained numbers and (0, 1).

    Attributes:
        encode: `encode(labels) -> unconstrained`; the end points map to finite numbers.
        decode: `decode(unconstrained) -> labels`.
    """

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]


def sigmoid(margin: float = 1e-4) -> Relaxation:
    """`decode(a) = 1 / (1 + exp(-a))`; `encode` clips labels to `[margin, 1 - margin]`.

    Raises:
        ValueError: if `margin` is not in (0, 1/2).

    Example:
        >>> relaxation = sigmoid()
        >>> relaxation.decode(relaxation.encode(jnp.array([0.25, 0.5]))).round(4).tolist()
        [0.25, 0.5]
    """
    if not 0 < margin < 0.5:
        raise ValueError(f'Expected 0 < margin={margin} < 0.5.')

    def encode(labels: Array) -> Array:
        clipped = jnp.clip(labels, margin, 1 - margin)
        return jnp.log(clipped) - jnp.log1p(-clipped)

    return Relaxation(encode, jax.nn.sigmoid)
