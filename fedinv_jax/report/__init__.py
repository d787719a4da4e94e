"""Victim rows -> estimates, tables, figures and report pages. Imports neither JAX nor a config."""

from fedinv_jax.report import (
    claims,
    document,
    figures,
    html,
    inference,
    rows,
    stats,
    tables,
    tradeoff,
)
from fedinv_jax.report.tables import (
    attacks_of,
    certificates,
    distinct,
    estimate,
    outcome,
    show,
    table,
    title,
    varying,
    verdict,
)

__all__ = [
    'attacks_of',
    'certificates',
    'claims',
    'distinct',
    'document',
    'estimate',
    'figures',
    'html',
    'inference',
    'outcome',
    'rows',
    'show',
    'stats',
    'table',
    'tables',
    'title',
    'tradeoff',
    'varying',
    'verdict',
]
