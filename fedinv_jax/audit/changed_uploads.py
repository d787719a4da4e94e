"""Changes of uploads that contradict their description, each with the scalar that fits best.

A sign, a factor, kernels in another layout, an L2 term, momentum.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from fedinv_jax import tree
from fedinv_jax.attack.exact import blocks, embedding, problems
from fedinv_jax.attack.exact.known import EmbeddingRecovery, Known
from fedinv_jax.types import Array, PyTree, Transcript

_FACTORS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)  # and their inverses: usual step sizes
_MOST = 5e7  # numbers of a Jacobian

Change: TypeAlias = tuple[str, Transcript]
"""What would fit, in words, and the transcript that is attacked instead."""


class Misfit(NamedTuple):
    """What is known of a misfit.

    Attributes:
        seen: the transcript, in float64, S = T.
        known: what the attacker knows.
        rates: step sizes of the description.
    """

    seen: Transcript
    known: Known
    rates: tuple[float, ...]


def changes(misfit: Misfit) -> Iterator[Change]:
    """All of them, the simplest first."""
    for family in (_factors, _layouts, _penalties, _momenta):
        yield from family(misfit)


def like(seen: Transcript) -> PyTree:
    """The parameters that were sent, of the leaves that are seen."""
    leaves = flax.traverse_util.flatten_dict(seen.shared, sep='/')
    kept = {name: leaves[name] for name in tree.names(seen.seen)}
    return flax.traverse_util.unflatten_dict(kept, sep='/')


def scaled(seen: Transcript, factor: float) -> Transcript:
    """Uploads that are so many times as large."""
    return dataclasses.replace(seen, seen=optax.tree.scale(factor, seen.seen))


def _factors(misfit: Misfit) -> Iterator[Change]:
    """The other sign, and one factor: that which fits, or usual ones."""
    yield 'the other sign: an upload is what the server subtracts', scaled(misfit.seen, -1.0)
    size = float(np.sum(misfit.seen.weights[0] > 0))
    named = {size: 'a sum over the batch, not its mean', 1 / size: 'divided by the batch twice'}
    for rate in misfit.rates:
        named |= {rate: 'the step size', 1 / rate: 'one over the step size'}
    fitted = fitted_factor(misfit)
    usual = sorted({*named, *_FACTORS, *(1 / each for each in _FACTORS)})
    for factor in [fitted] if fitted else [sign * each for each in usual for sign in (1, -1)]:
        near = [words for each, words in named.items() if abs(abs(factor) / each - 1) < 1e-3]
        what = f' ({near[0]})' if near else ' (a step size, or a mean for a sum?)'
        yield (
            f'one factor: the uploads are {factor:.4g} times as large{what}',
            scaled(misfit.seen, 1 / factor),
        )


def fitted_factor(misfit: Misfit) -> float | None:
    """The factor with which the labels of least squares are binary; None where p needs a scale.

    Uploads s times as large have least-squares labels `w = q - s (q - y)`, with q those of an
    upload of zeros.
    """
    affine = _affine(misfit, misfit.seen.seen)
    if affine is None:
        return None
    origin, matrix, uploads, _ = affine
    where = np.any(matrix != 0, axis=0)
    both = np.linalg.lstsq(matrix[:, where], np.stack([-origin, uploads - origin], 1))[0]
    q, gap = both[:, 0], both[:, 0] - both[:, 1]
    with np.errstate(divide='ignore', invalid='ignore'):
        candidates = np.concatenate([gap / q, gap / (q - 1)])
    candidates = candidates[np.isfinite(candidates) & (candidates != 0)]
    if not candidates.size:
        return None
    labels = q - gap / candidates[:, None]
    best = np.argmin(np.sum((labels - np.clip(np.round(labels), 0, 1)) ** 2, axis=1))
    upload = origin + matrix[:, where] @ np.clip(np.round(labels[best]), 0, 1)
    return float(upload @ uploads / (upload @ upload))


def _affine(misfit: Misfit, term: PyTree) -> tuple[np.ndarray, ...] | None:
    """Whitened uploads are `origin + matrix y`: both, those that were seen, and a term.

    None where private states are not known whatever the scale, or the matrix is too large.
    """
    known, found = misfit.known, misfit.known.recovery
    size = misfit.seen.items.size * optax.tree.size(misfit.seen.seen)
    if found is None or found.bias is None or size > _MOST:
        return None

    def parts(seen: Transcript, term: PyTree) -> tuple[Array, ...]:
        seen, term = blocks.split_seen(known.block, seen), blocks.split(known.block, term)
        latent = jax.vmap(functools.partial(embedding.exact, found))(seen.seen)
        problem = problems.whitened_problem(known, seen, latent, (found.kernel,))
        guess = problem.init(jax.random.key(0))

        def predicted(labels: Array) -> Array:
            return tree.ravel(problem.whiten(problem.predict(guess._replace(labels=labels))))

        zero = jnp.zeros_like(guess.labels)
        whitened = (tree.ravel(problem.whiten(whole)) for whole in (seen.seen, term))
        return predicted(zero), jax.jacfwd(predicted)(zero), *whitened

    made = jax.device_get(jax.jit(parts)(misfit.seen, term))
    return made if np.all(np.isfinite(made[1])) else None


def _layouts(misfit: Misfit) -> Iterator[Change]:
    """Square kernels transposed, and two kernels of one shape exchanged."""
    leaves = flax.traverse_util.flatten_dict(misfit.seen.shared.get('scorer', {}), sep='/')
    kernels = {name: leaf.shape[1:] for name, leaf in leaves.items() if leaf.ndim == 3}
    square = [name for name, (rows, columns) in kernels.items() if rows == columns]

    def changed(names: dict[str, str], swap: bool = False) -> Transcript:
        def part(whole: PyTree) -> PyTree:
            flat = flax.traverse_util.flatten_dict(whole, sep='/')
            moved = {name: flat[f'scorer/{other}'] for name, other in names.items()}
            moved = {k: v.swapaxes(1, 2) if swap else v for k, v in moved.items()}
            flat |= {f'scorer/{name}': leaf for name, leaf in moved.items()}
            return flax.traverse_util.unflatten_dict(flat, sep='/')

        seen = misfit.seen
        return dataclasses.replace(
            seen, shared={**seen.shared, **part(seen.shared)}, seen=part(seen.seen)
        )

    seen = flax.traverse_util.flatten_dict(misfit.seen.seen.get('scorer', {}), sep='/')
    if square and set(square) <= set(seen):
        words = f'square kernels transposed ({", ".join(square)}): nn.Linear keeps [out, in]'
        yield words, changed({name: name for name in square}, swap=True)
    for one, other in itertools.combinations(kernels, 2):
        if kernels[one] == kernels[other] and {one, other} <= set(seen):
            yield f'{one} and {other} exchanged', changed({one: other, other: one})


def _penalties(misfit: Misfit) -> Iterator[Change]:
    """An L2 term: uploads `g + rate * shared`, of all parameters or of a part."""
    seen, sent = misfit.seen, like(misfit.seen)
    found = misfit.known.recovery
    if found is None:
        return
    rate = _pencil(*(_kernels(misfit.known, found, whole) for whole in (seen.seen, sent)))
    parts = [('all parameters', sent, rate)]
    if len(sent) > 1:
        rows = optax.tree.zeros_like(sent) | {'items': sent['items']}
        parts += [('the scorer', {'scorer': sent['scorer']}, rate)]
        beside = _beside(misfit, rows)
        parts += [] if beside is None else [('item rows', rows, beside)]
    for name, term, fitted in parts:
        for value in rounded(fitted):
            yield (
                f'an L2 term on {name}: {value:.4g} times the parameters in the uploads',
                _without(seen, term, value),
            )


def _beside(misfit: Misfit, term: PyTree) -> float | None:
    """How much of a term the uploads hold beside what labels make of them."""
    affine = _affine(misfit, term)
    if affine is None:
        return None
    origin, matrix, uploads, column = affine
    size = np.linalg.norm(column)
    columns = np.concatenate([matrix, column[:, None] / size], 1)
    return float(np.linalg.lstsq(columns, uploads - origin)[0][-1] / size)


def _without(seen: Transcript, term: PyTree, rate: float) -> Transcript:
    """The uploads less a term of the same names, where it has them."""
    terms = flax.traverse_util.flatten_dict(term, sep='/')
    leaves = flax.traverse_util.flatten_dict(seen.seen, sep='/')
    left = {k: leaf - rate * terms[k] if k in terms else leaf for k, leaf in leaves.items()}
    return dataclasses.replace(seen, seen=flax.traverse_util.unflatten_dict(left, sep='/'))


def _momenta(misfit: Misfit) -> Iterator[Change]:
    """Momentum: each upload holds a part of the one before, the first one perhaps too."""
    seen, found = misfit.seen, misfit.known.recovery
    if found is None or len(seen.rounds) < 2 or np.any(np.diff(seen.rounds) != 1):
        return
    kernels = _kernels(misfit.known, found, seen.seen)
    before = jax.tree.map(lambda leaf: np.concatenate([0 * leaf[:1], leaf[:-1]]), seen.seen)
    fitted = _pencil(kernels[1:], kernels[:-1])
    for value in rounded(fitted) if 0 < fitted < 1 - 1e-6 else ():
        fresh = _without(seen, before, value)
        words = f'momentum {value:.4g}: each upload holds so much of the one before'
        yield words, fresh
        yield f'{words}, and 1 - {value:.4g} of the gradient', scaled(fresh, 1 / (1 - value))
        later = problems.steps(fresh, slice(1, None))
        yield f'{words}, from before the first round on', later


def _kernels(known: Known, found: EmbeddingRecovery, whole: PyTree) -> np.ndarray:
    """The leaf `[T, a, b]` that is of rank one in the upload of a client."""
    leaves = flax.traverse_util.flatten_dict(blocks.split(known.block, whole), sep='/')
    return np.asarray(leaves[found.kernel], float)


def _pencil(matrices: np.ndarray, others: np.ndarray) -> float:
    """The number with which `matrices - number * others` `[T, a, b]` are nearest to rank one."""
    most = 3 * float(np.linalg.norm(matrices)) / max(float(np.linalg.norm(others)), 1e-300)

    def second(number: float) -> float:
        values = np.linalg.svd(matrices - number * others, compute_uv=False)
        return float(np.sqrt(np.sum(values[:, 1:] ** 2)))

    grid = most * np.concatenate([-np.geomspace(1, 1e-4, 60), np.geomspace(1e-4, 1, 60)])
    best = int(np.argmin([second(number) for number in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    options = {'xatol': 1e-12 * most, 'maxiter': 200}
    return float(scipy.optimize.minimize_scalar(second, bounds=(low, high), method='bounded',
                                                options=options).x)  # fmt: skip


def rounded(value: float) -> list[float]:
    """A number that was fitted, and the round number that it is near."""
    near = float(f'{value:.2g}')
    return [near, value] if abs(near - value) < 1e-2 * abs(value) else [value]
