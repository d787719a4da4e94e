"""Joint: labels and private parameters of all clients that the sums hold, at once.

    min over y, p of sum_t |predict_t(y, p) - S_t|^2 / |S|^2,
    predict_t[g] = sum_{c in cohort g of round t} client_update(shared_t, p_c, (items_c, y_c))

is MGradInv's objective (`objective.problem`) for sums of clients. Where cohorts change, a client's
upload is in several sums with other clients each time, so that few rounds determine all of them.
Where they stay together, the members are told apart because each upload changes in its own way.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import _validate, tree
from fedinv_jax.attack import distances, inversion, objective
from fedinv_jax.attack.relax import Relaxation
from fedinv_jax.attack.unmix import by_item, filters
from fedinv_jax.types import (
    Answer,
    Array,
    Batch,
    ClientUpdate,
    Guess,
    InitPrivate,
    Key,
    Observation,
    PyTree,
    Sums,
)

_REPORTS = 20  # progress reports in a stage


class Group(NamedTuple):
    """Clients of similar batch size, and which of them are in each sum.

    Attributes:
        clients: int `[C]`, columns of `Sums.members`.
        entries: int `[C, B]`, which of the client's batch entries in `Sums.items` these are.
        items: int `[C, B]`.
        weights: float `[C, B]`.
        active: int `[T, M]`, positions in the group of those that took part; C pads.
        cohorts: int `[T, M]`, their cohorts.
    """

    clients: np.ndarray
    entries: np.ndarray
    items: np.ndarray
    weights: np.ndarray
    active: np.ndarray
    cohorts: np.ndarray


def groups(sums: Sums, ratio: float = 1.5) -> list[Group]:
    """Divides the clients of the sums into groups whose batches differ by at most `ratio`.

    Clients in no sum are in no group.

    Raises:
        ValueError: if no batches are known.
    """
    by_item.check_batches(sums)
    sizes = np.count_nonzero(sums.weights, axis=1)
    present = np.any(sums.members >= 0, axis=0)
    made, left = [], np.flatnonzero(present)
    while len(left):
        largest = sizes[left].max()
        own = left[sizes[left] > largest / ratio]
        left = np.setdiff1d(left, own)
        made.append(_group(sums, own, int(largest)))
    return made


def _group(sums: Sums, clients: np.ndarray, size: int) -> Group:
    """A group; each client's entries of weight 0 come last."""
    order = np.argsort(sums.weights[clients] == 0, axis=1, kind='stable')[:, :size]
    members = sums.members[:, clients]
    most = int(np.max(np.sum(members >= 0, axis=1)))
    active = np.full((len(members), most), len(clients))
    cohorts = np.zeros((len(members), most), int)
    for t, own in enumerate(members):
        there = np.flatnonzero(own >= 0)
        active[t, : len(there)] = there
        cohorts[t, : len(there)] = own[there]
    items, weights = (
        np.take_along_axis(leaf[clients], order, axis=1) for leaf in (sums.items, sums.weights)
    )
    return Group(clients, order, items, weights, active, cohorts)


def participants(privates: tuple, active: Sequence[Array]) -> tuple:
    """The private parameters of a round's participants, leaves `[M, ...]` of each group.

    Args:
        privates: of all clients, leaves `[C, ...]` of each group.
        active: for each group, positions `[M]` of those that take part; C pads.
    """
    return tuple(
        jax.tree.map(lambda leaf, at=at: jnp.take(leaf, at, axis=0, mode='clip'), own)
        for own, at in zip(privates, active, strict=True)
    )


def replaced(privates: tuple, active: Sequence[Array], moved: tuple) -> tuple:
    """All private parameters, with those of a round's participants replaced by `moved`."""
    return tuple(
        jax.tree.map(lambda old, new, at=at: old.at[at].set(new, mode='drop'), own, rows)
        for own, rows, at in zip(privates, moved, active, strict=True)
    )


def client_keys(key: Key, users: np.ndarray) -> Key:
    """A key for each client, which does not depend on the other clients: `[C]`."""
    return jax.vmap(lambda user: jax.random.fold_in(key, user))(jnp.asarray(users))


def problem(
    sums: Sums,
    parts: Sequence[Group],
    client_update: ClientUpdate,
    after: Observation,
    init_private: InitPrivate,
    relaxation: Relaxation,
    start: np.ndarray,
    hypothesis: str,
) -> objective.Problem:
    """The problem of all clients in the sums, for a solver such as `inversion.descent`.

    Args:
        sums: what the server sees, with batches.
        parts: see `groups`.
        client_update: of one client, as the attacker knows it.
        after: the channel after the sum, as the attacker models it; its `init` and `predict` are
            used.
        init_private: draws the private parameters of one client.
        relaxation: of the labels.
        start: labels from which the search starts, `[C, B]` as in `Sums.items`.
        hypothesis: about the private parameters, see `dynamics`. 'static': a client's are the same
            in all rounds. 'free': there are new ones each time that it takes part. 'unrolled': they
            change as the client trains; the sums are those of consecutive rounds.

    Returns:
        The problem. A guess has the labels of all groups in one vector, and a tuple of the groups'
        private parameters, leaves `[C, ...]`, or `[T, M, ...]` where they are 'free'.

    Raises:
        ValueError: if there is no such hypothesis.
    """
    _validate.lookup('hypothesis', hypothesis, ('free', 'static', 'unrolled'))
    data = [(jnp.asarray(part.items), jnp.asarray(part.weights)) for part in parts]
    rounds = [(jnp.asarray(part.active), jnp.asarray(part.cohorts)) for part in parts]
    dtype = jnp.result_type(float)
    shared, seen = (
        tree.cast_floats(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees), dtype)
        for trees in (sums.shared, sums.seen)
    )
    number = filters.num_cohorts(sums)
    norms = jax.tree.map(lambda leaf: jnp.sqrt(jnp.sum(leaf**2)), seen)

    def split(labels: Array) -> list[Array]:
        parted = jnp.split(labels, np.cumsum([part.items.size for part in parts])[:-1])
        return [y.reshape(part.items.shape) for y, part in zip(parted, parts, strict=True)]

    def one(shared: PyTree, private: PyTree, items: Array, labels: Array, weights: Array) -> tuple:
        rows = {**shared, 'items': tree.take(shared['items'], items)}
        return client_update(rows, private, Batch(None, labels, weights))

    def train(own: tuple, labels: list, shared: PyTree, where: list) -> tuple:
        """The sums `[G, ...]` of a round, and the participants' private parameters after it."""
        total, moved = _zeros(shared, number), []
        for (items, weights), private, y, (active, cohorts) in zip(
            data, own, labels, where, strict=True
        ):
            batch = tree.take((items, y, weights), jnp.minimum(active, len(y) - 1))
            uploads, new = jax.vmap(one, in_axes=(None, 0, 0, 0, 0))(shared, private, *batch)
            total = _add(total, uploads, batch[0], batch[2] > 0, active < len(y), cohorts)
            moved.append(new)
        return total, tuple(moved)

    def predict(guess: Guess) -> PyTree:
        labels = split(relaxation.decode(guess.labels))
        free = hypothesis == 'free'

        @jax.checkpoint
        def step(privates: tuple, now: tuple) -> tuple:
            shared, seen, where, own = now
            own = own if free else participants(privates, [active for active, _ in where])
            total, moved = train(own, labels, shared, where)
            predicted, _ = after.predict(total, seen, after.init(total))
            if hypothesis == 'unrolled':
                privates = replaced(privates, [active for active, _ in where], moved)
            return privates, predicted

        each = (shared, seen, rounds, guess.latent if free else None)
        return jax.lax.scan(step, None if free else guess.latent, each)[1]

    def whiten(uploads: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, norm: leaf / jnp.where(norm > 0, norm, 1), uploads, norms)

    def residual(guess: Guess) -> PyTree:
        return whiten(jax.tree.map(jnp.subtract, predict(guess), seen))

    def init(key: Key) -> Guess:
        keys = [client_keys(key, sums.users[part.clients]) for part in parts]
        latent = tuple(tree.cast_floats(jax.vmap(init_private)(own), dtype) for own in keys)
        own_start = [start[part.clients[:, None], part.entries].ravel() for part in parts]
        labels = jnp.asarray(np.concatenate(own_start), dtype)
        if hypothesis == 'free':
            latent = jax.vmap(lambda where: participants(latent, where))([at for at, _ in rounds])
        return Guess(relaxation.encode(labels), None, latent)

    def answer(guess: Guess, value: Array) -> Answer:
        scores = relaxation.decode(guess.labels)
        return Answer(scores, scores > 0.5, guess.latent, value)

    return objective.Problem(
        init,
        predict,
        whiten,
        residual,
        lambda guess: distances.squared_norm(residual(guess)),
        answer,
    )


def by_client(parts: Sequence[Group], labels: Array, like: np.ndarray) -> np.ndarray:
    """The labels of an answer as `[C, B]`; clients in no sum have those of `like`."""
    found, ends = np.array(like), np.cumsum([part.items.size for part in parts])[:-1]
    for part, own in zip(parts, np.split(np.asarray(labels), ends), strict=True):
        found[part.clients[:, None], part.entries] = own.reshape(part.items.shape)
    return found


def private_alone(problem: objective.Problem) -> objective.Problem:
    """The problem whose labels stay as they are."""

    def fixed(guess: Guess) -> Guess:
        return guess._replace(labels=jax.lax.stop_gradient(guess.labels))

    return problem._replace(
        residual=lambda guess: problem.residual(fixed(guess)),
        objective=lambda guess: problem.objective(fixed(guess)),
    )


def solve(
    sums: Sums,
    make: Callable[[Sums, Sequence[Group], np.ndarray], objective.Problem],
    make_solver: Callable[[int], inversion.Inversion],
    key: Key,
    first: np.ndarray,
    unknown: float,
    stages: Sequence[int],
    num_iterations: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """The labels of all clients in the sums, found from the first rounds, then from more.

    Each stage starts from the labels of the stage before. Its first quarter of iterations moves the
    private parameters alone: started with labels that are mostly right, they are found fast;
    started together with arbitrary ones, they would first turn labels away from the start.

    Args:
        sums: what the server sees, with batches.
        make: `make(sums, parts, start)`, see `problem`.
        make_solver: `make_solver(iterations)`, such as `inversion.descent` with a schedule.
        key: PRNG key of the private parameters from which each stage starts.
        first: labels from which the first stage starts, `[C, B]` as in `Sums.items`.
        unknown: the label from which a client starts that takes part in a later stage only.
        stages: numbers of rounds, increasing; the last one is T.
        num_iterations: of each stage.
        progress: called with (iterations done, iterations in total).

    Returns:
        float `[C, B]`, labels in [0, 1]; `unknown` for a client that is in no sum.
    """
    found = np.full_like(first, unknown)
    for index, number in enumerate(stages):
        now = filters.first_rounds(sums, number)
        parts = groups(now)
        stage = make(now, parts, found if index else first)

        def more(done: int, before: int = index * num_iterations) -> None:
            progress(before + done, len(stages) * num_iterations)

        answer = _search(stage, make_solver, jax.random.fold_in(key, index), num_iterations, more)
        found = by_client(parts, answer.scores, found)
    return found


def _search(
    problem: objective.Problem,
    make_solver: Callable[[int], inversion.Inversion],
    key: Key,
    num_iterations: int,
    progress: Callable[[int], None],
) -> Answer:
    """The answer after a quarter of the iterations on the private parameters alone."""

    def steps(part: objective.Problem, guess: Guess, start: int, last: int) -> inversion.State:
        part, solver = part._replace(init=lambda _: guess), make_solver(last - start)
        state = jax.jit(partial(solver.init, part))(key)
        advance = jax.jit(
            lambda state, count: jax.lax.fori_loop(
                0, count, lambda _, state: solver.update(part, state), state
            )
        )
        for done in range(start, last, count):
            state = jax.block_until_ready(advance(state, min(count, last - done)))
            progress(min(done + count, last))
        return state

    quarter, count = num_iterations // 4, max(num_iterations // _REPORTS, 1)
    found = steps(private_alone(problem), problem.init(key), 0, quarter)
    found = steps(problem, found.guess, quarter, num_iterations)
    return problem.answer(found.guess, found.objective)


def _zeros(shared: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape), leaf.dtype), shared)


def _add(
    total: PyTree, uploads: PyTree, items: Array, real: Array, there: Array, cohorts: Array
) -> PyTree:
    """Adds uploads `[M, ...]` of a round to the sums `[G, ...]`; padding adds nothing."""

    def only(leaf: Array, kept: Array) -> Array:
        return jnp.where(kept.reshape(kept.shape + (1,) * (leaf.ndim - kept.ndim)), leaf, 0)

    rows = there[:, None] & real
    return {
        name: jax.tree.map(
            (lambda sum_, leaf: sum_.at[cohorts[:, None], items].add(only(leaf, rows)))
            if name == 'items'
            else (lambda sum_, leaf: sum_.at[cohorts].add(only(leaf, there))),
            part,
            uploads[name],
        )
        for name, part in total.items()
        if name in uploads
    }
