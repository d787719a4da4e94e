"""Config -> functions: the dicts of names that `experiment` checks, put to work."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedinv_jax import (
    client,
    compress,
    losses,
    observe,
    perturb,
    server,
    stats,
    train,
    tree,
)
from fedinv_jax.attack import (
    dynamics,
    exact,
    guessers,
    inversion,
    leak,
    objective,
    priors,
    recipes,
    relax,
)
from fedinv_jax.attack.members import Known
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import interactions as interactions_lib
from fedinv_jax.data import loaders, synthetic
from fedinv_jax.experiment import (
    CLIENTS,
    DECAYS,
    DISTANCES,
    DYNAMICS,
    EXACT,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    PARTS,
    RECIPES,
    Config,
    Setting,
    lookup,
)
from fedinv_jax.types import (
    Answer,
    Array,
    Batch,
    ClientUpdate,
    InitPrivate,
    Key,
    Model,
    Observation,
    Transcript,
)

Attack: TypeAlias = Callable[[Transcript, Key, Array], Answer]
Probe: TypeAlias = Callable[[tuple[str, ...], bool], Known]


class Choice(NamedTuple):
    """An attack and what is said of it.

    Attributes:
        solver: its solver, for the rows; None for an attack that reads no upload.
        why: why this solver, for people; empty where the config names it.
        attack: `attack(transcript, key, num_iterations) -> Answer`, of one client.
    """

    solver: str | None
    why: str
    attack: Attack


def make_interactions(
    config: Config,
) -> tuple[interactions_lib.Interactions, interactions_lib.Interactions | None]:
    """The interactions of the config's data set, filtered; and those held out, or None."""
    data = config.data
    if data.name == 'synthetic':
        interactions = synthetic.generate(seed=config.seed, **data.synthetic)
    else:
        interactions = loaders.load(data.name)
    if data.threshold is not None or data.core:
        interactions = interactions_lib.binarize(interactions, data.threshold)
        interactions = interactions_lib.k_core(interactions, data.core)
        interactions = interactions_lib.drop_unused_items(interactions)
    if not data.leave_one_out:
        return interactions, None
    seed = config.seed if data.ties == 'random' else None
    return interactions_lib.leave_one_out(interactions, seed)


def make_clients(
    config: Config, interactions: interactions_lib.Interactions
) -> tuple[clients_lib.Clients, ...]:
    """The population that is trained on: the first `max_users` of those that the filters leave."""
    groups = clients_lib.build(
        interactions,
        per_positive=config.data.per_positive,
        seed=config.seed,
        labels=config.data.labels,
        min_positives=config.data.min_positives,
        max_positives=config.data.max_positives,
    )
    if config.data.max_users is None:
        return groups
    first = np.sort(np.concatenate([group.users for group in groups]))[: config.data.max_users]
    kept = [(group, np.isin(group.users, first)) for group in groups]
    return tuple(
        dataclasses.replace(group, **{name: leaf[mask] for name, leaf in vars(group).items()})
        for group, mask in kept
        if mask.any()
    )


def make_model(section: Config, num_items: int) -> Model:
    """The model of a config's section 'model'."""
    make = lookup('model.name', section.name, MODELS)
    own = ('hidden', 'use_bias', 'kernel_init') if section.name == 'ncf' else ('item_bias',)
    return make(
        num_items, section.dim, scale=section.scale, **{name: section[name] for name in own}
    )


def make_optimizer(field: str, section: Config, num_steps: int = 1) -> optax.GradientTransformation:
    """Any optimiser of optax by name; its other fields are its arguments.

    `decay='cosine'` takes the learning rate to 0 over `num_steps`.
    """
    arguments = section.to_dict()
    make = lookup(f'{field}.name', arguments.pop('name'), OPTIMIZERS)
    rate = arguments.pop('learning_rate', None)
    if section.name == 'lbfgs':  # its line search sets the step
        return make()
    if lookup(f'{field}.decay', arguments.pop('decay', 'constant'), DECAYS) == 'cosine':
        rate = optax.cosine_decay_schedule(rate, num_steps)
    if rate is not None:
        arguments['learning_rate'] = rate
    try:
        return make(**arguments)
    except TypeError as error:
        raise ValueError(f'{field}: {error}.') from error


def make_client_update(
    section: Config,
    model: Model,
    private_rate: float | None = None,
    learning_rate: float | None = None,
) -> ClientUpdate:
    """The local training of a config's section 'client'.

    Args:
        section: the section.
        model: the recommender.
        private_rate: what an attacker believes it to be; None: the true one.
        learning_rate: the same for the local optimiser.
    """
    made = _make_client_update(section, model, private_rate, learning_rate)
    return client.weighted_by_size(made) if section.by_size else made


def _make_client_update(
    section: Config, model: Model, private_rate: float | None, learning_rate: float | None
) -> ClientUpdate:
    loss = lookup('client.loss', section.loss, LOSSES)
    rate = section.private_rate if private_rate is None else private_rate
    if lookup('client.name', section.name, CLIENTS) == 'gradient_step':
        return client.gradient_step(model, loss, rate)
    own = section.optimizer.copy_and_resolve_references()
    if learning_rate is not None:
        own.learning_rate = learning_rate
    private = section.private_optimizer.copy_and_resolve_references().unlock()
    private.learning_rate = rate
    return client.local_sgd(
        model,
        loss,
        make_optimizer('client.optimizer', own),
        make_optimizer('client.private_optimizer', private),
        section.num_epochs,
        section.batch_size,
        losses.item_drift(section.item_drift) if section.item_drift else None,
    )


def make_channel(config: Config) -> Observation:
    """What happens to a client's labels and upload before anyone sees the upload."""
    return observe.chain(*_uploaded(config), *_defences(config))


def _uploaded(config: Config) -> list[Observation]:
    """The stage that leaves a part of the parameters out, where one is."""
    uploaded = config.observation.uploaded
    return [observe.share(*uploaded)] if len(uploaded) < len(PARTS) else []


def _defences(config: Config) -> list[Observation]:
    """The stages of a client's channel that keep the structure of an upload."""
    section, stages = config.observation, []
    if section.label_epsilon is not None:
        stages.append(perturb.randomize_labels(section.label_epsilon))
    stages.append(perturb.add_pseudo_interactions(section.pseudo))
    if section.clip is not None:
        stages.append(observe.clip_by_global_norm(section.clip))
    if section.rank is not None:
        stages.append(compress.truncate_rank(section.rank))
    stages.append(compress.keep_top(section.top, section.error_feedback))
    stages.append(compress.keep_random(section.random, section.error_feedback))
    if section.levels is not None:
        stages.append(compress.quantize(section.levels))
    return [*stages, observe.add_gaussian_noise(section.noise)]


def make_observation(config: Config, seen: Sequence[str], adaptive: bool = True) -> Observation:
    """The channel and what is seen behind it, as an attacker knows them.

    Of a cohort's sum: what its members do before the sum is in `make_replay`, but for their noise,
    which adds up.
    """
    section = config.observation
    stages = _defences(config)
    if section.cohort > 1:
        stages = [
            observe.add_gaussian_noise(section.noise * section.cohort**0.5),
            observe.add_gaussian_noise(section.sum_noise),
        ]
    if not adaptive:
        stages = [observe.blind(stage) for stage in stages]
    return observe.chain(*_uploaded(config), *stages, observe.share(*seen))


def make_replay(config: Config, model: Model, adaptive: bool = True) -> ClientUpdate:
    """The client's training as an attacker replays it; of a cohort, that of all its members.

    Under a sum nobody sees which entries of an upload its client kept: the attacker clips what it
    predicts of each member, and takes the other stages as if they were not there.
    """
    believed = config.attack.private_rate, config.attack.learning_rate
    client_update = make_client_update(config.client, model, *believed)
    section = config.observation
    if section.cohort == 1:
        return client_update
    if section.clip is not None and adaptive:
        client_update = client.through(client_update, observe.clip_by_global_norm(section.clip))
    return client.cohort(client_update, section.cohort)


def make_init_private(config: Config, model: Model) -> InitPrivate:
    """Draws the private parameters that an attacker looks for: a client's, or a whole cohort's."""
    size = config.observation.cohort
    if size == 1:
        return model.init_private
    return lambda key: jax.vmap(model.init_private)(jax.random.split(key, size))


def make_cohorts(config: Config, clients: Sequence[clients_lib.Clients]) -> train.Cohorts | None:
    """Secure aggregation as a config has it; None without."""
    section = config.observation
    if section.cohort == 1:
        return None
    of, number = clients_lib.cohorts(clients, section.cohort, config.seed)
    return train.Cohorts(of, number, observe.add_gaussian_noise(section.sum_noise))


def make_federation(
    config: Config, model: Model, clients: Sequence[clients_lib.Clients]
) -> train.Federation:
    """The federated training of a config."""
    section = config.server
    return train.federation(
        model,
        make_client_update(config.client, model),
        make_channel(config),
        server.server(
            make_optimizer('server.optimizer', section.optimizer, section.num_rounds),
            section.aggregate_items,
            section.aggregate_scorer,
        ),
        clients,
        section.clients_per_round,
        config.data.fresh_negatives,
        lookup('client.loss', config.client.loss, LOSSES),
        make_cohorts(config, clients),
    )


def make_dynamics(name: str, rounds: Sequence[int], init_private: InitPrivate) -> dynamics.Dynamics:
    """A hypothesis by name, for the observed rounds `[T]`."""
    if lookup('dynamics.name', name, DYNAMICS) == 'static':
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
    return [(w, lookup('attack.priors', name, table)) for name, w in weights.items() if w]


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
        return Choice(None, '', lambda transcript, key, _: guessers.random(transcript, key, share))
    if setting.attack in stats.GUESSERS:
        return Choice(None, '', lambda transcript, key, _: guessers.popularity(transcript, share))
    observation = make_observation(config, setting.seen, setting.adaptive)
    if setting.attack in EXACT:
        return make_exact(config, setting, probe)
    init_private = make_init_private(config, model)
    if setting.attack in RECIPES:
        client_update = make_replay(config, model, setting.adaptive)
        recipe = recipes.RECIPES[setting.attack]
        known = recipes.Known(client_update, observation, init_private, share)
        return Choice(recipe.solver, '', recipe.make(known))
    hypothesis = make_dynamics(str(setting.dynamics), setting.rounds, init_private)
    return make_mgradinv(config, setting, model, hypothesis, observation, probe)


def probe(config: Config, model: Model, seen: Sequence[str], adaptive: bool = True) -> Known:
    """What holds of every client, as an attacker who sees these parts finds out on random draws."""
    client_update = make_replay(config, model, adaptive)
    observation = make_observation(config, seen, adaptive)
    rounding = 2.0**-24 if config.client.precision == 'float32' else 2.0**-53
    with jax.enable_x64():
        share = 1 / (1 + config.data.per_positive)
        if config.observation.cohort > 1:
            init_private = make_init_private(config, model)
            return exact.unprobed(client_update, observation, init_private, rounding, share)
        draws = _draws(model, (config.client.batch_size or 2) + 1)  # more than one step
        return exact.probe(
            client_update, observation, model.init_private, draws, rounding, share
        )._replace(fresh_negatives=config.data.fresh_negatives)


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


def _draws(model: Model, size: int) -> list[leak.Draw]:
    """Two random clients with a batch of so many items, in float64, biases away from zero."""
    draws = []
    for seed in range(2):
        rng = np.random.default_rng([seed, size])
        keys = jax.random.split(jax.random.key(seed))
        shared, private = tree.cast_floats(
            (model.init_shared(keys[0]), model.init_private(keys[1])), np.float64
        )
        shared = client.gather(shared, jnp.arange(size))
        leaves, structure = jax.tree.flatten(shared)
        leaves = [leaf + 0.05 * rng.normal(size=leaf.shape) for leaf in leaves]
        shared = jax.tree.unflatten(structure, leaves)
        batch = Batch(None, jnp.asarray(rng.random(size)), jnp.asarray(0.5 + rng.random(size)))
        draws.append(leak.Draw(shared, private, batch))
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
    optimizer = make_optimizer('attack.optimizer', section.optimizer, section.num_iterations)
    solver = inversion.descent(optimizer)
    distance = lookup('attack.distance', section.distance, DISTANCES)
    weighted_priors = make_priors(config)
    relaxation = relax.sigmoid(section.label_gain)
    start = None
    if section.start is not None:
        start = make_exact(config, setting._replace(attack=section.start), probe)

    def mgradinv(transcript: Transcript, key: Key, num_iterations: Array) -> Answer:
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
        return inversion.invert(problem, solver, key, num_iterations, section.num_restarts)

    name = section.optimizer.name
    if start is None:
        return Choice(name, '', mgradinv)
    return Choice(f'{name} from {start.solver}', f'starts there: {start.why}', mgradinv)
