"""Kernels over concatenated inputs: the block that multiplies p, as a leaf of its own.

A layer on `[p; q_i]` has one kernel of which D rows multiply p. These rows upload `p ⊗ e` as a
kernel of p alone does. Where there are such rows, the leaf is split before and behind them, in what
is seen and in what is predicted; everything else then reads the parts as leaves.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax.attack.exact import embedding
from fedinv_jax.attack.exact.known import Block, Draw, Uploads
from fedinv_jax.types import Array, Observation, PyTree, Transcript


def find(upload: Uploads, draws: Sequence[Draw]) -> Block | None:
    """The rows of a leaf that are `p ⊗ e` on every draw; None if there are none.

    Args:
        upload: what is seen of a random client, see `known.uploads`.
        draws: two or more random clients, in float64 as a rule.

    Example:
        >>> def upload(draw):
        ...     both = jnp.concatenate([jnp.ones(2), draw.private])
        ...     return {'kernel': jnp.outer(both, jnp.cos(draw.private[:2]))}
        >>> keys = jax.random.split(jax.random.key(0))
        >>> draws = [Draw({}, jax.random.normal(key, (3,)), None) for key in keys]
        >>> find(upload, draws)
        Block(name='kernel', axis=0, start=2, stop=5, size=5)
    """
    seen = [_flat(jax.device_get(upload(draw))) for draw in draws]
    privates = [
        [np.asarray(leaf) for leaf in jax.tree.leaves(draw.private) if leaf.ndim == 1]
        for draw in draws
    ]
    for block, index in _candidates(seen[0], privates[0]):
        own = [np.asarray(_rows(block, leaves[block.name])[1]) for leaves in seen]
        vectors = [vector[index] for vector in privates]
        if all(embedding.is_along(*pair) for pair in zip(own, vectors, strict=True)):
            return block
    return None


def _candidates(
    seen: dict[str, Array], privates: Sequence[np.ndarray]
) -> Iterator[tuple[Block, int]]:
    """Blocks as long as a private leaf, in leaves that are longer, with the leaf's index."""
    for name, leaf in seen.items():
        for axis in (0, 1) if leaf.ndim == 2 and name.split('/')[0] != 'items' else ():
            for index, private in enumerate(privates):
                length, size = len(private), leaf.shape[axis]
                for start in range(size - length + 1 if length < size else 0):
                    yield Block(name, axis, start, start + length, size), index


def _flat(whole: PyTree) -> dict[str, Array]:
    return flax.traverse_util.flatten_dict(dict(whole), sep='/')


def _rows(block: Block, leaf: Array) -> list[Array]:
    """The rows `[..., rows, H]` before the block, in it, and behind it, of `leaf [..., a, b]`."""
    rows = jnp.swapaxes(leaf, -1, -2) if block.axis else leaf
    bounds = (0, block.start, block.stop, block.size)
    return [rows[..., a:b, :] for a, b in itertools.pairwise(bounds)]


def _names(block: Block) -> tuple[str, ...]:
    """Names of the three parts, such as 'scorer/dense/kernel[0:8]'."""
    bounds = (0, block.start, block.stop, block.size)
    return tuple(f'{block.name}[{a}:{b}]' for a, b in itertools.pairwise(bounds))


def split(block: Block | None, whole: PyTree) -> PyTree:
    """A tree whose leaf `[..., a, b]` of the block's name is up to three leaves; None: unchanged.

    Example:
        >>> parts = split(Block('kernel', 0, 0, 1, 3), {'kernel': jnp.arange(6.0).reshape(3, 2)})
        >>> {name: leaf.tolist() for name, leaf in parts.items()}
        {'kernel[0:1]': [[0.0, 1.0]], 'kernel[1:3]': [[2.0, 3.0], [4.0, 5.0]]}
    """
    leaves = _flat(whole)
    if block is None or block.name not in leaves:
        return whole
    parts = zip(_names(block), _rows(block, leaves.pop(block.name)), strict=True)
    leaves |= {name: rows for name, rows in parts if rows.shape[-2]}
    return flax.traverse_util.unflatten_dict(leaves, sep='/')


def _joined(block: Block, parts: PyTree) -> PyTree:
    """The tree of which `split` made the parts."""
    leaves = _flat(parts)
    own = [leaves.pop(name) for name in _names(block) if name in leaves]
    if own:
        rows = jnp.concatenate(own, axis=-2)
        leaves[block.name] = jnp.swapaxes(rows, -1, -2) if block.axis else rows
    return flax.traverse_util.unflatten_dict(leaves, sep='/')


def observation(block: Block | None, channel: Observation) -> Observation:
    """The channel as attackers model it, with what is seen split; None: unchanged."""
    if block is None:
        return channel

    def predict(upload: PyTree, seen: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        predicted, state = channel.predict(upload, _joined(block, seen), state)
        return split(block, predicted), state

    def variance(predicted: PyTree) -> PyTree:
        return split(block, channel.variance(_joined(block, predicted)))

    return channel._replace(predict=predict, variance=variance)


def split_seen(block: Block | None, transcript: Transcript) -> Transcript:
    """The transcript with what is seen split."""
    return dataclasses.replace(transcript, seen=split(block, transcript.seen))
