"""The exact attack on uploads in which a layer with bias determines the private state.

Exact attacks come in several members. A member is a short recipe over the seams, a function of what
is `Known` about every client: `member(known) -> attack(transcript, key) -> Answer`. It defines
where the private states come from and which solver finds the labels.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from fedinv_jax import tree
from fedinv_jax.attack import candidates, objective
from fedinv_jax.attack.exact import (
    certificate,
    consistency,
    embedding,
    identifiability,
    label_posterior,
    label_solve,
    normal_equations,
    problems,
)
from fedinv_jax.attack.exact.known import Attack, EmbeddingRecovery, Known
from fedinv_jax.attack.exact.normal_equations import Normal
from fedinv_jax.types import Answer, Array, Guess, Key, PyTree, Transcript

_APART = 0.1  # relative distance of a kernel from a product that rounding hardly explains
_SURE = 25.0  # five standard deviations: of a squared residual, beside its size
_TURNS, _NEWTON = 6, 6  # for noisy channels: alternations, and Newton steps in each


def closed_form(known: Known) -> Attack:
    """The private state of each step from a first layer with bias, then the label solve.

    The label solve leaves out the kernel's leaf: it is the outer product of p and the bias's leaf
    and adds no equation. If the channel adds noise, the kernel's leaf does add equations. Labels
    and private states are then found in turn, the labels from the other leaves, the private states
    from all leaves.

    Raises:
        ValueError: if the client's upload is not affine in the labels, or does not determine p.
    """
    label_solve.require_affine(known.structure)
    if known.recovery is None or known.recovery.bias is None:
        raise ValueError('closed_form needs the kernel and the bias of a layer that multiplies p.')
    found, excluded = known.recovery, (known.recovery.kernel,)

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        latent = jax.vmap(lambda seen: embedding.exact(found, seen))(transcript.seen)
        if known.lossy and len(transcript.items) <= known.max_dense_candidates:
            latent = jnp.nan_to_num(latent)  # NaN where all entries of a step's bias were dropped
            return _jointly(known, transcript, latent, found)
        problem = problems.whitened_problem(known, transcript, latent, excluded)
        apart = jax.vmap(partial(embedding.mismatch, found))(transcript.seen, latent)
        error = embedding.error(latent, apart, known.rounding)
        answer = solved(known, problem, transcript, excluded, error=error)
        # The label solve leaves out the kernel: whether that is a product is asked here.
        if answer.certificate is not None:
            unique = certificate.for_all_private_states(answer.certificate)
            answer = answer._replace(certificate=unique)
        return _unless(answer, ~jnp.all(apart <= _APART))  # NaN: a kernel without a bias

    return attack


def _unless(answer: Answer, contradicts: Array) -> Answer:
    """An answer that neither fits nor is certified where the upload contradicts the client."""
    found = answer.certificate
    return answer._replace(
        certificate=found and certificate.unless(found, contradicts),
        fits=None if answer.fits is None else jnp.where(contradicts, 0, answer.fits),
    )


def _estimate(known: Known, equations: Normal, transcript: Transcript) -> Array:
    """Labels `[K]`: binary ones by `label_posterior`, those of ratings by least squares alone."""
    if known.grid < 1:
        return label_solve.boxed(equations)
    return label_posterior.estimate(equations, candidates.log_odds(transcript, known.positives))


def _rounded(known: Known, guess: Guess) -> Guess:
    return guess._replace(labels=label_solve.nearest(guess.labels, known.grid))


def solved(
    known: Known,
    problem: objective.Problem,
    transcript: Transcript,
    excluded: Sequence[str] = (),
    tangents: PyTree | None = None,
    error: PyTree | None = None,
) -> Answer:
    """The label solve's answer at the problem's private states, with its certificate.

    Args:
        known: what the attacker knows.
        problem: from `problems.whitened_problem`.
        transcript: what the server holds.
        excluded: names of leaves that are left out.
        tangents: directions `[P, ...]` in which the private states are uncertain.
        error: approximate error of the private states.
    """
    outer, where = known.structure.outer, candidates.mask(transcript)
    guess = problem.init(jax.random.key(0))
    if len(guess.labels) > known.max_dense_candidates:
        solver = label_solve.label_solve(outer, excluded, known.max_dense_candidates, known.grid)
        state = solver.update(problem, solver.init(problem, jax.random.key(0)))
        rounded = _rounded(known, state.guess)
        unknowns = optax.tree.size(guess)
        fitting = consistency.fits(tree.ravel(problem.residual(rounded)), unknowns)
        return problem.answer(state.guess, state.objective)._replace(fits=fitting)
    equations = normal_equations.equations(problem, guess, outer, excluded)
    guess = guess._replace(labels=_estimate(known, equations, transcript))
    rounded = _rounded(known, guess)
    gram, factor, extra = equations.gram, equations.factor, jnp.zeros(())
    num_private: int | Array = optax.tree.size(guess.latent)
    if tangents is not None:
        gram, num_known = certificate.project_gram(problem, rounded, gram, tangents)
        num_private += num_known - len(jax.tree.leaves(tangents)[0])
        factor = identifiability.factor(gram)
    if error is not None:
        moved = jax.jvp(
            lambda latent: problem.residual(rounded._replace(latent=latent)),
            (guess.latent,), (error,),
        )[1]  # fmt: skip
        extra = jnp.linalg.norm(tree.ravel(moved))
    found = certificate.certify(problem, guess, gram, factor, where, extra, num_private, known.grid)
    residual = tree.ravel(problem.residual(rounded))
    alone = consistency.determined(gram, factor, where, jnp.sum(residual != 0), known.grid)
    fitting = consistency.fits(residual, optax.tree.size(guess), alone)
    answer = problem.answer(guess, jnp.mean(residual**2))
    return answer._replace(certificate=found, fits=fitting)


def _jointly(
    known: Known, transcript: Transcript, latent: PyTree, found: EmbeddingRecovery
) -> Answer:
    """The answer from noisy uploads: labels and private states in turn, while the fit improves.

    A slightly wrong private state turns a ReLU on or off for a few items. Their gradients are then
    far off, those of the other items are not. So both the loss, `mean log(1 + r^2 / 4)`, and the
    Gauss-Newton steps in the private states discount large residuals. The certificate treats the
    private states as unknown.

    Args:
        known: what the attacker knows.
        transcript: what the server holds.
        latent: private states to start from, leaves `[T, ...]`.
        found: leaves that determine p; the label solve leaves out the kernel.
    """
    excluded = (found.kernel,)
    whole, rest = (
        problems.whitened_problem(known, transcript, latent, out) for out in ((), excluded)
    )
    flat, unravel = jax.flatten_util.ravel_pytree(latent)

    def residual(labels: Array, flat: Array) -> Array:
        return tree.ravel(whole.residual(_rounded(known, Guess(labels, None, unravel(flat)))))

    def loss(labels: Array, flat: Array) -> Array:
        return jnp.mean(jnp.log1p(residual(labels, flat) ** 2 / 4))

    def turn(carry: tuple) -> tuple:
        best, _, count = carry
        guess = whole.init(jax.random.key(0))._replace(latent=unravel(best[1]))
        equations = normal_equations.equations(rest, guess, known.structure.outer, excluded)
        labels = _estimate(known, equations, transcript)

        def step(_: int, flat: Array) -> Array:
            left = residual(labels, flat)
            size = 3 * (1 + 1.5 * jnp.median(jnp.abs(left)))
            weights = 1 / jnp.sqrt(1 + (left / size) ** 2)
            slope = jax.jacfwd(partial(residual, labels))(flat)
            new = flat - jnp.linalg.lstsq(weights[:, None] * slope, weights * left)[0]
            return jnp.where(loss(labels, new) < loss(labels, flat), new, flat)

        flat = jax.lax.fori_loop(0, _NEWTON, step, best[1])
        new = labels, flat, loss(labels, flat)
        better = new[2] < 0.99 * best[2]
        best = optax.tree.where(better, new, best)
        return best, better, count + 1

    half = jnp.full(len(transcript.items), 0.5, flat.dtype)
    start = (half, flat, jnp.asarray(jnp.inf, flat.dtype)), jnp.asarray(True), 0
    best = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < _TURNS), turn, start)[0]
    guess = Guess(best[0], None, unravel(best[1]))
    rounded = _rounded(known, guess)
    answer = whole.answer(guess, label_solve.fit(whole, rounded))
    answer = answer._replace(
        certificate=certificate.certify_unknown_private(known, whole, rounded, transcript),
        fits=consistency.fits(tree.ravel(whole.residual(rounded)), optax.tree.size(guess)),
    )
    left = jax.vmap(partial(embedding.excess, found))(whole.whiten(transcript.seen))
    square, size = map(jnp.sum, left)
    return _unless(answer, square > label_solve.EXPLAINED * size + _SURE)
