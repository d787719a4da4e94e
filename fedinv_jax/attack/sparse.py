"""Which items a client trained on, and which of them are interactions: the batch is not known.

Where only the scorer's gradient is seen, every item of the catalogue is a candidate. With the
private state p of each step in closed form, the gradient of a mean loss over B items is

    seen_t = sum_i n_i g_t(i, 0) + s_i g_t(i, 1),   n, s in {0, 1/B}, sum(n) + sum(s) = 1,

n marking negatives, s positives, and g_t(i, y) the upload of a batch of item i alone. For a loss
like BCE `g_t(i, 0) = a_i v_i` and `g_t(i, 1) = -(1 - a_i) v_i`, `v_i = g_t(i, 0) - g_t(i, 1)`: one
N by N Gram matrix a step holds all that is needed. A box-constrained least-squares problem leaves
few candidates; a second one, and a discrete descent with 1/B profiled, decide among them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import dynamics, labels, leak, objective, quadratic
from fedinv_jax.types import Answer, Array, Batch, Key, PyTree, Transcript

KEPT = 400
"""Candidates that the first solve leaves to the others."""

_LEAST = 5.0  # smallest batch that the first box allows for
_ROUNDS = 1
_COARSE = 1e4  # signal to noise ratio that the first solve assumes
_MOVES = 60


class Steps(NamedTuple):
    """What T whitened uploads of R numbers say of N candidates.

    Attributes:
        columns: float `[T, N, R]`, the `v_i` of each step.
        seen: float `[T, R]`.
        share: float `[T, N]`, `a_i`: a negative adds `a_i v_i / B`, a positive `(a_i - 1) v_i / B`.
    """

    columns: Array
    seen: Array
    share: Array


class Found(NamedTuple):
    """Of one client: batch and positives bool `[N]`, scores `[N]`, mean square left over."""

    members: Array
    positives: Array
    scores: Array
    residual: Array


def _system(steps: Steps, fresh: bool) -> tuple[Array, Array]:
    """Normal equations in `x = (n of each step, s)`, or `(n, s)` where all steps share n.

    `sum(n) + sum(s) = 1` of each step is one more equation, of a weight like the others'.
    """
    num_steps = len(steps.seen)
    total_gram: Array = jnp.zeros(())
    total_rhs: Array = jnp.zeros(())
    for t in range(num_steps):
        gram, rhs, counts = _entries(steps, t, num_steps + 1 if fresh else 2, fresh)
        weight = jnp.mean(jnp.sum(steps.columns[t] ** 2, -1))
        total_gram = total_gram + gram + weight * counts[:, None] * counts[None, :]
        total_rhs = total_rhs + rhs + weight * counts
    return total_gram, total_rhs


def _batch_size(x: Array) -> Array:
    """B from soft x, whose large entries gather at 1/B: their median, weighted by size."""
    order = jnp.argsort(x)
    mass = jnp.cumsum(x[order])
    return 1 / jnp.maximum(x[order][jnp.argmax(mass >= 0.5 * mass[-1])], 1e-9)


def recover(steps: Steps, fresh: bool = False, kept: int = KEPT) -> Found:
    """Batch and positives of one client.

    Args:
        steps: see `Steps`.
        fresh: whether each step has negatives of its own.
        kept: candidates that the first solve leaves.

    Returns:
        The batch of the first step, and the positives of all.
    """
    size = steps.share.shape[1]
    order = jnp.sort(jax.lax.top_k(_evidence(steps, fresh), min(kept, size))[1])
    few = Steps(steps.columns[:, order], steps.seen, steps.share[:, order])
    gram, rhs = _system(few, fresh)
    x = quadratic.box_least_squares(gram, rhs, 0.0, 1 / _LEAST)

    def tighten(_: int, x: Array) -> Array:
        return quadratic.box_least_squares(gram, rhs, 0.0, 1.02 / _batch_size(x))

    x = jax.lax.fori_loop(0, _ROUNDS, tighten, x)
    soft = jnp.clip(x * _batch_size(x), 0, 1).reshape(-1, len(order))
    states = descend(few, soft, fresh)
    members, positives = (states[0] | states[-1]), states[-1]
    residual = _left_over(few, states)

    def spread(values: Array) -> Array:
        return jnp.zeros(size, values.dtype).at[order].set(values)

    # Where the discrete answer is off, the soft one still ranks.
    scores = spread(jnp.where(positives, 0.5 + soft[-1] / 2, soft[-1] / 2))
    return Found(spread(members), spread(positives), scores, residual)


def _left_over(steps: Steps, states: Array) -> Array:
    """Mean square of the whitened residual, directly: the normal equations would cancel it."""
    negatives = jnp.broadcast_to(states[:-1], steps.share.shape)
    weights = steps.share * negatives + (steps.share - 1) * states[-1]
    count = jnp.maximum(jnp.sum(negatives, 1) + jnp.sum(states[-1]), 1)
    predicted = jnp.einsum('tm,tmr->tr', weights, steps.columns) / count[:, None]
    return jnp.mean((predicted - steps.seen) ** 2)


def _evidence(steps: Steps, fresh: bool) -> Array:
    """How much of a convex problem's optimum falls on each of N candidates, `[N]`."""
    num_steps, size, width = steps.columns.shape
    if fresh:
        alone = jax.tree.map(lambda x: x[:, None], steps)
        return jnp.sum(jax.lax.map(lambda step: _evidence(step, False), alone), 0)
    if width >= size:  # as many equations as unknowns: signed coefficients of the v_i, one step
        gram = steps.columns[0] @ steps.columns[0].T
        rhs, share = steps.columns[0] @ steps.seen[0], steps.share[0]
        most = 1 / _LEAST
        return jnp.abs(quadratic.box_least_squares(gram, rhs, (share - 1) * most, share * most))
    used = max(1, min(num_steps, size // (2 * width)))
    rows, seen = [], []
    for t in range(used):
        scale = _COARSE / jnp.sqrt(jnp.mean(steps.seen[t] ** 2))
        share = steps.share[t][:, None]
        rows.append(
            scale * jnp.concatenate([share, share - 1]) * jnp.tile(steps.columns[t], (2, 1))
        )
        seen.append(scale * steps.seen[t])
    weight = jnp.sqrt(jnp.mean(jnp.sum(rows[0] ** 2, 1)))
    matrix = jnp.concatenate([*rows, jnp.full((2 * size, 1), weight)], 1)
    x = _nonnegative(matrix.T, jnp.concatenate([*seen, weight[None]]))
    return jnp.max(x.reshape(2, size), 0)


def _nonnegative(matrix: Array, target: Array) -> Array:
    """The minimiser `[E]` of `|A x - b|` over `x >= 0` for a wide A `[m, E]`, to pruning accuracy.

    An interior point method whose linear systems are m by m.

    References:
        Nocedal, Wright, Numerical optimization, 2nd edition, Springer 2006, algorithm 16.4.
    """

    def length(x: Array, move: Array) -> Array:
        return jnp.minimum(1.0, jnp.min(jnp.where(move < 0, -x / jnp.minimum(move, -1e-300), 1.0)))

    def update(carry: tuple) -> tuple:
        x, dual, iteration, _ = carry
        slope = matrix.T @ (matrix @ x - target) - dual
        gap, spread = x @ dual / len(x), x / dual
        factor = jax.scipy.linalg.cho_factor(
            (matrix * spread) @ matrix.T + jnp.eye(len(target), dtype=matrix.dtype)
        )

        def solve(product: Array) -> tuple[Array, Array]:
            right = spread * (product / x - slope)
            inner = jax.scipy.linalg.cho_solve(factor, matrix @ right)
            move = right - spread * (matrix.T @ inner)
            return move, (product - dual * move) / x

        move, change = solve(-x * dual)
        along, up = length(x, move), length(dual, change)
        after = (x + along * move) @ (dual + up * change) / len(x)
        move, change = solve(gap * (after / gap) ** 3 - x * dual - move * change)
        reach = 0.99 * jnp.minimum(length(x, move), length(dual, change))
        new, new_dual = x + reach * move, dual + reach * change
        ok = jnp.all(jnp.isfinite(new)) & jnp.all(new > 0) & jnp.all(new_dual > 0)
        kept = (jnp.where(ok, new, x), jnp.where(ok, new_dual, dual))
        return *kept, iteration + 1, ~ok | (gap < 1e-4) | (reach < 1e-4)

    size = matrix.shape[1]
    start = jnp.full(size, 1 / size, matrix.dtype)
    dual = jnp.full(size, jnp.max(jnp.abs(matrix.T @ target)), matrix.dtype)
    end = jax.lax.while_loop(
        lambda carry: ~carry[3] & (carry[2] < 50),
        update,
        (start, dual, jnp.asarray(0), jnp.asarray(False)),
    )
    return end[0]


def descend(steps: Steps, soft: Array, fresh: bool = False) -> Array:
    """Descends the squared residual over batches: the best change of one entry or two at a time.

    The entries of `B_t x` are 0 or 1, and `B_t`, the size of the batch, follows from them.

    Args:
        steps: of the M candidates left.
        soft: float `[blocks, M]`, B x, where the start is above 1/2.
        fresh: see `recover`.

    Returns:
        bool `[blocks, M]`.
    """
    entries = [_entries(steps, t, soft.shape[0], fresh) for t in range(len(steps.seen))]
    gram, rhs, counts = (jnp.stack(parts) for parts in zip(*entries, strict=True))

    def value(square: Array, inner: Array, size: Array) -> Array:
        """`|prediction|^2 - 2 prediction'seen`, summed over the steps, of batches of that size."""
        size = jnp.maximum(size, 1.0)
        return square / size**2 - 2 * inner / size

    def changes(x: Array) -> Array:
        """The value once e and f are toggled (e alone on the diagonal), `[E, E]`."""
        sign, total = 1 - 2 * x, jnp.zeros((len(x), len(x)), x.dtype)
        both = sign[:, None] * sign[None, :]
        once = jnp.eye(len(x), dtype=bool)
        for gram_t, rhs_t, counts_t in zip(gram, rhs, counts, strict=True):
            image = gram_t @ x
            square = 2 * sign * image + jnp.diag(gram_t)

            def pairs(change: Array, now: Array) -> Array:
                pair = change[:, None] + change[None, :]
                return now + jnp.where(once, change[:, None], pair)

            squares = pairs(square, x @ image) + jnp.where(once, 0, 2 * both * gram_t)
            inners = pairs(sign * rhs_t, x @ rhs_t)
            total = total + value(squares, inners, pairs(sign * counts_t, x @ counts_t))
        return total

    def at(x: Array) -> Array:
        squares = jnp.einsum('tef,e,f->t', gram, x, x)
        return jnp.sum(value(squares, rhs @ x, counts @ x))

    def update(carry: tuple) -> tuple:
        x, best, _, iteration = carry
        after = changes(x)
        i, j = jnp.unravel_index(jnp.argmin(after), after.shape)
        better = after[i, j] < best - 1e-14 * total_seen
        toggled = x.at[i].set(1 - x[i]).at[j].set(1 - x[j])
        new = jnp.where(better, toggled, x)
        return new, jnp.where(better, after[i, j], best), ~better, iteration + 1

    total_seen = jnp.sum(steps.seen**2)
    start = (soft.reshape(-1) > 0.5).astype(gram.dtype)
    end = jax.lax.while_loop(
        lambda carry: ~carry[2] & (carry[3] < _MOVES),
        update,
        (start, at(start), jnp.asarray(False), jnp.asarray(0)),
    )
    return (end[0] > 0.5).reshape(soft.shape)


def _entries(steps: Steps, t: int, blocks: int, fresh: bool) -> tuple[Array, Array, Array]:
    """Gram `[E, E]`, right side and counts `[E]` of step t in the entries of x, `E = blocks M`."""
    own, share, columns = (t if fresh else 0), steps.share[t], steps.columns[t]
    zero = jnp.zeros((blocks, len(share)), share.dtype)
    factor = zero.at[own].set(share).at[-1].set(share - 1).reshape(-1)
    counts = zero.at[own].set(1).at[-1].set(1).reshape(-1)
    gram = jnp.tile(columns @ columns.T, (blocks, blocks)) * factor[:, None] * factor[None, :]
    return gram, factor * jnp.tile(columns @ steps.seen[t], blocks), counts


def unknown_batch(
    known: Any, fresh_negatives: bool = False, kept: int = KEPT
) -> Callable[[Transcript, Key], Answer]:
    """The attack on the scorer's gradient when the batch is not known.

    Args:
        known: with `client_update`, `observation`, `init_private`, `structure`, `leak` and
            `rounding`, as in `exact.Known`; the leak must be exact.
        fresh_negatives: whether the client draws new negatives at each step.
        kept: candidates that the first solve leaves to the others.

    Returns:
        `attack(transcript, key) -> Answer`; the key is not used. The candidates must be all items
        that the client may have, each once, with equal weights in its mean loss. The objective is
        the mean square of the whitened residual, NaN where nothing was uploaded.

    Raises:
        ValueError: if the client's upload is not affine in the labels, item by item, or does not
            leak the private state.
    """
    labels.require_affine(known.structure)
    if known.leak is None or known.leak.bias is None:
        raise ValueError(
            'unknown_batch needs the kernel and the bias of a layer that multiplies p.'
        )
    if not known.structure.separable:
        raise ValueError('unknown_batch needs a client whose upload is a sum over its items.')

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        latent = jax.vmap(partial(leak.exact, known.leak))(transcript.seen)
        found = recover(steps_of(known, transcript, latent), fresh_negatives, kept)
        ok = jnp.isfinite(found.residual) & jnp.all(jnp.isfinite(latent))
        return Answer(
            jnp.where(ok, found.scores, 0),
            ok & found.positives,
            tree.take(latent, 0),
            jnp.where(ok, found.residual, jnp.nan),
        )

    return attack


def steps_of(known: Any, transcript: Transcript, latent: Array) -> Steps:
    """The whitened uploads and, from batches of one item each, what the candidates add to them.

    Args:
        known: see `unknown_batch`.
        transcript: without weights.
        latent: float `[T, D]`, the private states.
    """
    hypothesis = dynamics.free(known.init_private, len(latent))
    deviation = objective.deviations(
        transcript, known.client_update, known.observation, hypothesis, latent, known.rounding
    )
    spent = known.leak.kernel

    def flat(values: PyTree, deviations: PyTree) -> Array:
        """The leaves over their deviations, `[R]`, without what is spent on p."""
        leaves = flax.traverse_util.flatten_dict(values, sep='/')
        scales = flax.traverse_util.flatten_dict(deviations, sep='/')
        return jnp.concatenate([(leaves[k] / scales[k]).ravel() for k in leaves if k != spent])

    def step(shared: PyTree, private: Array, seen: PyTree, deviations: PyTree) -> Steps:
        def alone(item: PyTree, label: float) -> Array:
            rows = jax.tree.map(lambda leaf: leaf[None], item)
            batch = Batch(None, jnp.full(1, label, private.dtype), jnp.ones(1, private.dtype))
            upload = known.client_update({**shared, 'items': rows}, private, batch)[0]
            state = known.observation.init(upload)
            return flat(known.observation.predict(upload, seen, state)[0], deviations)

        negative = jax.vmap(partial(alone, label=0.0))(shared['items'])
        columns = negative - jax.vmap(partial(alone, label=1.0))(shared['items'])
        square = jnp.sum(columns**2, 1)
        share = jnp.sum(negative * columns, 1) / jnp.where(square > 0, square, 1)
        # An item without a gradient cannot be told from one outside the batch.
        share = jnp.where(square > 0, share, 0.5)
        return Steps(columns, flat(seen, deviations), share)

    return jax.vmap(step)(transcript.shared, latent, transcript.seen, deviation)
