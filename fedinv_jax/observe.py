"""The channel from a client's upload to what is seen; victim and attacker use the same stages.

Defences are stages of the channel: clipping and noise are here, compression is in `compress`,
changes of a client's labels are in `perturb`.
"""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from fedinv_jax import _validate, tree
from fedinv_jax.types import Batch, Key, Observation, PyTree


def identity(upload: PyTree, seen: PyTree, state: Any) -> tuple[PyTree, Any]:
    """The `predict` of an attacker that ignores a stage: `stage._replace(predict=identity)`."""
    del seen
    return upload, state


def chain(*stages: Observation) -> Observation:
    """Applies stages one after the other; `chain()` is the identity, `chain(stage)` is `stage`.

    Chaining is associative except for keys. The chain's variance is the sum of the variances of its
    stages, each evaluated at the output of the whole chain.

    Example:
        >>> stage, key = chain(share('scorer')), jax.random.key(0)
        >>> upload = {'items': 1.0, 'scorer': 2.0}
        >>> stage.observe(upload, stage.init(upload), key)[0]
        {'scorer': 2.0}
    """
    if len(stages) == 1:
        return stages[0]

    def init(upload: PyTree) -> tuple:
        states = []
        for stage in stages:
            states.append(stage.init(upload))
            upload = jax.eval_shape(
                lambda u, s, stage=stage: stage.observe(u, s, jax.random.key(0))[0],
                upload,
                states[-1],
            )
        return tuple(states)

    def perturb(batch: Batch, key: Key) -> Batch:
        for index, stage in enumerate(stages):
            batch = stage.perturb(batch, jax.random.fold_in(key, index))
        return batch

    def observe(upload: PyTree, state: tuple, key: Key) -> tuple[PyTree, tuple]:
        new = []
        for index, (stage, part) in enumerate(zip(stages, state, strict=True)):
            upload, part = stage.observe(upload, part, jax.random.fold_in(key, index))
            new.append(part)
        return upload, tuple(new)

    def predict(upload: PyTree, seen: PyTree, state: tuple) -> tuple[PyTree, tuple]:
        new = []
        for stage, part in zip(stages, state, strict=True):
            upload, part = stage.predict(upload, seen, part)
            new.append(part)
        return upload, tuple(new)

    def variance(predicted: PyTree) -> PyTree:
        total = jax.tree.map(jnp.zeros_like, predicted)
        for stage in stages:
            total = jax.tree.map(jnp.add, total, stage.variance(predicted))
        return total

    return Observation(init, perturb, observe, predict, variance)


def blind(stage: Observation) -> Observation:
    """Returns the stage for an attacker that does not know it: the attacker predicts no effect.

    The stage must keep the structure of an upload; `share` does not.

    Example:
        >>> stage = blind(clip_by_global_norm(1.0))
        >>> stage.predict({'scorer': 5.0}, {}, ())[0]
        {'scorer': 5.0}
    """
    return stage._replace(predict=identity, variance=chain().variance)


def clip_by_global_norm(norm: float) -> Observation:
    """Scales an upload down to `norm` if its norm over all leaves is larger.

    `seen = upload min(1, norm / |upload|)`, which bounds what one client adds to a sum. Clipping
    alone is no defence: the direction of an upload reveals as much as the upload itself.

    Args:
        norm: the bound, in the unit of the upload, >= 0.

    Returns:
        The stage, the same for the victim and the attacker; structure and dtypes are kept.

    Raises:
        ValueError: if `norm` is negative or not a number.

    | edge case | seen |
    |---|---|
    | `norm` 0 | zeros |
    | `norm` inf | the upload, bit by bit |
    | an upload within the bound, or of zeros | the upload; the derivative at zero is finite |
    | a tree without leaves | the same tree |
    | entries that are not finite | not finite; the victim counts as failed |

    Example:
        >>> stage, upload = clip_by_global_norm(1.0), {'scorer': jnp.array([3.0, 4.0])}
        >>> stage.observe(upload, (), jax.random.key(0))[0]['scorer'].round(6).tolist()
        [0.6000000238418579, 0.800000011920929]

    References:
        Abadi et al., Deep learning with differential privacy, CCS 2016, arXiv:1607.00133,
        algorithm 1.
    """
    if not norm >= 0:
        raise ValueError(f'Expected norm={norm} >= 0.')

    def clip(upload: PyTree) -> PyTree:
        leaves = jax.tree.leaves(upload)
        if not leaves:
            return upload
        # Divided by the largest entry first: no overflow, and a finite derivative at zero.
        top = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]))
        top = jnp.where(top == 0, 1, jax.lax.stop_gradient(top))
        square = sum(jnp.sum((leaf / top) ** 2) for leaf in leaves)
        size = top * jnp.sqrt(jnp.where(square == 0, 1, square))
        factor = jnp.where(size > norm, norm / size, 1)
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), upload)

    return chain()._replace(
        observe=lambda upload, state, key: (clip(upload), state),
        predict=lambda upload, seen, state: (clip(upload), state),
    ) if norm < jnp.inf else chain()  # fmt: skip


def add_gaussian_noise(scale: float) -> Observation:
    """Adds `N(0, scale^2)` to every entry of an upload, independently.

    The attacker predicts the mean, which is the upload itself, and knows the variance.

    Args:
        scale: standard deviation of the noise, in the unit of the upload, >= 0.

    Returns:
        The stage; structure and dtypes of the upload are kept.

    Raises:
        ValueError: if `scale` is negative or not a number.

    | edge case | seen |
    |---|---|
    | `scale` 0 | the upload, bit by bit |
    | the same key | the same noise, in float32 and (rounded) in float64 |
    | a leaf of zeros | noise only, so that the zeros are hidden |
    | a tree without leaves | the same tree |
    | entries that are not finite | not finite; the victim counts as failed |

    Example:
        >>> stage, upload = add_gaussian_noise(0.5), {'scorer': jnp.ones(2)}
        >>> seen = stage.observe(upload, stage.init(upload), jax.random.key(0))[0]
        >>> bool(jnp.all(seen['scorer'] != 1)), stage.variance(upload)['scorer'].tolist()
        (True, [0.25, 0.25])
    """
    _validate.check_range('scale', scale)

    def observe(upload: PyTree, state: Any, key: Key) -> tuple[PyTree, Any]:
        leaves, structure = jax.tree.flatten(upload)
        noisy = [
            leaf + scale * jax.random.normal(k, leaf.shape, jnp.float32).astype(leaf.dtype)
            for leaf, k in zip(leaves, jax.random.split(key, len(leaves)), strict=True)
        ]
        return jax.tree.unflatten(structure, noisy), state

    def variance(predicted: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, scale**2), predicted)

    return chain()._replace(observe=observe, variance=variance) if scale else chain()


def cast(dtype: str) -> Observation:
    """Rounds an upload to a coarser dtype before it is sent; the server reads it as it was sent.

    The attacker predicts the upload itself: rounding has no useful derivative.

    Args:
        dtype: a float dtype, such as 'float16' or 'bfloat16'.

    Returns:
        The stage; structure and dtypes of the upload are kept.

    Raises:
        ValueError: if `dtype` is no dtype of floating-point numbers.

    Example:
        >>> cast('bfloat16').observe({'scorer': jnp.array([1.001])}, (), None)[0]['scorer'].tolist()
        [1.0]
    """
    try:
        kind = jnp.dtype(dtype)
    except TypeError as error:
        raise ValueError(f'Expected dtype={dtype!r} to be a float dtype.') from error
    if not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f'Expected dtype={dtype!r} to be a float dtype.')

    def observe(upload: PyTree, state: Any, key: Key) -> tuple[PyTree, Any]:
        return jax.tree.map(lambda leaf: leaf.astype(kind).astype(leaf.dtype), upload), state

    return chain()._replace(observe=observe)


def share(*prefixes: str) -> Observation:
    """Keeps the leaves below these names; the others are dropped from the tree.

    Item rows reveal which items are in the batch; the scorer's leaves do not.

    Args:
        *prefixes: slash-separated names of leaves or of subtrees, as `tree.names` gives them:
            'items', 'scorer', 'items/bias', 'scorer/layer_1/kernel'.

    Returns:
        The stage, the same for the victim and the attacker.

    Raises:
        ValueError: if there is no name, or one that matches no leaf (at trace time).

    | edge case | seen |
    |---|---|
    | a name of a subtree without leaves (the scorer of matrix factorisation) | ValueError |
    | every leaf named | the upload |
    | overlapping names | each leaf once |

    Example:
        >>> stage = share('items/bias', 'scorer')
        >>> upload = {'items': {'bias': 1, 'embedding': 2}, 'scorer': {'kernel': 3}}
        >>> stage.observe(upload, (), jax.random.key(0))[0]
        {'items': {'bias': 1}, 'scorer': {'kernel': 3}}
    """
    if not prefixes:
        raise ValueError('Expected at least one name of what is shared, e.g. share("scorer").')

    def select(upload: PyTree) -> PyTree:
        leaves = flax.traverse_util.flatten_dict(upload, sep='/')
        matched: dict[str, Any] = {}
        for prefix in prefixes:
            found = [n for n in leaves if n == prefix or n.startswith(prefix + '/')]
            if not found:
                names = tree.names(upload)
                raise ValueError(
                    f'Expected {prefix!r} to name a part of the upload; it has '
                    f'{", ".join(names)}.{_validate.hint(prefix, names)}'
                )
            matched.update(dict.fromkeys(found))
        kept = {name: leaf for name, leaf in leaves.items() if name in matched}
        return flax.traverse_util.unflatten_dict(kept, sep='/')

    return chain()._replace(
        observe=lambda upload, state, key: (select(upload), state),
        predict=lambda upload, seen, state: (select(upload), state),
    )
