"""Config -> functions: attacks, and what an attacker knows of clients and channel."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import _validate, client, compilation, observe, tree
from fedinv_jax.attack import (
    baselines,
    batching,
    dynamics,
    exact,
    inversion,
    objective,
    priors,
    recipes,
    relax,
)
from fedinv_jax.attack.batching import Search
from fedinv_jax.attack.exact import probing
from fedinv_jax.attack.exact.known import Known
from fedinv_jax.attack.exact.probing import Draw
from fedinv_jax.audit import training
from fedinv_jax.audit.config import DISTANCES, DYNAMICS, EXACT, RECIPES, Config, Setting
from fedinv_jax.report import stats
from fedinv_jax.types import (
    Answer,
    Array,
    Batch,
    ClientUpdate,
    InitPrivate,
    Key,
    Model,
    Observation,
    PyTree,
    Transcript,
)

_FAINT = 1e-3  # noise relative to the clip norm, in whose front a clipped upload is told as such

Attack: TypeAlias = Callable[[Transcript, Key, int | Array], Answer]
Probe: TypeAlias = Callable[[tuple[str, ...], bool], Known]


class Choice(NamedTuple):
    """An attack and what is said of it.

    Attributes:
        solver: its solver, for the rows; None for an attack that reads no upload.
        why: why this solver, for people; empty where the config names it.
        attack: `attack(transcript, key, num_iterations) -> Answer`, of one client.
        search: what of it may run on several clients in step; None where each is solved alone.
    """

    solver: str | None
    why: str
    attack: Attack
    search: Search | None = None


def make_observation(config: Config, seen: Sequence[str], adaptive: bool = True) -> Observation:
    """The channel and what is seen behind it, as an attacker knows them.

    Behind noise nobody reads off which entries the stages before it left. There the attacker takes
    the upload for a whole one, and for one that was not clipped unless the noise is faint: clipping
    what is predicted made the attacks worse behind more of it (docs/defences.md). Of a cohort's
    sum: what its members do before the sum is in `make_replay`, but for their noise, which adds up
    to at most that of all of them.
    """
    section = config.observation
    stages = training.defences(config)
    if section.noise:
        clips = section.clip is not None and section.noise < _FAINT * section.clip
        first = len(stages) - 1 - clips
        stages = [*map(observe.blind, stages[:first]), *stages[first:]]
    if section.cohort > 1:
        stages = [
            observe.add_gaussian_noise(section.noise * section.cohort**0.5),
            observe.add_gaussian_noise(section.sum_noise),
        ]
    if not adaptive:
        stages = [observe.blind(stage) for stage in stages]
    return observe.chain(*training.uploaded(config), *stages, observe.share(*seen))


def make_replay(config: Config, model: Model, adaptive: bool = True) -> ClientUpdate:
    """The client's training as an attacker replays it; of a cohort, that of all its members.

    Under a sum nobody sees which entries of an upload its client kept: the attacker clips what it
    predicts of each member, and takes the other stages as if they were not there. Who does not know
    of the defences knows of no penalty on the drift of item rows either.
    """
    section = config.client.copy_and_resolve_references()
    if not adaptive:
        section.item_drift = 0.0
    believed = config.attack.private_rate, config.attack.learning_rate
    client_update = training.make_client_update(section, model, *believed)
    size, clip = config.observation.cohort, config.observation.clip
    if size == 1:
        return client_update
    if clip is not None and adaptive:
        stages = *training.uploaded(config), observe.clip_by_global_norm(clip)
        client_update = client.through(client_update, observe.chain(*stages))
    return client.cohort(client_update, size)


def make_init_private(config: Config, model: Model) -> InitPrivate:
    """Draws the private parameters that an attacker looks for: a client's, or a whole cohort's."""
    size = config.observation.cohort
    if size == 1:
        return model.init_private
    return lambda key: jax.vmap(model.init_private)(jax.random.split(key, size))


def trained_share(config: Config, share: float, adaptive: bool = True) -> float:
    """The share of a batch, in [0, 1], whose labels are 1 when it trains, where `share` truly are.

    Randomised response and pseudo-interactions change it; who does not know of them takes `share`.

    Example:
        >>> from fedinv_jax.audit import config as config_lib
        >>> config = config_lib.default_config()
        >>> config.observation.pseudo = 0.5
        >>> round(trained_share(config, 0.2), 6), trained_share(config, 0.2, adaptive=False)
        (0.6, 0.2)
    """
    section = config.observation
    if not adaptive:
        return share
    if section.label_epsilon is not None:
        flipped = 1 / (1 + math.exp(section.label_epsilon))
        share = share * (1 - flipped) + (1 - share) * flipped
    return share + (1 - share) * section.pseudo


def make_dynamics(name: str, rounds: Sequence[int], init_private: InitPrivate) -> dynamics.Dynamics:
    """A hypothesis by name, for the observed rounds `[T]`."""
    if _validate.lookup('dynamics.name', name, DYNAMICS) == 'static':
        return dynamics.static(init_private)
    if name == 'free':
        return dynamics.free(init_private, len(rounds))
    return dynamics.unrolled(init_private, [round_ - rounds[0] for round_ in rounds])


def make_priors(config: Config) -> list[tuple[float, priors.Prior]]:
    """The priors of positive weight."""
    table = {
        'binary': priors.binary_prior(),
        'norm': priors.norm_prior(config.model.scale),
        'popularity': priors.popularity_prior(),
        'sparsity': priors.sparsity_prior(),
    }
    weights = config.attack.priors.to_dict()
    return [(w, _validate.lookup('attack.priors', name, table)) for name, w in weights.items() if w]


def make_attack(
    config: Config, setting: Setting, model: Model, share: float, probe: Probe
) -> Choice:
    """The attack of a setting, and its solver.

    Args:
        config: the config.
        setting: a setting of it.
        model: the recommender.
        share: public share of interactions among candidates.
        probe: see `make_exact`.
    """
    if setting.attack == 'random':
        return Choice(None, '', lambda transcript, key, _: baselines.random(transcript, key, share))
    if setting.attack in stats.GUESSERS:
        return Choice(None, '', lambda transcript, key, _: baselines.popularity(transcript, share))
    observation = make_observation(config, setting.seen, setting.adaptive)
    if setting.attack in EXACT:
        return make_exact(config, setting, probe)
    init_private = make_init_private(config, model)
    if setting.attack in RECIPES:
        client_update = make_replay(config, model, setting.adaptive)
        recipe = recipes.RECIPES[setting.attack]
        trained = trained_share(config, share, setting.adaptive)
        known = recipes.Known(client_update, observation, init_private, trained)
        return Choice(recipe.solver, '', recipe.make(known))
    hypothesis = make_dynamics(str(setting.dynamics), setting.rounds, init_private)
    return make_mgradinv(config, setting, model, hypothesis, observation, probe)


def probe(config: Config, model: Model, seen: Sequence[str], adaptive: bool = True) -> Known:
    """What holds of every client, as an attacker who sees these parts finds out on random draws."""
    client_update = make_replay(config, model, adaptive)
    observation = make_observation(config, seen, adaptive)
    rounding = 2.0**-24 if config.client.precision == 'float32' else 2.0**-53
    with jax.enable_x64():
        share = trained_share(config, 1 / (1 + config.data.per_positive), adaptive)
        if config.observation.cohort > 1:
            init_private = make_init_private(config, model)
            known = probing.unprobed(client_update, observation, init_private, rounding, share)
            return known._replace(dense=config.attack.dense)
        draws = _draws(model, (config.client.batch_size or 2) + 1)  # more than one step
        return exact.probe(
            client_update, observation, model.init_private, draws, rounding, share
        )._replace(
            largest=adaptive and config.observation.top < 1,
            fresh_negatives=config.data.fresh_negatives,
            dense=config.attack.dense,
        )


def make_exact(config: Config, setting: Setting, probe: Probe) -> Choice:
    """The member of `setting.attack` (one of `EXACT`) that this client allows, and why it is taken.

    Args:
        config: the config.
        setting: of it, `attack`, `num_gradients`, `seen` and `adaptive` may be used.
        probe: `probe(seen, adaptive) -> Known`, the function above with config and model; it takes
            seconds, and depends neither on the attack nor on rounds nor on the seed.
    """
    solver = 'auto' if setting.attack == 'exact' else setting.attack
    with jax.enable_x64():
        choice = exact.choose(
            probe(setting.seen, setting.adaptive), config.observation.batch_known, solver
        )
    return Choice(choice.solver, choice.why, lambda seen, key, _: choice.attack(seen, key))


def _draws(model: Model, size: int) -> list[Draw]:
    """Two random clients with a batch of so many items, in float64, biases away from zero."""

    @compilation.jit
    def parameters(key: Key) -> tuple[PyTree, PyTree]:
        shared_key, private_key = jax.random.split(key)
        shared = client.gather(model.init_shared(shared_key), jnp.arange(size))
        return tree.cast_floats((shared, model.init_private(private_key)), np.float64)

    draws = []
    for seed in range(2):
        rng = np.random.default_rng([seed, size])
        shared, private = parameters(jax.random.key(seed))
        leaves, structure = jax.tree.flatten(shared)
        leaves = [leaf + 0.05 * rng.normal(size=leaf.shape) for leaf in map(np.asarray, leaves)]
        shared = jax.tree.unflatten(structure, leaves)
        labels, weights = jnp.asarray(rng.random(size)), jnp.asarray(0.5 + rng.random(size))
        draws.append(Draw(shared, private, Batch(None, labels, weights)))
    return draws


def make_mgradinv(
    config: Config,
    setting: Setting,
    model: Model,
    hypothesis: dynamics.Dynamics,
    observation: Observation,
    probe: Probe,
) -> Choice:
    """MGradInv as a config describes it, for any hypothesis and channel."""
    section = config.attack
    client_update = make_replay(config, model, setting.adaptive)
    optimizer = training.make_optimizer(
        'attack.optimizer', section.optimizer, section.num_iterations
    )
    solver = inversion.descent(optimizer, threshold=section.threshold)
    noisy = setting.adaptive and (config.observation.noise or config.observation.sum_noise)
    name = section.distance or ('squared' if noisy else 'squared_per_leaf')
    distance = _validate.lookup('attack.distance', name, DISTANCES)
    weighted_priors = make_priors(config)
    relaxation = relax.sigmoid(section.label_gain)
    start = None
    if section.start is not None:
        start = make_exact(config, setting._replace(attack=section.start), probe)

    def pose(
        transcript: Transcript, key: Key, num_iterations: int | Array
    ) -> tuple[objective.Problem, inversion.Inversion]:
        problem = objective.problem(
            transcript,
            client_update,
            observation,
            hypothesis,
            distance,
            weighted_priors,
            relaxation,
        )
        if start is not None:
            answer = start.attack(transcript, key, num_iterations)
            problem = objective.starting_from(problem, answer, relaxation)
        return problem, solver

    search = Search(pose, section.num_restarts)
    mgradinv = partial(batching.run, search)
    name = section.optimizer.name
    if start is None:
        return Choice(name, '', mgradinv, search)
    return Choice(f'{name} from {start.solver}', f'starts there: {start.why}', mgradinv, search)
