"""Attacks on item rows that lie on one line, or on two: of any loss, without the private state.

A score `z_i = <u, q_i> + ...`, u a function of the private state, uploads for item i the row
`c_i u` with `c_i = dL/dz_i`: all rows are multiples of one vector, whatever the loss, the private
parameters and what else they are used for. The signs of the c_i are the labels under BCE, BPR and
other losses that raise an interaction and lower a negative. What a client adds to its loss, such
as weight decay, is subtracted first.
"""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp

from fedinv_jax import item_table
from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import item_rows, problems
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.types import Answer, Array, Guess, Key, PyTree, Transcript

# Sine of the angle to a line from which on a row is far from it; the least that is told from 0, in
# units of the rounding.
_FAR, _ROUNDED = 1e-3, 10.0
_VANISHED = 0.75  # score of a row that was rounded to 0
_SURE = 3.0  # errors from 0 from which on a row is on one side of it


def one_line(known: Known) -> Attack:
    """`item_rows.spectral` of the leaves whose rows are multiples of one vector.

    These leaves do not say which of the two sides is that of the interactions. Item biases do
    (`Structure.signed`): the side that agrees with more of them is taken. Where none is seen, it is
    the side that holds more nearly the public share, as a rule the smaller one.

    A row of exactly 0 is that of an interaction where only these are rounded to 0
    (`Known.interactions_vanish`): by binary cross-entropy in float32 from `z_i = 17` on.

    What the client adds to its loss is known, but for private item rows, and subtracted. What these
    leave is as large as the rows' distances from the line; a row that is not further from 0 than
    three times that, on its side, is taken for a negative's.

    Raises:
        ValueError: if there is no such leaf.
    """
    if not known.structure.on_line:
        raise ValueError('one_line needs an item leaf whose rows are multiples of one vector.')
    private = jax.eval_shape(known.init_private, jax.random.key(0))
    unknown_rows = known.terms is not None and item_table.has_items(private)

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        leaves = flax.traverse_util.flatten_dict(dict(of_loss(known, transcript)), sep='/')
        own = {name: leaves[name] for name in known.structure.on_line}
        rows = dataclasses.replace(transcript, seen=flax.traverse_util.unflatten_dict(own, sep='/'))
        answer = item_rows.spectral(rows, known.positives, known.largest)
        where = candidates.mask(transcript)
        side = jnp.where(answer.scores > 0.5, -1.0, 1.0) * (where & (answer.scores != 0.5))
        agrees = sum(
            jnp.sum(side * jnp.sign(_numbers(transcript, leaves[name])))
            for name in known.structure.signed
        )
        scores = jnp.where(where & (agrees < 0), 1 - answer.scores, answer.scores)
        if known.interactions_vanish and not known.lossy:
            scores = jnp.where(item_rows.vanished(rows), _VANISHED, scores)
        if unknown_rows:
            scores = jnp.where(where, _beyond(item_rows.rows_of(rows, rows.seen), scores, where), 0)
        return answer._replace(scores=scores, labels=(scores > 0.5) & where)

    return attack


def _beyond(rows: Array, scores: Array, where: Array) -> Array:
    """Scores `[K]` by the lengths of rows `[T, K, F]` along their line, 1/2 at three errors.

    The error is that of the other directions, a root mean square, and the same at all steps: more
    of them do not lower it. The side is that of `scores`.
    """
    rows = jnp.where(where[:, None], rows, 0)
    lines = jnp.linalg.eigh(jnp.einsum('tkd,tke->tde', rows, rows))[1][..., -1]
    along = jnp.einsum('tkd,td->tk', rows, lines)
    along *= jnp.where(along @ jnp.where(where, scores - 0.5, 0) < 0, -1, 1)[:, None]
    off = jnp.sum(rows**2, axis=(1, 2)) - jnp.sum(along**2, axis=1)
    count = jnp.maximum(jnp.sum(where) * (rows.shape[2] - 1), 1)
    error = jnp.sqrt(jnp.maximum(off, 0) / count)
    apart = jnp.mean(along / item_rows.positive(error)[:, None], axis=0)
    return 0.5 + jnp.arctan(apart - _SURE) / jnp.pi


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
        seen = of_loss(known, transcript)
        rows = jnp.where(where[:, None], item_rows.rows_of(transcript, seen), 0)
        near = _ROUNDED * known.rounding
        apart = jnp.mean(jax.vmap(lambda own: distances(own, near))(rows), axis=0)
        scores = jnp.where(where, apart, 0)
        off = jnp.sum(jnp.minimum(scores, 1 - scores) ** 2, where=where)
        return Answer(scores, scores > 0.5, None, off / jnp.maximum(jnp.sum(where), 1))

    return attack


def of_loss(known: Known, transcript: Transcript) -> PyTree:
    """What is seen, without what the client adds to its loss; private rows count as 0."""
    if known.terms is None:
        return transcript.seen
    problem = problems.free_problem(known._replace(client_update=known.terms), transcript)
    labels = jnp.zeros(transcript.items.shape, jnp.result_type(float))
    latent = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)).latent)
    added = problem.predict(Guess(labels, None, latent))
    return jax.tree.map(jnp.subtract, transcript.seen, added)


def _numbers(transcript: Transcript, leaf: Array) -> Array:
    """The candidates' numbers `[T, K]` of an item leaf of one number a row."""
    numbers = leaf.reshape(*leaf.shape[:2])
    return numbers if transcript.rows is None else numbers[:, transcript.rows]


def distances(rows: Array, near: float = 1e-6) -> Array:
    """Distances `[K]` of rows `[K, F]` to the line that most rows are on, relative to the largest.

    The distance is that within the plane of the rows; the line contains the origin. It is the one
    with the least sum of logarithms of the sines between it and the rows (1e-3 if more): as many
    rows that are close to another line, but not on it, do not take its place.

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
    far = jnp.sum(jnp.log(jnp.clip(sines, near, _FAR)), axis=1, where=norms > 0)
    line = units[jnp.argmin(jnp.where(norms > 0, far, jnp.inf))]
    apart = jnp.abs(points[:, 0] * line[1] - points[:, 1] * line[0])
    return apart / item_rows.positive(jnp.max(apart))
