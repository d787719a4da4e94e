"""The attacker's problem: replay the client on a guess and compare the result with what was seen.

min over guess of mean_t distance(predict(rollout(client_update, guess)_t), seen_t)
+ sum_k weight_k prior_k(guess)
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import candidates, distances, dynamics, relax
from fedinv_jax.attack.distances import Distance
from fedinv_jax.attack.dynamics import Dynamics
from fedinv_jax.attack.priors import Prior
from fedinv_jax.attack.relax import Relaxation
from fedinv_jax.types import (
    Answer,
    Array,
    Batch,
    ClientUpdate,
    Guess,
    InitPrivate,
    Key,
    Observation,
    PyTree,
    Transcript,
)


class Columns(NamedTuple):
    """The Jacobian of the whitened uploads in the labels, one column per candidate k.

    Attributes:
        own: leaves `[K, T, ...]` of the entries that only label k moves (its item's row); a tree
            without leaves where no such entries are known.
        common: leaves `[K, T, ...]` of the entries that every label may move.
    """

    own: PyTree
    common: PyTree


class Problem(NamedTuple):
    """An inversion problem as pure functions of a guess; solvers see nothing else.

    Attributes:
        init: `init(key) -> guess`, a starting point.
        predict: `predict(guess) -> predicted [T, ...]`, in the structure of what was seen.
        whiten: `whiten(uploads [T, ...]) -> uploads`, divides each leaf of each step by the
            standard deviation of its noise or, if none is given, each step by the norm of what was
            seen.
        residual: `residual(guess) -> whiten(predicted - seen)`. At the truth its entries are about
            1 if standard deviations are given; if not, its squared norm over T is the normalised
            squared distance.
        objective: `objective(guess) -> []`, what is minimised: the mean distance of the steps, plus
            the penalty.
        answer: `answer(guess, objective) -> Answer`.
        penalty: `penalty(guess) -> []`, the weighted priors.
        columns: `columns(guess, keep) -> kept [K, ...]`, the value of `keep(column)` for each
            candidate, where the column (`Columns` without the axis K) is the derivative of the
            residual in the candidate's label. `keep` saves memory: a Gram matrix needs only a part
            of each column. None where no solver needs columns.
        first: `first(steps) -> problem`, whose objective and residual count the first `steps` of
            the T steps only; its guesses have the unknowns of all. The residual is multiplied by
            `sqrt(T / steps)`. None if steps do not matter.
        extend: `extend(guess, steps) -> guess`, in which the private parameters of all later steps
            are those of the last of the first `steps`.
    """

    init: Callable[[Key], Guess]
    predict: Callable[[Guess], PyTree]
    whiten: Callable[[PyTree], PyTree]
    residual: Callable[[Guess], PyTree]
    objective: Callable[[Guess], Array]
    answer: Callable[[Guess, Array], Answer]
    penalty: Callable[[Guess], Array] = lambda guess: jnp.zeros(())
    columns: Callable[[Guess, Callable[[Columns], PyTree]], PyTree] | None = None
    first: 'Callable[[int | Array], Problem] | None' = None
    extend: Callable[[Guess, int | Array], Guess] = lambda guess, steps: guess


def batches(transcript: Transcript, labels: Array, weights: Array | None) -> Batch:
    """The batches `[S, ...]` for labels `[K]` and, where the batch is unknown, weights `[K]`."""
    steps = transcript.participated.shape[0]
    known = transcript.weights if weights is None else jnp.tile(weights, (steps, 1))
    if transcript.slot is None:
        rows = None if transcript.rows is None else jnp.tile(transcript.rows, (steps, 1))
        return Batch(rows, jnp.tile(labels, (steps, 1)), known)
    return Batch(transcript.slot, labels[transcript.slot], known)


def problem(
    transcript: Transcript,
    client_update: ClientUpdate,
    observation: Observation,
    hypothesis: Dynamics,
    distance: Distance = distances.squared_distance_per_leaf,
    weighted_priors: Sequence[tuple[float, Prior]] = (),
    relaxation: Relaxation | None = None,
    label_scale: float = 0.025,
    deviation: PyTree | None = None,
    separable: bool = False,
) -> Problem:
    """MGradInv's problem: labels and private parameters are unknown, T uploads constrain them.

    T = 1 is the single-gradient attack of the literature.

    Args:
        transcript: what the server holds of one client; leaves may be tracers.
        client_update: the client's own update, as the attacker knows it.
        observation: the channel; its `init` and `predict` are used.
        hypothesis: what is assumed about the private parameters between the steps.
        distance: between the predicted and the seen upload of one step; per leaf by default.
        weighted_priors: pairs of weight and prior.
        relaxation: of the labels (and of an unknown batch's weights); None: `relax.sigmoid()`.
        label_scale: standard deviation of the labels at the start, around 1/2.
        deviation: standard deviations of the uploads' noise, leaves `[T]`, see
            `whitening.deviations`; None: the norm of each step's upload.
        separable: whether each label moves the uploads as it would in a batch of its item alone
            (one gradient of a mean loss, see `exact.structure`); `columns` then costs one pass
            over the batch.

    Returns:
        The problem.

    References:
        Deng, Liu, Tang, Zhao, Twice the gradient, twice the privacy risk in federated learning?
        A case study of federated recommendation systems, ICDM 2025, pp. 199-207 (MGradInv).
        Zhu, Liu, Han, Deep leakage from gradients, NeurIPS 2019, arXiv:1906.08935 (T = 1).
    """
    relaxation = relaxation or relax.sigmoid()
    if deviation is None:
        deviation = jax.vmap(distances.scale)(transcript.seen)
    replayed = partial(replay, client_update, observation, hypothesis)
    decode = partial(_decode, relaxation)
    whiten = partial(_whiten, deviation)

    def init(key: Key) -> Guess:
        return _draw(transcript, hypothesis, relaxation, label_scale, key)

    def predict(guess: Guess) -> PyTree:
        labels, weights = decode(guess)
        return replayed(transcript, labels, guess.latent, weights)

    def residual(guess: Guess) -> PyTree:
        return whiten(optax.tree.sub(predict(guess), transcript.seen))

    def columns(guess: Guess, keep: Callable[[Columns], PyTree]) -> PyTree:
        if not separable or transcript.slot is not None or transcript.rows is not None:
            return _columns(residual, guess, keep)
        labels, _ = decode(guess)
        return _separable_columns(replayed, whiten, transcript, labels, guess.latent, keep)

    def objective(guess: Guess, counted: Array | None = None) -> Array:
        gaps = jax.vmap(distance)(predict(guess), transcript.seen)
        return jnp.mean(gaps, where=counted) + penalty(guess)

    def penalty(guess: Guess) -> Array:
        labels, _ = decode(guess)
        return sum(
            (weight * prior(labels, guess.latent, transcript) for weight, prior in weighted_priors),
            jnp.zeros((), labels.dtype),
        )

    def answer(guess: Guess, value: Array) -> Answer:
        labels, weights = decode(guess)
        beliefs = labels if weights is None else labels * weights
        scores = jnp.where(candidates.mask(transcript), beliefs, 0)  # 0 for padding
        return Answer(scores, scores > 0.5, hypothesis.private(guess.latent), value)

    def first(steps: int | Array) -> Problem:
        total = len(transcript.rounds)
        counted = jnp.arange(total) < steps

        def counted_residual(guess: Guess) -> PyTree:
            factors = jnp.where(counted, jnp.sqrt(total / steps), 0)
            return jax.tree.map(lambda leaf: jax.vmap(jnp.multiply)(factors, leaf), residual(guess))

        return whole._replace(
            residual=counted_residual, objective=partial(objective, counted=counted)
        )

    def extend(guess: Guess, steps: int | Array) -> Guess:
        return guess._replace(latent=hypothesis.extend(guess.latent, steps))

    whole = Problem(
        init, predict, whiten, residual, objective, answer, penalty, columns, first, extend
    )
    return whole


def free_problem(
    transcript: Transcript,
    client_update: ClientUpdate,
    observation: Observation,
    init_private: InitPrivate,
    **options: Any,
) -> Problem:
    """`problem` with one unknown private state per step; `options` are passed to `problem`."""
    own = candidates.init_private(init_private, transcript)
    hypothesis = dynamics.free(own, transcript.rounds.shape[0])
    return problem(transcript, client_update, observation, hypothesis, **options)


def replay(
    client_update: ClientUpdate,
    observation: Observation,
    hypothesis: Dynamics,
    transcript: Transcript,
    labels: Array,
    latent: PyTree,
    weights: Array | None = None,
) -> PyTree:
    """The uploads `[T, ...]` that would be seen from a client with these labels and states."""
    uploads = hypothesis.rollout(
        client_update,
        latent,
        transcript.shared,
        batches(transcript, labels, weights),
        transcript.participated,
    )

    def step(state: PyTree, pair: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        predicted, state = observation.predict(*pair, state)
        return state, predicted

    state = observation.init(tree.take(uploads, 0))
    if not jax.tree.leaves(state):  # a channel without memory: no loop over the steps is needed
        return jax.vmap(lambda upload, seen: observation.predict(upload, seen, state)[0])(
            uploads, transcript.seen
        )
    return jax.lax.scan(step, state, (uploads, transcript.seen))[1]


def _whiten(deviation: PyTree, uploads: PyTree) -> PyTree:
    """Uploads `[T, ...]` divided by the deviations `[T]` of their leaves."""
    return jax.tree.map(lambda leaf, std: jax.vmap(jnp.divide)(leaf, std), uploads, deviation)


def _decode(relaxation: Relaxation, guess: Guess) -> tuple[Array, Array | None]:
    """Labels and, where the batch is unknown, weights of a guess."""
    weights = None if guess.weights is None else relaxation.decode(guess.weights)
    return relaxation.decode(guess.labels), weights


def _draw(
    transcript: Transcript,
    hypothesis: Dynamics,
    relaxation: Relaxation,
    label_scale: float,
    key: Key,
) -> Guess:
    """A starting point: labels (and weights of an unknown batch) near 1/2, fresh private states."""
    labels_key, weights_key, latent_key = jax.random.split(key, 3)

    def near_half(key: Key) -> Array:
        noise = jax.random.normal(key, transcript.items.shape, jnp.float32)
        return relaxation.encode(0.5 + label_scale * noise)

    weights = near_half(weights_key) if transcript.weights is None else None
    guess = Guess(near_half(labels_key), weights, hypothesis.init(latent_key))
    # Draws are float32, so that float64 solves the same problem from the same start.
    return tree.cast_floats(guess, jnp.result_type(float))


def _columns(
    residual: Callable[[Guess], PyTree], guess: Guess, keep: Callable[[Columns], PyTree]
) -> PyTree:
    """`Problem.columns` by forward derivatives of the residual, one replay per label."""
    by_label = jax.jacfwd(lambda labels: residual(guess._replace(labels=labels)))
    jacobian = by_label(guess.labels)
    return jax.vmap(lambda common: keep(Columns({}, common)), in_axes=-1)(jacobian)


def _separable_columns(
    replayed: Callable[[Transcript, Array, PyTree], PyTree],
    whiten: Callable[[PyTree], PyTree],
    transcript: Transcript,
    labels: Array,
    latent: PyTree,
    keep: Callable[[Columns], PyTree],
) -> PyTree:
    """`Problem.columns` where each label moves the uploads as it would in a batch of one item."""

    def one(candidate: tuple[PyTree, PyTree, Array, Array]) -> PyTree:
        """The derivative of the uploads in one candidate's label, from a batch of that item."""
        items, seen, label, shares = candidate
        items, seen = jax.tree.map(lambda leaf: leaf[:, None], (items, seen))
        alone = dataclasses.replace(
            transcript,
            shared={**transcript.shared, 'items': items},
            seen={**transcript.seen, **seen},
            items=jnp.zeros(1, int),
            weights=jnp.ones((len(shares), 1), shares.dtype),
        )

        def uploads(label: Array) -> PyTree:
            return replayed(alone, label[None], latent)

        tangent = jax.jvp(uploads, (label,), (jnp.ones_like(label),))[1]
        column = jax.tree.map(lambda leaf: jax.vmap(jnp.multiply)(shares, leaf), tangent)
        leaves = dict(whiten(column))
        return keep(Columns(leaves.pop('items', {}), leaves))

    total = jnp.sum(transcript.weights, axis=1, keepdims=True)
    shares = transcript.weights / jnp.where(total > 0, total, 1)
    rows = {name: part for name, part in transcript.seen.items() if name == 'items'}
    items, seen = jax.tree.map(
        lambda leaf: jnp.swapaxes(leaf, 0, 1), (transcript.shared['items'], rows)
    )
    return tree.map_chunks(one, (items, seen, labels, shares.T))


def starting_from(problem: Problem, answer: Answer, relaxation: Relaxation) -> Problem:
    """The same problem, started from an answer's scores and private parameters, where finite.

    Unknowns that the answer does not hold (private parameters, an unknown batch) are drawn as
    before.
    """

    def init(key: Key) -> Guess:
        drawn = problem.init(key)
        labels = relaxation.encode(answer.scores).astype(drawn.labels.dtype)
        latent = drawn.latent
        if answer.private is not None:
            latent = jax.tree.map(
                lambda leaf, like: jnp.broadcast_to(leaf, like.shape).astype(like.dtype),
                answer.private,
                drawn.latent,
            )
        return jax.tree.map(
            lambda new, old: jnp.where(jnp.all(jnp.isfinite(new)), new, old),
            drawn._replace(labels=labels, latent=latent),
            drawn,
        )

    return problem._replace(init=init)
