"""Attacks on the item rows of an upload: each row gives its own label away.

One gradient of BCE uploads for item i the row `g_i = c_i v_i(p)` with `v_i = dz_i/dq_i` and
`c_i = w_i (sigmoid(z_i) - y_i)`: the label is the side of `v_i` on which the row lies, and v_i
depends on the private state p only through which ReLUs are on. Nothing here reads a model: `v_i` is
the difference of the rows that the client would upload for either label.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from fedinv_jax.attack import priors
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Guess, Key, PyTree, Transcript

# Bounds of `|log|` of a ratio of row norms: a predicted row of zeros is finitely wrong.
_LOG_RATIO = 20.0
_DAMPING = 1e-5
# Longest step, in widths of the stencil, and by how much a width may shrink or grow.
_REACH = 1.0
_SHRINK, _GROW = 0.2, 1.1
_ROUNDS = 20  # of the two means
# The width at which a search is over, and the least one, relative to the first.
_DONE, _LEAST = 1e-6, 1e-7


def spectral(transcript: Transcript, share: float = 0.2, largest: bool = False) -> Answer:
    """The side of the first principal direction of the rows; which side is positive, by its size.

    Reads neither the model nor the loss. Rows count by direction only. With T steps the cosines are
    averaged, each step's direction turned to agree with those before it. That side is positive
    whose number of rows is nearer to `share` of those that are seen: the smaller one as a rule.

    Args:
        transcript: of one client, item rows seen.
        share: public share of interactions among the candidates.
        largest: whether only the largest entries were sent: the rows that are missing are those of
            negatives then, and `share` is one of all candidates.

    Returns:
        Scores `(1 + mean cosine) / 2`; labels False where the rows are zero. The objective is the
        share of the rows' energy off the direction.

    Raises:
        ValueError: if no item rows are seen.
    """
    where = priors.candidates(transcript)
    units, norms = _polar(_rows(transcript, transcript.seen))
    units = jnp.where((where & (norms > 0))[..., None], units, 0)
    directions = jnp.linalg.eigh(jnp.einsum('tkd,tke->tde', units, units))[1][..., -1]
    cosines = jnp.einsum('tkd,td->tk', units, directions)

    def add(total: Array, cosine: Array) -> tuple[Array, None]:
        return total + cosine * jnp.where(total @ cosine < 0, -1, 1), None

    total = jax.lax.scan(add, jnp.zeros_like(cosines[0]), cosines)[0]
    side = _side(total, where if largest else jnp.any(norms > 0, axis=0) & where, share)
    rest = 1 - jnp.sum(cosines**2) / jnp.maximum(jnp.sum(norms > 0, where=where), 1)
    return _answer(transcript, -side * total / len(cosines), None, rest)


def summed(transcript: Transcript, share: float = 0.2, largest: bool = False) -> Answer:
    """`spectral` of the sum of the steps' uploads.

    Where directions stay, rows of T steps add up and independent noise grows by `sqrt(T)` only;
    averages of cosines to directions that noise drowns, as in `spectral`, add nothing.

    Args:
        transcript: of one client, item rows seen.
        share: see `spectral`.
        largest: see `spectral`.

    Returns:
        As `spectral` of one step.

    Raises:
        ValueError: if no item rows are seen.
    """
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0, keepdims=True), transcript.seen)
    return spectral(dataclasses.replace(transcript, seen=total), share, largest)


def levels(transcript: Transcript, share: float = 0.2, largest: bool = False) -> Answer:
    """Two classes of rows by the signs and levels of their entries, named as in `spectral`.

    After several steps of Adam, more so with a penalty on the drift of the rows, an entry tells of
    its slope by a sign and by which of few sizes it has: sums of entries mean little, and the
    classes are no mirror images. So each entry becomes `sign * onehot(quarter)` by the quarter of
    the step's sizes that its own is in, and from the classes of `spectral` each of these codes
    `[4 T F]` goes to the nearer of the two means, again and again. Reads neither the model nor the
    loss.

    Args:
        transcript: of one client, item rows seen.
        share: see `spectral`.
        largest: see `spectral`.

    Returns:
        Scores of 1/2 on the border between the means, 0 or 1 furthest from it; labels False where
        the rows are zero. The objective is the share of the codes' energy off the two means.

    Raises:
        ValueError: if no item rows are seen.

    References:
        Lloyd, Least squares quantization in PCM, IEEE Transactions on Information Theory 28(2),
        1982, doi:10.1109/TIT.1982.1056489.
    """
    rows = jnp.where(priors.candidates(transcript)[:, None], _rows(transcript, transcript.seen), 0)
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
    side = jax.lax.fori_loop(0, _ROUNDS, nearer, side.astype(rows.dtype))
    counts = jnp.sum(jnp.stack([side, -side]) > 0, axis=-1)
    kept = jnp.sum(counts * jnp.sum(means(side) ** 2, axis=-1))
    side = side * _side(side, priors.candidates(transcript) if largest else known, share)
    off = 1 - kept / jnp.maximum(jnp.sum(codes**2), 1)
    return _answer(transcript, -side / _positive(jnp.max(jnp.abs(side))), None, off)


def sign(problem: Problem, transcript: Transcript, latent: PyTree) -> Answer:
    """The side of `v_i(p)` on which each row lies, for a rough private state, such as zeros.

    A row of zeros has the label whose own prediction is smaller: a client in single precision
    uploads zeros of a positive that it fits well, as `1 - sigmoid(z)` is then rounded to 0.

    Args:
        problem: of the same client, with `relax.identity()`.
        transcript: of one client, item rows seen.
        latent: what the problem's hypothesis rolls out.

    Returns:
        Scores `(1 - mean cosine) / 2`; the objective is 1 minus the mean squared cosine.

    Raises:
        ValueError: if no item rows are seen.
    """
    guess = Guess(jnp.zeros(transcript.items.shape, jnp.result_type(float)), None, latent)
    zeros, ones = (
        _rows(transcript, problem.predict(guess._replace(labels=guess.labels + y))) for y in (0, 1)
    )
    seen = _rows(transcript, transcript.seen)
    where = priors.candidates(transcript)
    cosines = _cosines(zeros[None], ones[None], seen)[0]
    known = where & jnp.any(seen != 0, axis=-1)
    rest = 1 - jnp.sum(cosines**2, where=known) / jnp.maximum(jnp.sum(known), 1)
    return _answer(transcript, _vote(zeros[None], ones[None], seen), None, rest)


class Memory(NamedTuple):
    """Memory of `search`.

    Attributes:
        centre: float `[T, P]`, the private states around which the stencil lies.
        width: float `[T]`, its half width.
        labels: bool `[K]`, at the centre.
        key: of the stencil's rotations.
        end: float `[T]`, the width at which the search is over.
    """

    centre: Array
    width: Array
    labels: Array
    key: Key
    end: Array


def search(transcript: Transcript, width: float | Array) -> Inversion:
    """Alternates the rows' labels and Gauss-Newton steps in the private states of the steps.

    With the labels given, a row's direction tells of the ReLUs that are on, its length of the
    logit.
    The residual of a row is the difference of its direction and of the log of its length to those
    of the predicted row. It jumps in p, so that its derivatives say nothing: they are replaced by
    central differences along a randomly turned orthonormal basis, at first as wide as the unknown
    is. The width follows the length of the steps, and where rows are matched exactly
    the differences become derivatives and the steps Newton's. Rows that are not matched yet weigh
    less (Cauchy's weights).

    The hypothesis must be `dynamics.free`: the private states are unknowns `[T, ...]` of their own,
    and the labels are common to the steps. The labels of `problem.init` are only a start; the
    objective of a state is the geometric mean of the squared residuals of the rows.

    Args:
        transcript: of one client, item rows seen; the problem is made of it, with
            `relax.identity()`.
        width: half width of the first stencil, `[]` or `[T]`: how far off `problem.init`'s private
            states are, roughly.

    Returns:
        The solver; an iteration simulates the client `4 P` times for P private parameters.

    Raises:
        ValueError: if a Python `width` is not positive; if no item rows are seen.

    References:
        Arasaratnam, Haykin, Cubature Kalman filters, IEEE Transactions on Automatic Control 54(6),
        2009, doi:10.1109/TAC.2009.2019800 (the stencil, and what it linearises).
        Holland, Welsch, Robust regression using iteratively reweighted least-squares,
        Communications in Statistics 6(9), 1977, doi:10.1080/03610927708827533.
    """
    if isinstance(width, int | float) and not width > 0:
        raise ValueError(f'Expected width={width} > 0.')
    seen = _rows(transcript, transcript.seen)
    units, norms = _polar(seen)
    where = priors.candidates(transcript)
    known = where & (norms > 0)

    def init(problem: Problem, key: Key) -> State:
        start_key, key = jax.random.split(key)
        guess = problem.init(start_key)
        centre, _ = _flatten(guess.latent)
        widths = jnp.broadcast_to(jnp.asarray(width, centre.dtype), len(centre))
        memory = Memory(centre, widths, guess.labels > 0.5, key, _DONE * widths)
        return State(guess, jnp.asarray(jnp.inf, centre.dtype), jnp.asarray(False), memory)

    def update(problem: Problem, state: State) -> State:
        centre, width, labels, key, end = state.memory
        key, basis_key = jax.random.split(key)
        steps, size = centre.shape
        _, unflatten = _flatten(state.guess.latent)
        normal = jax.random.normal(basis_key, (steps, size, size), jnp.float32)
        basis = jnp.linalg.qr(normal.astype(centre.dtype))[0]
        offsets = width[:, None, None] * jnp.concatenate([basis, -basis], axis=1)  # [T, 2 P, P]

        def predict(labels: Array, latent: Array) -> Array:
            guess = Guess(labels.astype(latent.dtype), None, unflatten(latent))
            return _rows(transcript, problem.predict(guess))

        points = centre + jnp.moveaxis(offsets, 1, 0)
        this, other = (jax.vmap(lambda p, y=y: predict(y, p))(points) for y in (labels, ~labels))
        zeros, ones = (jnp.where((labels == y)[:, None], this, other) for y in (False, True))
        vote = _vote(zeros, ones, seen)
        labels = (vote < 0) & where
        # Residuals [2 P, T, K, F + 1] of the rows, their mean and their differences.
        predicted, lengths = _polar(jnp.where(labels[:, None], ones, zeros))
        ratio = jnp.log(_positive(lengths)) - jnp.log(_positive(norms))
        ratio = jnp.clip(ratio, -_LOG_RATIO, _LOG_RATIO)
        residuals = jnp.concatenate([predicted - units, ratio[..., None]], axis=-1)
        residuals = jnp.where(known[..., None], residuals, 0)
        mean = jnp.mean(residuals, axis=0)
        slopes = (residuals[:size] - residuals[size:]) / 2
        squares = jnp.sum(mean**2, axis=-1)
        count = jnp.maximum(jnp.sum(known, axis=-1), 1)
        logs = jnp.where(known, jnp.log(squares + 1e-30), 0)
        typical = jnp.exp(jnp.sum(logs, axis=-1) / count)
        weights = known / (1 + squares / _positive(typical)[:, None])
        gram = jnp.einsum('atkf,tk,btkf->tab', slopes, weights, slopes)
        rhs = jnp.einsum('atkf,tk,tkf->ta', slopes, weights, mean)
        trace = _positive(jnp.trace(gram, axis1=1, axis2=2))[:, None, None]
        damped = gram / trace + _DAMPING / size * jnp.eye(size, dtype=gram.dtype)
        move = -jnp.linalg.solve(damped, (rhs / trace[..., 0])[..., None])[..., 0]
        length = jnp.linalg.norm(move, axis=-1)
        move = move * jnp.minimum(1, _REACH / _positive(length))[:, None]
        objective = jnp.exp(jnp.sum(logs) / jnp.sum(count))
        better = objective < state.objective
        scores = jnp.where(where, jnp.clip((1 - vote) / 2, 0, 1), 0)
        guess = Guess(scores, None, unflatten(centre))
        moved = centre + width[:, None] * jnp.einsum('ta,tap->tp', move, basis)
        width = jnp.maximum(width * jnp.clip(2 * length, _SHRINK, _GROW), _LEAST / _DONE * end)
        new = State(
            optax.tree.where(better, guess, state.guess),
            jnp.where(better, objective, state.objective),
            jnp.all(width < end) | ~jnp.isfinite(objective),
            Memory(moved, width, labels, key, end),
        )
        keep = jnp.where(state.done, True, False)
        return jax.tree.map(lambda a, b: jnp.where(keep, a, b), state, new)

    return Inversion(init, update)


def _rows(transcript: Transcript, view: PyTree) -> Array:
    """The candidates' item rows `[T, K, F]` of an upload, all leaves of an item side by side."""
    if not jax.tree.leaves(dict(view).get('items', {})):
        raise ValueError('Expected item rows to be seen: observation.seen needs items.')
    leaves = jax.tree.leaves(view['items'])
    rows = jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)
    return rows if transcript.rows is None else rows[:, transcript.rows]


def _polar(rows: Array) -> tuple[Array, Array]:
    """Unit vectors `[..., F]` and norms `[...]`; zero rows have neither. Safe from underflow."""
    size = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    scaled = rows / jnp.where(size > 0, size, 1)
    norms = jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True))
    return scaled / jnp.where(norms > 0, norms, 1), (size * norms)[..., 0]


def _positive(values: Array) -> Array:
    return jnp.maximum(values, jnp.finfo(values.dtype).tiny)


def _cosines(zeros: Array, ones: Array, seen: Array) -> Array:
    """Cosines `[..., T, K]` of the rows to those of label 0 less those of label 1."""
    return jnp.sum(_polar(zeros - ones)[0] * _polar(seen)[0], axis=-1)


def _vote(zeros: Array, ones: Array, seen: Array) -> Array:
    """Mean cosines `[K]` over the points and the steps; below 0 says 1. Arrays `[M, T, K, F]`."""
    observed = jnp.any(seen != 0, axis=-1)
    cosines = jnp.mean(_cosines(zeros, ones, seen), axis=0)
    count = jnp.sum(observed, axis=0)
    mean = jnp.sum(jnp.where(observed, cosines, 0), axis=0) / jnp.maximum(count, 1)
    small, large = (jnp.sum(rows**2, axis=(0, 1, 3)) for rows in (ones, zeros))
    return jnp.where(
        count > 0, mean, jnp.where(small < large, -1.0, jnp.where(small > large, 1.0, 0))
    )


def _side(values: Array, where: Array, share: float) -> Array:
    """The sign `[]` for `values [K]` with which about `share` of those `where` are above 0."""
    expected = share * jnp.sum(where)
    above, below = jnp.sum(values > 0), jnp.sum(values < 0)
    return jnp.where(jnp.abs(above - expected) > jnp.abs(below - expected), -1, 1)


def _answer(transcript: Transcript, cosines: Array, private: PyTree, objective: Array) -> Answer:
    """From cosines `[K]` to what speaks for label 0."""
    where = priors.candidates(transcript)
    scores = jnp.where(where, jnp.clip((1 - cosines) / 2, 0, 1), 0)
    return Answer(scores, (cosines < 0) & where, private, objective)


def _flatten(latent: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Private states `[T, ...]` as `[T, P]`, and the way back."""
    first = jax.tree.map(lambda leaf: leaf[0], latent)
    unravel = jax.flatten_util.ravel_pytree(first)[1]
    flat = jax.vmap(lambda state: jax.flatten_util.ravel_pytree(state)[0])(latent)
    return flat, jax.vmap(unravel)
