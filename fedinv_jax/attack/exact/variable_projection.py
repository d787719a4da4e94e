"""Variable projection: labels and private states together, for uploads that are not affine.

After several local steps no leaf determines p exactly and no linear system determines the labels.
Gauss-Newton on the replayed client finds both.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import gauss_newton, inversion
from fedinv_jax.attack.exact import embedding, problems
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.attack.inversion import State
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Guess, Key, Transcript

_ITERATIONS, _STARTS = 30, 3
_FIXED = 6  # first iterations, with p fixed: labels of 1/2 would pull p away
_PRIOR = 1e-5  # residual by the prior of an entry of p of typical size, relative to what was seen


def variable_projection(known: Known) -> Attack:
    """Gauss-Newton from an approximate p, where a leaf determines one, and from fresh draws.

    A further start is tried only if no start before it explained what was seen; the least residual
    wins. A weak normal prior keeps p near the size of a fresh one. The residual of each step is
    divided by the norm of its whole upload. It is not divided by the rounding error of each leaf,
    which does not say how far a linear model holds.

    Args:
        known: only the client, the channel, the initialisation and the approximate embedding
            recovery are used.

    Returns:
        The attack; its objective is the squared residual relative to what was seen, summed over
        steps, or NaN if it never was finite.
    """

    def attack(transcript: Transcript, key: Key) -> Answer:
        plain = problems.free_problem(known, transcript)
        latent = tree.ravel(tree.take(plain.init(key).latent, 0))
        size = problems.typical_norm(known).astype(latent.dtype)
        prior = _PRIOR * jnp.sqrt(float(latent.size)) / size
        start = partial(_start, known, plain, transcript, key)

        def search(carry: tuple[Array, State]) -> tuple[Array, State]:
            index, best = carry
            state = _search_from(plain, start(index), prior)
            return index + 1, inversion.keep_best(best, state.guess, state.objective)

        least = jnp.asarray(jnp.inf, prior.dtype)
        none = State(start(jnp.asarray(_STARTS)), least, jnp.asarray(False), least)
        state = jax.lax.while_loop(
            lambda carry: (carry[0] < _STARTS) & (carry[1].objective >= gauss_newton.EXPLAINED),
            search,
            (jnp.asarray(0), none),
        )[1]
        value = jnp.where(jnp.isfinite(state.objective), state.objective, jnp.nan)
        return plain.answer(state.guess, value)

    return attack


def _start(known: Known, plain: Problem, transcript: Transcript, key: Key, index: Array) -> Guess:
    """Start number `index`: labels of 1/2, and an approximate p (the first) or a fresh one."""
    guess = plain.init(jax.random.fold_in(key, index))
    guess = guess._replace(labels=jnp.full_like(guess.labels, 0.5))
    if known.approximate_recovery is None or known.approximate_recovery.bias is None:
        return guess
    approximate = jax.vmap(partial(embedding.exact, known.approximate_recovery))(transcript.seen)
    take = (index == 0) & jnp.all(jnp.isfinite(approximate))
    return guess._replace(latent=jnp.where(take, approximate, guess.latent))


def _search_from(plain: Problem, start: Guess, prior: Array) -> State:
    """The final state of Gauss-Newton from a start, with its private states fixed at first."""
    solver = gauss_newton.gauss_newton()

    def problem(fixed: bool | Array) -> Problem:
        def residual(guess: Guess) -> tuple:
            latent = optax.tree.where(fixed, start.latent, guess.latent)
            return plain.residual(guess._replace(latent=latent)), prior * tree.ravel(latent)

        return plain._replace(init=lambda key: start, residual=residual)

    return jax.lax.while_loop(
        lambda carry: ~carry[0].done & (carry[1] < _ITERATIONS),
        lambda carry: (solver.update(problem(carry[1] < _FIXED), carry[0]), carry[1] + 1),
        (solver.init(problem(True), jax.random.key(0)), 0),
    )[0]
