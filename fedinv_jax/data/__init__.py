"""Interaction data in NumPy, from files or a generator to padded clients.

```
loaders.load | synthetic.generate -> interactions.binarize, k_core, leave_one_out -> clients.build,
    held_out.held_out
```
"""

from fedinv_jax.data import (
    clients,
    columns,
    features,
    files,
    grouping,
    held_out,
    interactions,
    lines,
    loaders,
    parsing,
    plausibility,
    provenance,
    ratings,
    sniffing,
    synthetic,
    values,
)

__all__ = [
    'clients',
    'columns',
    'features',
    'files',
    'grouping',
    'held_out',
    'interactions',
    'lines',
    'loaders',
    'parsing',
    'plausibility',
    'provenance',
    'ratings',
    'sniffing',
    'synthetic',
    'values',
]
