"""Baselines: attacks that use no upload. Every other attack must do better."""

import jax
import jax.numpy as jnp

from fedinv_jax.attack import candidates
from fedinv_jax.types import Answer, Array, Key, Transcript


def _top_share(scores: Array, transcript: Transcript, share: float) -> Answer:
    """The answer whose positives are as many of the highest scores as interactions are expected."""
    where = candidates.mask(transcript)
    count = jnp.round(candidates.expected(transcript, share)).astype(int)
    rank = jnp.argsort(jnp.argsort(jnp.where(where, -scores, jnp.inf)))
    return Answer(scores, (rank < count) & where, None, jnp.zeros(()))


def random(transcript: Transcript, key: Key, share: float) -> Answer:
    """Uniform scores.

    Args:
        transcript: of one client; only its candidates are used.
        key: PRNG key.
        share: public share of interactions in a batch, in [0, 1].
    """
    return _top_share(jax.random.uniform(key, transcript.items.shape), transcript, share)


def intersection(transcript: Transcript) -> Answer:
    """The items that come back, where item rows are seen and negatives are drawn afresh.

    A client's interactions are in all of its T batches, other items only by chance. The score is
    the share of the batches that hold the item; labels are those in all of them if T > 1. The
    server needs no gradient for it: it bounds every attack from below there.

    Args:
        transcript: of one client; only its `weights` `[T, K]` are used.

    Returns:
        Scores `[K]` in [0, 1] and labels `[K]`.

    Example:
        >>> seen = Transcript({}, {}, jnp.arange(2), None, jnp.arange(3), None,
        ...                   jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]), None)
        >>> answer = intersection(seen)
        >>> answer.scores.tolist(), answer.labels.tolist()
        ([1.0, 0.5, 0.5], [True, False, False])
    """
    present = jnp.mean(transcript.weights > 0, axis=0, dtype=jnp.result_type(float))
    several = transcript.weights.shape[0] > 1
    return Answer(present, (present == 1) & several, None, jnp.zeros(()))


def mean_rating(transcript: Transcript, share: float) -> Answer:
    """The mean of all explicit ratings, for every item.

    Args:
        transcript: of one client; only its candidates are used.
        share: public mean of all labels, in [0, 1].
    """
    return _top_share(jnp.full(transcript.items.shape, share, float), transcript, share)


def popularity(transcript: Transcript, share: float) -> Answer:
    """Scores by popularity among OTHER users: the sigmoid of the public log odds.

    Of explicit ratings, that is the item's mean rating from other users.

    Args:
        transcript: of one client; only its candidates and `log_odds` are used.
        share: public share of interactions in a batch, in [0, 1].
    """
    return _top_share(jax.nn.sigmoid(transcript.log_odds), transcript, share)
