"""The exact attack on uploads that determine each step's private state up to one scalar."""

from functools import partial
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp

from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import (
    certificate,
    closed_form,
    embedding,
    item_rows,
    label_solve,
    problems,
)
from fedinv_jax.attack.exact.known import Attack, Known
from fedinv_jax.attack.inversion import Inversion
from fedinv_jax.attack.objective import Problem
from fedinv_jax.types import Answer, Array, Guess, Key, Transcript

_STARTS, _STEPS, _LEVELS = 6, 3, 28  # of the search for a scale: starts, rounds, halvings


def scaled(known: Known) -> Attack:
    """The label solve at private states known up to a scalar; the scalar of least residual wins.

    Both signs are searched. In matrix factorisation with BCE, `1 - y` and `-p` explain what was
    seen as well as `y` and `p`. At a step that both signs explain, the sign with fewer interactions
    is taken. If both signs explain every step, no answer is certified.

    Raises:
        ValueError: if the client's upload is not affine in the labels, or does not determine the
            line of p.
    """
    label_solve.require_affine(known.structure)
    if known.recovery is None:
        raise ValueError('scaled needs a leaf of rank one along the private embedding.')
    found = known.recovery

    def attack(transcript: Transcript, key: Key) -> Answer:
        del key
        along = jax.vmap(lambda seen: embedding.direction(found, seen))(transcript.seen)
        typical_norm = problems.typical_norm(known).astype(along.dtype)
        steps = [
            problems.steps(transcript, slice(t, t + 1)) for t in range(transcript.rounds.shape[0])
        ]
        pairs = [
            _private_state(known, step, along[t], typical_norm) for t, step in enumerate(steps)
        ]
        latent, both = (jnp.stack(parts) for parts in zip(*pairs, strict=True))
        problem = problems.whitened_problem(known, transcript, latent)
        tangents = jnp.eye(len(latent))[:, :, None] * latent[None]  # the scales
        if known.lossy:  # the directions too
            tangents = jnp.eye(latent.size).reshape(-1, *latent.shape)
        answer = closed_form.solved(known, problem, transcript, tangents=tangents)
        if answer.certificate is None:
            return answer
        # Where the other sign explains as much, other labels do.
        return answer._replace(certificate=certificate.unless(answer.certificate, jnp.any(both)))

    return attack


class _Line(NamedTuple):
    """The private states `scale * along` of one step; `problem` is of that step alone (T = 1).

    `sides`: where item rows are multiples of p, and their signs are labels, the factors `[K]` of
    the rows and `along`: the labels then depend on the sign of the scale only. None elsewhere.
    `grid`: see `Known`.
    """

    problem: Problem
    solver: Inversion
    along: Array
    sides: Array | None
    vanished: Array
    grid: float


def _private_state(
    known: Known, step: Transcript, along: Array, typical_norm: Array
) -> tuple[Array, Array]:
    """The private state `[D]` of one step (T = 1), and whether both signs explain it."""
    problem = problems.whitened_problem(known, step, typical_norm * along[None])
    solver = label_solve.label_solve(
        known.structure.outer, (), known.max_dense_candidates, known.grid
    )
    # Scales 6% apart, from 1/8 to 19 times the size of a fresh embedding.
    sizes = typical_norm * 2 ** jnp.arange(-3, 13 / 3, 1 / 12)
    sides, vanished = _sides(known, step, along), jnp.zeros(step.items.shape, bool)
    if sides is not None and known.interactions_vanish:
        vanished = item_rows.vanished(step)
    best = partial(_best_scale, _Line(problem, solver, along, sides, vanished, known.grid), sizes)
    scales, lefts, shares = jax.lax.map(best, jnp.array([1.0, -1.0]))
    both = jnp.max(lefts) < jnp.maximum(label_solve.EXPLAINED, 1.1 * jnp.min(lefts))
    chosen = jnp.where(both, jnp.argmin(shares), jnp.argmin(lefts))
    return scales[chosen] * along, both


def _best_scale(line: _Line, sizes: Array, sign: Array) -> tuple[Array, Array, Array]:
    """The best scale of that sign, its residual, and its share of positives."""
    values = jax.lax.map(lambda size: _solve_at(line, sign * size)[1], sizes)
    padded = jnp.pad(values, 1, constant_values=jnp.inf)
    local = (values <= padded[:-2]) & (values <= padded[2:])
    starts = sizes[jnp.argsort(jnp.where(local, values, jnp.inf))[:_STARTS]]
    scales = jax.lax.map(
        lambda start: jax.lax.fori_loop(0, _STEPS, partial(_improve, line), sign * start), starts
    )
    labels, lefts = jax.lax.map(partial(_solve_at, line), scales)
    index = jnp.argmin(lefts)
    return scales[index], lefts[index], jnp.mean(labels[index])


def _sides(known: Known, step: Transcript, along: Array) -> Array | None:
    """See `_Line`."""
    if known.recovery is None or known.recovery.kernel not in known.structure.on_line:
        return None
    if known.lossy or not known.signs:
        return None
    leaf = flax.traverse_util.flatten_dict(dict(step.seen), sep='/')[known.recovery.kernel][0]
    rows = leaf if step.rows is None else leaf[step.rows]
    return jnp.where(candidates.mask(step), rows @ along, 0) if known.recovery.axis else None


def _solve_at(line: _Line, scale: Array) -> tuple[Array, Array]:
    """The labels `[K]` at one scale, by the label solve where no rows tell, and what is left."""
    key = jax.random.key(0)
    start = line.problem.init(key)._replace(latent=scale * line.along[None])
    if line.sides is not None:
        labels = ((line.sides * scale < 0) | line.vanished).astype(start.labels.dtype)
        return labels, label_solve.fit(line.problem, start._replace(labels=labels))
    at = line.problem._replace(init=lambda key: start)
    state = line.solver.update(at, line.solver.init(at, key))
    return state.guess.labels, state.objective


def _improve(line: _Line, _: int, scale: Array) -> Array:
    """The scale, improved by a search at finer and finer distances, for the labels that fit there.

    The uploads jump where a ReLU turns on, so that derivatives are of little use.
    """
    rounded = label_solve.nearest(_solve_at(line, scale)[0], line.grid)

    def left(scale: Array) -> Array:
        return label_solve.fit(line.problem, Guess(rounded, None, scale * line.along[None]))

    def narrow(level: int, scale: Array) -> Array:
        near = scale * (1 + 0.04 * 0.5**level * jnp.array([0.0, -1.0, -0.5, 0.5, 1.0]))
        return near[jnp.argmin(jax.vmap(left)(near))]

    return jax.lax.fori_loop(0, _LEVELS, narrow, scale)
