"""Stages of the channel that change a client's labels before it trains.

The upload is then an honest one of other labels, and those are what an attack can find. A client
draws once and keeps to it: new draws in each round would let a server average them away.
"""

import jax
import jax.numpy as jnp

from fedinv_jax import observe
from fedinv_jax.types import Batch, Key, Observation


def randomized_response(epsilon: float) -> Observation:
    """Randomised response: each label is flipped with probability `1 / (1 + e^epsilon)`.

    Each label has `epsilon`-local differential privacy, for as many rounds as the client keeps to
    its draw: whatever is computed of it, the chances of y = 0 and y = 1 change by a factor of
    `e^epsilon` at most. A user of n positives and 4 n negatives has `5 n epsilon`.

    Args:
        epsilon: >= 0, in nats.

    Returns:
        The stage, for labels of 0 and 1; the upload is left as it is.

    Raises:
        ValueError: if `epsilon` is negative or not a number.

    | edge case | labels |
    |---|---|
    | `epsilon` 0 | fair coins |
    | `epsilon` inf | as they are |
    | padding (weight 0) | as it is |
    | the same key | the same labels |

    Example:
        >>> batch = Batch(None, jnp.array([1.0, 0.0, 0.0, 1.0]), jnp.ones(4))
        >>> randomized_response(0.0).perturb(batch, jax.random.key(0)).labels.tolist()
        [1.0, 0.0, 1.0, 0.0]

    References:
        Warner, Randomized response: a survey technique for eliminating evasive answer bias, Journal
        of the American Statistical Association 60(309), 1965, doi:10.1080/01621459.1965.10480775.
        Erlingsson, Pihur, Korolova, RAPPOR: randomized aggregatable privacy-preserving ordinal
        response, CCS 2014, arXiv:1407.6981 (a draw that is kept).
    """
    if not epsilon >= 0:
        raise ValueError(f'Expected epsilon={epsilon} >= 0.')
    return _flip(float(jax.nn.sigmoid(-epsilon)), both=True)


def add_pseudo_interactions(share: float) -> Observation:
    """Each negative of the batch becomes an interaction with probability `share`.

    Of an item that is said to be an interaction nobody is sure: the chances change by a factor of
    `1 / share` at most. An item that is said to be none is none, so that there is no finite epsilon
    of local differential privacy unless `share` is 1.

    Args:
        share: in [0, 1].

    Returns:
        The stage, for labels of 0 and 1; the upload is left as it is.

    Raises:
        ValueError: if `share` is not in [0, 1].

    | edge case | labels |
    |---|---|
    | `share` 0 | as they are |
    | `share` 1 | all 1 |
    | padding (weight 0) | as it is |
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
    """Labels flipped by chance, those of interactions only where `both`."""
    if not probability:
        return observe.chain()

    def perturb(batch: Batch, key: Key) -> Batch:
        draws = jax.random.uniform(key, batch.labels.shape, jnp.float32)
        flipped = (draws < probability) & (batch.weights > 0)
        flipped &= both | (batch.labels == 0)
        return batch._replace(labels=jnp.where(flipped, 1 - batch.labels, batch.labels))

    return observe.chain()._replace(perturb=perturb)
