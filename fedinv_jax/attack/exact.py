"""The strongest attack that applies: what the seen uploads determine, solved for directly.

`choose` probes the client once and takes a member; each member is a short recipe over the seams:
where the private states come from, and which solver finds the labels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import certify, dynamics, labels, leak, objective, priors, relax
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


class Known(NamedTuple):
    """What the attacker knows of every client, and what probing found.

    Attributes:
        client_update: the client's own update.
        observation: the channel and what is seen behind it.
        init_private: draws private parameters.
        structure: see `labels.probe`.
        leak: see `leak.find`.
        rounding: unit roundoff of the uploads.
    """

    client_update: ClientUpdate
    observation: Observation
    init_private: InitPrivate
    structure: labels.Structure
    leak: leak.Leak | None
    rounding: float


class Choice(NamedTuple):
    """A member, why it was taken, and the attack: `attack(transcript, key) -> Answer`."""

    solver: str
    why: str
    attack: Callable[[Transcript, Key], Answer]


def probe(
    client_update: ClientUpdate,
    observation: Observation,
    init_private: InitPrivate,
    draws: Sequence[leak.Draw],
    rounding: float = 2.0**-24,
) -> Known:
    """Finds out what holds of every client, on random draws, in float64 as a rule."""
    return Known(
        client_update,
        observation,
        init_private,
        labels.probe(client_update, observation, draws),
        leak.find(client_update, observation, draws),
        rounding,
    )


def _problem(
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


def closed_form(known: Known) -> Callable[[Transcript, Key], Answer]:
    """The private state of each step from a first layer with bias, then the label solve.

    The kernel's leaf is the outer product of what is known by then: it holds nothing more.

    Raises:
        ValueError: if the client's upload is not affine in the labels, or does not leak p.
    """
    labels.require_affine(known.structure)
    if known.leak is None or known.leak.bias is None:
        raise ValueError('closed_form needs the kernel and the bias of a layer that multiplies p.')
    found = known.leak
    spent = (found.kernel,)

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        latent = jax.vmap(lambda seen: leak.exact(found, seen))(transcript.seen)
        problem = _problem(known, transcript, latent, spent)
        # What rounding leaves uncertain of p, and what that changes of the other leaves.
        guess = problem.init(jax.random.key(0))
        error = 2.0**-22 * (jnp.abs(latent) + jnp.mean(jnp.abs(latent), -1, keepdims=True))
        signs = jnp.where(jnp.arange(latent.shape[-1]) % 2 == 0, 1.0, -1.0)
        moved = jax.jvp(
            lambda latent: tree.ravel(problem.residual(guess._replace(latent=latent))),
            (latent,),
            (known.rounding * 2**24 * error * signs,),
        )[1]
        return _answer(known, problem, transcript, spent, extra=jnp.linalg.norm(moved))

    return attack


def scaled(known: Known) -> Callable[[Transcript, Key], Answer]:
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
        problem = _problem(known, step, typical * along[None])

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
        draws = jax.vmap(known.init_private)(jax.random.split(jax.random.key(0), 64))
        typical = jnp.sqrt(jnp.mean(jnp.sum(draws**2, -1))).astype(along.dtype)
        steps = [_step(transcript, t) for t in range(transcript.rounds.shape[0])]
        found_ = [search(step, along[t], typical) for t, step in enumerate(steps)]
        latent, both = (jnp.stack(parts) for parts in zip(*found_, strict=True))
        problem = _problem(known, transcript, latent)
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
    extra: float | Array = 0.0,
) -> Answer:
    """The label solve's answer at the problem's private states, with its certificate.

    Args:
        known: what the attacker knows.
        problem: from `_problem`.
        transcript: what the server holds.
        spent: leaves that are left out.
        tangents: directions `[P, ...]` in which the private states are not certain.
        extra: see `certify.certify`.
    """
    outer = known.structure.outer
    solver = labels.label_solve(outer, spent)
    state = solver.update(problem, solver.init(problem, jax.random.key(0)))
    answer = problem.answer(state.guess, state.objective)
    where = priors.candidates(transcript)
    if len(state.guess.labels) > labels.DENSE:
        return answer
    gram = labels.normal_equations(problem, state.guess, outer, spent).gram
    if tangents is not None:
        gram = certify.project_gram(problem, state.guess, gram, tangents)
    size = optax.tree.size(state.guess.latent)
    found = certify.certify(problem, state.guess, gram, where, extra, size)
    return answer._replace(certificate=found)


def choose(known: Known, batch_known: bool = True, solver: str = 'auto') -> Choice:
    """The strongest member that applies, with the reason, or the one that is asked for.

    Args:
        known: from `probe`.
        batch_known: whether the transcripts hold the batch's items.
        solver: 'auto' or a member's name.

    Raises:
        ValueError: if the member does not apply, or does not exist.
    """
    members = {'closed_form': closed_form, 'scaled': scaled}
    name, why = _strongest(known, batch_known) if solver == 'auto' else (solver, 'asked for')
    if name not in members:
        raise ValueError(f'Unknown solver={solver!r}; choices: auto, {", ".join(sorted(members))}.')
    return Choice(name, why, members[name](known))


def _strongest(known: Known, batch_known: bool) -> tuple[str, str]:
    found = known.leak
    if known.structure.affine and found is not None:
        if found.bias is not None:
            return (
                'closed_form',
                f'{found.kernel} is p times {found.bias}: p is exact at every step, and the upload '
                'is affine in the labels',
            )
        return (
            'scaled',
            f'{found.kernel} is of rank one along p: p is known up to a scalar, searched for; if '
            'both signs fit, fewer interactions than negatives are taken',
        )
    raise ValueError('No member applies.')
