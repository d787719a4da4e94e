"""How the uploads of random clients depend on their labels: affine, separable, rows on lines."""

from collections.abc import Sequence
from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import item_table
from fedinv_jax.attack import candidates
from fedinv_jax.attack.exact import row_lines
from fedinv_jax.attack.exact.known import Draw, Structure, Uploads, upload_of
from fedinv_jax.types import Array, Batch, ClientUpdate, Observation, PyTree

_TOLERANCE, _FAR = 1e-5, 1e6


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
    draw = _binary(draw)
    leaves = flax.traverse_util.flatten_dict(dict(upload(draw)), sep='/')
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
