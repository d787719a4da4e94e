"""The precision of uploads: declared by the dtype that holds them, or read off the numbers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax.attack.exact.known import Known
from fedinv_jax.types import PyTree

_ENOUGH = 32  # numbers other than 0 that must be of a coarser type


class Precision(NamedTuple):
    """A floating-point type: its unit roundoff, and that of its smallest numbers."""

    name: str
    rounding: float
    smallest: float


# The coarsest first.
_COARSE = (Precision('bfloat16', 2.0**-8, 2.0**-134), Precision('float16', 2.0**-11, 2.0**-25))


def declared(uploads: PyTree) -> Precision | None:
    """The coarsest type that uploads are stored in; None for float32 and finer."""
    names = {leaf.dtype.name for leaf in jax.tree.leaves(uploads)}
    return next((each for each in _COARSE if each.name in names), None)


def undeclared(uploads: PyTree) -> Precision | None:
    """The coarsest type that would hold all uploads exactly, which a finer one does."""
    numbers = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(uploads)])
    numbers = numbers[numbers != 0]
    if declared(uploads) or numbers.size < _ENOUGH:
        return None

    def holds(each: Precision) -> bool:
        with np.errstate(over='ignore'):
            return np.array_equal(numbers.astype(jnp.dtype(each.name)).astype(float), numbers)

    return next(filter(holds, _COARSE), None)


def of(known: Known) -> Precision | None:
    """The coarse precision with the rounding of what is known; None for float32 and finer."""
    return next((each for each in _COARSE if each.rounding == known.rounding), None)


def assumed(known: Known, precision: Precision | None) -> Known:
    """What is known of uploads in that precision: they determine private states approximately."""
    if precision is None:
        return known
    return known._replace(rounding=precision.rounding, smallest=precision.smallest, lossy=True)


@functools.cache
def check_float64() -> None:
    """Asks the device for a Cholesky factor in float64, which exact attacks rest on.

    Raises:
        ValueError: if the device has no float64, or computes with fewer bits.
    """
    with jax.enable_x64(), jax.default_matmul_precision('highest'):
        try:
            gram = jnp.array([[2.0, 1.0], [1.0, 2.0 + 2.0**-40]])
            factor = jnp.linalg.cholesky(gram)
            exact = bool(jnp.max(jnp.abs(factor @ factor.T - gram)) < 1e-14)
        except (RuntimeError, TypeError, ValueError):  # what backends raise differs
            exact = False
    if not exact:
        raise ValueError(
            f'{jax.devices()[0].device_kind} does not compute in float64, which exact attacks '
            'need: run them with JAX_PLATFORMS=cpu, or choose attacks in float32 '
            '(attack.name=mgradinv).'
        )
