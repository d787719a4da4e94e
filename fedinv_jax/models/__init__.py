"""Recommenders, each a `Model` of the functions `init_shared`, `init_private` and `score`."""

from fedinv_jax.models.fedrap import fedrap
from fedinv_jax.models.from_flax import from_flax, from_nnx
from fedinv_jax.models.gmf import gmf
from fedinv_jax.models.item_features import with_item_features
from fedinv_jax.models.lightgcn import lightgcn
from fedinv_jax.models.matrix_factorization import matrix_factorization
from fedinv_jax.models.ncf import KERNELS, MLP, ncf
from fedinv_jax.models.neumf import neumf
from fedinv_jax.models.pfedrec import pfedrec
from fedinv_jax.models.two_tower import two_tower

__all__ = [
    'KERNELS',
    'MLP',
    'fedrap',
    'from_flax',
    'from_nnx',
    'gmf',
    'lightgcn',
    'matrix_factorization',
    'ncf',
    'neumf',
    'pfedrec',
    'two_tower',
    'with_item_features',
]
