"""A federated training run as pure functions: clients, channel and server, round by round."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import client, compilation, item_table, losses, sampling, server, tree
from fedinv_jax.cohorts import Cohorts
from fedinv_jax.data.clients import Clients
from fedinv_jax.types import Array, Batch, ClientUpdate, Key, Leaf, Model, Observation, PyTree

_LABELS = 2**31 - 1  # stream of the run's key for changed labels; the rounds take 0, 1, ...
_SUMS = 2  # stream of a round's key for the channel after the sums
_NO_CLIENT = 2**31 - 1  # an index that no client has
_ENTRIES = 2**16  # batch entries that train at a time, so that their uploads fit the caches
_CLIENTS_PER_CALL = 16  # clients whose uploads are recomputed in one call


class State(NamedTuple):
    """A federation between two rounds.

    Attributes:
        round: int32 `[]`, the number of rounds done.
        shared: the server's parameters.
        server: the server optimiser's state.
        private: per group of clients, leaves `[C, ...]`, padded and sharded (`tree.shard_rows`).
        channel: per group, the observation's states, padded and sharded too.
    """

    round: Array
    shared: PyTree
    server: Any
    private: tuple[PyTree, ...]
    channel: tuple[PyTree, ...]


class Local(NamedTuple):
    """Data and state of one client before a round; for several clients, leaves `[C, ...]`.

    Attributes:
        user: int32 `[]`.
        items: int32 `[B]`.
        labels: float `[B]`.
        weights: float `[B]`, 0 for padding.
        private: the private parameters, leaves `[...]`.
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
        active: `active(round, key, always_sampled) -> participants`, per group bool `[C]`;
            `always_sampled`, of the same shape, marks clients that take part in any case.
        step: `step(state, key, always_sampled) -> (state, sums)`, one round, which trains its
            participants only. `sums` is what the server sees of the cohorts, leaves `[G, ...]` like
            the parameters; None without cohorts.
        train: `train(shared, round, key, local) -> (seen, private, channel)`: one client's upload
            in a round, a `server.Uploads` without leading axis, and the client's new states.
        loss: `loss(state) -> []`, the mean over clients of the loss on their own batches.
        clients: the groups of clients.
        members: `members(round, key, always_sampled) -> int [C]`: over all groups, the cohort that
            each client's upload is in; -1: in none.
        cohorts: see `Cohorts`.
        resample_negatives: whether a client's batch has other negatives in each round.
    """

    init: Callable[[Key], State]
    active: Callable[[Leaf, Key, tuple[Array, ...]], list[Array]]
    step: Callable[[State, Key, tuple[Array, ...]], tuple[State, PyTree]]
    train: Callable[[PyTree, Leaf, Key, Local], tuple[server.Uploads, PyTree, PyTree]]
    loss: Callable[[State], Array]
    clients: tuple[Clients, ...]
    members: Callable[[Leaf, Key, tuple[Array, ...]], Array]
    cohorts: Cohorts | None
    resample_negatives: bool


def federation(
    model: Model,
    client_update: ClientUpdate,
    observation: Observation,
    federated_server: server.Server,
    clients: Sequence[Clients],
    clients_per_round: int | None = None,
    resample_negatives: bool = False,
    loss: losses.AnyLoss = losses.bce,
    cohorts: Cohorts | None = None,
) -> Federation:
    """Builds a federation from a model, clients, a channel and a server.

    In a round every participant gathers its item rows, trains on its batch and sends its upload
    through the channel; the server aggregates what it sees. A client's randomness depends only on
    the run's key, the round and the user index; that of `perturb` does not depend on the round.

    Args:
        model: the recommender.
        client_update: the local training.
        observation: the channel from a client to the server.
        federated_server: aggregation and optimiser.
        clients: groups of clients.
        clients_per_round: number of clients sampled in each round; None: all clients.
        resample_negatives: whether clients draw new negatives each round (`sampling`).
        loss: the clients' elementwise loss, for `Federation.loss`.
        cohorts: of secure aggregation; None: the server sees every upload.

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
        members=partial(_members, parts),
        cohorts=cohorts,
        resample_negatives=resample_negatives,
    )


def uploads(federation: Federation, key: Key) -> Callable[[PyTree, int, Local, int], PyTree]:
    """Returns a function that recomputes what clients upload in a round.

    Args:
        federation: the federation.
        key: PRNG key of the run's rounds.

    Returns:
        `uploads(shared, round, locals, most) -> seen, items`: uploads of V clients of one group,
        leaves `[V, ...]` on the host, in JAX's default float dtype of this call, and the items of
        their batches, `[V, B]`. All calls are compiled for `most` clients, the largest V.
    """
    wide = jnp.result_type(float) == jnp.float64

    @compilation.jit
    def compute(shared: PyTree, round_: Array, locals_: Local) -> tuple[PyTree, Array]:
        return jax.vmap(partial(federation.train, shared, round_, key))(locals_)[0][:2]

    def in_chunks(shared: PyTree, round_: int, locals_: Local, most: int) -> tuple[PyTree, Array]:
        count, batch = locals_.items.shape
        size = max(min(most, _CLIENTS_PER_CALL, _ENTRIES // batch), 1)
        found = []
        with jax.enable_x64(wide):
            for start in range(0, count, size):
                index = np.arange(start, min(start + size, count))
                part = tree.take(locals_, np.resize(index, size))
                seen = jax.device_get(compute(shared, np.int32(round_), part))
                found.append(tree.take(seen, slice(len(index))))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)

    return in_chunks


class _Parts(NamedTuple):
    """The arguments of `federation`."""

    model: Model
    client_update: ClientUpdate
    observation: Observation
    server: server.Server
    clients: tuple[Clients, ...]
    clients_per_round: int
    resample_negatives: bool
    loss: losses.AnyLoss
    cohorts: Cohorts | None


def _data(group: Clients) -> tuple[Array, ...]:
    """`user`, `items`, `labels` and `weights` of `Local` for a whole group."""
    return tuple(map(jnp.asarray, (group.users, group.items, group.labels, group.weights)))


def _init(parts: _Parts, key: Key) -> State:
    """The state before the first round."""
    shared_key, private_key = jax.random.split(key)
    # Models draw float32, so that a float64 run starts from the same parameters.
    cast = partial(tree.cast_floats, dtype=jnp.result_type(float))
    shared = cast(parts.model.init_shared(shared_key))

    def draw(user: Leaf) -> PyTree:
        return cast(parts.model.init_private(jax.random.fold_in(private_key, user)))

    def start(private: PyTree, items: Leaf, labels: Leaf, weights: Leaf) -> PyTree:
        own = *item_table.gather_both(shared, private, items), Batch(None, labels, weights)
        return parts.observation.init(jax.eval_shape(parts.client_update, *own)[0])

    # One draw for all groups: random numbers take long to compile.
    users = jnp.concatenate([group.users for group in parts.clients])
    drawn = tree.shard_rows(jax.vmap(draw)(users))
    sizes = [len(group.users) for group in parts.clients]
    pairs = zip(sizes, np.cumsum(sizes), strict=True)
    private = [tree.take(drawn, slice(end - size, end)) for size, end in pairs]
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
    """The participants of a round: clients with the smallest draws, and those always sampled."""
    participation_key = jax.random.split(jax.random.fold_in(key, round_))[0]

    def draw(user: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(participation_key, user), (), 'float32')

    draws = [jax.vmap(draw)(jnp.asarray(group.users)) for group in parts.clients]
    last = jnp.sort(jnp.concatenate(draws))[parts.clients_per_round - 1]
    return [(own <= last) | must for own, must in zip(draws, always_sampled, strict=True)]


def _members(parts: _Parts, round_: Leaf, key: Key, always_sampled: tuple[Array, ...]) -> Array:
    """The cohort that each client's upload is in; -1: in none."""
    active = _active(parts, round_, key, always_sampled)
    of = [jnp.zeros(len(own), int) for own in active]
    if parts.cohorts is not None:
        of = parts.cohorts.of(round_, key)
    return jnp.where(jnp.concatenate(active), jnp.concatenate(of), -1)


def _train(
    parts: _Parts, shared: PyTree, round_: Leaf, key: Key, local: Local
) -> tuple[server.Uploads, PyTree, PyTree]:
    """One client's round: its upload after the channel, its private and its channel state."""
    user, items, labels, weights, private, channel = local
    client_key = jax.random.split(jax.random.fold_in(key, round_))[1]
    keys = jax.random.split(jax.random.fold_in(client_key, user), 3)
    if parts.resample_negatives:
        num_items = jax.tree.leaves(shared['items'])[0].shape[0]
        items = sampling.resample_negatives(items, labels, weights, num_items, keys[2])
    own = jax.random.fold_in(jax.random.fold_in(key, _LABELS), user)
    batch = parts.observation.perturb(Batch(None, labels, weights, keys[0]), own)
    upload, trained = parts.client_update(*item_table.gather_both(shared, private, items), batch)
    private = item_table.scatter(private, trained, items, weights)
    seen, channel = parts.observation.observe(upload, channel, keys[1])
    return server.Uploads(seen, items, batch.weights > 0, jnp.asarray(True)), private, channel


def _step(
    parts: _Parts, state: State, key: Key, always_sampled: tuple[Array, ...]
) -> tuple[State, PyTree]:
    """One round: the groups one after the other, then the server."""
    cohorts = parts.cohorts
    aggregate = server.zero_total(state.shared, None if cohorts is None else cohorts.number)
    privates, channels = [], []
    for g, active in enumerate(_active(parts, state.round, key, always_sampled)):
        aggregate, private, channel = _step_group(parts, g, active, state, key, aggregate)
        privates.append(tree.shard_rows(private))
        channels.append(tree.shard_rows(channel))
    sums = None
    if cohorts is not None:
        sums = _observe_sums(cohorts, aggregate.uploads, jax.random.fold_in(key, state.round))
        aggregate = aggregate._replace(uploads=jax.tree.map(partial(jnp.sum, axis=0), sums))
    shared, optimizer_state = server.apply(parts.server, state.shared, state.server, aggregate)
    new = State(state.round + 1, shared, optimizer_state, tuple(privates), tuple(channels))
    return new, sums


def _step_group(
    parts: _Parts, g: int, active: Array, state: State, key: Key, aggregate: server.Aggregate
) -> tuple[server.Aggregate, PyTree, PyTree]:
    """Adds the uploads of a group's participants, and updates their private and channel states."""
    group, count, size = parts.clients[g], len(active), _chunk_size(parts, g)
    # Indices of the participants, then padding.
    order = jnp.nonzero(active, size=count + -count % size, fill_value=_NO_CLIENT)[0]
    of = None if parts.cohorts is None else parts.cohorts.of(state.round, key)[g]
    data = _data(group)
    train = partial(_train, parts, state.shared, state.round, key)

    def step_chunk(i: Array, carry: tuple) -> tuple:
        aggregate, private, channel = carry
        chunk = jax.lax.dynamic_slice_in_dim(order, i * size, size)
        index = jnp.minimum(chunk, count - 1)
        local = tree.replicate(Local(*tree.take((*data, private, channel), index)))
        seen, *new = jax.vmap(train)(local)
        seen = seen._replace(active=chunk < count)
        private, channel = jax.tree.map(
            lambda leaf, rows: leaf.at[chunk].set(rows, mode='drop'),
            (private, channel), tuple(new),
        )  # fmt: skip
        aggregate = server.accumulate(aggregate, seen, None if of is None else of[index])
        return aggregate, private, channel

    chunks = -(-jnp.sum(active) // size)
    return jax.lax.fori_loop(0, chunks, step_chunk, (aggregate, state.private[g], state.channel[g]))


def _chunk_size(parts: _Parts, g: int) -> int:
    """Clients of a group that train at a time: about as many as a round samples from the group."""
    number = sum(len(group.users) for group in parts.clients)
    count, batch = parts.clients[g].items.shape
    return max(1, min(-(-count * parts.clients_per_round // number), _ENTRIES // batch))


def _observe_sums(cohorts: Cohorts, uploads: PyTree, round_key: Key) -> PyTree:
    """Passes the cohorts' sums, leaves `[G, ...]`, through their channel."""
    keys = jax.random.split(jax.random.fold_in(round_key, _SUMS), cohorts.number)
    return jax.vmap(lambda own, key: cohorts.after.observe(own, (), key)[0])(uploads, keys)


def _mean_loss(parts: _Parts, state: State) -> Array:
    """The mean over clients of the loss on their own batches."""
    value = client.mean_loss(parts.model, parts.loss)

    def one(group: Clients, private: PyTree, index: Array) -> Array:
        items, *batch, own = tree.take((*_data(group)[1:], private), index)
        return value(*item_table.gather_both(state.shared, own, items), Batch(None, *batch))

    values = []
    for group, private in zip(parts.clients, state.private, strict=True):
        count, batch = group.items.shape
        loss = partial(one, group, private)
        values.append(tree.map_chunks(loss, jnp.arange(count), max(_ENTRIES // batch, 1)))
    return jnp.mean(jnp.concatenate(values))
