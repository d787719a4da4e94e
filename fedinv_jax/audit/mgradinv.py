"""MGradInv from a config: distance, priors, solver and start."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from fedinv_jax import _validate
from fedinv_jax.attack import (
    batching,
    candidates,
    curriculum,
    distances,
    gauss_newton,
    inversion,
    objective,
    priors,
    relax,
    step_sizes,
)
from fedinv_jax.audit import attackers, defences, training
from fedinv_jax.audit.attackers import Choice, Target
from fedinv_jax.audit.config import Config
from fedinv_jax.types import Array, Key, PyTree, Transcript

DISTANCES = {
    'cosine': distances.cosine_distance,
    'cosine_per_leaf': distances.cosine_distance_per_leaf,
    'cosine_per_part': distances.cosine_distance_per_part,
    'squared': distances.squared_distance,
    'squared_per_leaf': distances.squared_distance_per_leaf,
}
SCALES = {'squared': distances.scale, 'squared_per_leaf': distances.scale_per_leaf}
"""Distances that are squares, with their divisors."""
NEWTON = 'gauss_newton'
"""The solver of mgradinv that is no optimiser of optax."""
_STALLED = 1e-2  # share by which an iteration of it must lower the objective


def make_priors(config: Config) -> list[tuple[float, priors.Prior]]:
    """The priors of the config with their weights, without those of weight 0."""
    table = {
        'binary': priors.binary_prior(),
        'norm': priors.norm_prior(config.model.scale),
        'popularity': priors.popularity_prior(),
        'sparsity': priors.sparsity_prior(),
    }
    weights = config.attack.priors.to_dict()
    return [(w, _validate.lookup('attack.priors', name, table)) for name, w in weights.items() if w]


def make_solver(section: Config, num_steps: int) -> inversion.Inversion:
    """MGradInv's solver, by the fields of the config's section 'attack', for T = `num_steps`."""
    several = section.curriculum and not section.warm_start
    stages = curriculum.doubling(num_steps) if several else (num_steps,)
    iterations = stage_iterations(section, stages)
    solver = make_stage_solver(section, iterations)
    return curriculum.curriculum(solver, stages, iterations) if stages[1:] else solver


def make_stage_solver(section: Config, num_iterations: int) -> inversion.Inversion:
    """The solver of one stage of the curriculum."""
    if section.optimizer.name == NEWTON:
        return gauss_newton.gauss_newton(stop_below=section.stop_below, tolerance=_STALLED)
    optimizer = training.make_optimizer('attack.optimizer', section.optimizer, num_iterations)
    return inversion.descent(optimizer, stop_below=section.stop_below)


def stage_iterations(section: Config, stages: Sequence[int]) -> int:
    """Iterations of each stage, of `attack.num_iterations` in all."""
    total = section.num_iterations
    if total < len(stages):
        raise ValueError(
            f'Expected attack.num_iterations={total} to be at least {len(stages)}, one for each '
            f'stage at T = {stages[-1]} (attack.curriculum).'
        )
    iterations = -(-total // len(stages))
    if stages[1:]:  # some are left for the last stage
        iterations = min(iterations, (total - 1) // (len(stages) - 1))
    return iterations


def _scale(distance: str, transcript: Transcript) -> PyTree:
    """Divisors with which the squared residual of T steps is the mean distance of a step."""
    root = jnp.sqrt(len(transcript.rounds))
    return jax.tree.map(lambda leaf: root * leaf, jax.vmap(SCALES[distance])(transcript.seen))


def _usual_distance(config: Config, adaptive: bool) -> str:
    """The distance where the config names none."""
    if not config.attack.step_sizes_known:
        return 'cosine_per_part'
    noisy = adaptive and defences.is_noisy(config)
    return 'squared' if noisy else 'squared_per_leaf'


def make_mgradinv(
    target: Target, make_start: Callable[[Target, str], Choice] = attackers.make_exact
) -> Choice:
    """MGradInv with the config's settings, for any hypothesis and channel.

    Args:
        target: what the attack is built for.
        make_start: `make_start(target, name) -> Choice`, the attack from whose answer MGradInv
            starts (`attack.warm_start`).
    """
    config, adaptive = target.config, target.adaptive
    section = config.attack
    client_update = attackers.make_replay(config, target.model, adaptive)
    observation = attackers.make_observation(config, target.seen, adaptive)
    init_private = attackers.make_init_private(config, target.model)
    newton = section.optimizer.name == NEWTON
    solver = make_solver(section, len(target.rounds))
    name = section.distance or _usual_distance(config, adaptive)
    distance = _validate.lookup('attack.distance', name, DISTANCES)
    weighted_priors = make_priors(config)
    relaxation = relax.identity() if newton else relax.sigmoid(section.label_rate_scale)
    start = None if section.warm_start is None else make_start(target, section.warm_start)

    def pose(
        transcript: Transcript, key: Key, num_iterations: int | Array
    ) -> tuple[objective.Problem, inversion.Inversion]:
        own = candidates.init_private(init_private, transcript)
        hypothesis = attackers.make_dynamics(str(target.dynamics), target.rounds, own)
        problem = objective.problem(
            transcript,
            client_update,
            observation,
            hypothesis,
            distance,
            weighted_priors,
            relaxation,
            deviation=_scale(name, transcript) if newton else None,
        )
        if not section.step_sizes_known:
            problem = step_sizes.estimating(problem, transcript.seen)
        if start is not None:
            answer = start.attack(transcript, key, num_iterations)
            problem = objective.starting_from(problem, answer, relaxation)
        return problem, solver

    batched = batching.Batched(pose, section.num_restarts)
    mgradinv = partial(batching.run, batched)
    by = section.optimizer.name
    if start is None:
        return Choice(by, '', mgradinv, batched)
    why = f'the start: {start.why}' if start.why else ''
    return Choice(f'{by} from {start.solver}', why, mgradinv, batched)
