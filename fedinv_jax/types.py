"""Aliases, protocols and pytrees that all other modules share.

Axis legend, used in every docstring of the package:

| letter | axis |
|---|---|
| `T` | observed steps of one client (`S`: all kept rounds, observed or in between) |
| `C` | clients |
| `V` | victims |
| `B` | padded interactions of one batch |
| `K` | candidate items, each with an unknown label |
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
# A leaf of a pytree: an array (JAX or NumPy), or an axis where the tree is `in_axes` of a `vmap`.
Leaf = Any
Key = Array


class Batch(NamedTuple):
    """One client's local data at one step.

    The loss is `sum_b weights_b * loss_b / sum_b weights_b`.

    Attributes:
        items: int32 `[B]`, rows of the item table that the client was given; None: all rows of
            that table in order (B is then its length). Entries with the same item share a row.
        labels: float `[B]` in [0, 1].
        weights: float `[B]` >= 0; 0 marks padding.
        key: of the client's randomness in this round (dropout, order of minibatches); None: nothing
            is random. An attacker does not have it.
    """

    items: Array | None
    labels: Array
    weights: Array
    key: 'Key | None' = None


class InitShared(Protocol):
    """`init_shared(key) -> shared`."""

    def __call__(self, key: Key) -> PyTree:
        """Draws `{'items': pytree with leading axis N, 'scorer': pytree}`."""


class InitPrivate(Protocol):
    """`init_private(key) -> private`."""

    def __call__(self, key: Key) -> PyTree:
        """Draws one client's private parameters, usually a user embedding `[D]`."""


class Score(Protocol):
    """`score(shared, private, items) -> logits`."""

    def __call__(self, shared: PyTree, private: PyTree, items: Array | None) -> Array:
        """Returns logits float `[B]` for the rows `items` of `shared['items']` (None: all)."""


class Model(NamedTuple):
    """A recommender as pure functions; `models.from_flax` makes one from a flax module.

    Attributes:
        init_shared: draws the shared parameters.
        init_private: draws the private parameters of a client.
        score: the logits.
        batch_score: `batch_score(shared, private, batch) -> logits`, of a model whose logits depend
            on more of the client's batch than its items: on its labels (a graph of interactions),
            or in training on its key (dropout). None: `score`.
    """

    init_shared: InitShared
    init_private: InitPrivate
    score: Score
    batch_score: Callable[[PyTree, PyTree, Batch], Array] | None = None


class Loss(Protocol):
    """`loss(logits, labels) -> losses`, elementwise."""

    def __call__(self, logits: Array, labels: Array) -> Array:
        """Returns losses float `[B]` for logits `[B]` and labels `[B]` in [0, 1]."""


class BatchLoss(NamedTuple):
    """A loss that compares the items of a batch with each other, as `losses.bpr` does.

    Attributes:
        value: `value(logits [B], labels [B], weights [B]) -> []`; entries of weight 0 are padding.
    """

    value: Callable[[Array, Array, Array], Array]


class ClientUpdate(Protocol):
    """`client_update(shared, private, batch) -> (upload, private)`: one client, one round.

    The upload has the structure of `shared` and is what the server SUBTRACTS: a gradient,
    or `shared - shared'` after local training.
    """

    def __call__(self, shared: PyTree, private: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        """Trains on `batch`, starting from `shared` and `private`."""


class Observation(NamedTuple):
    """A stage of the channel from a client's upload to what the attacker sees.

    `observe.chain()` is the neutral stage; other stages replace the slots that they need.

    Attributes:
        init: `init(upload) -> state` of one client; reads shapes and dtypes only.
        perturb: `perturb(batch, key) -> batch`, on the client's data before it trains.
        observe: `observe(upload, state, key) -> (seen, state)`, the victim's side; may be random.
        predict: `predict(upload, seen, state) -> (predicted, state)`, the attacker's side:
            deterministic and smooth in `upload`; `seen` is the output of the whole chain.
        variance: `variance(predicted) -> tree like predicted`, the variance of the noise that the
            attacker knows about.
    """

    init: Callable[[PyTree], Any]
    perturb: Callable[[Batch, Key], Batch]
    observe: Callable[[PyTree, Any, Key], tuple[PyTree, Any]]
    predict: Callable[[PyTree, PyTree, Any], tuple[PyTree, Any]]
    variance: Callable[[PyTree], PyTree]


@flax.struct.dataclass
class Transcript:
    """What an honest-but-curious server knows about ONE client: all that an attack may read.

    Item leaves hold the rows of the K candidates only.

    Attributes:
        shared: parameters that the server sent in the S kept rounds, leaves `[S, ...]`: the T
            observed rounds or, for `unrolled`, all rounds from the first to the last of them.
        seen: observed uploads, leaves `[T, ...]`, after the observation chain.
        rounds: int32 `[T]`, server rounds of the observed uploads, increasing.
        participated: bool `[S]`, whether the client took part in each kept round.
        items: int32 `[K]`, catalogue ids of the candidates.
        slot: int32 `[S, B]`, candidate of each batch entry at each kept round, or None when
            every batch is all candidates in order (then B = K). Only transcript files set it;
            the simulator does not.
        weights: float `[S, B]`, batch weights (0: padding), or None when the batch is not known
            (then the candidates are the whole catalogue).
        log_odds: float `[K]`, public prior log odds that a candidate is an interaction
            (popularity among other users); zeros when nothing is known.
        rows: int32 `[K]`, index of the item-leaf row that holds each candidate's item. In a cohort
            the candidates of one item share the row of the first of them, and their other rows
            are zero in `seen`. None: every candidate has its own row.
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


class Sums(NamedTuple):
    """What an honest-but-curious server knows under secure aggregation when cohorts change.

    All arrays are on the host; the sums of T rounds may be larger than a device's memory.

    Attributes:
        shared: the parameters that the server sent in each observed round, T trees.
        seen: the cohorts' sums of each round, T trees with leaves `[G, ...]` like the parameters.
        members: int `[T, C]`, the cohort of each client of the federation; -1: in none.
        rounds: int32 `[T]`, server rounds, increasing.
        users: int `[C]`, the clients' user indices.
        items: int32 `[C, B]`, the items of the clients' batches; None: not known.
        weights: float `[C, B]`, weights of the batch entries, 0 for padding; None: not known.
    """

    shared: list[PyTree]
    seen: list[PyTree]
    members: Leaf
    rounds: Leaf
    users: Leaf
    items: Leaf = None
    weights: Leaf = None


@flax.struct.dataclass
class GroundTruth:
    """What the server does not know about the same client; only `simulate` makes one.

    Attributes:
        user: int32 `[]`, the user's index in the data set.
        labels: float `[K]`, labels of the candidates (0 outside the batch).
        weights: float `[K]`, 1 where a candidate is evaluated; 0 for padding and for the candidates
            of other members of a cohort.
        private: leaves `[T, ...]`, private parameters before each observed round.
    """

    user: Leaf
    labels: Leaf
    weights: Leaf
    private: PyTree


class Guess(NamedTuple):
    """A point in an attack's search space.

    Attributes:
        labels: float `[K]`, unconstrained (decoded by a relaxation).
        weights: float `[K]`, unconstrained membership in an unknown batch; None if it is known.
        latent: the unknowns from which the dynamics computes the private parameters.
    """

    labels: Array
    weights: Array | None
    latent: PyTree


class Certificate(NamedTuple):
    """Whether the uploads determine an answer, from the attacker's own estimates, not the truth.

    Margin and noise are in units of the noise's standard deviation.

    Attributes:
        certified: bool `[]`, `margin > noise` and the uploads determine the private states: no
            other labels explain the uploads, whatever the private states. They are the labels that
            an honest client of exactly this kind trained on.
        locally_unique: bool `[]`, `margin > noise` near the answer's own private states only: other
            private states with other labels were not excluded. False where `certified`.
        margin: float `[]`, a lower bound on the change of the uploads that other labels cause,
            for any private parameters.
        noise: float `[]`, the change that noise, rounding and the answer's residual may cause.
        rank: int `[]`, numerical rank of the Jacobian of the uploads in all unknowns.
        determined: int `[]`, number of labels that the uploads determine individually at this
            noise.
    """

    certified: Array
    locally_unique: Array
    margin: Array
    noise: Array
    rank: Array
    determined: Array


class Answer(NamedTuple):
    """What every attack returns.

    Attributes:
        scores: float `[K]` in [0, 1], belief that the candidate is an interaction.
        labels: bool `[K]`, the predicted labels.
        private: estimate of the private parameters at the first observed step; None if the
            attack does not estimate them.
        objective: float `[]`, the attack's own objective; NaN marks a failure.
        certificate: whether the uploads determine the answer; None if the attack has none.
        fits: int `[]`, whether the uploads are what the client is said to send: 1 yes, noise
            explains what is left of them; 0 no; -1 unknown. None if the attack has no model of the
            client, or does not compare.
        kept: int `[]`, index of the solver whose labels were kept; None if the attack has one.
        step_sizes: float `[]` by part ('items', 'scorer'), estimates of the client's step sizes,
            where the attack does not know them and they are determined.
    """

    scores: Array
    labels: Array
    private: PyTree | None
    objective: Array
    certificate: Certificate | None = None
    fits: Array | None = None
    kept: Array | None = None
    step_sizes: dict[str, Array] | None = None
