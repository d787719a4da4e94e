"""Probes random clients, once before any attack, for what holds for every client.

Two random clients show whether uploads are affine in the labels, whether they are sums over items,
and which of their leaves determine the private state (`embedding`). Nothing is read from the model.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import item_table, tree
from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import blocks, embedding, rank_one, row_lines, symmetry
from fedinv_jax.attack.exact.known import (
    Draw,
    Known,
    Linear,
    Structure,
    Uploads,
    upload_of,
    uploads,
)
from fedinv_jax.types import Array, Batch, ClientUpdate, InitPrivate, Observation, PyTree

_APPROXIMATE = 0.9  # largest relative distance of a leaf from a multiple of the product
_TOLERANCE, _FAR = 1e-5, 1e6


def probe(
    client_update: ClientUpdate,
    observation: Observation,
    init_private: InitPrivate,
    draws: Sequence[Draw],
    rounding: float = 2.0**-24,
    positives: float = 0.2,
    linear_update: ClientUpdate | None = None,
    signs: bool = False,
    step_sizes_known: bool = True,
) -> Known:
    """What holds for every client, probed on random draws, in float64 as a rule.

    `linear_update` is the client with the loss `losses.linear`; None: `Known.linear` is None. For
    `signs` and `step_sizes_known` see `Known`.
    """
    whole = uploads(client_update, observation)
    block = blocks.find(whole, draws)
    observation = blocks.observation(block, observation)

    def upload(draw: Draw) -> PyTree:
        return blocks.split(block, whole(draw))

    added = None if linear_update is None else _added(linear_update, observation)
    known = Known(
        client_update,
        observation,
        init_private,
        structure(client_update, observation, draws, _loss_alone(upload, added)),
        embedding.find_recovery(upload, draws),
        embedding.find_recovery(upload, draws, _APPROXIMATE, scaled=True),
        rounding,
        positives,
        symmetries(upload, draws),
        is_lossy(client_update, observation, draws[0]),
        signs=signs,
        terms=linear_update if added is not None and _any(map(added, draws)) else None,
        block=block, step_sizes_known=step_sizes_known,
    )  # fmt: skip
    solved = known.structure.affine and known.recovery is not None and step_sizes_known
    if linear_update is None or solved:
        return known
    return known._replace(linear=linear(known, linear_update, draws, upload))


def _added(linear_update: ClientUpdate, observation: Observation) -> Uploads:
    """What a client adds to the upload of its loss, compiled."""
    upload = uploads(linear_update, observation)

    def added(draw: Draw) -> PyTree:
        batch = draw.batch._replace(labels=jnp.zeros_like(draw.batch.labels))
        return upload(draw._replace(batch=batch))

    return added


def _loss_alone(upload: Uploads, added: Uploads | None) -> Uploads:
    """What a client uploads without what it adds to its loss."""
    if added is None:
        return upload
    return lambda draw: jax.tree.map(jnp.subtract, upload(draw), added(draw))


def _any(trees: Iterable[PyTree]) -> bool:
    return any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(list(trees)))


def linear(
    known: Known, linear_update: ClientUpdate, draws: Sequence[Draw], upload: Uploads
) -> Linear | None:
    """The linear client, where random clients upload a sum of its columns; else None.

    An upload of one gradient is `sum_i c_i dz_i/dtheta`, whatever the loss; that of several local
    steps, or of one that is clipped, is not.
    """
    linear_upload = uploads(linear_update, known.observation)
    found = structure(linear_update, known.observation, draws, linear_upload)
    if not found.affine:
        return None

    @jax.jit
    def columns(draw: Draw) -> tuple[Array, Array]:
        def of(labels: Array) -> Array:
            other = draw._replace(batch=draw.batch._replace(labels=labels))
            return tree.ravel(upload_of(linear_update, known.observation, other))

        none = jnp.zeros_like(draw.batch.labels)
        return of(none), jax.vmap(lambda e: of(e) - of(none))(jnp.eye(len(none)))

    for draw in draws:
        origin, matrix = map(np.asarray, columns(draw))
        rest = np.asarray(tree.ravel(upload(draw))) - origin
        left = rest - matrix.T @ np.linalg.lstsq(matrix.T, rest)[0]
        if not np.linalg.norm(left) <= _TOLERANCE * np.linalg.norm(rest):
            return None
    leaf, recovery = None, known.recovery
    if isinstance(draws[0].private, dict):
        own = {
            name: embedding.find_recovery(upload, draws, leaf=name)
            for name in tree.names(draws[0].private)
        }
        exact = {name: one for name, one in own.items() if one is not None and one.bias is not None}
        leaf, recovery = next(iter(exact.items()), (None, None))
    moved = _moved(linear_upload, draws, leaf)
    mixture = rank_one.find(linear_upload, draws)
    return Linear(linear_update, found, recovery, leaf, moved, mixture)


def _moved(upload: Uploads, draws: Sequence[Draw], leaf: str | None) -> tuple[str, ...]:
    """Names of the upload's leaves that move with private leaves other than `leaf`."""
    if leaf is None:
        return ()

    def other(name: str, kept: Array, drawn: Array) -> Array:
        return kept if name == leaf else drawn

    first, second = draws
    names = jax.tree.unflatten(jax.tree.structure(first.private), tree.names(first.private))
    private = jax.tree.map(other, names, first.private, second.private)
    pair = (upload(first), upload(first._replace(private=private)))
    one, two = (flax.traverse_util.flatten_dict(part, sep='/') for part in pair)
    return tuple(name for name in one if not np.array_equal(one[name], two[name]))


def symmetries(upload: Uploads, draws: Sequence[Draw]) -> tuple[str, ...]:
    """Those of the client, see `symmetry.flips`; none where the upload is not finite."""

    def client(draw: Draw) -> symmetry.Client:
        def own(private: PyTree, labels: Array) -> PyTree:
            batch = draw.batch._replace(labels=labels)
            return upload(draw._replace(private=private, batch=batch))

        return own, draw.private, draw.batch.labels

    return symmetry.flips([client(draw) for draw in draws])


def unprobed(
    client_update: ClientUpdate,
    observation: Observation,
    init_private: InitPrivate,
    rounding: float = 2.0**-24,
    positives: float = 0.2,
) -> Known:
    """`Known` that assumes no structure, for attacks on the rows of a sum of several clients."""
    none = Structure(affine=False, separable=False, outer=(), items=False)
    return Known(client_update, observation, init_private, none, None, None, rounding, positives)


def structure(
    client_update: ClientUpdate,
    observation: Observation,
    draws: Sequence[Draw],
    loss_alone: Uploads,
) -> Structure:
    """What the label solve may rely on, probed on random clients and labels.

    Args:
        client_update: the client's own update.
        observation: the channel; its `predict` is used.
        draws: random clients whose batches hold all of their rows in order (`items` None), in
            float64 as a rule: equations must hold to 1e-5 of the upload.
        loss_alone: what a client uploads without what it adds to its loss; whether rows are on
            lines or in planes is asked of this.

    Returns:
        What holds on all draws.
    """
    evaluate = jax.jit(partial(_evaluate, client_update, observation))
    found = [_structure(loss_alone(draw), *evaluate(draw)) for draw in draws]
    own_table = item_table.has_items(draws[0].private)  # its rows are not taken one by one
    return Structure(
        all(one.affine for one in found),
        all(one.separable for one in found) and not own_table,
        tuple(name for name in found[0].outer if all(name in one.outer for one in found)),
        found[0].items,
        tuple(name for name in found[0].on_line if all(name in one.on_line for one in found)),
        all(one.on_plane for one in found)
        and all(_on_two_lines(loss_alone, draw) for draw in draws),
        tuple(sorted(set.intersection(*(_signed(loss_alone, draw) for draw in draws)))),
    )


def _on_two_lines(upload: Uploads, draw: Draw) -> bool:
    """Whether the rows of a random client with known binary labels are on the lines of its labels.

    A network with two hidden units has its rows in a plane too, but on many lines.
    """
    draw = _binary(draw)
    apart = row_lines.distances(candidates.rows(upload(draw), 1))
    return bool(jnp.all((apart > 0.5) == draw.batch.labels))


def _signed(upload: Uploads, draw: Draw) -> set[str]:
    """Item leaves of one number a row whose signs are the binary labels of a random client."""
    leaves = flax.traverse_util.flatten_dict(dict(upload(draw := _binary(draw))), sep='/')
    expected = np.where(np.asarray(draw.batch.labels) > 0, -1, 1)
    return {
        name
        for name, leaf in leaves.items()
        if name.split('/')[0] == 'items' and leaf.size == len(expected)
        and np.array_equal(np.sign(np.asarray(leaf).ravel()), expected)
    }  # fmt: skip


def _binary(draw: Draw) -> Draw:
    """A random client of which one in four labels is 1, the others 0."""
    labels = jnp.arange(len(draw.batch.labels)) % 4 == 1
    return draw._replace(batch=draw.batch._replace(labels=labels.astype(draw.batch.labels.dtype)))


def _evaluate(
    client_update: ClientUpdate, observation: Observation, draw: Draw
) -> tuple[PyTree, PyTree, PyTree]:
    """Uploads of labels, other labels and mixes; the Jacobian; columns from one-item batches."""

    def upload(seen: PyTree, labels: Array) -> PyTree:
        relabelled = draw._replace(batch=draw.batch._replace(labels=labels))
        return upload_of(client_update, observation, relabelled, seen)

    def alone(index: Array, own: PyTree, label: Array) -> PyTree:
        rows = item_table.gather_both(draw.shared, draw.private, index[None])
        one = Draw(*rows, Batch(None, label[None], jnp.ones(1)))
        own = jax.tree.map(lambda leaf: leaf[None], own)
        return upload_of(client_update, observation, one, {**seen, **own})

    labels = draw.batch.labels
    seen = upload_of(client_update, observation, draw)
    rows = {name: part for name, part in seen.items() if name == 'items'}
    # Also very large labels: they reveal a bound on the upload.
    near = 1 - labels**2
    others = [near, 0.3 * labels + 0.7 * near, _FAR * near, 0.3 * labels + 0.7 * _FAR * near]
    uploads = jax.vmap(partial(upload, seen))(jnp.stack([labels, *others]))
    jacobian = jax.vmap(lambda tangent: jax.jvp(partial(upload, seen), (labels,), (tangent,))[1])(
        jnp.eye(len(labels))
    )
    singles = jax.vmap(
        lambda index, own, label: jax.jvp(
            partial(alone, index, own), (label,), (jnp.ones_like(label),)
        )[1]
    )(jnp.arange(len(labels)), rows, labels)
    shares = draw.batch.weights / jnp.sum(draw.batch.weights)
    return uploads, jacobian, jax.tree.map(partial(jax.vmap(jnp.multiply), shares), singles)


def _structure(alone: PyTree, uploads: PyTree, jacobian: PyTree, singles: PyTree) -> Structure:
    """What holds on one draw: from the upload of the loss alone, and the results of `_evaluate`."""
    uploads, jacobian, singles, alone = (
        flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, part), sep='/')
        for part in (uploads, jacobian, singles, alone)
    )

    def close(this: np.ndarray, that: np.ndarray) -> bool:
        return bool(np.linalg.norm(this - that) <= _TOLERANCE * np.linalg.norm(that))

    rows = {
        name: leaf.reshape(len(leaf), -1)
        for name, leaf in alone.items()
        if name.split('/')[0] == 'items'
    }

    def expanded(name: str) -> np.ndarray:
        """A leaf's derivatives `[K, ...]` if each label were alone in its batch."""
        if name.split('/')[0] != 'items':
            return singles[name]
        own = np.zeros_like(jacobian[name])
        index = np.arange(len(own))
        own[index, index] = singles[name][:, 0]
        return own

    return Structure(
        all(
            close(0.3 * leaf[0] + 0.7 * leaf[other], leaf[other + 1])
            for leaf in uploads.values()
            for other in (1, 3)
        ),
        all(close(expanded(name), leaf) for name, leaf in jacobian.items()),
        tuple(
            name
            for name, leaf in jacobian.items()
            if name.split('/')[0] != 'items' and leaf.ndim == 3 and min(leaf.shape[1:]) > 1
            and _rank_one(leaf)
        ),
        any(name.split('/')[0] == 'items' for name in jacobian),
        tuple(name for name, own in rows.items() if _rank(own) == 1 < min(own.shape)),
        bool(rows) and all(_rank(own) == 2 < min(own.shape) for own in rows.values()),
    )  # fmt: skip


def _rank(rows: np.ndarray) -> int:
    """The rank of rows `[K, F]`; 0 where they are not finite."""
    return int(np.linalg.matrix_rank(rows, rtol=_TOLERANCE)) if np.all(np.isfinite(rows)) else 0


def _rank_one(matrices: np.ndarray) -> bool:
    if not np.all(np.isfinite(matrices)):
        return False
    values = np.linalg.svd(matrices, compute_uv=False)
    return bool(np.all(values[:, 1] <= _TOLERANCE * values[:, 0]))


def is_lossy(client_update: ClientUpdate, observation: Observation, draw: Draw) -> bool:
    """Whether the channel adds noise to a random client's upload or drops a part of it.

    The attacker knows this from the channel's variance, and from whether its prediction depends on
    which entries were seen.
    """

    @jax.jit
    def evaluate(draw: Draw) -> tuple[PyTree, PyTree, PyTree]:
        upload = upload_of(client_update, observation, draw)
        zeros = jax.tree.map(jnp.zeros_like, upload)
        masked = upload_of(client_update, observation, draw, zeros)
        return upload, masked, observation.variance(upload)

    upload, masked, variance = map(jax.tree.leaves, evaluate(draw))
    noisy = any(np.any(np.asarray(leaf) > 0) for leaf in variance)
    return noisy or not all(map(np.array_equal, upload, masked))
