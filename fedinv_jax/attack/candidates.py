"""The candidates of a transcript: which of them are no padding, and how popular they are."""

import jax
import jax.numpy as jnp

from fedinv_jax import item_table
from fedinv_jax.types import Array, InitPrivate, PyTree, Transcript


def rows(view: PyTree, axes: int) -> Array:
    """Item rows `[..., F]` of an upload or a sum, all leaves of an item concatenated.

    Args:
        view: what is seen; the first `axes` axes of its item leaves are not of the row.
        axes: their number, such as 2 for `[T, K, ...]`.

    Raises:
        ValueError: if no item rows are seen.
    """
    leaves = jax.tree.leaves(dict(view).get('items', {}))
    if not leaves:
        raise ValueError('Expected item rows to be seen: observation.seen needs items.')
    return jnp.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in leaves], axis=-1)


def init_private(init: InitPrivate, transcript: Transcript) -> InitPrivate:
    """The initialisation of the private parameters, with the candidates' rows of a private table.

    Example:
        >>> def init(key):
        ...     return {'items': jnp.arange(4.0), 'bias': jnp.zeros(())}
        >>> seen = Transcript({}, {}, None, None, jnp.array([2, 0]), None, None, None)
        >>> init_private(init, seen)(jax.random.key(0))['items'].tolist()
        [2.0, 0.0]
    """
    return lambda key: item_table.gather(init(key), transcript.items)


def mask(transcript: Transcript) -> Array:
    """Bool `[K]`: candidates of positive weight in some batch; all if the batch is unknown."""
    if transcript.weights is None:
        return jnp.ones(transcript.items.shape, bool)
    weighted = transcript.weights > 0
    if transcript.slot is None:
        return jnp.any(weighted, axis=0)
    return jnp.zeros(transcript.items.shape, bool).at[transcript.slot].max(weighted)


def expected(transcript: Transcript, positives: float) -> Array:
    """Expected number `[]` of interactions among the candidates: the share in a batch, counted.

    Every batch of a client has all of its interactions, whether its negatives change or not. In a
    cohort, each step has other members.
    """
    if transcript.weights is None or transcript.rows is not None:
        return positives * jnp.sum(mask(transcript))
    return positives * jnp.max(jnp.sum(transcript.weights > 0, axis=1))


def log_odds(transcript: Transcript, positives: float) -> Array:
    """Log odds `[K]` that a candidate of a known batch is an interaction, by public popularity.

    `log(c o_k)` for the public odds o_k, where c makes `sum_k c o_k` the expected number of
    interactions; -inf for padding.

    Args:
        transcript: of one client.
        positives: public share of interactions in a batch.
    """
    log_odds = jnp.where(mask(transcript), transcript.log_odds, -jnp.inf)
    total = jax.nn.logsumexp(log_odds)
    return log_odds - total + jnp.log(expected(transcript, positives))
