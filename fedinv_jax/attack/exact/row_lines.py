"""Attacks on item rows that lie on one line, or on two: of any loss, without the private state.

A score `z_i = <u, q_i> + ...`, u a function of the private state, uploads for item i the row
`c_i u` with `c_i = dL/dz_i`: all rows are multiples of one vector, whatever the loss, the private
parameters and what else they are used for. The signs of the c_i are the labels under BCE, BPR and
other losses that raise an interaction and lower a negative.
"""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp

from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import item_rows
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.types import Answer, Array, Key, Transcript

# Sine of the angle to a line up to which a row is on it: at least, and in units of the rounding.
_ON_LINE, _ROUNDED = 1e-3, 10.0


def one_line(known: Known) -> Attack:
    """`item_rows.spectral` of the leaves whose rows are multiples of one vector.

    The leaves do not say which of the two sides is that of the interactions. The side that holds
    more nearly the public share is taken, as a rule the smaller one.

    Raises:
        ValueError: if there is no such leaf.
    """
    if not known.structure.on_line:
        raise ValueError('one_line needs an item leaf whose rows are multiples of one vector.')

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        leaves = flax.traverse_util.flatten_dict(dict(transcript.seen), sep='/')
        own = {name: leaves[name] for name in known.structure.on_line}
        rows = dataclasses.replace(transcript, seen=flax.traverse_util.unflatten_dict(own, sep='/'))
        return item_rows.spectral(rows, known.positives, known.largest)

    return attack


def two_lines(known: Known) -> Attack:
    """Labels by two parallel lines of rows in a plane: that of the negatives meets the origin.

    In LightGCN on a client's own graph the interactions are in the score of every item: the row of
    a negative is `c_j u`, that of an interaction `c_i u + b` with one vector b for all of them. The
    line through the origin is the one with most rows on it; the distance to it is the same for all
    interactions. With T steps the distances are averaged, each step's relative to its largest.

    The objective is the mean squared distance of the rows to the nearer of the lines, relative to
    the distance of the lines.

    Raises:
        ValueError: if the rows of a client do not lie in a plane.
    """
    if not known.structure.on_plane:
        raise ValueError('two_lines needs item rows that lie in a plane.')

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        where = candidates.mask(transcript)
        rows = jnp.where(where[:, None], item_rows.rows_of(transcript, transcript.seen), 0)
        near = max(_ON_LINE, _ROUNDED * known.rounding)
        apart = jnp.mean(jax.vmap(lambda own: distances(own, near))(rows), axis=0)
        scores = jnp.where(where, apart, 0)
        off = jnp.sum(jnp.minimum(scores, 1 - scores) ** 2, where=where)
        return Answer(scores, scores > 0.5, None, off / jnp.maximum(jnp.sum(where), 1))

    return attack


def distances(rows: Array, near: float = _ON_LINE) -> Array:
    """Distances `[K]` of rows `[K, F]` to the line with most rows on it, relative to the largest.

    The distance is that within the plane of the rows; the line contains the origin.

    Args:
        rows: float `[K, F]`, in a plane.
        near: sine of the angle to a line up to which a row is on it.

    Example:
        >>> rows = jnp.array([[1.0, 0.0], [-2.0, 0.0], [3.0, 0.0], [1.0, 1.0], [2.0, 1.0]])
        >>> distances(rows).round(3).tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0]
    """
    vectors = jnp.linalg.eigh(rows.T @ rows)[1][:, -2:]
    points = rows @ vectors  # [K, 2]
    units, norms = item_rows.polar(points)
    sines = jnp.abs(units[:, :1] * units[:, 1] - units[:, 1:] * units[:, 0])
    on_line = (sines < near) & (norms > 0)
    line = units[jnp.argmax(jnp.sum(on_line, axis=1) * (norms > 0))]
    apart = jnp.abs(points[:, 0] * line[1] - points[:, 1] * line[0])
    return apart / item_rows.positive(jnp.max(apart))
