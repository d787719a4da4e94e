"""Attacks on the sums of all cohorts, above all of those that change (secure aggregation)."""

from fedinv_jax.attack.unmix import joint, unrolled
from fedinv_jax.attack.unmix.by_item import mean_rows, possible
from fedinv_jax.attack.unmix.filters import (
    filters_of,
    first_rounds,
    mean_uploads,
    memberships,
    ridge_solve,
)
from fedinv_jax.attack.unmix.replayed import (
    agreement,
    alive,
    catalogue_labels,
    labels,
    read_labels,
    replayed_rows,
)

__all__ = [
    'agreement',
    'alive',
    'catalogue_labels',
    'filters_of',
    'first_rounds',
    'joint',
    'labels',
    'mean_rows',
    'mean_uploads',
    'memberships',
    'possible',
    'read_labels',
    'replayed_rows',
    'ridge_solve',
    'unrolled',
]
