"""Members of the exact attack: short recipes over the seams.

Each says where the private states come from and which solver finds the labels, and is a function
of what is `Known` of every client: `member(known) -> attack(transcript, key) -> Answer`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import (
    certify,
    dynamics,
    identifiability,
    labels,
    leak,
    normal,
    objective,
    posterior,
    priors,
    relax,
)
from fedinv_jax.attack.inversion import State
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

_STARTS, _STEPS, _LEVELS = 6, 3, 28  # of the search for a scale
_TURNS, _NEWTON = 6, 6  # of labels and private states, where the channel adds noise

Attack: TypeAlias = Callable[[Transcript, Key], Answer]


class Known(NamedTuple):
    """What the attacker knows of every client, and what probing found.

    Attributes:
        client_update: the client's own update.
        observation: the channel and what is seen behind it.
        init_private: draws private parameters.
        structure: see `labels.probe`.
        leak: see `leak.find`.
        rough: the same to 90% and up to scale, of clients that take several steps.
        rounding: unit roundoff of the uploads.
        positives: public share of interactions in a batch.
        noisy: whether the channel adds noise.
        fresh_negatives: whether the client draws new negatives at each step, as many as before.
    """

    client_update: ClientUpdate
    observation: Observation
    init_private: InitPrivate
    structure: labels.Structure
    leak: leak.Leak | None
    rough: leak.Leak | None
    rounding: float
    positives: float = 0.2
    noisy: bool = False
    fresh_negatives: bool = False


def whitened_problem(
    known: Known, transcript: Transcript, latent: PyTree, spent: Sequence[str] = ()
) -> objective.Problem:
    """The whitened problem, started at private states `[T, ...]`, without the `spent` leaves."""
    hypothesis = dynamics.free(known.init_private, transcript.rounds.shape[0])
    arguments = (transcript, known.client_update, known.observation, hypothesis)
    deviation = objective.deviations(*arguments, latent, known.rounding)
    if spent:
        deviation = labels.replace_leaves(deviation, spent, jnp.inf)
    problem = objective.problem(
        *arguments,
        relaxation=relax.identity(),
        deviation=deviation,
        separable=known.structure.separable,
    )
    half = jnp.full(transcript.items.shape, 0.5, jnp.result_type(float))
    return problem._replace(init=lambda key: Guess(half, None, latent))


def closed_form(known: Known) -> Attack:
    """The private state of each step from a first layer with bias, then the label solve.

    The kernel's leaf is the outer product of what is known by then: it holds nothing more. Where
    the channel adds noise it does: labels and private states are then found in turn, the labels
    from the other leaves, the private states from all.

    Raises:
        ValueError: if the client's upload is not affine in the labels, or does not leak p.
    """
    labels.require_affine(known.structure)
    if known.leak is None or known.leak.bias is None:
        raise ValueError('closed_form needs the kernel and the bias of a layer that multiplies p.')
    found, spent = known.leak, (known.leak.kernel,)

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        latent = jax.vmap(lambda seen: leak.exact(found, seen))(transcript.seen)
        if known.noisy and len(transcript.items) <= labels.DENSE:
            return _jointly(known, transcript, latent, spent)
        problem = whitened_problem(known, transcript, latent, spent)
        # What rounding leaves uncertain of p.
        error = 2.0**-22 * (jnp.abs(latent) + jnp.mean(jnp.abs(latent), -1, keepdims=True))
        signs = jnp.where(jnp.arange(latent.shape[-1]) % 2 == 0, 1.0, -1.0)
        error = known.rounding * 2**24 * error * signs
        return _answer(known, problem, transcript, spent, error=error)

    return attack


def scaled(known: Known) -> Attack:
    """The private state of each step up to a scalar, found by what binary labels then leave over.

    Both signs are searched. Where both explain what was seen (`1 - y` and `-p` do as well as `y`
    and `p` in matrix factorisation with BCE), the prior that interactions are fewer than negatives
    decides, at each step, and no answer is certified: the other one explains as much.

    Raises:
        ValueError: if the client's upload is not affine in the labels, or does not leak p's line.
    """
    labels.require_affine(known.structure)
    if known.leak is None:
        raise ValueError('scaled needs a leaf of rank one along the private embedding.')
    found, solver = known.leak, labels.label_solve(known.structure.outer)

    def search(step: Transcript, along: Array, typical: Array) -> tuple[Array, Array]:
        """The private state `[D]` of one step (T = 1), and whether both signs explain it."""
        problem = whitened_problem(known, step, typical * along[None])

        def solved(scale: Array) -> State:
            """The label solve at `scale * along`."""
            start = problem.init(jax.random.key(0))._replace(latent=scale * along[None])
            at = problem._replace(init=lambda key: start)
            return solver.update(at, solver.init(at, jax.random.key(0)))

        def improve(_: int, scale: Array) -> Array:
            """A finer and finer search around the scale, with the binary labels that fit there.

            The uploads jump where a ReLU turns on, so that their slope says little.
            """
            binary = jnp.round(solved(scale).guess.labels)

            def narrow(level: int, scale: Array) -> Array:
                near = scale * (1 + 0.04 * 0.5**level * jnp.array([0.0, -1.0, -0.5, 0.5, 1.0]))
                left = jax.vmap(lambda x: labels.fit(problem, Guess(binary, None, x * along[None])))
                return near[jnp.argmin(left(near))]

            return jax.lax.fori_loop(0, _LEVELS, narrow, scale)

        def best(sign: Array) -> tuple[Array, Array, Array]:
            """The best scale of that sign, what it leaves over, and its share of positives."""
            values = jax.lax.map(lambda scale: solved(sign * scale).objective, sizes)
            padded = jnp.pad(values, 1, constant_values=jnp.inf)
            local = (values <= padded[:-2]) & (values <= padded[2:])
            starts = sizes[jnp.argsort(jnp.where(local, values, jnp.inf))[:_STARTS]]
            scales = jax.lax.map(
                lambda start: jax.lax.fori_loop(0, _STEPS, improve, sign * start), starts
            )
            states = jax.lax.map(solved, scales)
            index = jnp.argmin(states.objective)
            share = jnp.mean(states.guess.labels[index])
            return scales[index], states.objective[index], share

        # A scale in every 6%, from 1/8 to 20 times the size of a fresh embedding.
        sizes = typical * 2 ** jnp.arange(-3, 13 / 3, 1 / 12)
        scales, lefts, shares = jax.lax.map(best, jnp.array([1.0, -1.0]))
        both = jnp.max(lefts) < jnp.maximum(labels.EXPLAINED, 1.1 * jnp.min(lefts))
        chosen = jnp.where(both, jnp.argmin(shares), jnp.argmin(lefts))
        return scales[chosen] * along, both

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        along = jax.vmap(lambda seen: leak.direction(found, seen))(transcript.seen)
        usual = typical(known).astype(along.dtype)
        steps = [_step(transcript, t) for t in range(transcript.rounds.shape[0])]
        found_ = [search(step, along[t], usual) for t, step in enumerate(steps)]
        latent, both = (jnp.stack(parts) for parts in zip(*found_, strict=True))
        problem = whitened_problem(known, transcript, latent)
        scales = jnp.eye(len(latent))[:, :, None] * latent[None]
        answer = _answer(known, problem, transcript, tangents=scales)
        if answer.certificate is None:
            return answer
        unique = answer.certificate.certified & ~jnp.all(both)
        return answer._replace(certificate=answer.certificate._replace(certified=unique))

    return attack


def _step(transcript: Transcript, t: int) -> Transcript:
    """The transcript of one observed step, of a transcript that keeps no other rounds."""
    one = {
        name: tree.take(getattr(transcript, name), slice(t, t + 1))
        for name in ('shared', 'seen', 'rounds', 'participated', 'slot', 'weights')
        if getattr(transcript, name) is not None
    }
    return dataclasses.replace(transcript, **one)


def _answer(
    known: Known,
    problem: objective.Problem,
    transcript: Transcript,
    spent: Sequence[str] = (),
    tangents: PyTree | None = None,
    error: PyTree | None = None,
) -> Answer:
    """The label solve's answer at the problem's private states, with its certificate.

    Args:
        known: what the attacker knows.
        problem: from `whitened_problem`.
        transcript: what the server holds.
        spent: leaves that are left out.
        tangents: directions `[P, ...]` in which the private states are not certain.
        error: what the private states are off by, roughly.
    """
    outer, where = known.structure.outer, priors.candidates(transcript)
    guess = problem.init(jax.random.key(0))
    if len(guess.labels) > labels.DENSE:
        solver = labels.label_solve(outer, spent)
        state = solver.update(problem, solver.init(problem, jax.random.key(0)))
        return problem.answer(state.guess, state.objective)
    equations = normal.equations(problem, guess, outer, spent)
    odds = priors.log_odds(transcript, known.positives)
    guess = guess._replace(labels=posterior.believed(problem, guess, equations, odds, spent))
    binary = guess._replace(labels=jnp.round(guess.labels))
    gram, factor, extra = equations.gram, equations.factor, jnp.zeros(())
    if tangents is not None:
        gram = certify.project_gram(problem, binary, gram, tangents)
        factor = identifiability.factor(gram)
    if error is not None:
        moved = jax.jvp(
            lambda latent: problem.residual(binary._replace(latent=latent)),
            (guess.latent,), (error,),
        )[1]  # fmt: skip
        extra = jnp.linalg.norm(tree.ravel(moved))
    size = optax.tree.size(guess.latent)
    found = certify.certify(problem, binary, gram, factor, where, extra, size)
    answer = problem.answer(guess, labels.fit(problem, binary))
    return answer._replace(certificate=found)


def _jointly(known: Known, transcript: Transcript, latent: PyTree, spent: Sequence[str]) -> Answer:
    """Labels and private states from noisy uploads, in turn as long as they explain more.

    A private state that is slightly off turns a ReLU on or off for a few items, whose gradients are
    then far off, and the others not: both the loss, `mean log(1 + r^2 / 4)`, and the Gauss-Newton
    steps of the private states discount large residuals. The certificate takes the private states
    as unknown.

    Args:
        known: what the attacker knows.
        transcript: what the server holds.
        latent: private states to start from.
        spent: leaves that the labels are not found from.
    """
    whole, rest = (whitened_problem(known, transcript, latent, out) for out in ((), spent))
    outer, where = known.structure.outer, priors.candidates(transcript)
    odds = priors.log_odds(transcript, known.positives)
    flat, unravel = jax.flatten_util.ravel_pytree(latent)

    def residual(labels_: Array, flat: Array) -> Array:
        return tree.ravel(whole.residual(Guess(jnp.round(labels_), None, unravel(flat))))

    def loss(labels_: Array, flat: Array) -> Array:
        return jnp.mean(jnp.log1p(residual(labels_, flat) ** 2 / 4))

    def turn(carry: tuple) -> tuple:
        best, _, count = carry
        guess = whole.init(jax.random.key(0))._replace(latent=unravel(best[1]))
        equations = normal.equations(rest, guess, outer, spent)
        found = posterior.believed(rest, guess, equations, odds, spent)

        def step(_: int, flat: Array) -> Array:
            left = residual(found, flat)
            size = 3 * (1 + 1.5 * jnp.median(jnp.abs(left)))
            weights = 1 / jnp.sqrt(1 + (left / size) ** 2)
            slope = jax.jacfwd(partial(residual, found))(flat)
            new = flat - jnp.linalg.lstsq(weights[:, None] * slope, weights * left)[0]
            return jnp.where(loss(found, new) < loss(found, flat), new, flat)

        flat = jax.lax.fori_loop(0, _NEWTON, step, best[1])
        new = found, flat, loss(found, flat)
        better = new[2] < 0.99 * best[2]
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), new, best)
        return best, better, count + 1

    half = jnp.full(len(where), 0.5, flat.dtype)
    start = (half, flat, jnp.asarray(jnp.inf, flat.dtype)), jnp.asarray(True), 0
    best = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < _TURNS), turn, start)[0]
    guess = Guess(best[0], None, unravel(best[1]))
    binary = guess._replace(labels=jnp.round(guess.labels))
    gram = normal.equations(whole, binary, outer).gram
    gram = certify.project_gram(whole, binary, gram, jax.vmap(unravel)(jnp.eye(flat.size)))
    factor = identifiability.factor(gram)
    found = certify.certify(whole, binary, gram, factor, where, num_private=flat.size)
    return whole.answer(guess, labels.fit(whole, binary))._replace(certificate=found)


def typical(known: Known) -> Array:
    """The norm of a fresh private state, a root mean square over 64 draws."""
    draws = jax.vmap(known.init_private)(jax.random.split(jax.random.key(0), 64))
    return jnp.sqrt(jnp.mean(jax.vmap(lambda p: jnp.sum(tree.ravel(p) ** 2))(draws)))


def free_problem(known: Known, transcript: Transcript) -> objective.Problem:
    """The problem with unknown private states of each step, each step over its norm."""
    hypothesis = dynamics.free(known.init_private, transcript.rounds.shape[0])
    return objective.problem(
        transcript,
        known.client_update,
        known.observation,
        hypothesis,
        relaxation=relax.identity(),
        separable=known.structure.separable,
    )
