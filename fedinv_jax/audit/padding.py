"""Transcripts of a few sizes, so that few attacks are compiled."""

import dataclasses
from typing import Any

import jax
import numpy as np

from fedinv_jax.types import Transcript

_SMALLEST = 64  # candidates


def size(count: int, most: int) -> int:
    """The number of candidates that an attack is compiled for.

    Args:
        count: number of candidates.
        most: number of items of the catalogue.

    Example:
        >>> [size(count, 1682) for count in (10, 65, 300, 1100)]
        [64, 256, 1024, 1682]
    """
    found = _SMALLEST
    while found < count:
        found *= 4
    return max(count, min(found, most))


def padded(seen: Transcript, count: int) -> Transcript:
    """The transcript with copies of its first candidate, which are in no batch.

    Args:
        seen: a transcript of K candidates.
        count: number of candidates of the result, at least K.
    """
    more = count - len(seen.items)
    if seen.weights is None or not more:
        return seen

    def rows(leaf: Any) -> np.ndarray:
        return np.concatenate([leaf, np.repeat(leaf[:, :1], more, axis=1)], axis=1)

    def zeros(leaf: Any, width: int) -> np.ndarray:
        return np.pad(leaf, [(0, 0), (0, width), *[(0, 0)] * (leaf.ndim - 2)])

    wide = more
    if seen.slot is not None:
        wide = size(seen.weights.shape[1], count) - seen.slot.shape[1]
    shared = {**seen.shared, 'items': jax.tree.map(rows, seen.shared['items'])}
    there = {}
    if 'items' in seen.seen:
        there['items'] = jax.tree.map(lambda leaf: zeros(leaf, more), seen.seen['items'])
    return dataclasses.replace(
        seen,
        shared=shared,
        seen={**seen.seen, **there},
        items=np.concatenate([seen.items, np.repeat(seen.items[:1], more)]),
        slot=None if seen.slot is None else zeros(seen.slot, wide),
        weights=zeros(seen.weights, wide),
        log_odds=np.concatenate([seen.log_odds, np.repeat(seen.log_odds[:1], more)]),
    )
