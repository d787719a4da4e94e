"""What an exact attack is a function of: what holds of every client, found once by `probing`."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from fedinv_jax.types import Answer, ClientUpdate, InitPrivate, Key, Observation, Transcript

MAX_DENSE_CANDIDATES = 4096
"""Most candidates of the dense label solve, unless told otherwise; beyond, it is matrix-free."""


class Structure(NamedTuple):
    """How the seen upload of a client depends on its labels, on every draw.

    Attributes:
        affine: the upload of a mix of labels is the mix of the uploads.
        separable: a label moves the upload as it would alone in the batch.
        outer: names of the leaves `[a, b]` whose derivative in each label is of rank one.
        items: whether item rows are seen.
    """

    affine: bool
    separable: bool
    outer: tuple[str, ...]
    items: bool


class EmbeddingRecovery(NamedTuple):
    """Leaves of the seen upload that give the private embedding away.

    Attributes:
        kernel: name of a leaf `[D, H]` (`axis` 0) or `[H, D]` (`axis` 1) of rank one along p.
        axis: the axis of p.
        bias: name of the leaf `[H]` that is its other factor, so that p is exact; None: p is known
            up to one scalar.
    """

    kernel: str
    axis: int
    bias: str | None


Attack: TypeAlias = Callable[[Transcript, Key], Answer]


class Known(NamedTuple):
    """What the attacker knows of every client, and what probing found.

    Attributes:
        client_update: the client's own update.
        observation: the channel and what is seen behind it.
        init_private: draws private parameters.
        structure: see `probing.structure`.
        recovery: see `probing.find_recovery`.
        approximate_recovery: the same to 90% and up to scale, of clients that take several steps.
        rounding: unit roundoff of the uploads.
        smallest: the same of their smallest numbers, absolute.
        positives: public share of interactions in a batch.
        lossy: whether the channel adds noise, or leaves a part of an upload out.
        largest: whether the client is known to send the largest entries only.
        resample_negatives: whether the client draws new negatives at each step, as many as before.
        max_dense_candidates: most candidates K of which matrices `[K, K]` are formed.
    """

    client_update: ClientUpdate
    observation: Observation
    init_private: InitPrivate
    structure: Structure
    recovery: EmbeddingRecovery | None
    approximate_recovery: EmbeddingRecovery | None
    rounding: float
    positives: float = 0.2
    lossy: bool = False
    largest: bool = False
    resample_negatives: bool = False
    smallest: float = 0.0
    max_dense_candidates: int = MAX_DENSE_CANDIDATES
