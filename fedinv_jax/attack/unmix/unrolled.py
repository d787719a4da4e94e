"""Labels from sums of clients that train: each client's own rows are replayed in every round.

`replayed.labels` replays the rows of a mean client. Where clients train their private parameters,
rows differ between clients, and change. Here each client is trained on the labels found so far, in
the rounds that it took part in, from a draw of the known initialisation; its rows of each round
are affine in the labels,

    sums_t = sum_c r^0_ct + sum_c y_c * d_ct,    0 <= y <= 1,

and least squares over all clients and rounds finds better labels, with which the clients are
trained again. The private parameters are never optimised: rows of a network with rectified units
jump where a unit switches on, which derivatives do not see.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.attack import box_qp, candidates
from fedinv_jax.attack.unmix import filters
from fedinv_jax.attack.unmix.joint import Group, groups, participants, replaced
from fedinv_jax.types import Array, Batch, ClientUpdate, PyTree, Sums

_RIDGE = 1e-3  # of the labels' distance to the public share, relative to an item's curvature
_POWERS = 8  # iterations for the largest curvature of an item


class _Where(NamedTuple):
    """Where the rows of one group's participants are added, in each round.

    Attributes:
        active: int `[T, M]`, see `Group`.
        place: int `[T, M, B]`, cohort and item as one index.
        real: bool `[T, M, B]`.
        items: int `[C, B]`.
    """

    active: Array
    place: Array
    real: Array
    items: Array


def labels(
    sums: Sums,
    client_update: ClientUpdate,
    gradient: ClientUpdate,
    privates: PyTree,
    start: np.ndarray,
    share: float,
    stages: Sequence[int],
    num_passes: int,
    num_iterations: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Estimates the labels of all clients in the sums from the first rounds, then from more.

    Args:
        sums: what the server sees in consecutive rounds, with batches, item rows seen.
        client_update: of one client, as it sends its upload.
        gradient: of one client, whose upload has the direction of that of `client_update`, and is
            affine in the labels.
        privates: the private parameters before the first round, leaves `[C, ...]`.
        start: labels with which the clients are trained first, `[C, B]` as in `Sums.items`.
        share: public share of interactions in a batch.
        stages: numbers of rounds, increasing; the last one is T. Private parameters of early rounds
            depend on few labels, and labels found from them predict those of more rounds.
        num_passes: in each stage, how often all clients are trained and their labels solved for.
        num_iterations: of each least-squares solve.
        progress: called with (passes done, passes in total).

    Returns:
        float `[C, B]`, labels in [0, 1]; those of `start` for clients that are in no sum. Memory is
        that of the participants' rows in all rounds, T M B F floats.
    """
    dtype, found = jnp.result_type(float), np.array(start)
    for index, number in enumerate(stages):
        now = filters.first_rounds(sums, number)
        parts = groups(now)
        data = [(jnp.asarray(part.items), jnp.asarray(part.weights, dtype)) for part in parts]
        where = [_where(part, now.seen[0]['items']) for part in parts]
        own = tuple(tree.take(privates, part.clients) for part in parts)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *now.shared)
        seen = jnp.stack([candidates.rows(one, 2) for one in now.seen]).astype(dtype)
        seen = seen.reshape(number, -1, seen.shape[-1])  # cohorts and items are one axis
        given = tree.cast_floats((own, stacked), dtype), seen
        replay = jax.jit(partial(_replay, client_update, gradient, data, where))
        y = [jnp.asarray(found[part.clients[:, None], part.entries], dtype) for part in parts]
        for done in range(num_passes):
            y = jax.block_until_ready(_solve(where, share, num_iterations, *replay(y, *given), y))
            progress(index * num_passes + done + 1, len(stages) * num_passes)
        for part, own_labels in zip(parts, y, strict=True):
            found[part.clients[:, None], part.entries] = own_labels
    return found


def _where(part: Group, items: PyTree) -> _Where:
    number = jax.tree.leaves(items)[0].shape[1]
    chosen = np.minimum(part.active, len(part.clients) - 1)
    there = part.active < len(part.clients)
    place = part.cohorts[..., None] * number + part.items[chosen]
    real = there[..., None] & (part.weights[chosen] > 0)
    return _Where(*map(jnp.asarray, (part.active, place, real, part.items)))


def _replay(
    client_update: ClientUpdate,
    gradient: ClientUpdate,
    data: Sequence[tuple[Array, Array]],
    where: Sequence[_Where],
    labels: Sequence[Array],
    given: tuple[tuple, PyTree],
    seen: Array,
) -> tuple[Array, Sequence[Array]]:
    """The sums `[T, G N, F]` without the rows of label 0, and each group's d `[T, M, B, F]`."""

    def one(
        shared: PyTree, private: PyTree, items: Array, labels: Array, weights: Array
    ) -> tuple[Array, Array, PyTree]:
        batch = {**shared, 'items': tree.take(shared['items'], items)}

        def upload(update: ClientUpdate, labels: Array) -> tuple[Array, PyTree]:
            sent, new = update(batch, private, Batch(None, labels, weights))
            return candidates.rows(sent, 1), new

        sent, new = upload(client_update, labels)
        zeros = upload(gradient, jnp.zeros_like(labels))[0]
        moved = upload(gradient, jnp.ones_like(labels))[0] - zeros
        length = jnp.linalg.norm(zeros + labels[:, None] * moved)
        scale = jnp.linalg.norm(sent) / jnp.where(length > 0, length, 1)
        return scale * zeros, scale * moved, new

    def step(privates: tuple, now: tuple) -> tuple[tuple, tuple[Array, tuple]]:
        shared, rest, active, place, real = now
        own, moved, trained = participants(privates, active), [], []
        for index, (at, kept) in enumerate(zip(place, real, strict=True)):
            chosen = jnp.minimum(active[index], len(labels[index]) - 1)
            items, weights = tree.take(data[index], chosen)
            zeros, change, new = jax.vmap(one, in_axes=(None, 0, 0, 0, 0))(
                shared, own[index], items, labels[index][chosen], weights
            )
            rest = rest.at[at].add(jnp.where(kept[..., None], -zeros, 0))
            moved.append(jnp.where(kept[..., None], change, 0))
            trained.append(new)
        return replaced(privates, active, tuple(trained)), (rest, tuple(moved))

    each = [[one[index] for one in where] for index in range(3)]
    privates, shared = given
    rest, moved = jax.lax.scan(step, privates, (shared, seen, *each))[1]
    return rest, moved


@partial(jax.jit, static_argnums=2)
def _solve(
    where: Sequence[_Where],
    share: float,
    num_iterations: int,
    rest: Array,
    moved: Sequence[Array],
    start: Sequence[Array],
) -> list[Array]:
    """Labels in [0, 1] that minimise `sum_t |sum_c y_c d_ct - rest_t|^2 / m_t^2`.

    m_t is the misfit of round t at the labels given: what is wrong with the private parameters
    grows from round to round. The solver is `box_qp.accelerated`; each item has a step size of its
    own, from its largest curvature.
    """
    each = [[one[index] for one in where] for index in range(2)]

    def add(labels: Sequence[Array]) -> Array:
        """The sums that labels make, `[T, G N, F]`."""

        def one(now: tuple) -> Array:
            total = jnp.zeros(rest.shape[1:], rest.dtype)
            for y, change, active, at in zip(labels, *now, strict=True):
                own = jnp.take(y, active, axis=0, mode='clip')
                total = total.at[at].add(own[..., None] * change)
            return total

        return jax.lax.map(one, (list(moved), *each))

    misfit = jnp.sum((add(start) - rest) ** 2, axis=(1, 2), keepdims=True)
    largest = jnp.max(misfit) + jnp.finfo(rest.dtype).tiny
    counts = largest / jnp.maximum(misfit, 1e-12 * largest)

    def along(residual: Array) -> list[Array]:
        """The transpose of `add`, with the rounds' weights."""

        def one(total: list, now: tuple) -> tuple[list, None]:
            row, *parts = now
            return [
                y.at[active].add(jnp.sum(change * row[at], axis=-1), mode='drop')
                for y, change, active, at in zip(total, *parts, strict=True)
            ], None

        zeros = [jnp.zeros_like(y) for y in start]
        return jax.lax.scan(one, zeros, (counts * residual, list(moved), *each))[0]

    def of_items(labels: Sequence[Array]) -> Array:
        """The norm of each item's entries, `[N]`."""
        total = jnp.zeros(rest.shape[1], rest.dtype)
        for y, one in zip(labels, where, strict=True):
            total = total.at[one.items].add(y**2)
        return jnp.sqrt(total)

    def power(vector: list, _: None) -> tuple[list, Array]:
        found = along(add(vector))
        length = of_items(found)
        safe = jnp.where(length > 0, length, 1)
        return [y / safe[one.items] for y, one in zip(found, where, strict=True)], length

    first = [jnp.ones_like(y) for y in start]
    lengths = jax.lax.scan(power, first, None, length=_POWERS)[1][-1]
    curvature = [lengths[one.items] for one in where]

    def descend(labels: list) -> list:
        slope = along(add(labels) - rest)
        return [
            jnp.clip(
                y - (g + _RIDGE * c * (y - share)) / jnp.where(c > 0, (1.2 + _RIDGE) * c, 1), 0, 1
            )
            for y, g, c in zip(labels, slope, curvature, strict=True)
        ]

    return box_qp.accelerated(descend, list(start), num_iterations)
