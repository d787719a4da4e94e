"""Exact attacks on clients of one step whose step sizes the attacker does not know.

Item rows and scorer are uploaded as gradients times a factor each, and the factors are unknown. A
first layer with bias determines the private state without them: kernel and bias have the same one.
The coefficients of the logits have the factor, and keep their signs, which are labels. Labels and
private states predict the gradients, and the factors follow by least squares.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from fedinv_jax import tree
from fedinv_jax.attack import step_sizes
from fedinv_jax.attack.exact import certificate, closed_form, coefficients, embedding, problems
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.attack.step_sizes import Sizes
from fedinv_jax.types import Answer, Array, ClientUpdate, Guess, Key, Transcript

_TURNS = 4  # of step sizes and labels


def estimating(known: Known, finish: Callable[[Known, Attack], Attack]) -> Attack:
    """The attack that estimates the step sizes, and then goes on as if they were known.

    The labels of `coefficients`, which needs no step sizes, give the first estimate. If the upload
    is affine in the labels, those of `closed_form` at the estimate give the next ones: signs of
    coefficients that are nearly 0 are unsure, as are labels that the upload does not determine one
    by one.

    The answer is certified where the signs of the coefficients certify the same labels: they do so
    for all step sizes.

    Args:
        known: what the attacker knows, for a client whose uploads are gradients.
        finish: `finish(known, attack)`, what becomes of the attack on a client of which all is
            known, see `compare.best_of`.

    Returns:
        The attack; `step_sizes` of its answer are the estimates.

    Raises:
        ValueError: if the client uploads no sum of the logits' gradients, or does not determine p.
    """
    by_signs = coefficients.coefficients(known)  # refuses what it does not apply to
    if known.linear is None or known.linear.leaf is not None:
        return _uncertified(by_signs)
    affine = known.structure.affine and known.recovery is not None

    def attack(transcript: Transcript, key: Key) -> Answer:
        def turn(sizes: Sizes, first: Array) -> tuple[Sizes, tuple[Sizes, Answer, Answer]]:
            client = _at(known, sizes)
            answer = signs = coefficients.coefficients(client)(transcript, key)
            if affine:
                answer = closed_form.closed_form(client)(transcript, key)
            labels = jnp.where(first, signs.labels, answer.labels)
            return fit(known, transcript, labels, sizes), (sizes, signs, answer)

        ones = {part: jnp.ones(()) for part in step_sizes.parts(transcript.seen)}
        sizes, turns = jax.lax.scan(turn, ones, jnp.arange(_TURNS if affine else 2) == 0)
        used, signs, found = tree.take(turns, -1)
        answer = finish(_at(known, used), lambda *_: found)(transcript, key)
        differ = jnp.any(signs.labels != answer.labels) | (answer.fits == 0)
        sure = signs.certificate and certificate.unless(signs.certificate, differ)
        return answer._replace(certificate=sure, step_sizes=sizes)

    return attack


def _uncertified(by_signs: Attack) -> Attack:
    """The labels of signs alone: a part of the private state, hence a gradient, is not known."""

    def attack(transcript: Transcript, key: Key) -> Answer:
        answer = by_signs(transcript, key)
        found = answer.certificate
        return answer._replace(certificate=found and certificate.unless(found, jnp.asarray(True)))

    return attack


def _at(known: Known, sizes: Sizes) -> Known:
    """What the attacker knows of the client with these step sizes."""

    def stepped(client_update: ClientUpdate) -> ClientUpdate:
        return step_sizes.stepped(client_update, sizes, known.differences)

    linear = known.linear
    return known._replace(
        client_update=stepped(known.client_update),
        linear=linear and linear._replace(client_update=stepped(linear.client_update)),
        terms=known.terms and stepped(known.terms),
    )


def fit(known: Known, transcript: Transcript, labels: Array, sizes: Sizes) -> Sizes:
    """The step sizes of least squares, whitened, for labels `[K]` at the private states of a layer.

    Args:
        known: what the attacker knows, for a client whose uploads are gradients.
        transcript: what the server holds.
        labels: bool `[K]`.
        sizes: an estimate; only the sizes of rounding errors depend on it.
    """
    found = known.linear.recovery if known.linear else known.recovery
    if found is None:
        raise ValueError('The step sizes need a layer with bias that multiplies p.')
    latent = jax.vmap(partial(embedding.exact, found))(transcript.seen)
    latent = jnp.nan_to_num(latent)  # at a step whose bias is zero
    client = _at(known, sizes)
    problem = problems.whitened_problem(client, transcript, latent, (found.kernel,))
    guess = Guess(labels.astype(latent.dtype), None, latent)
    fitted = step_sizes.fit(*map(problem.whiten, (problem.predict(guess), transcript.seen)))
    return {part: size * fitted[part] for part, size in sizes.items()}
