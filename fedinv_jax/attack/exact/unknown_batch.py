"""The exact attack on an unknown batch: which items a client trained on, with which labels.

If only the scorer's gradient is seen, every item of the catalogue is a candidate. With the private
state p of each step in closed form, the gradient of a mean loss over B items is

    B seen_t = sum_i n_i g_t(i, 0) + s_i g_t(i, 1),   n_i, s_i in {0, 1}, not both 1,

where n marks negatives, s positives, and g_t(i, y) is the upload of a batch of item i alone. With
`v_i = g_t(i, 0) - g_t(i, 1)`, a loss like BCE has `g_t(i, 0) = a_i v_i` and
`g_t(i, 1) = -(1 - a_i) v_i`. Each item has few states, and public popularity is their prior.
Expectation propagation finds the probabilities of all states, and B, at a decreasing noise level.
"""

import itertools
from functools import partial
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import dynamics, whitening
from fedinv_jax.attack.exact import embedding, expectation_propagation, label_solve
from fedinv_jax.attack.exact.expectation_propagation import Point, Proposal
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.types import Answer, Array, Batch, Key, PyTree, Transcript

ROWS = 640
"""Number of equations that are kept, each a random sum of entries of the uploads."""

_RATE = 0.08  # share of the candidates in the batch, at the start
_COOLING = 0.75  # factor of the noise level per iteration, from the size of what was seen
_FASTEST = 1.2  # largest factor by which B changes per iteration
_ITERATIONS = 40
_MOST_FRESH = 8  # most steps if negatives are resampled


class Steps(NamedTuple):
    """T whitened uploads as R equations each in the states of N candidates.

    Attributes:
        columns: float `[T, N, R]`, the `v_i` of each step.
        seen: float `[T, R]`.
        share: float `[T, N]`, `a_i`: a negative adds `a_i v_i / B`, a positive `(a_i - 1) v_i / B`.
    """

    columns: Array
    seen: Array
    share: Array


class Found(NamedTuple):
    """What `recover` finds of one client.

    Attributes:
        members: float `[1, N]`, probability of being in the batch, or `[T, N]` in each step's.
        positives: float `[N]`, probability of being a positive.
        residual: float `[]`, mean square of the whitened residual of the likeliest states; inf
            where there is none.
    """

    members: Array
    positives: Array
    residual: Array


class _Unknowns(NamedTuple):
    """The unknowns x_i of each candidate i in `B seen = sum_i columns_i' x_i`.

    Attributes:
        columns: float `[N, E, M]`, M = T R.
        states: float `[N, S, E]`, the values of x_i; first 'outside the batch', last 'positive'.
        members: float `[1, S]`, 1 for states in the batch, or `[T, S]` in each step's batch.
    """

    columns: Array
    states: Array
    members: Array


def _unknowns(steps: Steps, fresh: bool) -> _Unknowns:
    num_steps, size, rows = steps.columns.shape
    share = steps.share[:, :, None]
    if num_steps == 1:  # n and s of an item share one column
        states = jnp.stack([0 * share[0], share[0], share[0] - 1], 1)
        columns, members = steps.columns[0][:, None], jnp.array([[0.0, 1.0, 1.0]])
        return _Unknowns(columns, states, members)
    negative, positive = share * steps.columns, (share - 1) * steps.columns
    if fresh:  # one n per step, which only that step's equations contain, and s
        batches = [(*each, 0.0) for each in itertools.product((0.0, 1.0), repeat=num_steps)]
        kinds = jnp.array([*batches, (0.0,) * num_steps + (1.0,)])
        own = jnp.eye(num_steps)[:, :, None, None] * negative
    else:
        kinds, own = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), negative[None]
    columns = jnp.concatenate([own, positive[None]])  # [E, T, N, R]
    columns = jnp.moveaxis(columns, 2, 0).reshape(size, -1, num_steps * rows)
    states = jnp.broadcast_to(kinds, (size, *kinds.shape))
    return _Unknowns(columns, states, (kinds[:, :-1] + kinds[:, -1:]).T)


def _log_prior(unknowns: _Unknowns, log_odds: Array, positives: float, size: Array) -> Array:
    """Log probabilities `[N, S]` of the states in a batch of `size` items."""
    chance = jax.nn.sigmoid(log_odds)
    positive = jnp.clip(size * positives * chance / jnp.sum(chance), 1e-6, 0.5)[:, None]
    negative = jnp.clip(size * (1 - positives) / len(log_odds), 1e-6, 0.5)
    inside = unknowns.members[:, :-1]
    each = jnp.sum(inside * jnp.log(negative) + (1 - inside) * jnp.log(1 - negative), 0)
    others = jnp.log(1 - positive) + each
    return jnp.concatenate([others, jnp.log(positive)], 1)


def _apply(matrices: Array, vectors: Array) -> Array:
    """Products `[N, E]` of `[N, E, E]` and `[N, E]`."""
    return jnp.einsum('nef,nf->ne', matrices, vectors)


def _moments(weights: Array, states: Array, least: float | Array) -> tuple[Array, Array]:
    """Means `[N, E]` and inverse covariances `[N, E, E]` of states with these probabilities."""
    mean = jnp.einsum('ns,nse->ne', weights, states)
    centred = states - mean[:, None]
    covariance = jnp.einsum('ns,nse,nsf->nef', weights, centred, centred)
    return mean, jnp.linalg.inv(covariance + least * jnp.eye(states.shape[2], dtype=states.dtype))


def recover(steps: Steps, log_odds: Array, fresh: bool = False, positives: float = 0.2) -> Found:
    """Batch and positives of one client, by expectation propagation.

    See `expectation_propagation`: a Gaussian factor replaces the states of each item. At each noise
    level, B maximises `p(seen)` under these factors.

    Args:
        steps: see `Steps`.
        log_odds: float `[N]`, public log odds that an item is an interaction; only ratios matter.
        fresh: whether each step draws its own negatives, always as many; an item then has
            `2**T + 1` states.
        positives: public share of interactions in a batch.

    Returns:
        The probabilities.

    Raises:
        ValueError: if T is above 8 and the negatives are resampled.

    Example:
        >>> import numpy as np
        >>> columns = jnp.asarray(np.random.default_rng(0).normal(size=(1, 20, 12)))
        >>> seen = 1e4 * (columns[:, 3] - columns[:, 5]) / 2 / 2
        >>> found = recover(Steps(1e4 * columns, seen, jnp.full((1, 20), 0.5)), jnp.zeros(20))
        >>> np.flatnonzero(found.members[0] > 0.5).tolist(), int(found.positives.argmax())
        ([3, 5], 5)
    """
    if fresh and len(steps.seen) > _MOST_FRESH:
        raise ValueError(
            f'Expected at most {_MOST_FRESH} steps of resampled negatives, got {len(steps.seen)}.'
        )
    system = _system(steps, fresh)
    num_items, states = len(system.columns), system.unknowns.states
    prior = partial(_log_prior, system.unknowns, log_odds, positives)

    def update(point: Point, level: Array) -> Proposal:
        size = point.memory
        pull, cut, likely_size = _cavity(system, point, level)
        tilt = states @ pull[:, :, None]
        tilt -= jnp.sum((states @ cut) * states, 2, keepdims=True) / 2
        weights = jax.nn.softmax(prior(size) + tilt[:, :, 0], 1)
        least = expectation_propagation.LEAST + expectation_propagation.SOFT * level**2
        mean, inverse = _moments(weights, states, least)
        change = inverse - (cut + jnp.swapaxes(cut, 1, 2)) / 2 - point.precision
        change_shift = _apply(inverse, mean) - pull - point.shift
        proper = jnp.min(jnp.linalg.eigvalsh(point.precision + change), 1) > 0
        proper &= jnp.all(jnp.isfinite(change_shift), 1)
        likely_size = jnp.clip(likely_size, size / _FASTEST, size * _FASTEST)
        likely_size = jnp.clip(likely_size, 1.0, num_items)
        return Proposal(change, change_shift, proper, likely_size, *_score(system, weights))

    size = jnp.asarray(_RATE * num_items, system.columns.dtype)
    mean, precision = _moments(jnp.exp(prior(size)), states, expectation_propagation.LEAST)
    none = jnp.zeros((len(system.unknowns.members), num_items), system.columns.dtype)
    infinite = jnp.full((), jnp.inf, system.columns.dtype)
    start = Point(precision, _apply(precision, mean), size, (none, none[0]), infinite)
    end = expectation_propagation.propagate(update, start, _COOLING, _ITERATIONS)
    members, likely = end.found
    return Found(members, likely, end.residual)


class _System(NamedTuple):
    """The equations `B seen = sum_i columns_i' x_i`, scaled so that all steps weigh the same.

    Attributes:
        unknowns: the x_i.
        columns: float `[N, E, M]`, the columns of the unknowns divided by `unit`.
        seen: float `[M]`, what was seen divided by `unit`.
        unit: float `[M]`, root mean square of what was seen at the equation's step.
    """

    unknowns: _Unknowns
    columns: Array
    seen: Array
    unit: Array


def _system(steps: Steps, fresh: bool) -> _System:
    unknowns = _unknowns(steps, fresh)
    rms = jnp.sqrt(jnp.mean(steps.seen**2, 1, keepdims=True))
    unit = jnp.broadcast_to(rms, steps.seen.shape).reshape(-1)
    return _System(unknowns, unknowns.columns / unit, steps.seen.reshape(-1) / unit, unit)


def _score(system: _System, weights: Array) -> tuple[tuple[Array, Array], Array]:
    """`Found.members` and `.positives` from `weights [N, S]`; the residual at the best B."""
    unknowns, columns = system.unknowns, system.columns
    x = jnp.take_along_axis(unknowns.states, jnp.argmax(weights, 1)[:, None, None], 1)
    predicted = x.reshape(-1) @ columns.reshape(-1, columns.shape[2])
    square = jnp.sum(predicted**2)
    scale = predicted @ system.seen / jnp.where(square > 0, square, 1)
    left = jnp.mean(((scale * predicted - system.seen) * system.unit) ** 2)
    return (unknowns.members @ weights.T, weights[:, -1]), left


def _cavity(system: _System, point: Point, level: Array) -> tuple[Array, Array, Array]:
    """The cavity distribution of each item, `exp(-x'cut x / 2 + pull'x)`, and the likeliest B.

    Returns:
        `pull [N, E]`, `cut [N, E, E]`, the size `[]`.
    """
    columns, size = system.columns, point.memory
    flat = columns.reshape(-1, columns.shape[2])
    noise = size * jnp.maximum(level, 1 / system.unit)
    variance = jnp.linalg.inv(point.precision)
    mean = _apply(variance, point.shift)
    scaled = jnp.einsum('nef,nfm->nem', variance, columns).reshape(flat.shape)
    factor = jnp.linalg.cholesky(scaled.T @ flat + jnp.diag(noise**2))
    solve = partial(jax.scipy.linalg.solve_triangular, factor, lower=True)
    image = solve(flat.T).T.reshape(columns.shape)
    target, predicted = solve(system.seen), solve(mean.reshape(-1) @ flat)
    # In this form nothing cancels.
    info = jnp.einsum('nem,nfm->nef', image, image)
    back = jnp.linalg.inv(jnp.eye(columns.shape[1], dtype=columns.dtype) - info @ variance)
    pull = _apply(back, _apply(info, mean) + image @ (size * target - predicted))
    noise_left = noise * solve(size * target - predicted, trans=1)
    return pull, back @ info, _size(target, predicted, jnp.sum(variance * info), noise_left)


def _size(target: Array, predicted: Array, known: Array, noise: Array) -> Array:
    """The B of largest `p(seen | B)`, where `B target - predicted` has unit variance.

    The noise is proportional to B. So `known + |noise|^2 = B target'(B target - predicted)` holds,
    with the number of equations that the factors explain, `known`, instead of M.
    """
    square, inner = jnp.sum(target**2), target @ predicted
    return (inner + jnp.sqrt(inner**2 + 4 * square * (known + jnp.sum(noise**2)))) / (2 * square)


def unknown_batch(known: Known, rows: int = ROWS) -> Attack:
    """The attack on the scorer's gradient when the batch is not known.

    Args:
        known: what the attacker knows; the embedding recovery must have a bias.
        rows: number of equations that are kept, over all steps.

    Returns:
        `attack(transcript, key) -> Answer`; the key is not used. The candidates must be all items
        that the client may have, each once, with equal weights in its mean loss. The objective is
        the mean square of the whitened residual, NaN where nothing was uploaded.

    Raises:
        ValueError: if the client's upload is not affine in the labels and separable, or does not
            determine the private state.
    """
    label_solve.require_affine(known.structure)
    if known.recovery is None or known.recovery.bias is None:
        raise ValueError(
            'Recovery of an unknown batch needs the kernel and the bias of a layer that multiplies '
            "the private embedding, and none is seen; use attack.name='mgradinv'."
        )
    exact = partial(embedding.exact, known.recovery)
    if not known.structure.separable:
        raise ValueError(
            'Recovery of an unknown batch needs an upload that is a sum over the items; use '
            "attack.name='mgradinv'."
        )

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        latent = jax.vmap(exact)(transcript.seen)
        steps = steps_of(known, transcript, latent, rows // len(latent))
        found = recover(steps, transcript.log_odds, known.resample_negatives, known.positives)
        ok = jnp.isfinite(found.residual) & jnp.all(jnp.isfinite(latent))
        return Answer(
            jnp.where(ok, found.positives, 0),
            ok & (found.positives > 0.5),
            tree.take(latent, 0),
            jnp.where(ok, found.residual, jnp.nan),
        )

    return attack


def steps_of(known: Known, transcript: Transcript, latent: Array, rows: int = ROWS) -> Steps:
    """The whitened uploads, and what each candidate adds to them, from batches of one item.

    Args:
        known: see `unknown_batch`.
        transcript: without weights.
        latent: float `[T, D]`, the private states.
        rows: most equations per step; more entries are reduced to sums with random signs.
    """
    hypothesis = dynamics.free(known.init_private, len(latent))
    deviation = whitening.deviations(
        transcript, known.client_update, known.observation, hypothesis, latent, known.rounding
    )
    excluded = known.recovery.kernel if known.recovery else None

    def flat(values: PyTree, deviations: PyTree) -> Array:
        """The leaves divided by their deviations, `[R]`, without the kernel that determines p."""
        leaves = flax.traverse_util.flatten_dict(values, sep='/')
        scales = flax.traverse_util.flatten_dict(deviations, sep='/')
        entries = jnp.concatenate(
            [(leaves[k] / scales[k]).ravel() for k in leaves if k != excluded]
        )
        if len(entries) <= rows:
            return entries
        order, sign = jax.random.split(jax.random.key(0))
        place = jax.random.permutation(order, jnp.arange(len(entries)) % rows)
        signed = entries * jax.random.rademacher(sign, entries.shape, entries.dtype)
        totals = jax.ops.segment_sum(jnp.stack([signed, entries**0], 1), place, rows)
        return totals[:, 0] / jnp.sqrt(totals[:, 1])  # of unit variance again

    def step(arguments: tuple[PyTree, Array, PyTree, PyTree]) -> Steps:
        shared, private, seen, deviations = arguments

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
        # An item without a gradient cannot be distinguished from one outside the batch.
        share = jnp.where(square > 0, share, 0.5)
        return Steps(columns, flat(seen, deviations), share)

    return jax.lax.map(step, (transcript.shared, latent, transcript.seen, deviation))
