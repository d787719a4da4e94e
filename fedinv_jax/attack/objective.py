"""The attacker's problem: simulate the client on a guess, and compare with what was seen.

min over guess of mean_t distance(predict(rollout(client_update, guess)_t), seen_t)
+ sum_k weight_k prior_k(guess)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import distances, priors, relax
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
    Key,
    Observation,
    PyTree,
    Transcript,
)


class Problem(NamedTuple):
    """An inversion problem as pure functions of a guess; solvers see nothing else.

    Attributes:
        init: `init(key) -> guess`, a starting point.
        predict: `predict(guess) -> predicted [T, ...]`, in the structure of what was seen.
        whiten: `whiten(uploads [T, ...]) -> uploads`, each step over the norm of what was seen.
        residual: `residual(guess) -> whiten(predicted - seen)`; its squared norm over T is the
            normalised squared distance.
        objective: `objective(guess) -> []`, what is minimised: distance plus priors.
        answer: `answer(guess, objective) -> Answer`.
    """

    init: Callable[[Key], Guess]
    predict: Callable[[Guess], PyTree]
    whiten: Callable[[PyTree], PyTree]
    residual: Callable[[Guess], PyTree]
    objective: Callable[[Guess], Array]
    answer: Callable[[Guess, Array], Answer]


def batches(transcript: Transcript, labels: Array, weights: Array | None) -> Batch:
    """The batches `[S, ...]` for labels `[K]` and, where the batch is unknown, weights `[K]`."""
    steps = transcript.participated.shape[0]
    known = transcript.weights if weights is None else jnp.tile(weights, (steps, 1))
    if transcript.slot is None:
        return Batch(None, jnp.tile(labels, (steps, 1)), known)
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
) -> Problem:
    """MGradInv's problem: labels and private parameters are unknown, T uploads constrain them.

    With T = 1 it is the single-gradient attack of the literature.

    Args:
        transcript: what the server holds of one client; leaves may be tracers.
        client_update: the client's own update, as the attacker knows it.
        observation: the channel, of which `init` and `predict` are used.
        hypothesis: what is assumed of the private parameters between the steps.
        distance: between the predicted and the seen upload of one step; per leaf by default.
        weighted_priors: pairs of weight and prior.
        relaxation: of the labels (and of an unknown batch's weights); None: `relax.sigmoid()`.
        label_scale: standard deviation of the labels at the start, around 1/2.

    Returns:
        The problem.

    References:
        Deng, Liu, Tang, Zhao, Twice the gradient, twice the privacy risk in federated learning?
        A case study of federated recommendation systems, ICDM 2025, pp. 199-207 (MGradInv).
        Zhu, Liu, Han, Deep leakage from gradients, NeurIPS 2019, arXiv:1906.08935 (T = 1).
    """
    relaxation = relaxation or relax.sigmoid()
    scale = jax.vmap(lambda seen: jax.lax.rsqrt(distances.floor(distances.squared_norm(seen))))(
        transcript.seen
    )

    def init(key: Key) -> Guess:
        labels_key, weights_key, latent_key = jax.random.split(key, 3)

        def draw(key: Key) -> Array:
            noise = jax.random.normal(key, transcript.items.shape, jnp.float32)
            return relaxation.encode(0.5 + label_scale * noise)

        weights = draw(weights_key) if transcript.weights is None else None
        guess = Guess(draw(labels_key), weights, hypothesis.init(latent_key))
        # Draws are float32, so that float64 solves the same problem from the same start.
        return tree.cast_floats(guess, jnp.result_type(float))

    def decode(guess: Guess) -> tuple[Array, Array | None]:
        weights = None if guess.weights is None else relaxation.decode(guess.weights)
        return relaxation.decode(guess.labels), weights

    def predict(guess: Guess) -> PyTree:
        uploads = hypothesis.rollout(
            client_update,
            guess.latent,
            transcript.shared,
            batches(transcript, *decode(guess)),
            transcript.participated,
        )

        def step(state: PyTree, pair: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            predicted, state = observation.predict(*pair, state)
            return state, predicted

        state = observation.init(tree.take(uploads, 0))
        if not jax.tree.leaves(state):  # no memory: the steps need no order, nor a loop
            return jax.vmap(lambda upload, seen: observation.predict(upload, seen, state)[0])(
                uploads, transcript.seen
            )
        return jax.lax.scan(step, state, (uploads, transcript.seen))[1]

    def whiten(uploads: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jax.vmap(jnp.multiply)(scale, leaf), uploads)

    def residual(guess: Guess) -> PyTree:
        return whiten(optax.tree.sub(predict(guess), transcript.seen))

    def objective(guess: Guess) -> Array:
        value = jnp.mean(jax.vmap(distance)(predict(guess), transcript.seen))
        labels, _ = decode(guess)
        for weight, prior in weighted_priors:
            value += weight * prior(labels, guess.latent, transcript)
        return value

    def answer(guess: Guess, value: Array) -> Answer:
        labels, weights = decode(guess)
        beliefs = labels if weights is None else labels * weights
        scores = jnp.where(priors.candidates(transcript), beliefs, 0)  # padding is none
        return Answer(scores, scores > 0.5, hypothesis.private(guess.latent), value)

    return Problem(init, predict, whiten, residual, objective, answer)
