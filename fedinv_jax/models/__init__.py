"""Recommenders, each a `Model` of the functions `init_shared`, `init_private` and `score`."""

from fedinv_jax.models.matrix_factorization import matrix_factorization
from fedinv_jax.models.ncf import KERNELS, MLP, from_flax, ncf

__all__ = ['KERNELS', 'MLP', 'from_flax', 'matrix_factorization', 'ncf']
