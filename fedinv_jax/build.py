"""Config -> functions: the dicts of names that `experiment` checks, put to work."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import optax

from fedinv_jax import client, observe, server, simulate
from fedinv_jax.attack import dynamics, guessers, inversion, objective, priors, relax
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import interactions as interactions_lib
from fedinv_jax.data import loaders, synthetic
from fedinv_jax.experiment import (
    CLIENTS,
    DECAYS,
    DISTANCES,
    DYNAMICS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    Config,
    Setting,
    lookup,
)
from fedinv_jax.types import Answer, Array, ClientUpdate, Key, Model, Observation, Transcript

Attack: TypeAlias = Callable[[Transcript, Key, Array], Answer]


def make_interactions(config: Config) -> interactions_lib.Interactions:
    """The interactions of the config's data set, filtered."""
    data = config.data
    if data.name == 'synthetic':
        interactions = synthetic.generate(seed=config.seed, **data.synthetic)
    else:
        interactions = loaders.load(data.name)
    if data.threshold is not None or data.core:
        interactions = interactions_lib.binarize(interactions, data.threshold)
        interactions = interactions_lib.k_core(interactions, data.core)
        interactions = interactions_lib.drop_unused_items(interactions)
    return interactions_lib.leave_one_out(interactions)[0] if data.leave_one_out else interactions


def make_clients(
    config: Config, interactions: interactions_lib.Interactions
) -> tuple[clients_lib.Clients, ...]:
    """The population that is trained on."""
    return clients_lib.build(
        interactions,
        per_positive=config.data.per_positive,
        seed=config.seed,
        labels=config.data.labels,
        min_positives=config.data.min_positives,
        max_positives=config.data.max_positives,
    )


def make_model(section: Config, num_items: int) -> Model:
    """The model of a config's section 'model'."""
    make = lookup('model.name', section.name, MODELS)
    own = ('hidden', 'use_bias') if section.name == 'ncf' else ('item_bias',)
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
    loss = lookup('client.loss', section.loss, LOSSES)
    rate = section.private_rate if private_rate is None else private_rate
    if lookup('client.name', section.name, CLIENTS) == 'gradient_step':
        return client.gradient_step(model, loss, rate)
    own = section.optimizer.copy_and_resolve_references()
    if learning_rate is not None:
        own.learning_rate = learning_rate
    optimizer = make_optimizer('client.optimizer', own)
    return client.local_sgd(
        model, loss, optimizer, optax.sgd(rate), section.num_epochs, section.batch_size
    )


def make_federation(
    config: Config, model: Model, clients: Sequence[clients_lib.Clients]
) -> simulate.Federation:
    """The federated training of a config."""
    section = config.server
    return simulate.federation(
        model,
        make_client_update(config.client, model),
        observe.chain(),
        server.server(
            make_optimizer('server.optimizer', section.optimizer, section.num_rounds),
            section.aggregate_items,
            section.aggregate_scorer,
        ),
        clients,
        section.clients_per_round,
    )


def make_dynamics(name: str, rounds: Sequence[int], model: Model) -> dynamics.Dynamics:
    """A hypothesis by name, for the observed rounds `[T]`."""
    if lookup('dynamics.name', name, DYNAMICS) == 'static':
        return dynamics.static(model.init_private)
    if name == 'free':
        return dynamics.free(model.init_private, len(rounds))
    return dynamics.unrolled(model.init_private, [round_ - rounds[0] for round_ in rounds])


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


def make_attack(config: Config, setting: Setting, model: Model, share: float) -> Attack:
    """`attack(transcript, key, num_iterations) -> Answer` of one client.

    Args:
        config: the config.
        setting: a setting of it.
        model: the recommender.
        share: public share of interactions among candidates.
    """
    if setting.attack == 'random':
        return lambda transcript, key, _: guessers.random(transcript, key, share)
    if setting.attack == 'popularity':
        return lambda transcript, key, _: guessers.popularity(transcript, share)
    hypothesis = make_dynamics(str(setting.dynamics), setting.rounds, model)
    return make_mgradinv(config, model, hypothesis, observe.share(*setting.seen))


def make_mgradinv(
    config: Config, model: Model, hypothesis: dynamics.Dynamics, observation: Observation
) -> Attack:
    """MGradInv as a config describes it, for any hypothesis and channel."""
    section = config.attack
    client_update = make_client_update(
        config.client, model, section.private_rate, section.learning_rate
    )
    optimizer = make_optimizer('attack.optimizer', section.optimizer, section.num_iterations)
    solver = inversion.descent(optimizer)
    distance = lookup('attack.distance', section.distance, DISTANCES)
    weighted_priors = make_priors(config)
    relaxation = relax.sigmoid(section.label_gain)

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
        return inversion.invert(problem, solver, key, num_iterations, section.num_restarts)

    return mgradinv
