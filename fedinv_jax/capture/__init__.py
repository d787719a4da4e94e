"""Captures of other people's trainings: files, names, uploads.

    capture = fedinv_jax.capture.read('capture')
    layout = fedinv_jax.capture.layout(capture)
    uploads = fedinv_jax.capture.captured(capture, 'alice', layout)

`uploads.transcript` is what every attack reads.
"""

from fedinv_jax.capture.folder import (
    FIELDS,
    Capture,
    Exchange,
    Sum,
    exchange,
    exchanges,
    read,
    sum_of,
)
from fedinv_jax.capture.names import Layout, Source, recognise, take
from fedinv_jax.capture.sums import Summed, summed
from fedinv_jax.capture.uploads import Captured, captured, layout

__all__ = [
    'FIELDS',
    'Capture',
    'Captured',
    'Exchange',
    'Layout',
    'Source',
    'Sum',
    'Summed',
    'captured',
    'exchange',
    'exchanges',
    'layout',
    'read',
    'recognise',
    'sum_of',
    'summed',
    'take',
]
