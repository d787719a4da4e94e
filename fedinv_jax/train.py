"""A federated training run as pure functions: clients, channel and server, round by round."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import client, compilation, losses, server, tree
from fedinv_jax.data.clients import Clients
from fedinv_jax.types import Array, Batch, ClientUpdate, Key, Leaf, Loss, Model, Observation, PyTree

# Streams of a run's key beside those of its rounds, which are counted from 0; and of a round's.
_LABELS, _SUMS = 2**31 - 1, 2
_NOBODY = 2**31 - 1  # a place that no client has
_ENTRIES = 2**16  # of the batches that train at a time: what they upload fits the caches
_TOGETHER = 16  # clients whose uploads are computed again in one call


class State(NamedTuple):
    """A federation between two rounds.

    Attributes:
        round: int32 `[]`, the number of rounds done.
        shared: the server's parameters.
        server: the server optimiser's state.
        private: per group of clients, leaves `[C, ...]`; each device of the process holds its own
            of the rows (`tree.shard_rows`), which are filled up with zeros.
        channel: per group, the observation's state, likewise.
    """

    round: Array
    shared: PyTree
    server: Any
    private: tuple[PyTree, ...]
    channel: tuple[PyTree, ...]


class Cohorts(NamedTuple):
    """Secure aggregation: of each cohort the server sees the sum of its uploads and no upload.

    The sum is one of whole tables: which rows a client touched stays hidden in it.

    Attributes:
        of: per group of clients, int `[C]`, the cohort of each, below `number`.
        number: G, of all groups together.
        after: the channel behind the sum, a stage without state, such as noise.
    """

    of: tuple[np.ndarray, ...]
    number: int
    after: Observation


class Local(NamedTuple):
    """One client as it enters a round, or several, leaves `[C, ...]`.

    Attributes:
        user: int32 `[]`.
        items: int32 `[B]`.
        labels: float `[B]`.
        weights: float `[B]`, 0 for padding.
        private: its parameters, leaves `[...]`.
        channel: the observation's state, leaves `[...]`.
    """

    user: Leaf
    items: Leaf
    labels: Leaf
    weights: Leaf
    private: PyTree
    channel: PyTree


class Federation(NamedTuple):
    """A federated training run as pure functions.

    Attributes:
        init: `init(key) -> State`.
        active: `active(round, key, always_sampled) -> taking`: who takes part, per group a bool
            `[C]`.
        step: `step(state, key, always_sampled) -> (state, sums)`, one round; `always_sampled` is
            per group a bool `[C]` of clients that take part in any case; `sums` is what the server
            sees of the cohorts, leaves `[G, ...]` as the parameters, or None where every client
            uploads by itself. Only those who take part are trained.
        train: `train(shared, round, key, local) -> (seen, private, channel)`: what one client
            uploads in a round, a `server.Uploads` without leading axis, and its new states.
        loss: `loss(state) -> []`, the mean over clients of the loss on their own batches.
        clients: the groups of clients.
        cohorts: see `Cohorts`.
    """

    init: Callable[[Key], State]
    active: Callable[[Leaf, Key, tuple[Array, ...]], list[Array]]
    step: Callable[[State, Key, tuple[Array, ...]], tuple[State, PyTree]]
    train: Callable[[PyTree, Leaf, Key, Local], tuple[server.Uploads, PyTree, PyTree]]
    loss: Callable[[State], Array]
    clients: tuple[Clients, ...]
    cohorts: Cohorts | None


def federation(
    model: Model,
    client_update: ClientUpdate,
    observation: Observation,
    federated_server: server.Server,
    clients: Sequence[Clients],
    clients_per_round: int | None = None,
    resample_negatives: bool = False,
    loss: Loss = losses.bce,
    cohorts: Cohorts | None = None,
) -> Federation:
    """Puts model, clients, channel and server together.

    A round: every client gathers its item rows, trains on its batch, and its upload goes through
    the channel; the server aggregates what it sees. A client's randomness depends on the run's
    key, the round and its user index only, not on its place in a group; what it does to its labels
    (`perturb`) not on the round either.

    Args:
        model: the recommender.
        client_update: the local training.
        observation: the channel from a client to the server.
        federated_server: aggregation and optimiser.
        clients: groups of clients.
        clients_per_round: clients drawn afresh each round; None: all of them.
        resample_negatives: whether a client draws new negatives each round, see
            `client.resample_negatives`.
        loss: elementwise, to tell how far the training is; the clients' own.
        cohorts: of secure aggregation; None: every client uploads by itself.

    Returns:
        The federation.

    Raises:
        ValueError: if there are no clients, or fewer than `clients_per_round`.
    """
    groups = tuple(clients)
    number = sum(len(group.users) for group in groups)
    per_round = number if clients_per_round is None else clients_per_round
    if not 1 <= per_round <= number:
        raise ValueError(f'Expected 1 <= clients_per_round={per_round} <= {number} clients.')
    parts = _Parts(
        model, client_update, observation, federated_server, groups,
        per_round, resample_negatives, loss, cohorts,
    )  # fmt: skip
    return Federation(
        init=partial(_init, parts),
        active=partial(_active, parts),
        step=partial(_step, parts),
        train=partial(_train, parts),
        loss=partial(_mean_loss, parts),
        clients=groups,
        cohorts=cohorts,
    )


def uploads(run: Federation, key: Key) -> Callable[[PyTree, int, Local, int], PyTree]:
    """What clients upload in a round, from what they entered it with.

    Args:
        run: the federation.
        key: PRNG key of the run's rounds.

    Returns:
        `uploads(shared, round, locals, most) -> seen`, leaves `[V, ...]` on the host, of V clients
        of one group, of which there are `most`. They are computed a few at a time, in calls of one
        shape for a group, in the precision that holds here.
    """
    wide = jnp.result_type(float) == jnp.float64

    @compilation.jit
    def together(shared: PyTree, round_: Array, locals_: Local) -> PyTree:
        return jax.vmap(partial(run.train, shared, round_, key))(locals_)[0].uploads

    def some(shared: PyTree, round_: int, locals_: Local, most: int) -> PyTree:
        count, batch = locals_.items.shape
        size = max(min(most, _TOGETHER, _ENTRIES // batch), 1)
        found = []
        with jax.enable_x64(wide):
            for start in range(0, count, size):
                index = np.arange(start, min(start + size, count))
                part = tree.take(locals_, np.resize(index, size))
                seen = jax.device_get(together(shared, np.int32(round_), part))
                found.append(tree.take(seen, slice(len(index))))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)

    return some


class _Parts(NamedTuple):
    """What a federation is made of, see `federation`."""

    model: Model
    client_update: ClientUpdate
    observation: Observation
    server: server.Server
    clients: tuple[Clients, ...]
    clients_per_round: int
    resample_negatives: bool
    loss: Loss
    cohorts: Cohorts | None


def _data(group: Clients) -> tuple[Array, ...]:
    """The first fields of `Local` of a whole group."""
    return tuple(map(jnp.asarray, (group.users, group.items, group.labels, group.weights)))


def _init(parts: _Parts, key: Key) -> State:
    """The state before the first round."""
    shared_key, private_key = jax.random.split(key)
    # Models draw float32, so that a float64 run is a control of the same start.
    cast = partial(tree.cast_floats, dtype=jnp.result_type(float))
    shared = cast(parts.model.init_shared(shared_key))

    def draw(user: Leaf) -> PyTree:
        return cast(parts.model.init_private(jax.random.fold_in(private_key, user)))

    def start(private: PyTree, items: Leaf, labels: Leaf, weights: Leaf) -> PyTree:
        rows, batch = client.gather(shared, items), Batch(None, labels, weights)
        upload = jax.eval_shape(parts.client_update, rows, private, batch)[0]
        return parts.observation.init(upload)

    # Of all groups at once: random numbers take long to compile.
    users = jnp.concatenate([group.users for group in parts.clients])
    drawn = tree.shard_rows(jax.vmap(draw)(users))
    ends = np.cumsum([len(group.users) for group in parts.clients])
    private = [
        tree.take(drawn, slice(end - len(group.users), end))
        for group, end in zip(parts.clients, ends, strict=True)
    ]
    channel = [
        jax.vmap(start)(own, group.items, group.labels, group.weights)
        for group, own in zip(parts.clients, private, strict=True)
    ]
    return State(
        jnp.zeros((), jnp.int32),
        shared,
        server.init(parts.server, shared),
        *map(tuple, tree.shard_rows((private, channel))),
    )


def _active(
    parts: _Parts, round_: Leaf, key: Key, always_sampled: tuple[Array, ...]
) -> list[Array]:
    """Who takes part in a round: the clients with the smallest lots, and those forced."""
    participation_key = jax.random.split(jax.random.fold_in(key, round_))[0]

    def lot(user: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(participation_key, user), (), 'float32')

    draws = [jax.vmap(lot)(jnp.asarray(group.users)) for group in parts.clients]
    last = jnp.sort(jnp.concatenate(draws))[parts.clients_per_round - 1]
    return [(own <= last) | must for own, must in zip(draws, always_sampled, strict=True)]


def _train(
    parts: _Parts, shared: PyTree, round_: Leaf, key: Key, local: Local
) -> tuple[server.Uploads, PyTree, PyTree]:
    """One client's round: what the server sees of its upload, its private state, its channel's."""
    user, items, labels, weights, private, channel = local
    client_key = jax.random.split(jax.random.fold_in(key, round_))[1]
    keys = jax.random.split(jax.random.fold_in(client_key, user), 3)
    if parts.resample_negatives:
        num_items = jax.tree.leaves(shared['items'])[0].shape[0]
        items = client.resample_negatives(items, labels, weights, num_items, keys[2])
    own = jax.random.fold_in(jax.random.fold_in(key, _LABELS), user)
    batch = parts.observation.perturb(Batch(None, labels, weights), own)
    upload, private = parts.client_update(client.gather(shared, items), private, batch)
    seen, channel = parts.observation.observe(upload, channel, keys[1])
    return server.Uploads(seen, items, batch.weights > 0, jnp.asarray(True)), private, channel


def _step(
    parts: _Parts, state: State, key: Key, always_sampled: tuple[Array, ...]
) -> tuple[State, PyTree]:
    """One round: the groups one after the other, then the server."""
    cohorts = parts.cohorts
    aggregate = server.zero_total(state.shared, None if cohorts is None else cohorts.number)
    privates, channels = [], []
    for g, taking in enumerate(_active(parts, state.round, key, always_sampled)):
        aggregate, private, channel = _step_group(parts, g, taking, state, key, aggregate)
        privates.append(tree.shard_rows(private))
        channels.append(tree.shard_rows(channel))
    sums = None
    if cohorts is not None:
        sums = _observe_sums(cohorts, aggregate.uploads, jax.random.fold_in(key, state.round))
        aggregate = aggregate._replace(
            uploads=jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums)
        )
    shared, optimizer_state = server.apply(parts.server, state.shared, state.server, aggregate)
    new = State(state.round + 1, shared, optimizer_state, tuple(privates), tuple(channels))
    return new, sums


def _step_group(
    parts: _Parts, g: int, taking: Array, state: State, key: Key, aggregate: server.Aggregate
) -> tuple[server.Aggregate, PyTree, PyTree]:
    """Adds the uploads of those `taking` part, and moves their private and channel states on."""
    group, count, size = parts.clients[g], len(taking), _chunk_size(parts, g)
    # Those who take part first, then places that nobody has.
    order = jnp.nonzero(taking, size=count + -count % size, fill_value=_NOBODY)[0]
    of = None if parts.cohorts is None else jnp.asarray(parts.cohorts.of[g])
    data = _data(group)
    train = partial(_train, parts, state.shared, state.round, key)

    def step_chunk(i: Array, carry: tuple) -> tuple:
        aggregate, private, channel = carry
        place = jax.lax.dynamic_slice_in_dim(order, i * size, size)
        index = jnp.minimum(place, count - 1)
        local = tree.replicate(Local(*tree.take((*data, private, channel), index)))
        seen, *new = jax.vmap(train)(local)
        seen = seen._replace(active=place < count)
        private, channel = jax.tree.map(
            lambda leaf, rows: leaf.at[place].set(rows, mode='drop'),
            (private, channel), tuple(new),
        )  # fmt: skip
        return (
            server.accumulate(aggregate, seen, None if of is None else of[index]),
            private,
            channel,
        )

    chunks = -(-jnp.sum(taking) // size)
    return jax.lax.fori_loop(0, chunks, step_chunk, (aggregate, state.private[g], state.channel[g]))


def _chunk_size(parts: _Parts, g: int) -> int:
    """How many clients of a group train at a time: about those that a round has of the group."""
    number = sum(len(group.users) for group in parts.clients)
    count, batch = parts.clients[g].items.shape
    return max(1, min(-(-count * parts.clients_per_round // number), _ENTRIES // batch))


def _observe_sums(cohorts: Cohorts, uploads: PyTree, round_key: Key) -> PyTree:
    """The cohorts' sums `[G, ...]` behind their channel."""
    keys = jax.random.split(jax.random.fold_in(round_key, _SUMS), cohorts.number)
    return jax.vmap(lambda own, key: cohorts.after.observe(own, (), key)[0])(uploads, keys)


def _mean_loss(parts: _Parts, state: State) -> Array:
    """The mean over clients of the loss on their own batches."""
    value = client.mean_loss(parts.model, parts.loss)

    def one(group: Clients, private: PyTree, place: Array) -> Array:
        items, *batch, own = tree.take((*_data(group)[1:], private), place)
        return value(client.gather(state.shared, items), own, Batch(None, *batch))

    values = [
        tree.map_chunks(
            partial(one, group, private),
            jnp.arange(len(group.users)),
            max(_ENTRIES // group.items.shape[1], 1),
        )
        for group, private in zip(parts.clients, state.private, strict=True)
    ]
    return jnp.mean(jnp.concatenate(values))
