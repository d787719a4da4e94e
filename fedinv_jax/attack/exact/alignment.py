"""Exact attacks that search for private states whose predicted item rows align with the seen ones.

The direction of an item row depends on the private state through the ReLUs that are on
(`item_rows`), its length through the logit. A search finds private states whose rows match.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from fedinv_jax import _validate, tree
from fedinv_jax.attack import candidates, gauss_newton, inversion
from fedinv_jax.attack.exact import (
    certificate,
    compare,
    consistency,
    embedding,
    item_rows,
    private_fit,
    problems,
)
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.attack.inversion import Inversion, State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Guess, Key, Transcript

_SEARCH = 60  # most iterations of the search for aligned rows
# Around an approximate p: powers of 2 tried as lengths, width and iterations of the search.
_LENGTHS, _WIDTH, _REFINE = range(-1, 7), 0.4, 10
# Of Gauss-Newton on the replayed client: iterations, and most numbers in its derivatives.
_NEWTON, _LARGEST = 8, 5e7
_EXPLAINED = 1e-2  # squared residual, relative to what was seen, at which its answer is taken
# Bound on the absolute log ratio of row norms: it is finite for a predicted row of zeros.
_LOG_RATIO = 20.0
_DAMPING = 1e-5
# Longest step, in widths of the stencil, and by how much a width may shrink or grow.
_REACH = 1.0
_SHRINK, _GROW = 0.2, 1.1
# The width at which a search ends, and the least width, relative to the first.
_DONE, _LEAST = 1e-6, 1e-7


def sign(known: Known) -> Attack:
    """`item_rows.sign` at private states of zero."""

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        problem = problems.free_problem(known, transcript)
        latent = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)).latent)
        return item_rows.sign(problem, transcript, latent)

    return attack


def approximate_embedding(known: Known) -> Attack:
    """`item_rows.sign` near private states that a leaf determines approximately.

    After several local steps the kernel's leaf is still close to a multiple of the product of p and
    the bias's leaf, which determines the direction of p. The lengths tried are the one by these
    leaves, and 1/2 to 64 times the length of a fresh p. The best of these p by the objective of
    `item_rows.sign` starts `direction_search`. From the better of start and end, `gauss_newton` on
    the replayed client looks for labels and p that explain all that was seen. If it fails, the
    labels are those by the side of each row. The objective is that of `item_rows.sign`.

    Raises:
        ValueError: if no item rows, or no kernel and bias of a layer that multiplies p, are seen.
    """
    if (
        known.approximate_recovery is None
        or known.approximate_recovery.bias is None
        or not known.structure.items
    ):
        raise ValueError(
            'approximate_embedding needs item rows, and the kernel and the bias of a layer that '
            'multiplies p.'
        )
    found = known.approximate_recovery

    def attack(transcript: Transcript, key: Key) -> Answer:
        free = problems.free_problem(known, transcript)

        def best(latents: Array) -> tuple[Array, Answer]:
            answers = jax.lax.map(lambda latent: item_rows.sign(free, transcript, latent), latents)
            index = jnp.argmin(answers.objective)
            return latents[index], tree.take(answers, index)

        raw = jnp.nan_to_num(jax.vmap(lambda seen: embedding.exact(found, seen))(transcript.seen))
        size = jnp.linalg.norm(raw, axis=-1, keepdims=True)
        fresh = raw / jnp.where(size > 0, size, 1) * problems.typical_norm(known).astype(raw.dtype)
        near, answer = best(jnp.stack([raw, *(2.0**power * fresh for power in _LENGTHS)]))
        guess = Guess(answer.labels.astype(near.dtype), None, near)
        solver = direction_search(transcript, _WIDTH * jnp.linalg.norm(near, axis=-1))
        state = inversion.search(free._replace(init=lambda key: guess), solver, key, _REFINE)
        latent, answer = best(jnp.stack([near, state.guess.latent]))
        answer = answer._replace(private=latent[0])
        if len(transcript.items) * tree.ravel(transcript.seen).size > _LARGEST:  # padding counts
            return answer
        guess = Guess(answer.labels.astype(near.dtype), None, latent)
        solver = gauss_newton.gauss_newton()
        state = inversion.search(free._replace(init=lambda key: guess), solver, key, _NEWTON)
        exact = state.guess.labels
        explained = state.objective < _EXPLAINED * len(transcript.rounds)
        return answer._replace(
            scores=jnp.where(explained, exact, answer.scores),
            labels=jnp.where(explained, exact > 0.5, answer.labels),
            private=jnp.where(explained, state.guess.latent[0], latent[0]),
        )

    return attack


def aligned(known: Known) -> Attack:
    """`direction_search` for the private states whose predicted rows align with the seen ones.

    Starts from states of zero. `compare.likeliest` compares the labels found with others. The
    certificate treats the private states as unknown; it is withdrawn unless the flipped labels were
    refuted, and for a client with a symmetry.
    """
    width = float(problems.typical_norm(known))

    def attack(transcript: Transcript, key: Key) -> Answer:
        free = problems.free_problem(known, transcript)
        zero = jax.tree.map(jnp.zeros_like, free.init(key))
        start = free._replace(init=lambda key: zero)
        state = inversion.search(start, direction_search(transcript, width), key, _SEARCH)
        answer = start.answer(state.guess, state.objective)
        problem = problems.whitened_problem(known, transcript, state.guess.latent)
        own = state.guess._replace(labels=answer.labels.astype(answer.scores.dtype))
        drawn = free.init(jax.random.fold_in(key, 1)).latent
        guess, refuted = compare.likeliest(known, transcript, problem, own, drawn)
        found = certificate.certify_unknown_private(known, problem, guess, transcript)
        ambiguous = ~refuted | bool(known.symmetries)
        return answer._replace(
            scores=jnp.where(jnp.all(guess.labels == own.labels), answer.scores, guess.labels),
            labels=guess.labels > 0.5,
            private=tree.take(guess.latent, 0),
            certificate=found and certificate.unless(found, ambiguous),
            fits=consistency.fits(tree.ravel(problem.residual(guess)), optax.tree.size(guess)),
        )

    return attack


class Memory(NamedTuple):
    """Memory of `direction_search`.

    Attributes:
        centre: float `[T, P]`, the private states around which the stencil lies.
        width: float `[T]`, the half width of the stencil.
        labels: bool `[K]`, the labels at the centre.
        key: PRNG key of the stencil's rotations.
        end: float `[T]`, the width at which the search ends.
    """

    centre: Array
    width: Array
    labels: Array
    key: Key
    end: Array


def direction_search(transcript: Transcript, width: float | Array) -> Inversion:
    """A solver that alternates between the rows' labels and Gauss-Newton steps in private states.

    For given labels, the direction of a row depends on the ReLUs that are on, its length on the
    logit. The residual of a row holds the difference between its direction and that of the
    predicted row, and the difference of the logs of their lengths. The residual jumps in p, so that
    its derivatives are of no use. Central differences along a randomly rotated orthonormal basis
    replace them, at first as wide as p is uncertain. The width follows the length of the steps:
    where rows are matched exactly, the differences become derivatives and the steps Newton steps.
    Rows that are not matched yet weigh less (Cauchy's weights).

    The hypothesis must be `dynamics.free`: each step has its own private state, and the labels are
    common to all steps. The labels of `problem.init` are only a start. The objective of a state is
    the geometric mean of the squared residuals of the rows.

    Args:
        transcript: of one client, item rows seen; the problem must be made from it, with
            `relax.identity()`.
        width: half width of the first stencil, `[]` or `[T]`: the approximate error of the private
            states of `problem.init`.

    Returns:
        The solver; an iteration replays the client `4 P` times for P private parameters.

    Raises:
        ValueError: if a Python `width` is not positive; if no item rows are seen.

    References:
        Arasaratnam, Haykin, Cubature Kalman filters, IEEE Transactions on Automatic Control 54(6),
        2009, doi:10.1109/TAC.2009.2019800 (the stencil, and what it linearises).
        Holland, Welsch, Robust regression using iteratively reweighted least-squares,
        Communications in Statistics 6(9), 1977, doi:10.1080/03610927708827533.
    """
    if isinstance(width, int | float):
        _validate.check_range('width', width, above=True)
    target = _target(transcript)

    def init(problem: Problem, key: Key) -> State:
        start_key, key = jax.random.split(key)
        guess = problem.init(start_key)
        centre, _ = private_fit.flatten(guess.latent)
        widths = jnp.broadcast_to(jnp.asarray(width, centre.dtype), len(centre))
        memory = Memory(centre, widths, guess.labels > 0.5, key, _DONE * widths)
        return State(guess, jnp.asarray(jnp.inf, centre.dtype), jnp.asarray(False), memory)

    def update(problem: Problem, state: State) -> State:
        centre, width, labels, key, end = state.memory
        key, basis_key = jax.random.split(key)
        basis = _random_basis(basis_key, centre)
        _, unflatten = private_fit.flatten(state.guess.latent)

        def predict(labels: Array, latent: Array) -> Array:
            guess = Guess(labels.astype(latent.dtype), None, unflatten(latent))
            return item_rows.rows_of(transcript, problem.predict(guess))

        zeros, ones = _both_labels(predict, labels, _stencil(centre, width, basis))
        vote = item_rows.vote(zeros, ones, target.rows)
        labels = (vote < 0) & target.where
        mean, slopes = _residuals(target, jnp.where(labels[:, None], ones, zeros))
        squares = jnp.sum(mean**2, axis=-1)
        objective, by_step = _geometric_means(target, squares)
        cauchy = 1 + squares / item_rows.positive(by_step)[:, None]
        weights = target.known / cauchy
        move = _weighted_step(mean, slopes, weights)
        length = jnp.linalg.norm(move, axis=-1)
        move = move * jnp.minimum(1, _REACH / item_rows.positive(length))[:, None]
        moved = centre + width[:, None] * jnp.einsum('ta,tap->tp', move, basis)
        width = jnp.maximum(width * jnp.clip(2 * length, _SHRINK, _GROW), _LEAST / _DONE * end)
        scores = jnp.where(target.where, jnp.clip((1 - vote) / 2, 0, 1), 0)
        best = inversion.keep_best(state, Guess(scores, None, unflatten(centre)), objective)
        new = best._replace(
            done=jnp.all(width < end), memory=Memory(moved, width, labels, key, end)
        )
        return inversion.advance(state, new, jnp.isfinite(objective))

    return Inversion(init, update)


class _Target(NamedTuple):
    """Seen rows `[T, K, F]`, their directions, their norms `[T, K]`.

    `where [K]` is False for padding, `known [T, K]` also for rows of zeros.
    """

    rows: Array
    units: Array
    norms: Array
    where: Array
    known: Array


def _target(transcript: Transcript) -> _Target:
    seen = item_rows.rows_of(transcript, transcript.seen)
    units, norms = item_rows.polar(seen)
    where = candidates.mask(transcript)
    return _Target(seen, units, norms, where, where & (norms > 0))


def _random_basis(key: Key, centre: Array) -> Array:
    """Randomly rotated orthonormal bases `[T, P, P]`, one per step, for centres `[T, P]`."""
    steps, size = centre.shape
    normal = jax.random.normal(key, (steps, size, size), jnp.float32)
    return jnp.linalg.qr(normal.astype(centre.dtype))[0]


def _stencil(centre: Array, width: Array, basis: Array) -> Array:
    """The points `[2 P, T, P]` at distance `width` on both sides of the centres `[T, P]`."""
    offsets = width[:, None, None] * jnp.concatenate([basis, -basis], axis=1)  # [T, 2 P, P]
    return centre + jnp.moveaxis(offsets, 1, 0)


def _both_labels(
    predict: Callable[[Array, Array], Array], labels: Array, points: Array
) -> tuple[Array, Array]:
    """The rows `[2 P, T, K, F]` at the points, for label 0 and for label 1 of each candidate."""
    this, other = (jax.vmap(lambda p, y=y: predict(y, p))(points) for y in (labels, ~labels))
    at = labels[:, None]
    return jnp.where(at, other, this), jnp.where(at, this, other)


def _residuals(target: _Target, rows: Array) -> tuple[Array, Array]:
    """The mean residual `[T, K, F + 1]` of rows `[2 P, T, K, F]`, and P central differences.

    A row's residual holds the differences of the directions and of the logs of the lengths.
    """
    predicted, lengths = item_rows.polar(rows)
    ratio = jnp.log(item_rows.positive(lengths)) - jnp.log(item_rows.positive(target.norms))
    ratio = jnp.clip(ratio, -_LOG_RATIO, _LOG_RATIO)
    residuals = jnp.concatenate([predicted - target.units, ratio[..., None]], axis=-1)
    residuals = jnp.where(target.known[..., None], residuals, 0)
    size = len(rows) // 2
    return jnp.mean(residuals, axis=0), (residuals[:size] - residuals[size:]) / 2


def _geometric_means(target: _Target, squares: Array) -> tuple[Array, Array]:
    """Geometric means of the rows' squared residuals `[T, K]`: of all, `[]`, and by step, `[T]`."""
    count = jnp.maximum(jnp.sum(target.known, axis=-1), 1)
    logs = jnp.where(target.known, jnp.log(squares + 1e-30), 0)
    return jnp.exp(jnp.sum(logs) / jnp.sum(count)), jnp.exp(jnp.sum(logs, axis=-1) / count)


def _weighted_step(mean: Array, slopes: Array, weights: Array) -> Array:
    """The Gauss-Newton step `[T, P]` along the basis, in widths, for weights `[T, K]` of rows."""
    gram = jnp.einsum('atkf,tk,btkf->tab', slopes, weights, slopes)
    rhs = jnp.einsum('atkf,tk,tkf->ta', slopes, weights, mean)
    trace = item_rows.positive(jnp.trace(gram, axis1=1, axis2=2))[:, None, None]
    damped = gram / trace + _DAMPING / len(slopes) * jnp.eye(len(slopes), dtype=gram.dtype)
    return -jnp.linalg.solve(damped, (rhs / trace[..., 0])[..., None])[..., 0]
