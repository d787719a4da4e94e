"""Stages of the channel that compress an upload: sparsification, quantisation, low rank.

All stages keep structure, shapes and dtypes. The attacker's `predict` reads from `seen` which part
of the upload was kept. Given that part, the prediction is linear in the upload, so that attacks
that solve for labels still work. Noise is added after these stages, never before.
"""

from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from fedinv_jax import observe
from fedinv_jax.types import Array, Key, Observation, PyTree

Choose = Callable[[PyTree, Key], PyTree]
"""`choose(upload, key) -> masks`: bool leaves like the upload's, True for the entries kept."""


def top_k(share: float, error_feedback: bool = False) -> Observation:
    """Keeps the entries of an upload that are largest in size; all others become zero.

    The stage keeps the `k = round(share n)` largest of the n nonzero entries of all leaves, and
    all entries that tie with the k-th. With error feedback the client adds what it left out to its
    next upload: `v = upload + rest`, `seen = top_k(v)`, `rest = v - seen`.

    Args:
        share: share of the nonzero entries that is kept, in [0, 1].
        error_feedback: whether the client adds the rest to its next upload.

    Returns:
        The stage. The attacker takes the nonzero entries of `seen` for the kept ones; entries that
        a later `quantize` rounds to zero therefore count as left out. With error feedback the
        attacker assumes a rest of zero before the first observed round and computes the rest from
        there; the assumption is true if every round from the first one is observed.

    Raises:
        ValueError: if `share` is not in [0, 1].

    | edge case | seen |
    |---|---|
    | `share` 0, or so small that k is 0 | zeros |
    | `share` 1 | the upload, bit by bit |
    | padding, inactive units | zeros, which do not count towards n |
    | a tree without leaves | the same tree |
    | entries that are not finite | kept first; the victim counts as failed |

    Example:
        >>> stage, upload = top_k(0.5), {'scorer': jnp.array([3.0, -4.0, 0.0, 1.0, 2.0])}
        >>> stage.observe(upload, stage.init(upload), jax.random.key(0))[0]['scorer'].tolist()
        [3.0, -4.0, 0.0, 0.0, 0.0]

    References:
        Aji, Heafield, Sparse communication for distributed gradient descent, EMNLP 2017,
        arXiv:1704.05021.
        Stich, Cordonnier, Jaggi, Sparsified SGD with memory, NeurIPS 2018, arXiv:1809.07599,
        algorithm 1 (error feedback).
    """
    _check_share(share)

    def choose(upload: PyTree, key: Key) -> PyTree:
        del key
        sizes = jax.tree.map(lambda leaf: jnp.abs(leaf).astype(jnp.float32), upload)
        count = sum(jnp.sum(leaf != 0) for leaf in jax.tree.leaves(upload))
        bound = _largest(jax.tree.leaves(sizes), jnp.round(share * count).astype(jnp.int32))
        return jax.tree.map(lambda leaf: (_bits(leaf) >= bound) & (leaf != 0), sizes)

    return _sparse(share, error_feedback, choose, 1.0)


def random_k(share: float, error_feedback: bool = False) -> Observation:
    """Keeps each entry of an upload with probability `share`; all others become zero.

    Without error feedback the kept entries are divided by `share`, so that `seen` is unbiased.

    Args:
        share: probability of keeping an entry, in [0, 1].
        error_feedback: whether the client adds the rest to its next upload, see `top_k`.

    Returns:
        The stage. The attacker takes the nonzero entries of `seen` for the kept ones.

    Raises:
        ValueError: if `share` is not in [0, 1].

    | edge case | seen |
    |---|---|
    | `share` 0 | zeros |
    | `share` 1 | the upload, bit by bit |
    | the same key | the same entries |
    | a tree without leaves | the same tree |
    | entries that are not finite | not finite where kept; the victim counts as failed |

    Example:
        >>> stage, upload = random_k(0.5), {'scorer': jnp.ones(6)}
        >>> stage.observe(upload, stage.init(upload), jax.random.key(0))[0]['scorer'].tolist()
        [0.0, 2.0, 2.0, 2.0, 2.0, 0.0]

    References:
        Wangni, Wang, Liu, Zhang, Gradient sparsification for communication-efficient distributed
        optimization, NeurIPS 2018, arXiv:1710.09854 (unbiased; here with equal probabilities).
    """
    _check_share(share)

    def choose(upload: PyTree, key: Key) -> PyTree:
        return optax.tree.random_like(
            key, upload, lambda k, shape, dtype: jax.random.uniform(k, shape, jnp.float32) < share
        )

    return _sparse(share, error_feedback, choose, 1.0 if error_feedback or not share else 1 / share)


def quantize(levels: int) -> Observation:
    """Rounds every entry x of a leaf at random to a neighbouring multiple of `max |leaf| / levels`.

    `seen = m q / levels` with `m = max |leaf|` and q the integer below or above `levels x / m`. The
    nearer integer is more likely, so that the mean of `seen` is the upload.

    Args:
        levels: number of steps from 0 to m, >= 1.

    Returns:
        The stage. The attacker predicts the mean, and for each entry the variance of a value that
        is uniform between two steps, `(m / levels)^2 / 6`.

    Raises:
        ValueError: if `levels` is not an integer >= 1.

    | edge case | seen |
    |---|---|
    | a leaf of zeros | zeros |
    | the largest entries, and zeros | the same entries |
    | `levels` 1 | -m, 0 or m |
    | many levels (2^20) | the upload up to rounding |
    | a tree without leaves | the same tree |
    | entries that are not finite | not finite; the victim counts as failed |

    Example:
        >>> stage, upload = quantize(1), {'scorer': jnp.array([4.0, 1.0, 0.0, -3.0])}
        >>> stage.observe(upload, (), jax.random.key(1))[0]['scorer'].tolist()
        [4.0, 0.0, 0.0, -4.0]

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, QSGD: communication-efficient SGD via gradient
        quantization and encoding, NeurIPS 2017, arXiv:1610.02132, section 3.1 (here scaled by the
        largest entry of each leaf instead of the norm).
    """
    if not isinstance(levels, int) or levels < 1:
        raise ValueError(f'Expected levels={levels} to be an integer >= 1.')

    def step(leaf: Array) -> Array:
        return jnp.max(jnp.abs(leaf), initial=0) / levels

    def observe_(upload: PyTree, state: Any, key: Key) -> tuple[PyTree, Any]:
        draws = optax.tree.random_like(key, upload, jax.random.uniform, jnp.float32)

        def rounded(leaf: Array, draw: Array) -> Array:
            size = step(leaf)
            scaled = leaf / jnp.where(size == 0, 1, size)
            return size * jnp.clip(jnp.floor(scaled + draw.astype(leaf.dtype)), -levels, levels)

        return jax.tree.map(rounded, upload, draws), state

    def variance(predicted: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, step(leaf) ** 2 / 6), predicted)

    return observe.chain()._replace(observe=observe_, variance=variance)


def low_rank(rank: int) -> Observation:
    """Replaces each item leaf `[B, F]` by its best approximation of the given rank.

    `seen = U V' V`, where U are the rows and V `[rank, F]` their principal directions. The client
    sends fewer numbers, `rank (B + F)`. The directions that a batch's rows share are kept, and
    these reveal the labels.

    Args:
        rank: >= 1.

    Returns:
        The stage. The attacker projects its prediction on the principal directions of `seen`.

    Raises:
        ValueError: if `rank` is not an integer >= 1.

    | edge case | seen |
    |---|---|
    | `rank` F or more | the upload, bit by bit |
    | leaves `[B]` (biases), the scorer | the same leaves |
    | rows of zeros (padding) | zeros |
    | no item rows | the upload |
    | entries that are not finite | not finite; the victim counts as failed |

    Example:
        >>> stage = low_rank(1)
        >>> upload = {'items': jnp.array([[2.0, 0.0], [0.0, 1.0]]), 'scorer': jnp.ones(2)}
        >>> stage.observe(upload, (), jax.random.key(0))[0]['items'].round(6).tolist()
        [[2.0, 0.0], [0.0, 0.0]]

    References:
        Vogels, Karimireddy, Jaggi, PowerSGD: practical low-rank gradient compression for
        distributed optimization, NeurIPS 2019, arXiv:1905.13727.
        Nguyen et al., Towards efficient communication and secure federated recommendation system
        via low-rank training, WWW 2024, arXiv:2401.03748 (item updates of low rank).
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f'Expected rank={rank} to be an integer >= 1.')

    def project(name: str, leaf: Array, like: Array | None) -> Array:
        rows = name.split('/')[0] == 'items' and leaf.ndim == 2 and leaf.shape[-1] > rank
        if not rows or like is None:
            return leaf
        size = jnp.max(jnp.abs(like), initial=0)
        scaled = like / jnp.where(size == 0, 1, size)
        basis = jnp.linalg.eigh(scaled.T @ scaled)[1][:, -rank:]
        return (leaf @ basis) @ basis.T

    def observe_(upload: PyTree, state: Any, key: Key) -> tuple[PyTree, Any]:
        del key
        return _by_name(project, upload, upload), state

    def predict(upload: PyTree, seen: PyTree, state: Any) -> tuple[PyTree, Any]:
        return _by_name(project, upload, seen), state

    return observe.chain()._replace(observe=observe_, predict=predict)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f'Expected share={share} in [0, 1].')


def _sparse(share: float, error_feedback: bool, choose: Choose, gain: float) -> Observation:
    """Returns a stage that keeps the entries chosen by `choose`, times `gain`."""
    if share == 1:
        return observe.chain()

    def init(upload: PyTree) -> Any:
        if not error_feedback:
            return ()
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), upload)

    def split(upload: PyTree, state: Any, masks: PyTree) -> tuple[PyTree, Any]:
        total = jax.tree.map(jnp.add, upload, state) if error_feedback else upload
        kept = jax.tree.map(lambda leaf, mask: jnp.where(mask, gain * leaf, 0), total, masks)
        return kept, jax.tree.map(jnp.subtract, total, kept) if error_feedback else state

    def observe_(upload: PyTree, state: Any, key: Key) -> tuple[PyTree, Any]:
        total = jax.tree.map(jnp.add, upload, state) if error_feedback else upload
        return split(upload, state, choose(total, key))

    def predict(upload: PyTree, seen: PyTree, state: Any) -> tuple[PyTree, Any]:
        def mask(name: str, leaf: Array, like: Array | None) -> Array:
            return jnp.ones(leaf.shape, bool) if like is None else like != 0

        return split(upload, state, _by_name(mask, upload, seen))

    return observe.chain()._replace(init=init, observe=observe_, predict=predict)


def _by_name(function: Callable, upload: PyTree, seen: PyTree) -> PyTree:
    """Maps `function(name, leaf, seen leaf)`; the seen leaf is None if a later stage dropped it."""
    likes = flax.traverse_util.flatten_dict(seen, sep='/')
    leaves = flax.traverse_util.flatten_dict(upload, sep='/', keep_empty_nodes=True)
    empty = flax.traverse_util.empty_node
    return flax.traverse_util.unflatten_dict(
        {
            name: leaf if leaf is empty else function(name, leaf, likes.get(name))
            for name, leaf in leaves.items()
        },
        sep='/',
    )


def _bits(sizes: Array) -> Array:
    """The bits of floats >= 0 as integers, which have the same order."""
    return jax.lax.bitcast_convert_type(sizes, jnp.int32)


def _largest(leaves: list[Array], count: Array) -> Array:
    """The bits of the `count`-th largest size, or more than those of any size if `count` is 0.

    Uses bisection, because sorting a client's upload would take longer than its training.
    """
    ordered = [_bits(leaf) for leaf in leaves]

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = sum(jnp.sum(bits >= middle) for bits in ordered) >= count
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    zero = jnp.zeros((), jnp.int32)
    low, high = jax.lax.fori_loop(0, 31, halve, (zero, zero + jnp.iinfo(jnp.int32).max))
    return jnp.where(count > 0, low, high)
