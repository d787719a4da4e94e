"""Labels from sums, with the rows that a client sends for each label replayed in every round."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax.attack import box_qp, candidates
from fedinv_jax.attack.unmix import by_item, filters
from fedinv_jax.types import Answer, Array, Batch, ClientUpdate, PyTree, Sums, Transcript

_PASSES = 3  # solves where the sizes of batches are not known
_LOOSE = 0.2  # share of the mean size for which the first of them takes every batch
_SLACK = 0.6  # share of the estimated size for which the others take a batch
_ITEMS = 256  # of the catalogue that one compiled call works on
_RIDGE = 1e-4  # of the distance to the public shares, relative to an item's curvature


def replayed_rows(
    client_update: ClientUpdate, privates: PyTree, shared: PyTree
) -> tuple[Array, Array]:
    """The item rows that a client sends for label 0 and for label 1, for weight 1 of the loss.

    The mean over draws of the private state, which the server does not know.

    Args:
        client_update: of one client, one gradient of a mean over its batch.
        privates: R draws of the private parameters, leaves `[R, ...]`.
        shared: the parameters of one round.

    Returns:
        Two arrays float `[N, F]`.
    """
    zeros, ones = _replayed(client_update, privates, shared)
    return zeros.mean(axis=0), ones.mean(axis=0)


def alive(client_update: ClientUpdate, privates: PyTree, shared: PyTree) -> Array:
    """Items whose rows move whatever the label and the private state, as far as drawn: bool `[N]`.

    False for an item all of whose ReLUs are off for one of the draws: that its row stays says
    nothing of who has it, see `by_item.possible`.

    Args:
        client_update: see `replayed_rows`.
        privates: R draws, leaves `[R, ...]`.
        shared: the parameters of one round.
    """
    return jnp.all(
        jnp.stack(
            [jnp.any(rows != 0, axis=-1) for rows in _replayed(client_update, privates, shared)]
        ),
        axis=(0, 1),
    )


def agreement(client_update: ClientUpdate, privates: PyTree, shared: PyTree) -> Array:
    """How much the rows' change from label 0 to 1 is the same for all clients, `[]` in [0, 1].

    The squared norm of the mean over R draws of the private state, divided by the mean squared
    norm. About 1/R where clients have nothing in common, as in matrix factorisation, whose rows are
    multiples of the private embedding: `labels` finds nothing there.

    Args:
        client_update: see `replayed_rows`.
        privates: R draws, leaves `[R, ...]`.
        shared: the parameters of one round.
    """
    zeros, ones = _replayed(client_update, privates, shared)
    moved = ones - zeros
    return jnp.sum(moved.mean(axis=0) ** 2) / jnp.mean(jnp.sum(moved**2, axis=(1, 2)))


def _replayed(client_update: ClientUpdate, privates: PyTree, shared: PyTree) -> tuple[Array, Array]:
    """Rows `[R, N, F]` of label 0 and of label 1."""
    number = jax.tree.leaves(shared['items'])[0].shape[0]

    def rows(label: float, private: PyTree) -> Array:
        labels = jnp.full(number, label)
        upload, _ = client_update(shared, private, Batch(None, labels, jnp.ones(number)))
        return number * candidates.rows(upload, 1)

    zeros, ones = (jax.vmap(partial(rows, label))(privates) for label in (0.0, 1.0))
    return zeros, ones


def labels(
    sums: Sums,
    clients: Sequence[int],
    replay: Callable[[PyTree], tuple[Array, Array]],
    share: float,
    weights: np.ndarray | None = None,
    progress: by_item.Progress = lambda done, total: None,
) -> np.ndarray:
    """Estimates the labels of clients' batches where the rows of each round are replayed.

    With `r^0_ti` and `r^1_ti` from `replayed_rows`, client c sends for item i in round t about

        a_c w_ci (r^0_ti + y_ci d_ti),    d_ti = r^1_ti - r^0_ti,

    with the weights w_ci of its batch, and `a_c = 1 / sum_i w_ci` for a loss that is a mean. Only
    `y_ci` is unknown, and the same in all rounds. Along `d_ti`, the sums of an item are linear in
    the labels of the clients that have it; ridge regression towards the public share of
    interactions estimates them. Unlike `by_item.mean_rows` it has one unknown for a client and item
    instead of F, and uploads may drift with the parameters.

    Args:
        sums: what the server sees, with batches, item rows seen.
        clients: V columns of `sums.members`.
        replay: `replay(shared) -> (rows of label 0, rows of label 1)` of one round.
        share: public share of interactions in a batch.
        weights: `[C]`, the a_c; None: 1.
        progress: called with (items done, items in total).

    Returns:
        float `[V, B]`, labels that are not confined to [0, 1]; `share` for padding, NaN for a
        client that is in no sum.

    Raises:
        ValueError: if no item rows are seen, or no batches known.
    """
    by_item.check_batches(sums)
    mixture = filters.mixture(sums, weights)
    norms, base, seen = _projected(sums, replay)
    # What every client would add with the public share as its label.
    expected = (base + share * norms) * (mixture @ _dense_weights(sums, norms.shape[1]))

    def data(items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return norms[:, items].T, (seen - expected)[:, items].T[..., None]

    return share + by_item.solve(sums, clients, mixture, data, True, progress)[..., 0]


def catalogue_labels(
    sums: Sums,
    clients: Sequence[int],
    replay: Callable[[PyTree], tuple[Array, Array]],
    share: float,
    sampled: float,
    weights: np.ndarray,
    num_iterations: int,
    progress: by_item.Progress = lambda done, total: None,
    possible: np.ndarray | None = None,
    sizes_known: bool = True,
) -> np.ndarray:
    """Estimates which items of the catalogue are interactions where no batch is known.

    Each client and item has two unknowns, y if it is an interaction and n if it is a sampled
    negative, both in [0, 1], and sends `a (y r^1_ti + n r^0_ti)`, see `labels`. Bounded least
    squares along `d_ti` estimates both. The rows of the two labels have opposite signs, so that the
    bounds leave few ways in which clients can make up for each other.

    Where clients take means over batches whose sizes are not known, `a_c = 1 / size` is not known
    either. Bounds that are too tight for a client cost more than bounds that are too loose: the
    first solve takes every batch for a fifth of the mean size. Then y is `level * {0, 1}` with
    `level = sum y^3 / sum y^2`, which tells the size; further solves have bounds of 1 / .6.

    Args:
        sums: what the server sees, item rows seen.
        clients: V columns of `sums.members`.
        replay: see `labels`.
        share: public share of the catalogue that is an interaction of a client.
        sampled: public share of the catalogue that is a sampled negative of a client.
        weights: `[C]`, the public factors a_c of a client's rows in a sum.
        num_iterations: of `box_qp.accelerated`.
        progress: called with (done, in total).
        possible: bool `[C, N]`, see `by_item.possible`; None: all.
        sizes_known: whether weights are those of each client; if not, they are those of a client
            whose batch has the mean size, and each client's is estimated.

    Returns:
        float `[V, N]`, y: in [0, 1], or in units of the client's level; NaN for a client that is in
        no sum.

    Raises:
        ValueError: if no item rows are seen.
    """
    mixture, chosen = filters.mixture(sums, None), list(clients)
    projected = [jnp.asarray(each, jnp.float32) for each in _projected(sums, replay)]
    count, number = mixture.shape[1], projected[0].shape[1]
    most_items = number if possible is None else np.maximum(possible.sum(axis=1), 1)
    least = weights * (share + sampled) * number / most_items  # of 1 / size: all that is possible
    own, passes = (weights, 1) if sizes_known else (weights / _LOOSE, _PASSES)
    for index in range(passes):
        mixed, found = jnp.asarray(mixture * own, jnp.float32), []
        largest = jnp.linalg.norm(mixed, 2) ** 2
        squares, cubes = np.full(count, np.finfo(float).tiny), np.zeros(count)
        for start in range(0, number, _ITEMS):
            part = slice(start, start + _ITEMS)
            norms, base, seen = (each[:, part] for each in projected)
            free = np.ones((count, norms.shape[1])) if possible is None else possible[:, part]
            most = jnp.asarray(free, jnp.float32)
            both = _bounded(mixed, largest, base, norms, seen, most, share, sampled, num_iterations)
            y = np.asarray(both[0], float)
            found.append(y[chosen])
            squares, cubes = squares + np.sum(y**2, axis=1), cubes + np.sum(y**3, axis=1)
            progress(index * number + min(start + _ITEMS, number), passes * number)
        levels = np.maximum(cubes / squares, np.finfo(float).tiny)
        own = np.maximum(own * levels, least) / _SLACK
    answer = np.concatenate(found, axis=1)
    if not sizes_known:
        answer = answer / levels[chosen, None]
    answer[~mixture[:, chosen].any(axis=0)] = np.nan
    return answer


@partial(jax.jit, static_argnames='num_iterations')
def _bounded(
    mixture: Array,
    largest: Array,
    base: Array,
    norms: Array,
    seen: Array,
    most: Array,
    share: float,
    sampled: float,
    num_iterations: int,
) -> Array:
    """The y and n `[2, C, n]` of `catalogue_labels` for n items.

    Args:
        mixture: float `[S, C]`.
        largest: its largest squared singular value.
        base: float `[S, n]`, rows of label 0 along d.
        norms: float `[S, n]`, lengths of d.
        seen: float `[S, n]`, sums along d.
        most: float `[C, n]`, the largest y and n: 0 for an item that a client cannot have.
        share: mean of y.
        sampled: mean of n.
        num_iterations: iterations.
    """
    ones = base + norms
    curvature = largest * jnp.max(base**2 + ones**2, axis=0)
    safe = jnp.where(curvature > 0, curvature, 1)
    means = jnp.array([share, sampled], base.dtype)[:, None, None]

    def descend(both: Array) -> Array:
        off = ones * (mixture @ both[0]) + base * (mixture @ both[1]) - seen
        slope = jnp.stack([mixture.T @ (ones * off), mixture.T @ (base * off)])
        new = both - (slope / safe + _RIDGE * (both - means)) / (1 + _RIDGE)
        return jnp.clip(new, 0, most)

    start = means * most
    return box_qp.accelerated(descend, start, num_iterations)


def _projected(
    sums: Sums, replay: Callable[[PyTree], tuple[Array, Array]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths of d, and along it the rows of label 0 and the sums, `[T G, N]` each."""
    number, along = filters.num_cohorts(sums), jax.jit(partial(_along, replay))
    found = [jax.device_get(along(*pair)) for pair in zip(sums.shared, sums.seen, strict=True)]
    norms, base = (
        np.repeat(np.stack([part[index] for part in found]), number, axis=0) for index in (0, 1)
    )
    return norms, base, np.concatenate([part[2] for part in found])


def read_labels(transcript: Transcript) -> Answer:
    """The answer from labels of `labels`, in the transcript as `items/label` `[1, K, 1]`.

    Returns:
        Labels above 1/2; scores `sigmoid(8 (y - 1/2))`, in the order of the estimates. The
        objective is the mean squared distance to the nearest label.
    """
    where = candidates.mask(transcript)
    estimate = transcript.seen['items']['label'][0, :, 0]
    labels = (estimate > 0.5) & where
    off = jnp.sum((estimate - labels) ** 2, where=where) / jnp.maximum(jnp.sum(where), 1)
    return Answer(jnp.where(where, jax.nn.sigmoid(8 * (estimate - 0.5)), 0), labels, None, off)


def _along(
    replay: Callable[[PyTree], tuple[Array, Array]], shared: PyTree, seen: PyTree
) -> tuple[Array, Array, Array]:
    """Norms `[N]` of `d_ti`, and along it the rows `[N]` of label 0 and the sums `[G, N]`."""
    zeros, ones = replay(shared)
    norms = jnp.linalg.norm(ones - zeros, axis=1)
    unit = (ones - zeros) / jnp.where(norms > 0, norms, 1)[:, None]
    return norms, jnp.sum(zeros * unit, axis=1), jnp.sum(candidates.rows(seen, 2) * unit, axis=-1)


def _dense_weights(sums: Sums, num_items: int) -> np.ndarray:
    """Weights of the batch entries as a matrix `[C, N]`."""
    found = np.zeros((len(sums.items), num_items), np.float32)
    np.add.at(found, (np.arange(len(sums.items))[:, None], sums.items), sums.weights)
    return found
