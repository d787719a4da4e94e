"""A federated training run, and what it leaves in the server's hands; the only source of truth.

One run serves every attack on it: `record` keeps the rounds asked for, `transcript` slices one
client out of them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import client, losses, observe, server, tree
from fedinv_jax.data.clients import Clients
from fedinv_jax.types import (
    Array,
    Batch,
    ClientUpdate,
    GroundTruth,
    Key,
    Leaf,
    Loss,
    Model,
    Observation,
    PyTree,
    Transcript,
)

_ROUNDS_PER_CALL = 50  # between two progress reports


class State(NamedTuple):
    """A federation between two rounds.

    Attributes:
        round: int32 `[]`, the number of rounds done.
        shared: the server's parameters.
        server: the server optimiser's state.
        private: per group of clients, leaves `[C, ...]`.
        channel: per group, the observation's state, leaves `[C, ...]`.
    """

    round: Array
    shared: PyTree
    server: Any
    private: tuple[PyTree, ...]
    channel: tuple[PyTree, ...]


class Federation(NamedTuple):
    """A federated training run as pure functions.

    Attributes:
        init: `init(key) -> State`.
        step: `step(state, key, forced) -> (state, seen)`, one round; `forced` is per group a
            bool `[C]` of clients that take part in any case; `seen` per group a `server.Seen`.
        loss: `loss(state) -> []`, the mean over clients of the loss on their own batches.
        clients: the groups of clients.
    """

    init: Callable[[Key], State]
    step: Callable[[State, Key, tuple[Array, ...]], tuple[State, tuple[server.Seen, ...]]]
    loss: Callable[[State], Array]
    clients: tuple[Clients, ...]


def federation(
    model: Model,
    client_update: ClientUpdate,
    observation: Observation,
    federated_server: server.Server,
    clients: Sequence[Clients],
    clients_per_round: int | None = None,
    fresh_negatives: bool = False,
    loss: Loss = losses.bce,
) -> Federation:
    """Puts model, clients, channel and server together.

    A round: every client gathers its item rows, trains on its batch, and its upload goes through
    the channel; the server aggregates what it sees. A client's randomness depends on the run's
    key, the round and its user index only, not on its place in a group.

    Args:
        model: the recommender.
        client_update: the local training.
        observation: the channel from a client to the server.
        federated_server: aggregation and optimiser.
        clients: groups of clients.
        clients_per_round: clients drawn afresh each round; None: all of them.
        fresh_negatives: whether a client draws new ones each round (`client.fresh_negatives`).
        loss: elementwise, to tell how far the training is; the clients' own.

    Returns:
        The federation.

    Raises:
        ValueError: if there are no clients, or fewer than `clients_per_round`.
    """
    clients = tuple(clients)
    num_clients = sum(len(group.users) for group in clients)
    clients_per_round = num_clients if clients_per_round is None else clients_per_round
    if not 1 <= clients_per_round <= num_clients:
        raise ValueError(
            f'Expected 1 <= clients_per_round={clients_per_round} <= {num_clients} clients.'
        )

    def init(key: Key) -> State:
        shared_key, private_key = jax.random.split(key)
        # Models draw float32, so that a float64 run is a control of the same start.
        cast = partial(tree.cast_floats, dtype=jnp.result_type(float))
        shared = cast(model.init_shared(shared_key))

        def one(user: Leaf, items: Leaf, labels: Leaf, weights: Leaf) -> tuple[PyTree, PyTree]:
            private = cast(model.init_private(jax.random.fold_in(private_key, user)))
            upload = jax.eval_shape(
                lambda: client_update(
                    client.gather(shared, items), private, Batch(None, labels, weights)
                )[0]
            )
            return private, observation.init(upload)

        parts = [jax.vmap(one)(g.users, g.items, g.labels, g.weights) for g in clients]
        private, channel = zip(*parts, strict=True)
        return State(
            jnp.zeros((), jnp.int32),
            shared,
            server.init(federated_server, shared),
            private,
            channel,
        )

    def step(
        state: State, key: Key, forced: tuple[Array, ...]
    ) -> tuple[State, tuple[server.Seen, ...]]:
        round_key = jax.random.fold_in(key, state.round)
        participation_key, client_key = jax.random.split(round_key)
        lots = [_lots(participation_key, jnp.asarray(group.users)) for group in clients]
        last = jnp.sort(jnp.concatenate(lots))[clients_per_round - 1]

        def one(user, items, labels, weights, private, channel, active):
            keys = jax.random.split(jax.random.fold_in(client_key, user), 3)
            if fresh_negatives:
                num_items = jax.tree.leaves(state.shared['items'])[0].shape[0]
                items = client.fresh_negatives(items, labels, weights, num_items, keys[2])
            batch = observation.perturb(Batch(None, labels, weights), keys[0])
            local = client.gather(state.shared, items)
            upload, new_private = client_update(local, private, batch)
            seen, new_channel = observation.observe(upload, channel, keys[1])
            private, channel = jax.tree.map(
                partial(jnp.where, active), (new_private, new_channel), (private, channel)
            )
            return server.Seen(seen, items, batch.weights > 0, active), private, channel

        outcomes = []
        for group, lot, must, private, channel in zip(
            clients, lots, forced, state.private, state.channel, strict=True
        ):
            active = (lot <= last) | must
            data = group.users, group.items, group.labels, group.weights
            outcomes.append(jax.vmap(one)(*data, private, channel, active))
        groups, privates, channels = zip(*outcomes, strict=True)
        shared, optimizer_state = server.apply(federated_server, state.shared, state.server, groups)
        new = State(state.round + 1, shared, optimizer_state, privates, channels)
        return new, groups

    value = client.mean_loss(model, loss)

    def mean(state: State) -> Array:
        def one(items: Leaf, labels: Leaf, weights: Leaf, private: PyTree) -> Array:
            return value(client.gather(state.shared, items), private, Batch(None, labels, weights))

        values = [
            jax.vmap(one)(group.items, group.labels, group.weights, private)
            for group, private in zip(clients, state.private, strict=True)
        ]
        return jnp.mean(jnp.concatenate(values))

    return Federation(init, step, mean, clients)


def _lots(key: Key, users: Array) -> Array:
    """A uniform draw `[C]` per client; the round's clients are those with the smallest ones."""
    return jax.vmap(lambda user: jax.random.uniform(jax.random.fold_in(key, user), (), 'float32'))(
        users
    )


class Snapshot(NamedTuple):
    """One kept round, on the host.

    Attributes:
        shared: the parameters that the server sent.
        private: per group, the victims' private parameters before the round, leaves `[V, ...]`.
        seen: per group, the victims' uploads as seen, leaves `[V, ...]`.
        participated: per group, bool `[V]`.
        loss: `[]`, the mean over all clients of their loss before the round.
    """

    shared: PyTree
    private: tuple[PyTree, ...]
    seen: tuple[PyTree, ...]
    participated: tuple[Array, ...]
    loss: Array


class Recording(NamedTuple):
    """The kept rounds of one training run.

    Attributes:
        clients: per group, the victims among the clients.
        snapshots: kept round -> snapshot.
    """

    clients: tuple[Clients, ...]
    snapshots: dict[int, Snapshot]


def record(
    run: Federation,
    key: Key,
    victims: Sequence[int],
    observed: Sequence[int],
    between: Sequence[int] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recording:
    """Trains up to the last kept round and keeps what the attacks on `victims` need.

    Memory grows with the kept rounds, not with the rounds trained.

    Args:
        run: the federation.
        key: PRNG key of the whole run.
        victims: user indices; they take part in every observed round, beside the clients drawn.
        observed: rounds (0 is the first) whose uploads are kept.
        between: further rounds of which only parameters and participation are kept, for
            `unrolled`.
        progress: called with (rounds done, rounds in all).

    Returns:
        The recording.

    Raises:
        ValueError: if a victim is not a client, or no or a negative round is asked for.
    """
    kept = sorted({*observed, *between})
    if not kept or kept[0] < 0:
        raise ValueError(f'Expected rounds >= 0 to observe, got {list(kept)}.')
    known = {int(user) for group in run.clients for user in group.users}
    if missing := sorted(set(map(int, victims)) - known):
        raise ValueError(f'Expected victims to be clients; users {missing[:5]} are not.')
    chosen = [np.flatnonzero(np.isin(group.users, victims)) for group in run.clients]
    forced = tuple(jnp.asarray(np.isin(group.users, victims)) for group in run.clients)
    nobody = tuple(jnp.zeros_like(mask) for mask in forced)

    @jax.jit
    def advance(state: State, key: Key, rounds: Array) -> State:
        return jax.lax.fori_loop(0, rounds, lambda _, s: run.step(s, key, nobody)[0], state)

    @jax.jit
    def keep(state: State, key: Key, forced: tuple[Array, ...]) -> tuple[State, Snapshot]:
        new, groups = run.step(state, key, forced)
        pick = [partial(tree.take, index=index) for index in chosen]
        return new, Snapshot(
            state.shared,
            tuple(p(private) for p, private in zip(pick, state.private, strict=True)),
            tuple(p(group.uploads) for p, group in zip(pick, groups, strict=True)),
            tuple(p(group.active) for p, group in zip(pick, groups, strict=True)),
            run.loss(state),
        )

    init_key, run_key = jax.random.split(key)
    state, snapshots, done = jax.jit(run.init)(init_key), {}, 0
    for round_ in kept:
        while done < round_:
            rounds = min(round_ - done, _ROUNDS_PER_CALL)
            state = jax.block_until_ready(advance(state, run_key, rounds))
            done += rounds
            progress(done, kept[-1] + 1)
        state, snapshot = keep(state, run_key, forced if round_ in observed else nobody)
        snapshots[round_] = jax.device_get(snapshot)
        done += 1
        progress(done, kept[-1] + 1)
    clients = tuple(
        dataclasses.replace(group, **{name: leaf[index] for name, leaf in vars(group).items()})
        for group, index in zip(run.clients, chosen, strict=True)
    )
    return Recording(clients, snapshots)


def transcript(
    recording: Recording,
    user: int,
    rounds: Sequence[int],
    seen: Sequence[str],
    every_round: bool = False,
    batch_known: bool = True,
    log_odds: np.ndarray | None = None,
) -> tuple[Transcript, GroundTruth]:
    """Slices one client out of a recording: what the server holds, and apart from it the truth.

    Args:
        recording: from `record`.
        user: a victim.
        rounds: the T observed rounds, increasing.
        seen: names of what the server looks at in an upload (`observe.share`).
        every_round: keep the parameters of the rounds in between as well (S = last - first + 1).
        batch_known: whether the attacker knows the items of the batch; if not, the candidates
            are the whole catalogue (K = N).
        log_odds: float `[N]`, public popularity for this user; None: zeros.

    Returns:
        The transcript and the truth, NumPy leaves.

    Raises:
        ValueError: if `rounds` do not increase or were not recorded, or the user is no victim, or
            item rows are seen of a batch that is said to be unknown.
    """
    rounds = [int(round_) for round_ in rounds]
    if not rounds or any(b <= a for a, b in itertools.pairwise(rounds)):
        raise ValueError(f'Expected rounds={rounds} to be one or more, increasing.')
    kept = list(range(rounds[0], rounds[-1] + 1)) if every_round else rounds
    if missing := [round_ for round_ in kept if round_ not in recording.snapshots]:
        raise ValueError(f'Expected recorded rounds; {missing[:5]} are not among them.')
    if not batch_known and any(name.split('/')[0] == 'items' for name in seen):
        raise ValueError('Item rows reveal the batch: seen=items needs batch_known=True.')
    found = [g for g, group in enumerate(recording.clients) if user in group.users]
    if not found:
        raise ValueError(f'Expected user={user} to be one of the recorded victims.')
    g, group = found[0], recording.clients[found[0]]
    v = int(np.flatnonzero(group.users == user)[0])

    def stacked(values: Sequence[PyTree]) -> PyTree:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *values)

    snapshots = [recording.snapshots[round_] for round_ in kept]
    observed = [recording.snapshots[round_] for round_ in rounds]
    share = observe.share(*seen)
    view = [share.observe(tree.take(s.seen[g], v), (), jax.random.key(0))[0] for s in observed]
    num_items = jax.tree.leaves(snapshots[0].shared['items'])[0].shape[0]
    if batch_known:
        items, labels, evaluated = group.items[v], group.labels[v], group.weights[v]
        weights = np.tile(evaluated, (len(kept), 1))
    else:
        items, weights = np.arange(num_items, dtype=np.int32), None
        real = group.weights[v] > 0
        labels = np.zeros(num_items, group.labels.dtype)
        labels[group.items[v][real]] = group.labels[v][real]
        evaluated = np.ones(num_items, group.weights.dtype)
    return (
        Transcript(
            shared=stacked([client.gather(s.shared, items) for s in snapshots]),
            seen=stacked(view),
            rounds=np.asarray(rounds, np.int32),
            participated=np.asarray([s.participated[g][v] for s in snapshots]),
            items=items,
            slot=None,
            weights=weights,
            log_odds=np.zeros(len(items), np.float32) if log_odds is None else log_odds[items],
        ),
        GroundTruth(
            user=np.asarray(user, np.int32),
            labels=labels,
            weights=(evaluated > 0).astype(labels.dtype),
            private=stacked([tree.take(s.private[g], v) for s in observed]),
        ),
    )
