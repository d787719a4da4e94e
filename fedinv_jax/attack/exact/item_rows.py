"""Attacks on the item rows of an upload: each row determines its own label.

One gradient of BCE uploads for item i the row `g_i = c_i v_i(p)` with `v_i = dz_i/dq_i` and
`c_i = w_i (sigmoid(z_i) - y_i)`. The row points along `v_i` for label 0 and against it for label 1,
and `v_i` depends on the private state p only through the ReLUs that are on. No function here reads
a model: `v_i` is, up to a positive factor, the difference between the rows that the client would
upload for label 0 and for label 1.
"""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp

from fedinv_jax.attack import candidates
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Guess, PyTree, Transcript

_ITERATIONS = 20  # of Lloyd's algorithm


def spectral(transcript: Transcript, share: float = 0.2, largest: bool = False) -> Answer:
    """Labels by the side of the first principal direction of the rows on which each row lies.

    Reads neither the model nor the loss. Only the directions of rows are used. With T steps the
    cosines are averaged, with the sign of each step's direction chosen to agree with the steps
    before it. The side that holds more nearly `share` of the seen rows is positive, as a rule the
    smaller side.

    Args:
        transcript: of one client, item rows seen.
        share: public share of interactions among the candidates.
        largest: whether only the largest entries were sent. The missing rows are then those of
            negatives, and `share` is taken of all candidates.

    Returns:
        Scores `(1 + mean cosine) / 2`; labels False where the rows are zero. The objective is the
        share of the rows' squared norm outside the direction.

    Raises:
        ValueError: if no item rows are seen.
    """
    where = candidates.mask(transcript)
    units, norms = polar(rows_of(transcript, transcript.seen))
    units = jnp.where((where & (norms > 0))[..., None], units, 0)
    directions = jnp.linalg.eigh(jnp.einsum('tkd,tke->tde', units, units))[1][..., -1]
    cosines = jnp.einsum('tkd,td->tk', units, directions)

    def add(total: Array, cosine: Array) -> tuple[Array, None]:
        return total + cosine * jnp.where(total @ cosine < 0, -1, 1), None

    total = jax.lax.scan(add, jnp.zeros_like(cosines[0]), cosines)[0]
    side = smaller_side(total, where if largest else jnp.any(norms > 0, axis=0) & where, share)
    rest = 1 - jnp.sum(cosines**2) / jnp.maximum(jnp.sum(norms > 0, where=where), 1)
    return _answer(transcript, -side * total / len(cosines), None, rest)


def summed(transcript: Transcript, share: float = 0.2, largest: bool = False) -> Answer:
    """`spectral` of the sum of the steps' uploads.

    If directions do not change between steps, the rows of T steps add up while independent noise
    grows by `sqrt(T)` only. `spectral` averages cosines to each step's direction instead, which
    gains nothing if noise dominates that direction.

    Args:
        transcript: of one client, item rows seen.
        share: see `spectral`.
        largest: see `spectral`.

    Returns:
        The answer of `spectral` for one step.

    Raises:
        ValueError: if no item rows are seen.
    """
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0, keepdims=True), transcript.seen)
    return spectral(dataclasses.replace(transcript, seen=total), share, largest)


def levels(transcript: Transcript, share: float = 0.2, largest: bool = False) -> Answer:
    """Labels by two classes of rows, found from the signs and sizes of their entries.

    After several steps of Adam, especially with a penalty on the drift of the rows, an entry keeps
    of its gradient the sign and one of few sizes. Sums of entries then mean little, and the classes
    are no mirror images. So each entry becomes `sign * onehot(quarter)`, where `quarter` is the
    quarter of the step's absolute values that it is in. Lloyd's algorithm then splits the rows'
    codes `[4 T F]` into two classes, starting from the classes of `spectral`. The positive class is
    chosen as in `spectral`. Reads neither the model nor the loss.

    Args:
        transcript: of one client, item rows seen.
        share: see `spectral`.
        largest: see `spectral`.

    Returns:
        Scores of 1/2 on the border between the classes, 0 or 1 furthest from it; labels False where
        the rows are zero. The objective is the share of the codes' squared norm that the two means
        do not explain.

    Raises:
        ValueError: if no item rows are seen.

    References:
        Lloyd, Least squares quantization in PCM, IEEE Transactions on Information Theory 28(2),
        1982, doi:10.1109/TIT.1982.1056489.
    """
    rows = jnp.where(candidates.mask(transcript)[:, None], rows_of(transcript, transcript.seen), 0)
    sizes = jnp.where(rows != 0, jnp.abs(rows), jnp.nan)
    quarters = jnp.nanquantile(sizes, jnp.array([0.25, 0.5, 0.75]), axis=(1, 2))  # [3, T]
    level = jnp.sum(sizes > quarters[:, :, None, None], axis=0)
    codes = jnp.sign(rows)[..., None] * jax.nn.one_hot(level, 4, dtype=rows.dtype)
    codes = jnp.moveaxis(codes, 1, 0).reshape(rows.shape[1], -1)
    known = jnp.any(codes != 0, axis=-1)

    def means(side: Array) -> Array:  # [2, 4 T F]
        member = known & (jnp.stack([side, -side]) > 0)
        return (member @ codes) / jnp.maximum(jnp.sum(member, axis=-1), 1)[:, None]

    def nearer(_: int, side: Array) -> Array:
        one, other = means(side)
        return jnp.where(known, (codes - (one + other) / 2) @ (one - other), 0)

    side = jnp.where(known, jnp.where(spectral(transcript, share).labels, 1.0, -1.0), 0)
    side = jax.lax.fori_loop(0, _ITERATIONS, nearer, side.astype(rows.dtype))
    counts = jnp.sum(jnp.stack([side, -side]) > 0, axis=-1)
    kept = jnp.sum(counts * jnp.sum(means(side) ** 2, axis=-1))
    side = side * smaller_side(side, candidates.mask(transcript) if largest else known, share)
    off = 1 - kept / jnp.maximum(jnp.sum(codes**2), 1)
    return _answer(transcript, -side / positive(jnp.max(jnp.abs(side))), None, off)


def projection(transcript: Transcript, share: float | Array = 0.2) -> Answer:
    """Labels by how far each row lies along the first principal direction of the rows.

    Unlike `spectral` it reads the length of rows too, so that an item outside of an unknown batch,
    whose row is zero up to noise, is neither side's. The positive side is the one with fewer rows
    beyond half of its ends' mean.

    Args:
        transcript: of one client, item rows seen.
        share: public share of interactions among the candidates, of which the ends are the tenth.

    Returns:
        Scores increasing in the projection, 3/4 at the threshold of the labels; the objective is
        the share of the rows' squared norm outside the direction.

    Raises:
        ValueError: if no item rows are seen.
    """
    where = candidates.mask(transcript)
    rows = jnp.where(where[:, None], rows_of(transcript, transcript.seen).mean(axis=0), 0)
    direction = jnp.linalg.eigh(rows.T @ rows)[1][:, -1]
    along = rows @ direction
    count = jnp.sum(where)
    rank = jnp.arange(len(along)) < jnp.maximum(share * count / 10, 1)

    def end(values: Array) -> Array:  # the mean of the largest
        return jnp.sum(jnp.sort(values)[::-1], where=rank) / jnp.sum(rank)

    ends = jnp.stack([end(along), end(-along)])
    beyond = jnp.stack([jnp.sum(along > ends[0] / 2), jnp.sum(-along > ends[1] / 2)])
    along = along * jnp.where(beyond[0] > beyond[1], -1, 1)
    half = jnp.where(beyond[0] > beyond[1], ends[1], ends[0]) / 2
    scores = jnp.where(where, jax.nn.sigmoid(along / positive(half) * jnp.log(3.0)), 0)
    rest = 1 - jnp.sum(along**2) / positive(jnp.sum(rows**2))
    return Answer(scores, (along > half) & where, None, rest)


def sign(problem: Problem, transcript: Transcript, latent: PyTree) -> Answer:
    """Labels by the side of `v_i(p)` on which each row lies, for an approximate p such as zero.

    A row of zeros gets the label whose predicted row is smaller: a float32 client uploads zeros for
    a positive that it fits well, because `1 - sigmoid(z)` rounds to 0.

    Args:
        problem: of the same client, with `relax.identity()`.
        transcript: of one client, item rows seen.
        latent: private states, in the form that the problem's hypothesis takes.

    Returns:
        Scores `(1 - mean cosine) / 2`; the objective is 1 minus the mean squared cosine.

    Raises:
        ValueError: if no item rows are seen.
    """
    guess = Guess(jnp.zeros(transcript.items.shape, jnp.result_type(float)), None, latent)
    zeros, ones = (
        rows_of(transcript, problem.predict(guess._replace(labels=guess.labels + y)))
        for y in (0, 1)
    )
    seen = rows_of(transcript, transcript.seen)
    where = candidates.mask(transcript)
    cosines = _cosines(zeros[None], ones[None], seen)[0]
    known = where & jnp.any(seen != 0, axis=-1)
    rest = 1 - jnp.sum(cosines**2, where=known) / jnp.maximum(jnp.sum(known), 1)
    return _answer(transcript, vote(zeros[None], ones[None], seen), None, rest)


def rows_of(transcript: Transcript, view: PyTree) -> Array:
    """The candidates' item rows `[T, K, F]` of an upload, all leaves of an item concatenated."""
    rows = candidates.rows(view, 2)
    return rows if transcript.rows is None else rows[:, transcript.rows]


def polar(rows: Array) -> tuple[Array, Array]:
    """Unit vectors `[..., F]` and norms `[...]`, both 0 for zero rows, safe from underflow."""
    size = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    scaled = rows / jnp.where(size > 0, size, 1)
    norms = jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True))
    return scaled / jnp.where(norms > 0, norms, 1), (size * norms)[..., 0]


def positive(values: Array) -> Array:
    """The larger of `values` and the smallest normal number, for divisors and logarithms."""
    return jnp.maximum(values, jnp.finfo(values.dtype).tiny)


def _cosines(zeros: Array, ones: Array, seen: Array) -> Array:
    """Cosines `[..., T, K]` between seen rows and the rows of label 0 minus those of label 1."""
    return jnp.sum(polar(zeros - ones)[0] * polar(seen)[0], axis=-1)


def vote(zeros: Array, ones: Array, seen: Array) -> Array:
    """Mean cosines `[K]` over points and steps, below 0 for label 1; arrays `[M, T, K, F]`."""
    observed = jnp.any(seen != 0, axis=-1)
    cosines = jnp.mean(_cosines(zeros, ones, seen), axis=0)
    count = jnp.sum(observed, axis=0)
    mean = jnp.sum(jnp.where(observed, cosines, 0), axis=0) / jnp.maximum(count, 1)
    small, large = (jnp.sum(rows**2, axis=(0, 1, 3)) for rows in (ones, zeros))
    return jnp.where(
        count > 0, mean, jnp.where(small < large, -1.0, jnp.where(small > large, 1.0, 0))
    )


def vanished(transcript: Transcript) -> Array:
    """Bool `[K]`: candidates whose rows are 0 at every step where others are not."""
    where = candidates.mask(transcript)
    zero = ~jnp.any(rows_of(transcript, transcript.seen) != 0, axis=(0, 2))
    return zero & where & jnp.any(~zero & where)


def smaller_side(values: Array, where: Array, share: float) -> Array:
    """The sign `[]` with which `values [K]` are positive for about `share` of those in `where`."""
    expected = share * jnp.sum(where)
    above, below = jnp.sum(values > 0), jnp.sum(values < 0)
    return jnp.where(jnp.abs(above - expected) > jnp.abs(below - expected), -1, 1)


def _answer(transcript: Transcript, cosines: Array, private: PyTree, objective: Array) -> Answer:
    """The answer from cosines `[K]` to the direction of label 0."""
    where = candidates.mask(transcript)
    scores = jnp.where(where, jnp.clip((1 - cosines) / 2, 0, 1), 0)
    return Answer(scores, (cosines < 0) & where, private, objective)
