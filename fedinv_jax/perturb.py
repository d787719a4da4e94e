"""Stages of the channel that change a client's labels before it trains.

The client computes its upload from the changed labels, so that an attack can find only these. A
client draws them once for all rounds: the server could average out new draws in each round.
"""

import jax
import jax.numpy as jnp

from fedinv_jax import observe
from fedinv_jax.types import Batch, Key, Observation


def randomized_response(epsilon: float) -> Observation:
    """Flips each label with probability `1 / (1 + e^epsilon)` (randomised response).

    Each label has `epsilon`-local differential privacy, over all rounds that use the same draw:
    nothing computed from the flipped label changes the odds of y = 1 against y = 0 by more than a
    factor of `e^epsilon`. All labels of a user with n positives and 4 n negatives together have
    `5 n epsilon`.

    Args:
        epsilon: >= 0, in nats.

    Returns:
        The stage, for labels of 0 and 1; it does not change the upload.

    Raises:
        ValueError: if `epsilon` is negative or not a number.

    | edge case | labels |
    |---|---|
    | `epsilon` 0 | fair coin flips |
    | `epsilon` inf | not changed |
    | padding (weight 0) | not changed |
    | the same key | the same labels |

    Example:
        >>> batch = Batch(None, jnp.array([1.0, 0.0, 0.0, 1.0]), jnp.ones(4))
        >>> randomized_response(0.0).perturb(batch, jax.random.key(0)).labels.tolist()
        [1.0, 0.0, 1.0, 0.0]

    References:
        Warner, Randomized response: a survey technique for eliminating evasive answer bias, Journal
        of the American Statistical Association 60(309), 1965, doi:10.1080/01621459.1965.10480775.
        Erlingsson, Pihur, Korolova, RAPPOR: randomized aggregatable privacy-preserving ordinal
        response, CCS 2014, arXiv:1407.6981 (a permanent draw).
    """
    if not epsilon >= 0:
        raise ValueError(f'Expected epsilon={epsilon} >= 0.')
    return _flip(float(jax.nn.sigmoid(-epsilon)), both=True)


def add_pseudo_interactions(share: float) -> Observation:
    """Turns each negative of the batch into an interaction with probability `share`.

    A reported interaction is deniable: it changes the odds by a factor of at most `1 / share`. A
    reported negative is always true, so that no finite epsilon of local differential privacy holds
    unless `share` is 1.

    Args:
        share: probability that a negative is changed, in [0, 1].

    Returns:
        The stage, for labels of 0 and 1; it does not change the upload.

    Raises:
        ValueError: if `share` is not in [0, 1].

    | edge case | labels |
    |---|---|
    | `share` 0 | not changed |
    | `share` 1 | all 1 |
    | padding (weight 0) | not changed |
    | the same key | the same labels |

    Example:
        >>> batch = Batch(None, jnp.array([1.0, 0.0, 0.0, 1.0]), jnp.ones(4))
        >>> add_pseudo_interactions(0.5).perturb(batch, jax.random.key(0)).labels.tolist()
        [1.0, 0.0, 1.0, 1.0]

    References:
        Lin, Liang, Pan, Ming, FedRec: federated recommendation with explicit feedback, IEEE
        Intelligent Systems 36(5), 2021, doi:10.1109/MIS.2020.3017205 (virtual ratings of sampled
        items).
    """
    if not 0 <= share <= 1:
        raise ValueError(f'Expected share={share} in [0, 1].')
    return _flip(share, both=False)


def _flip(probability: float, both: bool) -> Observation:
    """Flips labels with the given probability: all labels if `both`, else those of negatives."""
    if not probability:
        return observe.chain()

    def perturb(batch: Batch, key: Key) -> Batch:
        draws = jax.random.uniform(key, batch.labels.shape, jnp.float32)
        flipped = (draws < probability) & (batch.weights > 0)
        flipped &= both | (batch.labels == 0)
        return batch._replace(labels=jnp.where(flipped, 1 - batch.labels, batch.labels))

    return observe.chain()._replace(perturb=perturb)
