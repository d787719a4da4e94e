"""What would fit an upload that contradicts its description: each change is tried, not guessed.

A change of the uploads (another sign, a factor, a term less) or of the client is named only where
the attack, run again on it, explains what was seen.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import jax
import numpy as np
import optax

from fedinv_jax import compilation, tree
from fedinv_jax.attack.exact.known import Known
from fedinv_jax.audit import attackers, changed_uploads, precision, registry, training
from fedinv_jax.audit.config import Config
from fedinv_jax.types import Answer, BatchLoss, Model, Transcript

_ALIKE = 0.9  # correlation of what was sent with what came back, where weights were sent

Solve: TypeAlias = Callable[[Transcript], Answer]
Remade: TypeAlias = tuple[str, attackers.Target, Transcript]
"""What would fit, in words, what the attack is made for anew, and what it is run on."""


def probe(config: Config, model: Model, uploads_in: precision.Precision | None) -> attackers.Probe:
    """`attackers.probe` for uploads in that precision, each case once."""

    @functools.cache
    def known(seen: tuple[str, ...], adaptive: bool) -> Known:
        return precision.assumed(attackers.probe(config, model, seen, adaptive), uploads_in)

    return known


def solver(target: attackers.Target, choice: attackers.Choice) -> Solve:
    """An attack on transcripts, compiled."""
    attack, key = compilation.jit(choice.attack), jax.random.key(target.config.seed)
    count = target.config.attack.num_iterations
    return lambda seen: jax.device_get(attack(seen, key, count))


def explanation(target: attackers.Target, seen: Transcript, solve: Solve) -> str | None:
    """The first change that fits, in words; None where none does.

    Args:
        target: what the attack is made for.
        seen: the transcript, in float64, S = T; within a scope of float64.
        solve: the attack, compiled.
    """
    client = target.config.client
    rates = (client.optimizer.learning_rate, client.private_learning_rate)
    misfit = changed_uploads.Misfit(seen, target.probe(target.seen, target.adaptive), rates)
    for words, other, changed in itertools.chain(
        _precisions(target, misfit), _weights(target, misfit)
    ):
        if _refitted(other, changed):
            return words
    for words, changed in changed_uploads.changes(misfit):
        if solve(changed).fits == 1:
            return words
    last = (_differences, _losses)
    for words, other, changed in itertools.chain.from_iterable(of(target, misfit) for of in last):
        if _refitted(other, changed):
            return words
    return None


def _changed(
    target: attackers.Target, config: Config, uploads_in: precision.Precision | None
) -> attackers.Target:
    """What an attack on another client, or on uploads in another precision, is made for."""
    return target._replace(config=config, probe=probe(config, target.model, uploads_in))


def _refitted(target: attackers.Target, seen: Transcript) -> bool:
    """Whether the attack that is made for another client explains what was seen."""
    try:
        choice = registry.ATTACKS[target.attack].make(target)
    except ValueError:  # no member applies
        return False
    return bool(solver(target, choice)(seen).fits == 1)


def _precisions(target: attackers.Target, misfit: changed_uploads.Misfit) -> Iterator[Remade]:
    """The coarser precision that the numbers are in, where it was not declared."""
    found = None if precision.of(misfit.known) else precision.undeclared(misfit.seen.seen)
    if found:
        words = f'another precision: all numbers are {found.name}; store seen/ in that type'
        yield words, _changed(target, target.config, found), misfit.seen


def _weights(target: attackers.Target, misfit: changed_uploads.Misfit) -> Iterator[Remade]:
    """New weights instead of their difference to those that were sent."""
    seen, sent = misfit.seen, changed_uploads.like(misfit.seen)
    if np.corrcoef(tree.ravel(seen.seen), tree.ravel(sent))[0, 1] > _ALIKE:
        differences = dataclasses.replace(seen, seen=optax.tree.sub(sent, seen.seen))
        words = 'new weights: upload shared - seen, and describe'
        yield from _trained(target, misfit._replace(seen=differences), words)


def _differences(target: attackers.Target, misfit: changed_uploads.Misfit) -> Iterator[Remade]:
    """Differences of weights instead of gradients: the weights' own rounding is in them."""
    if target.config.client.name == 'gradient_step':
        yield from _trained(target, misfit, 'one factor, as differences of weights have: describe')


def _trained(
    target: attackers.Target, misfit: changed_uploads.Misfit, words: str
) -> Iterator[Remade]:
    """The client that takes one step of gradient descent, of the size that fits."""
    factor = changed_uploads.fitted_factor(misfit)
    if not factor:
        return
    config = target.config.copy_and_resolve_references()
    rate = changed_uploads.rounded(abs(factor))[0]
    config.client.update({'name': 'local_sgd', 'num_epochs': 1, 'batch_size': None})
    config.client.optimizer.update({'name': 'sgd', 'learning_rate': rate})
    sign = ' and the other sign' if factor < 0 else ''
    words += f' client local_sgd with optimizer sgd of learning_rate {rate:.4g}{sign}'
    other = _changed(target, config, precision.of(misfit.known))
    yield words, other, changed_uploads.scaled(misfit.seen, float(np.sign(factor)))


def _losses(target: attackers.Target, misfit: changed_uploads.Misfit) -> Iterator[Remade]:
    """Another loss of single items; those of a batch take long to try."""
    for loss, made in training.LOSSES.items():
        if loss != target.config.client.loss and not isinstance(made, BatchLoss):
            config = target.config.copy_and_resolve_references()
            config.client.loss = loss
            other = _changed(target, config, precision.of(misfit.known))
            yield f'another loss: {loss}', other, misfit.seen
