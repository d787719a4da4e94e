"""Competing attacks from the literature, as short recipes over the same problem and solvers.

Each is `recipe(known) -> attack`, with `attack(transcript, key, num_iterations) -> Answer` for one
client: scores and labels `[K]`. Most were published for other unknowns (images, at one step). Here
the items are known; the labels and the private embedding are not.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import candidates, distances, inversion, objective, relax
from fedinv_jax.types import (
    Answer,
    Array,
    ClientUpdate,
    Guess,
    InitPrivate,
    Key,
    Observation,
    PyTree,
    Transcript,
)

Attack: TypeAlias = Callable[[Transcript, Key, int | Array], Answer]


class Known(NamedTuple):
    """What the attacker knows about every client.

    Attributes:
        client_update: the client's own update.
        observation: the channel, including which leaves are seen.
        init_private: draws private parameters.
        positives: public share of interactions among candidates, in [0, 1].
    """

    client_update: ClientUpdate
    observation: Observation
    init_private: InitPrivate
    positives: float


class Recipe(NamedTuple):
    """A competing attack: the name of its solver and `make(known, **options) -> attack`."""

    solver: str
    make: Callable[..., Attack]


_TOLERANCE = 1e-7, 1e-9  # at which torch's L-BFGS stops, hence DLG
_SCALE = 100.0  # of RAIFLE's distance


def dlg(known: Known) -> Attack:
    """Deep Leakage from Gradients: L-BFGS on the squared distance of whole uploads.

    `min over a, p of |g(sigmoid(a), p) - g|^2 / |g|^2`, started near `sigmoid(a) = 1/2` and at a
    fresh p. Deviations: the original inverts images and soft labels, started at N(0, 1), by torch's
    L-BFGS (history of 100, no line search), and does not normalise the distance. This recipe uses
    optax's L-BFGS (history of 10, zoom line search) and stops at torch's tolerances, 1e-7 on the
    gradient and 1e-9 on the change. With T uploads the distances are averaged, and each step has
    its own private state.

    References:
        Zhu, Liu, Han, Deep leakage from gradients, NeurIPS 2019, arXiv:1906.08935, algorithm 1.
    """
    solver = inversion.descent(optax.lbfgs(), _TOLERANCE)

    def attack(transcript: Transcript, key: Key, num_iterations: int | Array) -> Answer:
        problem = _problem(known, transcript, distances.squared_distance)
        return inversion.invert(problem, solver, key, num_iterations)

    return attack


def inverting_gradients(known: Known, restarts: int = 4) -> Attack:
    """Inverting Gradients: the cosine distance, Adam on the sign of the gradient, some restarts.

    The learning rate is 0.1, divided by 10 after 3/8, 5/8 and 7/8 of the iterations. The restart of
    least distance answers. Deviations: there is no total variation (labels are no image); labels
    pass through a sigmoid instead of being clipped to [0, 1], and start near 1/2 instead of at
    N(0, 1); each restart keeps its best point; T uploads and private states are as in `dlg`.

    Args:
        known: what the attacker knows.
        restarts: starting points, >= 1.

    References:
        Geiping, Bauermeister, Dröge, Moeller, Inverting gradients, NeurIPS 2020,
        arXiv:2003.14053, equation 4 and section 4.
    """

    def attack(transcript: Transcript, key: Key, num_iterations: int | Array) -> Answer:
        problem = _problem(known, transcript, distances.cosine_distance)
        steps = jnp.array([3, 5, 7]) / 8 * num_iterations
        optimizer = optax.chain(
            optax.stateless_with_tree_map(lambda gradient, _: jnp.sign(gradient)),
            optax.adam(lambda count: 0.1 * 0.1 ** jnp.sum(count >= steps)),
        )
        return inversion.invert(
            problem, inversion.descent(optimizer), key, num_iterations, restarts
        )

    return attack


def tgias_ro(known: Known) -> Attack:
    """TGIAs-RO: several temporal gradients, aggregated robustly against outliers.

    Each observed step has its own distance (squared, normalised). The gradient in the labels is the
    entrywise median of the T gradients of these distances, so that one invalid upload does not move
    the labels; the private state of each step follows the gradient of its own distance. Adam moves
    the labels 30 times as fast as the private states. At T = 1 and 2 the median is the mean.
    Deviations: the recipe follows the paper's abstract and framework (temporal gradients, robust
    statistics), not its code; it aggregates at every iteration and keeps the visited point of least
    median distance.

    References:
        Li, Gu, Chen, Li, Wu, Ruan, Si, Fan, Temporal gradient inversion attacks with robust
        optimization, arXiv:2306.07883.
    """
    relaxation = relax.sigmoid(30.0)

    def attack(transcript: Transcript, key: Key, num_iterations: int | Array) -> Answer:
        def make(transcript: Transcript) -> objective.Problem:
            return _problem(known, transcript, distances.squared_distance, relaxation)

        def one(step: Transcript, labels: Array, weights: Array | None, latent: PyTree) -> Array:
            single = jax.tree.map(lambda leaf: leaf[None], latent)
            return make(step).objective(Guess(labels, weights, single))

        by_step, axes = _steps(transcript)
        slopes = jax.vmap(jax.value_and_grad(one, argnums=(1, 2, 3)), in_axes=(axes, None, None, 0))

        def robust(_: objective.Problem, point: Guess) -> tuple[Array, Guess]:
            values, (labels, weights, latent) = slopes(by_step, *point)
            labels, weights = jax.tree.map(lambda leaf: jnp.median(leaf, axis=0), (labels, weights))
            return jnp.median(values), Guess(labels, weights, latent)

        optimizer = optax.adam(lambda count: 0.005 * (1 + jnp.cos(jnp.pi * count / num_iterations)))
        solver = inversion.descent(optimizer, slope=robust)
        return inversion.invert(make(transcript), solver, key, num_iterations)

    return attack


def raifle(known: Known, guesses: int = 3) -> Attack:
    """RAIFLE's attack with a guessed private embedding: labels by L-BFGS from item rows.

    `min over a of 100 sum_i |dq_i(sigmoid(a), p) - dq_i| / sum_i |dq_i|` over the items. Each guess
    of p is drawn from U(0, 1) and fixed; a starts at U(-1, 1). A line search with strong Wolfe
    conditions begins at a tenth of the quasi-Newton step. The guess of p with the least distance
    answers. Deviations from the original: it draws p once (its code may restart the labels, and
    then keeps the least distance too), divides by the mean row norm only where that norm is below
    100, and manipulates the data for ranking, which this recipe does not. This L-BFGS is another
    implementation: it ends where the objective changes by less than 1e-4 (float32 resolves 4e-6 of
    its usual 50) or no unknown changes by more, and its line search takes at most 10 steps. The
    distances of T uploads are averaged.

    Args:
        known: what the attacker knows.
        guesses: number of guesses of p, >= 1.

    Raises:
        ValueError: if `guesses` is below 1.

    References:
        Pham, Kulkarni, Houmansadr, RAIFLE: reconstruction attacks on interaction-based federated
        learning with adversarial data manipulation, NDSS 2025, arXiv:2310.19163.
    """
    return _raifle(known, guesses, joint=False)


def raifle_joint(known: Known, guesses: int = 3) -> Attack:
    """RAIFLE's joint variant: as `raifle`, with the private embedding as a further unknown.

    Labels and embedding start at U(-1, 1). Deviations: as in `raifle`; each step has its own
    private state.

    Args:
        known: what the attacker knows.
        guesses: starting points, >= 1.

    Raises:
        ValueError: if `guesses` is below 1.

    References:
        Pham et al., NDSS 2025, arXiv:2310.19163.
    """
    return _raifle(known, guesses, joint=True)


def _raifle(known: Known, guesses: int, joint: bool) -> Attack:
    if not guesses >= 1:
        raise ValueError(f'Expected guesses={guesses} > 0.')
    optimizer = optax.chain(
        optax.scale_by_lbfgs(memory_size=100),
        optax.scale(-0.1),
        optax.scale_by_zoom_linesearch(10, initial_guess_strategy='one'),
    )
    solver = inversion.descent(optimizer, (1e-7, 1e-4))

    def attack(transcript: Transcript, key: Key, num_iterations: int | Array) -> Answer:
        problem = _problem(known, transcript, distances.rows_distance)

        def init(key: Key) -> Guess:
            labels_key, latent_key = jax.random.split(key)
            guess = problem.init(key)
            fresh = tree.take(guess.latent, 0)
            drawn = optax.tree.random_like(latent_key, fresh, jax.random.uniform, 'float32')
            drawn = jax.tree.map(lambda leaf: 2 * leaf - 1, drawn) if joint else drawn
            labels = jax.random.uniform(labels_key, guess.labels.shape, 'float32', -1, 1)
            latent = jax.tree.map(jnp.broadcast_to, drawn, jax.tree.map(jnp.shape, guess.latent))
            return tree.cast_floats(Guess(labels, None, latent), jnp.result_type(float))

        def value(guess: Guess) -> Array:
            fixed = jax.lax.stop_gradient(guess.latent)
            return _SCALE * problem.objective(guess if joint else guess._replace(latent=fixed))

        started = problem._replace(init=init, objective=value)
        # In sequence, not by vmap: each run ends on its own.
        answers = jax.lax.map(
            lambda key: inversion.invert(started, solver, key, num_iterations),
            jax.random.split(key, guesses),
        )
        least = jnp.argmin(jnp.nan_to_num(answers.objective, nan=jnp.inf))
        return tree.take(answers, least)

    return attack


def imia(known: Known, confirmed: float = 0.9) -> Attack:
    """Interaction-level membership inference: replay guessed labels, confirm those that fit best.

    A fresh private state stands in for the victim's. `floor(positives n)` of the n candidates are
    labelled as interactions at random, and the client is replayed. The share `confirmed` of the
    candidates, those whose replayed item rows are nearest to the seen ones, keep their labels. The
    others get new labels, with the same total of interactions, and the client is replayed again,
    until all `floor(positives n)` interactions are confirmed. Scores are 1 for confirmed
    interactions and 0 for all others. Deviation: with T uploads the distances of the steps are
    averaged.

    Args:
        known: what the attacker knows.
        confirmed: share of the candidates that each replay confirms, in [0, 1].

    Raises:
        ValueError: if `confirmed` is not in [0, 1].

    References:
        Yuan, Yang, Nguyen, Cui, He, Yin, Interaction-level membership inference attack against
        federated recommender systems, WWW 2023, arXiv:2301.10964, and its code FedRec_IMIA.
    """
    if not 0 <= confirmed <= 1:
        raise ValueError(f'Expected confirmed={confirmed} in [0, 1].')

    def attack(transcript: Transcript, key: Key, num_iterations: int | Array) -> Answer:
        del num_iterations
        problem = _problem(known, transcript, distances.rows_distance, relax.identity())
        where = candidates.mask(transcript)
        size = jnp.sum(where)
        expected = jnp.floor(known.positives * size).astype(int)
        many = jnp.floor(confirmed * size).astype(int) + 1
        latent_key, key = jax.random.split(key)
        latent = problem.init(latent_key).latent

        def drawn(key: Key, yes: Array, undecided: Array) -> Array:
            """Labels: confirmed interactions, filled up at random to the expected number."""
            draws = jnp.where(undecided, jax.random.uniform(key, where.shape, 'float32'), jnp.inf)
            return yes | (undecided & (_ranks(draws) < expected - jnp.sum(yes)))

        def turn(carry: tuple[Array, Array, Key]) -> tuple[Array, Array, Key]:
            yes, undecided, key = carry
            key, own = jax.random.split(key)
            labels = drawn(own, yes, undecided)
            uploads = problem.predict(Guess(labels.astype(float), None, latent))
            gaps = jnp.mean(jax.vmap(distances.row_gaps)(uploads, transcript.seen), axis=0)
            now = undecided & (_ranks(jnp.where(undecided, gaps, jnp.inf)) < many)
            return yes | (now & labels), undecided & ~now, key

        yes, _, _ = jax.lax.while_loop(
            lambda carry: (jnp.sum(carry[0]) < expected) & jnp.any(carry[1]),
            turn,
            (jnp.zeros_like(where), where, key),
        )
        guess = Guess(yes.astype(jnp.result_type(float)), None, latent)
        return problem.answer(guess, problem.objective(guess))

    return attack


RECIPES = {
    'dlg': Recipe('lbfgs', dlg),
    'imia': Recipe('replay', imia),
    'inverting_gradients': Recipe('signed adam', inverting_gradients),
    'raifle': Recipe('lbfgs', raifle),
    'raifle_joint': Recipe('lbfgs', raifle_joint),
    'tgias_ro': Recipe('adam', tgias_ro),
}


def _problem(
    known: Known,
    transcript: Transcript,
    distance: distances.Distance,
    relaxation: relax.Relaxation | None = None,
) -> objective.Problem:
    """The problem with one unknown private state per step."""
    return objective.free_problem(
        transcript,
        known.client_update,
        known.observation,
        known.init_private,
        distance=distance,
        relaxation=relaxation,
    )


def _steps(transcript: Transcript) -> tuple[Transcript, Transcript]:
    """A transcript that `vmap` splits into transcripts of one step each, and its `vmap` axes."""
    of_step = ('shared', 'seen', 'rounds', 'participated', 'slot', 'weights')
    parts = {
        name: jax.tree.map(lambda leaf: leaf[:, None], getattr(transcript, name))
        for name in of_step
    }
    fields = {field.name: None for field in dataclasses.fields(transcript)}
    axes = {name: 0 for name in of_step if getattr(transcript, name) is not None}
    return dataclasses.replace(transcript, **parts), Transcript(**{**fields, **axes})


def _ranks(values: Array) -> Array:
    """The rank of each entry in increasing order, int `[K]`, from 0."""
    return jnp.argsort(jnp.argsort(values))
