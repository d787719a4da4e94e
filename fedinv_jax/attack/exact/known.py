"""The argument of every exact attack: what holds for all clients, found once by `probing`."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax

from fedinv_jax.types import (
    Answer,
    Batch,
    ClientUpdate,
    InitPrivate,
    Key,
    Observation,
    PyTree,
    Transcript,
)

MAX_DENSE_CANDIDATES = 4096
"""Default of the most candidates of the dense label solve; with more, the solve is matrix-free."""


class Structure(NamedTuple):
    """How the seen upload of a client depends on its labels, for every client.

    Attributes:
        affine: whether the upload is an affine function of the labels.
        separable: whether each label moves the upload as it would in a batch of its item alone.
        outer: names of the leaves `[a, b]` whose derivative in each label is of rank one.
        items: whether item rows are seen.
        on_line: names of the item leaves whose rows are multiples of one vector, without what the
            client adds to its loss.
        on_plane: whether the rows of every item leaf lie in a plane, but not on a line.
        signed: names of the item leaves of one number a row that is negative for interactions and
            positive for negatives.
    """

    affine: bool
    separable: bool
    outer: tuple[str, ...]
    items: bool
    on_line: tuple[str, ...] = ()
    on_plane: bool = False
    signed: tuple[str, ...] = ()


class Block(NamedTuple):
    """Rows of a leaf that multiply the private embedding.

    Attributes:
        name: of the leaf, a matrix.
        axis: the axis of the rows: 0, or 1 for a layout `[out, in]`.
        start: the first of them.
        stop: the one behind the last.
        size: the number of rows of the whole leaf.
    """

    name: str
    axis: int
    start: int
    stop: int
    size: int


class EmbeddingRecovery(NamedTuple):
    """Leaves of the seen upload that determine the private embedding p.

    Attributes:
        kernel: name of a leaf `p ⊗ e [D, H]` (`axis` 0) or `e ⊗ p [H, D]` (`axis` 1).
        axis: the axis of p.
        bias: name of the leaf e `[H]`, with which p is determined exactly; None: p is determined up
            to one scalar.
    """

    kernel: str
    axis: int
    bias: str | None


class Linear(NamedTuple):
    """A client whose labels are the coefficients of the logits' gradients.

    Attributes:
        client_update: uploads `sum_i y_i dz_i/dtheta`, and what the client adds to its loss.
        structure: of this client.
        recovery: leaves that determine the private embedding, or the leaf `leaf` of a private state
            that has several; None if there are none.
        leaf: name of that leaf; None: the private state is one vector.
        excluded: names of the upload's leaves from which no coefficients follow: they depend on
            private leaves that are not determined.
        mixture: name of a leaf `sum_i y_i a_i ⊗ u`, where only u depends on the private state, see
            `rank_one.find`; None if there is none.
    """

    client_update: ClientUpdate
    structure: Structure
    recovery: EmbeddingRecovery | None
    leaf: str | None
    excluded: tuple[str, ...]
    mixture: str | None = None


Attack: TypeAlias = Callable[[Transcript, Key], Answer]


class Known(NamedTuple):
    """What the attacker knows about every client, and what probing found.

    Attributes:
        client_update: the client's own update.
        observation: the channel, including which leaves are seen.
        init_private: draws private parameters.
        structure: see `structure.structure`.
        recovery: leaves that determine p, see `embedding.find_recovery`; None if there are none.
        approximate_recovery: leaves that determine p approximately, for clients that take several
            steps: the kernel is within a relative distance of 0.9 of a multiple of `p ⊗ e`.
        rounding: unit roundoff of the uploads.
        smallest: the same of their smallest numbers, absolute.
        positives: public share of interactions in a batch.
        symmetries: see `symmetry.flips`.
        lossy: whether the channel adds noise or drops a part of an upload.
        largest: whether the client is known to send only the largest entries.
        resample_negatives: whether the client draws new negatives at each step, always as many.
        max_dense_candidates: most candidates K for which matrices `[K, K]` are formed.
        linear: the client with the loss `y z` in place of its own, where the client's uploads are
            `sum_i c_i dz_i/dtheta` for some coefficients, see `probing.linear`; None elsewhere.
        signs: whether the loss raises every interaction and lowers every negative, so that the
            signs of `c_i = dL/dz_i` are the labels.
        interactions_vanish: whether an interaction that the model is sure of uploads exactly 0 by
            rounding where a negative does not.
        terms: the client with the loss `y z` in place of its own, where it adds something to its
            loss: with labels of 0 it uploads what that adds; None where it adds nothing.
        step_sizes_known: whether the factors of the gradients in an upload are known; if not,
            `client_update` uploads the gradients themselves.
        differences: whether the client sends weights, so that uploads have their rounding.
        block: rows of a leaf that is split in `observation` and in what is seen, see `blocks`.
        grid: distance between neighbouring labels in [0, 1]: 1 for binary labels, less for ratings.
    """

    client_update: ClientUpdate
    observation: Observation
    init_private: InitPrivate
    structure: Structure
    recovery: EmbeddingRecovery | None
    approximate_recovery: EmbeddingRecovery | None
    rounding: float
    positives: float = 0.2
    symmetries: tuple[str, ...] = ()
    lossy: bool = False
    largest: bool = False
    resample_negatives: bool = False
    smallest: float = 0.0
    max_dense_candidates: int = MAX_DENSE_CANDIDATES
    linear: Linear | None = None
    signs: bool = False
    interactions_vanish: bool = False
    terms: ClientUpdate | None = None
    block: Block | None = None
    grid: float = 1.0
    step_sizes_known: bool = True
    differences: bool = False


class Draw(NamedTuple):
    """One random client for probing: shared and private parameters, and a batch."""

    shared: PyTree
    private: PyTree
    batch: Batch


Uploads: TypeAlias = Callable[[Draw], PyTree]
"""What is seen of a random client, see `uploads`."""


def uploads(client_update: ClientUpdate, observation: Observation) -> Uploads:
    """`upload_of` for any random client, compiled."""
    return jax.jit(lambda draw: upload_of(client_update, observation, draw))


def upload_of(
    client_update: ClientUpdate, observation: Observation, draw: Draw, seen: PyTree | None = None
) -> PyTree:
    """The attacker's prediction of what is seen from a client of which everything is known.

    Args:
        client_update: the client's own update.
        observation: the channel; its `predict` is used.
        draw: the client.
        seen: what was seen, from which a stage may find which entries were kept; None: all.
    """
    upload = client_update(*draw)[0]
    seen = upload if seen is None else seen
    predicted, _ = observation.predict(upload, seen, observation.init(upload))
    return predicted
