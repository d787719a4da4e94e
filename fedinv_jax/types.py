"""Aliases, protocols and pytrees that every other module speaks in.

Axis legend, used in every docstring of the package:

| letter | axis |
|---|---|
| `T` | observed steps of one client (`S`: every kept round, observed or between) |
| `C` | clients |
| `V` | victims |
| `B` | padded interactions of one batch |
| `K` | candidate items, over which the unknown labels live |
| `N` | items of the catalogue |
| `D` | embedding |
| `R` | restarts |

A function is written for ONE client; the other axes come from `jax.vmap` in its caller.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax

Array = jax.Array
PyTree = Any
# A leaf of a pytree: an array (jax or NumPy), or an axis where the tree is a `vmap` spec.
Leaf = Any
Key = Array


class Batch(NamedTuple):
    """One client's local data at one step.

    The loss is `sum_b weights_b * loss_b / sum_b weights_b`.

    Attributes:
        items: int32 `[B]`, rows of the item table that the client was given, or None for
            all of its rows in their order (B is then the table's length). A repeated item
            shares one row.
        labels: float `[B]` in [0, 1].
        weights: float `[B]` >= 0; 0 marks padding.
    """

    items: Array | None
    labels: Array
    weights: Array


class InitShared(Protocol):
    """`init_shared(key) -> shared`."""

    def __call__(self, key: Key) -> PyTree:
        """Draws `{'items': pytree with leading axis N, 'scorer': pytree}`."""


class InitPrivate(Protocol):
    """`init_private(key) -> private`."""

    def __call__(self, key: Key) -> PyTree:
        """Draws one client's private parameters, a user embedding `[D]` as a rule."""


class Score(Protocol):
    """`score(shared, private, items) -> logits`."""

    def __call__(self, shared: PyTree, private: PyTree, items: Array | None) -> Array:
        """Logits float `[B]` of rows `items` of `shared['items']` (None: all rows)."""


class Model(NamedTuple):
    """A recommender as pure functions; a user's own flax module fits behind `score`."""

    init_shared: InitShared
    init_private: InitPrivate
    score: Score


class Loss(Protocol):
    """`loss(logits, labels) -> losses`, elementwise."""

    def __call__(self, logits: Array, labels: Array) -> Array:
        """Losses float `[B]` of logits `[B]` and labels `[B]` in [0, 1]."""


class ClientUpdate(Protocol):
    """`client_update(shared, private, batch) -> (upload, private)`: one client, one round.

    The upload has the structure of `shared` and is what the server SUBTRACTS: a gradient,
    or `shared - shared'` after local training.
    """

    def __call__(self, shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        """Trains on `batch` from `shared` and `private`."""


class Observation(NamedTuple):
    """A stage of the channel between a client's upload and what is seen of it.

    `observe.chain()` is the neutral one: replace the slots that a stage needs.

    Attributes:
        init: `init(upload) -> state` of one client; reads shapes and dtypes only.
        perturb: `perturb(batch, key) -> batch`, on the client's data before it trains.
        observe: `observe(upload, state, key) -> (seen, state)`, the victim's side; may be random.
        predict: `predict(upload, seen, state) -> (predicted, state)`, the attacker's side:
            deterministic and smooth in `upload`; `seen` is the end of the whole chain.
        variance: `variance(predicted) -> tree like predicted`, of the noise that the attacker
            knows of.
    """

    init: Callable[[PyTree], Any]
    perturb: Callable[[Batch, Key], Batch]
    observe: Callable[[PyTree, Any, Key], tuple[PyTree, Any]]
    predict: Callable[[PyTree, PyTree, Any], tuple[PyTree, Any]]
    variance: Callable[[PyTree], PyTree]


@flax.struct.dataclass
class Transcript:
    """What an honest but curious server holds of ONE client: all that an attack may read.

    Item leaves hold the rows of the K candidates only, never the table.

    Attributes:
        shared: parameters that the server sent, leaves `[S, ...]`, at the kept rounds: the T
            observed ones, or for `unrolled` every round from the first to the last observed.
        seen: observed uploads, leaves `[T, ...]`, after the observation chain.
        rounds: int32 `[T]`, server rounds of the observed uploads, increasing.
        participated: bool `[S]`, whether the client took part in each kept round.
        items: int32 `[K]`, catalogue ids of the candidates.
        slot: int32 `[S, B]`, candidate of each batch entry at each kept round, or None when
            every batch is all candidates in order (then B = K). Transcript files only: the
            simulator never sets it.
        weights: float `[S, B]`, batch weights (0: padding), or None when the batch is not known
            (then the candidates are the whole catalogue).
        log_odds: float `[K]`, public prior log odds that a candidate is an interaction
            (popularity among other users); zeros when nothing is known.
        rows: int32 `[K]`, for each candidate the row of the item leaves that is its item's: of
            several clients together the candidates of one item share the first one's row, and the
            other rows are zero in what is seen. None where every candidate has its own.
    """

    shared: PyTree
    seen: PyTree
    rounds: Leaf
    participated: Leaf
    items: Leaf
    slot: Leaf
    weights: Leaf
    log_odds: Leaf
    rows: Leaf = None


@flax.struct.dataclass
class GroundTruth:
    """What the server does not see of the same client; only `simulate` emits it.

    Attributes:
        user: int32 `[]`, the user's index in the data set.
        labels: float `[K]`, labels of the candidates (0 outside the batch).
        weights: float `[K]`, 1 where a candidate is evaluated, 0 for padding.
        private: leaves `[T, ...]`, private parameters before each observed round.
    """

    user: Leaf
    labels: Leaf
    weights: Leaf
    private: PyTree


class Guess(NamedTuple):
    """An attack's point in its search space.

    Attributes:
        labels: float `[K]`, unconstrained (decoded by a relaxation).
        weights: float `[K]`, unconstrained membership of an unknown batch, or None if known.
        latent: what the dynamics needs to roll the private parameters out.
    """

    labels: Array
    weights: Array | None
    latent: PyTree


class Certificate(NamedTuple):
    """What the uploads determine around an answer, from the attacker's own estimate of it.

    All are relative to the norm of what was seen at each step. The truth is not used.

    Attributes:
        certified: bool `[]`, `margin > noise`: no other labels explain the uploads.
        margin: float `[]`, a lower bound on the change of the uploads that other labels cause,
            whatever the private parameters.
        noise: float `[]`, the change that noise, rounding and the answer's residual may cause.
        rank: int `[]`, numerical rank of the Jacobian of the uploads in all unknowns.
        determined: int `[]`, labels that the uploads determine one by one at this noise.
    """

    certified: Array
    margin: Array
    noise: Array
    rank: Array
    determined: Array


class Answer(NamedTuple):
    """What every attack returns.

    Attributes:
        scores: float `[K]` in [0, 1], belief that the candidate is an interaction.
        labels: bool `[K]`, the hard answer.
        private: estimate of the private parameters at the first observed step; None when
            the attack makes none.
        objective: float `[]`, the attack's own objective; NaN marks a failure.
        certificate: what the uploads determine; None when the attack makes none.
        fits: int `[]`, whether the uploads are what the client is said to send: 1 yes, noise
            explains what is left of them; 0 no; -1 it cannot be told. None when the attack has no
            model of the client, or does not compare.
    """

    scores: Array
    labels: Array
    private: PyTree | None
    objective: Array
    certificate: Certificate | None = None
    fits: Array | None = None
