"""Stages of the channel that leave a part of an upload out: sparse, coarse, of low rank.

All keep the structure, shapes and dtypes. The attacker's `predict` reads off what was seen which
part is left: given that, the stage is linear, so that the attacks that solve for labels go through.
Noise goes behind these stages, never before.
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
"""`choose(upload, key) -> masks`: bool, in the structure of the upload, of the entries kept."""


def top_k(share: float, error_feedback: bool = False) -> Observation:
    """Keeps the largest entries of an upload by size, and zeros for all others.

    With `n` entries that are not zero, the `k = round(share n)` largest of all leaves together; all
    of a tie at the border. With error feedback the client adds what it left out to its next upload:
    `v = upload + rest`, `seen = top_k(v)`, `rest = v - seen`.

    Args:
        share: of the entries, in [0, 1].
        error_feedback: whether the rest is kept for the next round.

    Returns:
        The stage. The attacker takes the entries that it sees for the ones kept (with `quantize`
        behind it, those that were rounded to zero for left out as well); with error
        feedback it follows the rest from zero at the first round that it observes, which is the
        truth where it observes every round from the first.

    Raises:
        ValueError: if `share` is not in [0, 1].

    | edge case | seen |
    |---|---|
    | `share` 0, or so small that k is 0 | zeros |
    | `share` 1 | the upload as it is, bit by bit |
    | padding, units that are off | count for nothing: they are zero |
    | a tree without leaves | itself |
    | entries that are not finite | kept first; the victim's row fails |

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
    """Keeps each entry of an upload with probability `share`, and zeros for all others.

    Without error feedback what is kept is divided by `share`, so that its mean is the upload.

    Args:
        share: in [0, 1].
        error_feedback: whether the rest is kept for the next round, see `top_k`.

    Returns:
        The stage. The attacker takes the entries that it sees for the ones kept.

    Raises:
        ValueError: if `share` is not in [0, 1].

    | edge case | seen |
    |---|---|
    | `share` 0 | zeros |
    | `share` 1 | the upload as it is, bit by bit |
    | the same key | the same entries |
    | a tree without leaves | itself |
    | entries that are not finite | not finite where kept; the victim's row fails |

    Example:
        >>> stage, upload = random_k(0.5), {'scorer': jnp.ones(6)}
        >>> stage.observe(upload, stage.init(upload), jax.random.key(0))[0]['scorer'].tolist()
        [0.0, 2.0, 2.0, 2.0, 2.0, 0.0]

    References:
        Wangni, Wang, Liu, Zhang, Gradient sparsification for communication-efficient distributed
        optimization, NeurIPS 2018, arXiv:1710.09854 (unbiased, here of equal probabilities).
    """
    _check_share(share)

    def choose(upload: PyTree, key: Key) -> PyTree:
        return optax.tree.random_like(
            key, upload, lambda k, shape, dtype: jax.random.uniform(k, shape, jnp.float32) < share
        )

    return _sparse(share, error_feedback, choose, 1.0 if error_feedback or not share else 1 / share)


def quantize(levels: int) -> Observation:
    """Rounds every entry of a leaf to one of `levels` steps of its largest, up or down by chance.

    `seen = m q / levels` with `m = max |leaf|` and q the integer below or above `levels x / m`, the
    nearer the more likely, so that the mean is the upload.

    Args:
        levels: steps from 0 to the largest size of a leaf, >= 1.

    Returns:
        The stage. The attacker predicts the mean, and knows the variance of an entry that lies
        anywhere between two steps, `(m / levels)^2 / 6`.

    Raises:
        ValueError: if `levels` is not an integer >= 1.

    | edge case | seen |
    |---|---|
    | a leaf of zeros | itself |
    | the largest entries, and zeros | themselves |
    | `levels` 1 | -m, 0 or m |
    | many levels (2^20) | the upload up to rounding |
    | a tree without leaves | itself |
    | entries that are not finite | not finite; the victim's row fails |

    Example:
        >>> stage, upload = quantize(1), {'scorer': jnp.array([4.0, 1.0, 0.0, -3.0])}
        >>> stage.observe(upload, (), jax.random.key(1))[0]['scorer'].tolist()
        [4.0, 0.0, 0.0, -4.0]

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, QSGD: communication-efficient SGD via gradient
        quantization and encoding, NeurIPS 2017, arXiv:1610.02132, section 3.1 (here of the largest
        entry of each leaf instead of the norm).
    """
    if not isinstance(levels, int) or levels < 1:
        raise ValueError(f'Expected levels={levels} to be an integer >= 1.')

    def step(leaf: Array) -> Array:
        return jnp.max(jnp.abs(leaf), initial=0) / levels

    def observe_(upload: PyTree, state: Any, key: Key) -> tuple[PyTree, Any]:
        draws = optax.tree.random_like(key, upload, jax.random.uniform, jnp.float32)

        def rounded(leaf: Array, lot: Array) -> Array:
            size = step(leaf)
            scaled = leaf / jnp.where(size == 0, 1, size)
            return size * jnp.clip(jnp.floor(scaled + lot.astype(leaf.dtype)), -levels, levels)

        return jax.tree.map(rounded, upload, draws), state

    def variance(predicted: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, step(leaf) ** 2 / 6), predicted)

    return observe.chain()._replace(observe=observe_, variance=variance)


def low_rank(rank: int) -> Observation:
    """Item rows of low rank: each item leaf `[B, F]` by its best approximation of that rank.

    `seen = U V' V` with V the first `rank` principal directions of the rows U. Fewer numbers are
    sent, `rank (B + F)`; what a batch's rows have in common stays, and that is what gives labels
    away.

    Args:
        rank: >= 1.

    Returns:
        The stage. The attacker projects on the directions that it sees.

    Raises:
        ValueError: if `rank` is not an integer >= 1.

    | edge case | seen |
    |---|---|
    | `rank` F or more | the upload as it is, bit by bit |
    | leaves `[B]` (biases), the scorer | themselves |
    | rows of zeros (padding) | zeros |
    | no item rows | itself |
    | entries that are not finite | not finite; the victim's row fails |

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
    """A stage that keeps the entries that `choose` takes, times `gain`."""
    if share == 1:
        return observe.chain()

    def init(upload: PyTree) -> Any:
        if not error_feedback:
            return ()
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), upload)

    def left(upload: PyTree, state: Any, masks: PyTree) -> tuple[PyTree, Any]:
        total = jax.tree.map(jnp.add, upload, state) if error_feedback else upload
        kept = jax.tree.map(lambda leaf, mask: jnp.where(mask, gain * leaf, 0), total, masks)
        return kept, jax.tree.map(jnp.subtract, total, kept) if error_feedback else state

    def observe_(upload: PyTree, state: Any, key: Key) -> tuple[PyTree, Any]:
        total = jax.tree.map(jnp.add, upload, state) if error_feedback else upload
        return left(upload, state, choose(total, key))

    def predict(upload: PyTree, seen: PyTree, state: Any) -> tuple[PyTree, Any]:
        def mask(name: str, leaf: Array, like: Array | None) -> Array:
            return jnp.ones(leaf.shape, bool) if like is None else like != 0

        return left(upload, state, _by_name(mask, upload, seen))

    return observe.chain()._replace(init=init, observe=observe_, predict=predict)


def _by_name(function: Callable, upload: PyTree, seen: PyTree) -> PyTree:
    """`function(name, leaf, leaf of seen)` at every leaf; None for what a later stage drops."""
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
    """Integers in the order of these floats >= 0."""
    return jax.lax.bitcast_convert_type(sizes, jnp.int32)


def _largest(leaves: list[Array], count: Array) -> Array:
    """The bits of the `count`-th largest of the sizes; past all of them where `count` is 0.

    By bisection: a sort of every client's upload would take longer than its training.
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
