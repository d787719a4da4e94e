"""Probes random clients, once before any attack, for what holds for every client.

Two random clients show whether uploads are affine in the labels, whether they are sums over items,
and which of their leaves determine the private state (`embedding`). Nothing is read from the model.
"""

from collections.abc import Iterable, Sequence

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.attack.exact import blocks, embedding, rank_one, structure, symmetry
from fedinv_jax.attack.exact.known import (
    Draw,
    Known,
    Linear,
    Structure,
    Uploads,
    upload_of,
    uploads,
)
from fedinv_jax.types import Array, ClientUpdate, InitPrivate, Observation, PyTree

_APPROXIMATE = 0.9  # largest relative distance of a leaf from a multiple of the product
_TOLERANCE = 1e-5


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
        structure.structure(client_update, observation, draws, _loss_alone(upload, added)),
        embedding.find_recovery(upload, draws),
        embedding.find_recovery(upload, draws, _APPROXIMATE, scaled=True),
        rounding,
        positives,
        symmetries(upload, draws),
        is_lossy(client_update, observation, draws[0]),
        signs=signs,
        terms=linear_update if added is not None and _any(map(added, draws)) else None,
        block=block,
        step_sizes_known=step_sizes_known,
    )
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
    found = structure.structure(linear_update, known.observation, draws, linear_upload)
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
