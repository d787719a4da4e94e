"""Members of the exact attack that read item rows, whatever the client does."""

import jax
import jax.flatten_util
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import (
    gauss_newton,
    inversion,
    leak,
    members,
    rows,
)
from fedinv_jax.types import Answer, Array, Guess, Key, Transcript

_SEARCH = 60  # most iterations of the search for aligned rows
_LENGTHS, _WIDTH, _REFINE = range(-1, 7), 0.4, 10  # of a rough p and the search around it
_POLISH, _LARGEST = 8, 5e7  # iterations on the replayed client; numbers in its derivatives
_EXPLAINED = 1e-2  # squared residual, relative to what was seen, at which its answer is taken


def spectral(known: members.Known) -> members.Attack:
    """`rows.spectral`: no model, no loss, only the item rows."""
    return lambda transcript, key: rows.spectral(transcript, known.positives, known.largest)


def summed(known: members.Known) -> members.Attack:
    """`rows.summed`: `spectral` where noise hides the direction of a single step."""
    return lambda transcript, key: rows.summed(transcript, known.positives, known.largest)


def levels(known: members.Known) -> members.Attack:
    """`rows.levels`: no model, no loss, only the item rows, of clients that take several steps."""
    return lambda transcript, key: rows.levels(transcript, known.positives, known.largest)


def sign(known: members.Known) -> members.Attack:
    """`rows.sign` at private states of zero."""

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        problem = members.free_problem(known, transcript)
        latent = jax.tree.map(jnp.zeros_like, problem.init(jax.random.key(0)).latent)
        return rows.sign(problem, transcript, latent)

    return attack


def rough(known: members.Known) -> members.Attack:
    """`rows.sign` near the private states that a leaf gives away roughly, whatever the client does.

    After several local steps the kernel's leaf is still close to a multiple of the product of p and
    the bias's leaf. Of p as long as they say, or half as long as a fresh one times powers of two,
    the best by the objective of `rows.sign` is where `rows.search` starts. From the better end,
    `gauss_newton` on the replayed client finds labels and p that explain all that was seen, or it
    does not and the labels are those by the side of each row. The objective is that of the rows.

    Raises:
        ValueError: if no item rows, or no kernel and bias of a layer that multiplies p, are seen.
    """
    if known.rough is None or known.rough.bias is None or not known.structure.items:
        raise ValueError('rough needs item rows and the kernel and bias of a layer on p.')
    found = known.rough

    def attack(transcript: Transcript, key: Key) -> Answer:
        free = members.free_problem(known, transcript)

        def best(latents: Array) -> tuple[Array, Answer]:
            answers = jax.lax.map(lambda latent: rows.sign(free, transcript, latent), latents)
            index = jnp.argmin(answers.objective)
            return latents[index], tree.take(answers, index)

        raw = jnp.nan_to_num(jax.vmap(lambda seen: leak.exact(found, seen))(transcript.seen))
        size = jnp.linalg.norm(raw, axis=-1, keepdims=True)
        fresh = raw / jnp.where(size > 0, size, 1) * members.typical(known).astype(raw.dtype)
        near, answer = best(jnp.stack([raw, *(2.0**power * fresh for power in _LENGTHS)]))
        guess = Guess(answer.labels.astype(near.dtype), None, near)
        solver = rows.search(transcript, _WIDTH * jnp.linalg.norm(near, axis=-1))
        state = inversion.search(free._replace(init=lambda key: guess), solver, key, _REFINE)
        latent, answer = best(jnp.stack([near, state.guess.latent]))
        answer = answer._replace(private=latent[0])
        if len(transcript.items) * tree.ravel(transcript.seen).size > _LARGEST:  # padding counts
            return answer
        guess = Guess(answer.labels.astype(near.dtype), None, latent)
        solver = gauss_newton.gauss_newton()
        state = inversion.search(free._replace(init=lambda key: guess), solver, key, _POLISH)
        exact = state.guess.labels
        explained = state.objective < _EXPLAINED * len(transcript.rounds)
        return answer._replace(
            scores=jnp.where(explained, exact, answer.scores),
            labels=jnp.where(explained, exact > 0.5, answer.labels),
            private=jnp.where(explained, state.guess.latent[0], latent[0]),
        )

    return attack


def aligned(known: members.Known) -> members.Attack:
    """`rows.search` for the private states whose predicted rows align with the seen ones.

    Starts from states of zero. The certificate takes the private states as unknown.
    """
    width = float(members.typical(known))

    def attack(transcript: Transcript, key: Key) -> Answer:
        free = members.free_problem(known, transcript)
        zero = jax.tree.map(jnp.zeros_like, free.init(key))
        start = free._replace(init=lambda key: zero)
        state = inversion.search(start, rows.search(transcript, width), key, _SEARCH)
        answer = start.answer(state.guess, state.objective)
        problem = members.whitened_problem(known, transcript, state.guess.latent)
        guess = state.guess._replace(labels=answer.labels.astype(answer.scores.dtype))
        return answer._replace(certificate=members.certificate(known, problem, guess, transcript))

    return attack
