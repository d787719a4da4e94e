"""Config -> federated training: its data, model, clients, channel and server."""

import dataclasses
import functools
import inspect
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedinv_jax import (
    _validate,
    client,
    cohorts,
    losses,
    models,
    regularizers,
    sampling,
    server,
    train,
)
from fedinv_jax.audit import channel, defences
from fedinv_jax.audit.config import Config
from fedinv_jax.data import clients as clients_lib
from fedinv_jax.data import features as features_lib
from fedinv_jax.data import interactions as interactions_lib
from fedinv_jax.data import loaders, provenance, ratings, synthetic
from fedinv_jax.types import BatchLoss, ClientUpdate, Model

MODELS = {
    'fedrap': models.fedrap,
    'gmf': models.gmf,
    'lightgcn': models.lightgcn,
    'matrix_factorization': models.matrix_factorization,
    'ncf': models.ncf,
    'neumf': models.neumf,
    'pfedrec': models.pfedrec,
    'two_tower': models.two_tower,
}
LOSSES: dict[str, losses.AnyLoss] = {
    'bce': losses.bce,
    'bpr': losses.bpr(),
    'hinge': losses.hinge,
    'sampled_softmax': losses.sampled_softmax(),
    'softmax': losses.softmax(),
    'squared_error': losses.squared_error,
}
CLIENTS = ('gradient_step', 'local_sgd')
OPTIMIZERS = {
    name: client.differentiable(make)
    for name, make in vars(optax).items()
    if inspect.isfunction(make)
    and 'learning_rate' in inspect.signature(make).parameters
    and not name.startswith(('_', 'scale_by_'))
}
DECAYS = ('constant', 'cosine')


def make_interactions(
    config: Config,
) -> tuple[interactions_lib.Interactions, interactions_lib.Interactions | None]:
    """The interactions of the config's data set, filtered; and those held out, or None."""
    data = config.data
    if data.name == 'synthetic':
        interactions = synthetic.generate(seed=config.seed, **data.synthetic)
    else:
        interactions = loaders.load(data.name, columns=data.columns, header=data.header)
        _check_ratings(config, interactions.source)
    if data.rating_threshold is not None or data.k_core:
        rated = interactions_lib.binarize(interactions, data.rating_threshold)
        kept = interactions_lib.k_core(rated, data.k_core)
        _check_filters(config, interactions, rated, kept)
        interactions = interactions_lib.drop_unused_items(kept)
    if not data.leave_one_out:
        return interactions, None
    seed = config.seed if data.ties == 'random' else None
    return _leave_one_out(interactions, seed)


def _leave_one_out(
    interactions: interactions_lib.Interactions, seed: int | None
) -> tuple[interactions_lib.Interactions, interactions_lib.Interactions]:
    """As `interactions.leave_one_out`, but users of every item keep it: nothing could be ranked."""
    users, items = interactions.users, interactions.items
    counts = np.bincount(users, minlength=interactions.num_users)
    has_all = counts[users] == interactions.num_items
    _, test = interactions_lib.leave_one_out(interactions_lib.take(interactions, ~has_all), seed)
    left = np.full(interactions.num_users, -1)
    left[test.users] = test.items
    return interactions_lib.take(interactions, left[users] != items), test


def _check_filters(
    config: Config,
    interactions: interactions_lib.Interactions,
    rated: interactions_lib.Interactions,
    kept: interactions_lib.Interactions,
) -> None:
    """Refuses a filter that leaves nothing."""
    number, ratings = len(interactions.users), interactions.ratings
    if not len(rated.users):
        raise ValueError(
            f'data.rating_threshold={config.data.rating_threshold:g} leaves none of {number} '
            f'interactions, which have ratings of {ratings.min():g} to {ratings.max():g}.'
        )
    if not len(kept.users):
        raise ValueError(
            f'data.k_core={config.data.k_core} leaves none of {len(rated.users)} interactions: no '
            'users and items have so many of each other.'
        )


def _check_ratings(config: Config, source: provenance.Source | None) -> None:
    """Refuses fields that need ratings where a file has none."""
    if source is None or source.has_ratings:
        return
    for field, usual in {'rating_threshold': None, 'labels': 'implicit'}.items():
        if config.data[field] != usual:
            raise ValueError(
                f'data.{field}={config.data[field]!r} needs ratings, and {source.file} was read '
                f'without any: {", ".join(source.layout.columns)}. Leave data.{field} at {usual!r} '
                "or say which column is the 'rating' with data.columns."
            )


def make_clients(
    config: Config, interactions: interactions_lib.Interactions
) -> tuple[clients_lib.Clients, ...]:
    """The clients of the training: the first `max_users` users that pass the filters."""
    groups = clients_lib.build(
        interactions,
        negatives_per_positive=config.data.negatives_per_positive,
        seed=config.seed,
        labels=config.data.labels,
        min_positives=config.data.min_positives,
        max_positives=config.data.max_positives,
        rating_scale=config.data.rating_scale,
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


def make_item_features(
    config: Config, interactions: interactions_lib.Interactions
) -> np.ndarray | None:
    """Which item has which feature, `[N, F]`; None where an item has a row of its own."""
    name = config.model.item_features
    if name is None:
        return None
    if name == 'random':
        size = config.model.num_features
        return features_lib.draw(interactions.num_items, size, config.seed).incidence
    if name == 'genres':
        return features_lib.genres(interactions.item_ids).incidence
    return features_lib.read(name, interactions.item_ids).incidence


def make_model(section: Config, num_items: int, features: np.ndarray | None = None) -> Model:
    """The model of a config's section 'model', of items with `features [N, F]`."""
    make = _validate.lookup('model.name', section.name, MODELS)
    takes = [name for name in inspect.signature(make).parameters if name in section]
    arguments = {name: section[name] for name in takes}
    if features is None:
        return make(num_items, **arguments)
    return models.with_item_features(make(features.shape[1], **arguments), features)


def make_optimizer(field: str, section: Config, num_steps: int = 1) -> optax.GradientTransformation:
    """An optimiser of optax, by `section.name`; the section's other fields are its arguments.

    `decay='cosine'` decreases the learning rate to 0 over `num_steps`.
    """
    arguments = section.to_dict()
    make = _validate.lookup(f'{field}.name', arguments.pop('name'), OPTIMIZERS)
    rate = arguments.pop('learning_rate', None)
    if section.name == 'lbfgs':  # its line search sets the step
        return make()
    if _validate.lookup(f'{field}.decay', arguments.pop('decay', 'constant'), DECAYS) == 'cosine':
        rate = optax.cosine_decay_schedule(rate, num_steps)
    if rate is not None:
        arguments['learning_rate'] = rate
    try:
        return make(**arguments)
    except TypeError as error:
        raise ValueError(
            f'{field} has a field that optax does not take: {error}. Leave it out of the config.'
        ) from error


def is_explicit(config: Config) -> bool:
    """Whether the labels are explicit ratings."""
    return bool(config.data.labels == 'explicit')


def rating_scale(config: Config) -> ratings.Scale:
    """The scale of explicit ratings, which server and clients know."""
    return ratings.Scale(*config.data.rating_scale)


def make_loss(config: Config) -> losses.AnyLoss:
    """The loss of an interaction or of a batch, by section 'client', or of explicit ratings."""
    if is_explicit(config):
        scale = rating_scale(config)
        return losses.rating_error(scale.low, scale.high)
    section = config.client
    loss = _validate.lookup('client.loss', section.loss, LOSSES)
    if isinstance(loss, BatchLoss):
        return loss
    if section.positive_weight != 1:
        loss = losses.weighted_positives(loss, section.positive_weight)
    return losses.smoothed(loss, section.label_smoothing) if section.label_smoothing else loss


def signs_are_labels(section: Config) -> bool:
    """Whether `dL/dz_i` is negative for every interaction and positive for every negative."""
    return section.loss in ('bce', 'bpr', 'sampled_softmax') and not section.label_smoothing


def interactions_vanish(config: Config) -> bool:
    """Whether the derivative of a sure interaction is rounded to 0, and of a sure negative is not.

    Binary cross-entropy has `sigmoid(z) - y`: `1 - sigmoid(z)` is 0 from z = 17 on in float32,
    `sigmoid(z)` for no z above -88. A client that sends weights rounds small changes of both, and
    one that trains on a part of its batch uploads 0 for the rest.
    """
    loss, section = make_loss(config), config.client
    one_gradient = section.name == 'gradient_step' and section.batch_share == 1
    if not one_gradient or isinstance(loss, BatchLoss) or not signs_are_labels(section):
        return False
    logits, labels = jnp.array([50.0, -50.0]), jnp.array([1.0, 0.0])
    sure = jax.grad(lambda logits: jnp.sum(loss(logits, labels)))(logits)
    return bool(sure[0] == 0) and bool(sure[1] != 0)


def make_regularizer(section: Config) -> regularizers.Regularizer | None:
    """What a client adds to its loss, by the fields of a config's section 'client'."""
    made = []
    if section.item_drift:
        made.append(regularizers.item_drift(section.item_drift))
    if section.weight_decay:
        made.append(regularizers.weight_decay(section.weight_decay))
    if section.private_distance or section.item_sparsity:
        made.append(
            regularizers.additive_personalization(section.private_distance, section.item_sparsity)
        )
    if not made:
        return None
    return lambda *arguments: functools.reduce(operator.add, (one(*arguments) for one in made))


def gradients_of(config: Config) -> Config:
    """The config whose clients upload the gradients of the one step that they take."""
    copy = config.copy_and_resolve_references()
    copy.client.update({'name': 'gradient_step', 'item_rate_scale': 1.0})
    return copy


def step_sizes(section: Config) -> dict[str, float]:
    """The factors of the gradients in an upload of a client of one step, by part."""
    rate = section.optimizer.learning_rate if section.name == 'local_sgd' else 1.0
    return {'items': rate * section.item_rate_scale, 'scorer': rate}


def make_client_update(
    config: Config, model: Model, loss: losses.AnyLoss | None = None
) -> ClientUpdate:
    """The local training of a config's section 'client'; `loss` replaces the config's."""
    section = config.client
    made = _make_client_update(section, model, loss or make_loss(config))
    if section.batch_share != 1:
        made = sampling.subsampled(made, section.batch_share)
    return client.weighted_by_num_examples(made) if section.weight_by_num_examples else made


def _make_client_update(section: Config, model: Model, loss: losses.AnyLoss) -> ClientUpdate:
    if _validate.lookup('client.name', section.name, CLIENTS) == 'gradient_step':
        return client.gradient_step(
            model,
            loss,
            section.private_learning_rate,
            make_regularizer(section),
            section.item_rate_scale,
        )
    private = section.private_optimizer.copy_and_resolve_references().unlock()
    private.learning_rate = section.private_learning_rate
    return client.local_sgd(
        model,
        loss,
        make_optimizer('client.optimizer', section.optimizer),
        make_optimizer('client.private_optimizer', private),
        section.num_epochs,
        section.batch_size,
        make_regularizer(section),
        section.shuffle,
        section.learning_rate_decay,
        section.item_rate_scale,
    )


def make_cohorts(config: Config, clients: Sequence[clients_lib.Clients]) -> cohorts.Cohorts | None:
    """The cohorts of secure aggregation; None without it."""
    section, after = config.observation, channel.after_sum(config)
    if section.cohort_membership == 'sampled':
        return cohorts.sampled(clients, after)
    if section.cohort == 1:
        return None
    if section.cohort_membership == 'redrawn':
        return cohorts.redrawn(clients, section.cohort, after)
    return cohorts.fixed(*clients_lib.cohorts(clients, section.cohort, config.seed), after)


def make_federation(
    config: Config, model: Model, clients: Sequence[clients_lib.Clients]
) -> train.Federation:
    """The federated training of a config."""
    section = config.server
    # A part that no client uploads keeps its initial values, even with weight decay.
    kept = {name: name not in config.observation.uploaded for name in defences.PARTS}
    optimizer = optax.chain(
        make_optimizer('server.optimizer', section.optimizer, section.num_rounds),
        optax.masked(optax.set_to_zero(), kept),
    )
    return train.federation(
        model,
        make_client_update(config, model),
        channel.channel(config),
        server.server(
            optimizer,
            section.aggregate_items,
            section.aggregate_scorer,
        ),
        clients,
        section.clients_per_round,
        config.data.resample_negatives,
        make_loss(config),
        make_cohorts(config, clients),
    )
