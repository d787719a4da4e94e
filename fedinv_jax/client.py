"""Factories of `client_update`, the local training of a client; victim AND attacker call it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedinv_jax import _validate, tree
from fedinv_jax.losses import AnyLoss
from fedinv_jax.regularizers import Regularizer
from fedinv_jax.types import Array, Batch, BatchLoss, ClientUpdate, Model, Observation, PyTree


def differentiable(make: Callable[..., Any]) -> Callable[..., Any]:
    """Returns an optimiser factory whose steps have finite derivatives at zero gradients.

    Attackers differentiate through these steps. Adam and similar optimisers divide by
    `sqrt(v + eps_root)`, and v is 0 where the gradient is 0 (padding, inactive units). A default
    `eps_root` of 0 becomes 1e-30, which changes no step.

    Example:
        >>> differentiable(optax.adam).keywords, differentiable(optax.sgd) is optax.sgd
        ({'eps_root': 1e-30}, True)
    """
    root = inspect.signature(make).parameters.get('eps_root')
    return functools.partial(make, eps_root=1e-30) if root and root.default == 0 else make


def mean_loss(model: Model, loss: AnyLoss) -> Callable[[PyTree, PyTree, Batch], Array]:
    """`value(shared, private, batch) = sum_b w_b loss(z_b, y_b) / sum_b w_b`; 0 if all w_b = 0.

    A `BatchLoss` is the loss of the batch itself.
    """

    def value(shared: PyTree, private: PyTree, batch: Batch) -> Array:
        logits = scores(model, shared, private, batch)
        if isinstance(loss, BatchLoss):
            return loss.value(logits, batch.labels, batch.weights)
        losses = loss(logits, batch.labels)
        total = jnp.sum(batch.weights)
        return jnp.sum(batch.weights * losses) / jnp.where(total > 0, total, 1)

    return value


def scores(model: Model, shared: PyTree, private: PyTree, batch: Batch) -> Array:
    """The logits `[B]` of a batch, by `Model.batch_score` where the model has one."""
    if model.batch_score is None:
        return model.score(shared, private, batch.items)
    return model.batch_score(shared, private, batch)


def _total_loss(
    model: Model, loss: AnyLoss, regularizer: Regularizer | None
) -> Callable[..., Array]:
    """`value((shared, private), start, block, batch)`, of a minibatch and of the whole batch."""

    def value(both: tuple[PyTree, PyTree], start: PyTree, block: Batch, batch: Batch) -> Array:
        fit = mean_loss(model, loss)(*both, block)
        return fit if regularizer is None else fit + regularizer(*both, start, batch)

    return value


def gradient_step(
    model: Model,
    loss: AnyLoss,
    private_learning_rate: float,
    regularizer: Regularizer | None = None,
    item_rate_scale: float = 1.0,
) -> ClientUpdate:
    """One full-batch gradient (FedSGD).

    `upload = dL/dshared(shared, private)`, its item rows times `item_rate_scale`, and `private' =
    private - private_learning_rate dL/dprivate`, both at the same point.

    Args:
        model: the recommender.
        loss: elementwise loss, or one of the batch.
        private_learning_rate: local step size of the private parameters, >= 0.
        regularizer: added to the loss; None: no regulariser.
        item_rate_scale: learning rate of the item rows relative to that of the scorer, > 0.

    Returns:
        `client_update(shared, private, batch)`, compiled; the upload has the structure, shapes and
        dtypes of `shared`. An all-zero weight vector gives zero gradients.

    Raises:
        ValueError: if `private_learning_rate` is negative or not finite, or `item_rate_scale` is
            not positive.

    Example:
        >>> from fedinv_jax import losses, models
        >>> model = models.matrix_factorization(num_items=2, dim=1)
        >>> update = gradient_step(model, losses.squared_error, private_learning_rate=0.5)
        >>> shared = {'items': {'embedding': jnp.array([[1.0], [2.0]])}, 'scorer': {}}
        >>> batch = Batch(None, jnp.array([1.0, 0.0]), jnp.ones(2))
        >>> upload, private = update(shared, jnp.array([1.0]), batch)
        >>> upload['items']['embedding'].tolist(), private.tolist()
        ([[0.0], [2.0]], [-1.0])

    References:
        McMahan et al., Communication-efficient learning of deep networks from decentralized
        data, AISTATS 2017, arXiv:1602.05629, section 2 (FedSGD).
    """
    _validate.check_range('private_learning_rate', private_learning_rate)
    _validate.check_range('item_rate_scale', item_rate_scale, above=True)
    gradient = jax.grad(_total_loss(model, loss, regularizer))

    @jax.jit
    def client_update(shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        upload, private_gradient = gradient((shared, private), shared, batch, batch)
        step = jax.tree.map(lambda p, g: p - private_learning_rate * g, private, private_gradient)
        return _scale_items(upload, item_rate_scale), step

    return client_update


def local_sgd(
    model: Model,
    loss: AnyLoss,
    optimizer: optax.GradientTransformation,
    private_optimizer: optax.GradientTransformation,
    num_epochs: int = 1,
    batch_size: int | None = None,
    regularizer: Regularizer | None = None,
    shuffle: bool = False,
    learning_rate_decay: float = 1.0,
    item_rate_scale: float = 1.0,
) -> ClientUpdate:
    """Several local steps (FedAvg): `upload = shared - shared'` after `num_epochs` epochs.

    Every local step computes one gradient in (shared, private) and applies both optimisers.
    Minibatches are consecutive parts of the stored order, or of a new order in each epoch. Both
    learning rates of epoch e = 0, 1, ... are multiplied by `learning_rate_decay**e`, and each step
    of the item rows by `item_rate_scale`. Optimiser moments are reset at every call. A minibatch
    with zero total weight (padding) changes neither parameters nor moments.

    Args:
        model: the recommender.
        loss: elementwise loss, or one of the batch.
        optimizer: for the shared parameters.
        private_optimizer: for the private parameters.
        num_epochs: passes over the batch, >= 1.
        batch_size: entries per minibatch; None: the full batch.
        regularizer: added to the loss of every local step; None: no regulariser.
        shuffle: whether each epoch has an order of its own, drawn from the batch's key; a replay
            without the key uses the stored order.
        learning_rate_decay: factor of both learning rates from one epoch to the next, >= 0.
        item_rate_scale: learning rate of the item rows relative to that of the scorer, > 0.

    Returns:
        `client_update(shared, private, batch)`; with one full-batch epoch of SGD at rate r the
        upload is r times that of `gradient_step`.

    Raises:
        ValueError: if a count is below 1, `learning_rate_decay` is negative or not finite, or
            `item_rate_scale` is not positive.

    Example:
        >>> from fedinv_jax import losses, models
        >>> model = models.matrix_factorization(num_items=2, dim=1)
        >>> update = local_sgd(model, losses.squared_error, optax.sgd(0.1), optax.sgd(0.5))
        >>> shared = {'items': {'embedding': jnp.array([[1.0], [2.0]])}, 'scorer': {}}
        >>> batch = Batch(None, jnp.array([1.0, 0.0]), jnp.ones(2))
        >>> upload, private = update(shared, jnp.array([1.0]), batch)
        >>> upload['items']['embedding'].round(3).tolist(), private.tolist()
        ([[0.0], [0.20000000298023224]], [-1.0])

    References:
        McMahan et al., AISTATS 2017, arXiv:1602.05629, algorithm 1 (ClientUpdate). Zhang et al.,
        Dual personalization on federated recommendation, IJCAI 2023, arXiv:2301.08143: PFedRec,
        whose code trains item rows at a rate of their own.
    """
    for name, value in (('num_epochs', num_epochs), ('batch_size', batch_size)):
        if value is not None and not value >= 1:
            raise ValueError(f'Expected {name}={value} > 0.')
    _validate.check_range('learning_rate_decay', learning_rate_decay)
    _validate.check_range('item_rate_scale', item_rate_scale, above=True)

    gradient = jax.grad(_total_loss(model, loss, regularizer))
    optimizers = (optimizer, private_optimizer)

    def client_update(shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        start = (shared, private)
        states = tuple(opt.init(part) for opt, part in zip(optimizers, start, strict=True))

        def step(decay: Array, carry: PyTree, block: Batch) -> tuple[PyTree, None]:
            both, states = carry
            gradients = gradient(both, shared, block, batch)
            stepped = [
                opt.update(g, s, part)
                for opt, g, s, part in zip(optimizers, gradients, states, both, strict=True)
            ]
            updates, private_updates = (update for update, _ in stepped)
            updates = _scale_items(updates, item_rate_scale), private_updates
            new = (
                tuple(_apply(*pair, decay) for pair in zip(both, updates, strict=True)),
                tuple(s for _, s in stepped),
            )
            return optax.tree.where(jnp.sum(block.weights) > 0, new, carry), None

        def epoch(carry: PyTree, number: Array) -> tuple[PyTree, None]:
            key = None if batch.key is None else jax.random.fold_in(batch.key, number)
            blocks = _blocks(batch._replace(key=key), batch_size, shuffle)
            decay = learning_rate_decay**number
            return jax.lax.scan(functools.partial(step, decay), carry, blocks)[0], None

        (end, private), _ = jax.lax.scan(epoch, (start, states), jnp.arange(num_epochs))[0]
        return jax.tree.map(jnp.subtract, shared, end), private

    return client_update


def weighted_by_num_examples(client_update: ClientUpdate) -> ClientUpdate:
    """Scales the uploads by the total weight of the batch, the client's number of examples.

    These are FedAvg's weights `n_k`. The client applies them, so that a plain sum is weighted.

    Example:
        >>> update = weighted_by_num_examples(lambda shared, private, batch: (shared, private))
        >>> float(update(jnp.array(1.5), None, Batch(None, jnp.zeros(2), jnp.ones(2)))[0])
        3.0

    References:
        McMahan et al., AISTATS 2017, arXiv:1602.05629, algorithm 1.
    """

    def weighted(shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        upload, private = client_update(shared, private, batch)
        size = jnp.sum(batch.weights)
        return jax.tree.map(lambda leaf: leaf * size.astype(leaf.dtype), upload), private

    return weighted


def through(client_update: ClientUpdate, stage: Observation) -> ClientUpdate:
    """Returns a client whose upload has passed the stage's `predict`; the stage is stateless.

    Example:
        >>> from fedinv_jax import observe
        >>> update = through(lambda shared, private, batch: (shared, private),
        ...                  observe.clip_by_global_norm(1.0))
        >>> update({'scorer': jnp.array(3.0)}, None, None)[0]['scorer'].item()
        1.0
    """

    def with_stage(shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        upload, private = client_update(shared, private, batch)
        return stage.predict(upload, upload, stage.init(upload))[0], private

    return with_stage


def cohort(client_update: ClientUpdate, num_clients: int) -> ClientUpdate:
    """Combines M clients into one client, whose upload is the sum of their uploads.

    `upload = sum_m client_update(shared, private_m, batch_m)` is all that an attacker sees under
    secure aggregation. The private parameters and labels of the one client are those of all
    members. A member whose weights are all 0 adds nothing, and its private parameters stay.

    Args:
        client_update: of one client.
        num_clients: M.

    Returns:
        `client_update(shared, private, batch)` with private leaves `[M, ...]` and a batch
        `[M B]`, member after member; items are rows of the table that all members share.

    Raises:
        ValueError: if `num_clients` is below 1; at trace time if M does not divide the batch.

    Example:
        >>> from fedinv_jax import losses, models
        >>> model = models.matrix_factorization(num_items=1, dim=1)
        >>> step = gradient_step(model, losses.squared_error, private_learning_rate=0.0)
        >>> update = cohort(step, 2)
        >>> shared = {'items': {'embedding': jnp.array([[1.0]])}, 'scorer': {}}
        >>> batch = Batch(jnp.array([0, 0]), jnp.array([0.0, 1.0]), jnp.ones(2))
        >>> upload, _ = update(shared, jnp.array([[1.0], [3.0]]), batch)
        >>> upload['items']['embedding'].tolist()  # 2 (1 - 0) 1 + 2 (3 - 1) 3
        [[14.0]]

    References:
        Bonawitz et al., Practical secure aggregation for privacy-preserving machine learning, CCS
        2017, doi:10.1145/3133956.3133982.
    """
    if not num_clients >= 1:
        raise ValueError(f'Expected num_clients={num_clients} > 0.')

    def client_update_(shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        size = batch.labels.shape[0]
        if size % num_clients:
            raise ValueError(f'Expected a batch of {size} to divide into {num_clients} members.')
        items = jnp.arange(size) if batch.items is None else batch.items
        members = jax.tree.map(
            lambda leaf: leaf.reshape(num_clients, -1), Batch(items, batch.labels, batch.weights)
        )
        uploads, private = jax.vmap(client_update, in_axes=(None, 0, 0))(shared, private, members)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), uploads), private

    return client_update_


def _scale_items(upload: PyTree, scale: float) -> PyTree:
    """Parameters or updates like the shared ones, with the item rows times `scale`."""
    return {**upload, 'items': jax.tree.map(lambda leaf: scale * leaf, upload['items'])}


def _apply(parameters: PyTree, updates: PyTree, decay: Array) -> PyTree:
    """Parameters after an optimiser's step whose learning rate is multiplied by `decay`."""
    return jax.tree.map(lambda p, u: p + decay.astype(p.dtype) * u, parameters, updates)


def _blocks(batch: Batch, size: int | None, shuffle: bool) -> Batch:
    """Splits a batch into minibatches `[num_minibatches, size]`; weight 0 pads the last one."""
    length = batch.labels.shape[0]
    if size is None or size >= length:
        return jax.tree.map(lambda leaf: leaf[None], batch)
    items = jnp.arange(length) if batch.items is None else batch.items
    stored = Batch(items, batch.labels, batch.weights)
    of_order, of_steps = (None, None) if batch.key is None else jax.random.split(batch.key)
    if shuffle and of_order is not None:  # padding stays last
        draw = jax.random.uniform(of_order, (length,), 'float32')
        order = jnp.argsort(jnp.where(batch.weights > 0, draw, jnp.inf))
        stored = tree.take(jax.tree.map(jnp.asarray, stored), order)
    padding = -length % size

    def split(leaf: Array) -> Array:
        return jnp.pad(leaf, (0, padding)).reshape(-1, size)

    blocks = jax.tree.map(split, stored)
    if of_steps is None:
        return blocks
    return blocks._replace(key=jax.random.split(of_steps, len(blocks.labels)))
