"""The private embedding in closed form, where an upload determines it.

A first layer that multiplies the private embedding p uploads `p ⊗ e` for its kernel and `e`, the
gradient at its output summed over the batch, for its bias: `p = (kernel · e) / |e|^2`. Without a
bias the kernel's upload is still of rank one and determines p up to one scalar; so do the item rows
`c_i p` of matrix factorisation. `find_recovery` finds such leaves.
"""

from collections.abc import Sequence

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedinv_jax import tree
from fedinv_jax.attack.exact.known import Draw, EmbeddingRecovery, Uploads
from fedinv_jax.types import Array, PyTree


def find_recovery(
    upload: Uploads,
    draws: Sequence[Draw],
    tolerance: float = 1e-5,
    scaled: bool = False,
    leaf: str | None = None,
) -> EmbeddingRecovery | None:
    """The embedding recovery that works on every draw, if possible one with a bias; or None.

    Args:
        upload: what is seen of a random client, see `known.uploads`.
        draws: two or more random clients; the private state must be one vector `[D]`, or a tree
            with the leaf `leaf`.
        tolerance: largest distance of a leaf from the product, relative to the leaf's norm.
        scaled: whether any positive multiple of the product will do (an adaptive optimiser turns
            steps of any length into steps of one length); the length of p is then unknown.
        leaf: name of the vector `[D]` in the private state; None: it is the whole state.

    Returns:
        The leaves that determine p, or None if there are none.

    Example:
        >>> def upload(draw):
        ...     labels = draw.batch.labels
        ...     return {'kernel': jnp.outer(draw.private, labels), 'bias': labels}
        >>> from fedinv_jax.types import Batch
        >>> keys = jax.random.split(jax.random.key(0))
        >>> draws = [Draw({}, jax.random.normal(key, (3,)),
        ...          Batch(None, jax.random.normal(key, (4,)), jnp.ones(4))) for key in keys]
        >>> find_recovery(upload, draws)
        EmbeddingRecovery(kernel='kernel', axis=0, bias='bias')
    """
    privates = [_vector(draw.private, leaf) for draw in draws]
    if any(private.ndim != 1 for private in privates):
        return None
    seen = [
        flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, upload(draw)), sep='/')
        for draw in draws
    ]
    directions = [
        EmbeddingRecovery(name, axis, None)
        for name, leaf in seen[0].items()
        for axis in (0, 1)
        if leaf.ndim == 2
        and leaf.shape[axis] == len(privates[0])
        and all(
            is_along(np.moveaxis(leaves[name], axis, 0), private, tolerance)
            for leaves, private in zip(seen, privates, strict=True)
        )
    ]
    for recovery in directions:
        for name in seen[0]:
            if all(
                _is_product(
                    np.moveaxis(leaves[recovery.kernel], recovery.axis, 0),
                    private,
                    leaves[name],
                    tolerance,
                    scaled,
                )
                for leaves, private in zip(seen, privates, strict=True)
            ):
                return recovery._replace(bias=name)
    return directions[0] if directions else None


def _vector(private: PyTree, leaf: str | None) -> np.ndarray:
    """The named leaf of a private state; an array of no axis where the state is no vector."""
    if leaf is None:
        return np.asarray(private) if isinstance(private, jax.Array | np.ndarray) else np.zeros(())
    return np.asarray(dict(zip(tree.names(private), jax.tree.leaves(private), strict=True))[leaf])


def is_along(matrix: np.ndarray, private: np.ndarray, tolerance: float = 1e-5) -> bool:
    """Whether a matrix `[D, H]` is `private ⊗ e` for some e, and not zero.

    Example:
        >>> p = np.array([1.0, 2.0])
        >>> is_along(np.outer(p, [3.0, 4.0]), p), is_along(np.eye(2), p)
        (True, False)
    """
    other = private @ matrix / (private @ private)
    size = np.linalg.norm(matrix)
    return bool(np.linalg.norm(matrix - np.outer(private, other)) < tolerance * size)


def _is_product(
    matrix: np.ndarray, private: np.ndarray, bias: np.ndarray, tolerance: float, scaled: bool
) -> bool:
    """Whether a matrix `[D, H]` is `private ⊗ bias`, or a positive multiple of it."""
    if bias.shape != matrix.shape[1:]:
        return False
    product = np.outer(private, bias)
    if scaled:
        square = max(np.vdot(product, product), np.finfo(float).tiny)
        product *= max(np.vdot(matrix, product), 0) / square
    return bool(np.linalg.norm(matrix - product) < tolerance * np.linalg.norm(matrix))


def exact(recovery: EmbeddingRecovery, seen: PyTree) -> Array:
    """`p = kernel · bias / |bias|^2`, `[D]`, from one step's upload; NaN at a zero bias.

    Where the channel dropped entries, the sums run over the remaining entries of a row; p is 0 for
    a row that has none.

    Args:
        recovery: leaves that determine p, with a bias.
        seen: the upload of one step.

    Raises:
        ValueError: if the recovery has no bias.
    """
    kernel, bias = _kernel(recovery, seen), _bias(recovery, seen)
    squares = jnp.sum(jnp.where(kernel != 0, bias**2, 0), axis=1)
    known = squares > 0
    size = jnp.where(jnp.any(bias != 0), 1.0, jnp.nan)
    return size * jnp.where(known, kernel @ bias / jnp.where(known, squares, 1), 0)


def _kernel(recovery: EmbeddingRecovery, seen: PyTree) -> Array:
    """The kernel's leaf `[D, H]`, p's axis first."""
    leaf = flax.traverse_util.flatten_dict(seen, sep='/')[recovery.kernel]
    return jnp.moveaxis(leaf, recovery.axis, 0)


def _bias(recovery: EmbeddingRecovery, seen: PyTree) -> Array:
    """The bias's leaf `[H]`."""
    if recovery.bias is None:
        raise ValueError(f'Expected an embedding recovery with a bias, got {recovery}.')
    return flax.traverse_util.flatten_dict(seen, sep='/')[recovery.bias]


def mismatch(recovery: EmbeddingRecovery, seen: PyTree, private: Array) -> Array:
    """How far one step's kernel is from `p ⊗ bias`, relative to its size, `[]`; 0 for zeros.

    Args:
        recovery: leaves that determine p, with a bias.
        seen: the upload of one step.
        private: p, `[D]`, as `exact` returns it.

    Returns:
        float `[]` >= 0, `|kernel - p ⊗ bias| / |kernel|`; NaN where p is.

    Raises:
        ValueError: if the recovery has no bias.

    Example:
        >>> seen = {'kernel': jnp.outer(jnp.array([3.0, 1.0]), jnp.array([1.0, 2.0]))}
        >>> seen['bias'] = jnp.array([1.0, 2.0])
        >>> found = EmbeddingRecovery('kernel', 0, 'bias')
        >>> mismatch(found, seen, exact(found, seen)).item()
        0.0
    """
    kernel = _kernel(recovery, seen)
    left = jnp.linalg.norm(kernel - jnp.outer(private, _bias(recovery, seen)))
    size = jnp.linalg.norm(kernel)
    return jnp.where(size > 0, left / jnp.where(size > 0, size, 1), 0)


def error(private: Array, apart: Array, rounding: float) -> Array:
    """An error `[T, D]` that p may have by rounding. Sums in which much cancels have more of it.

    Args:
        private: p, `[T, D]`.
        apart: `mismatch` of each step, `[T]`, in which such sums show.
        rounding: unit roundoff of the uploads.

    Example:
        >>> error(jnp.array([[1.0, 3.0]]), jnp.array([0.5]), 0.0).tolist()
        [[1.5, -2.5]]
    """
    size = jnp.maximum(4 * rounding, apart)[:, None]
    signs = jnp.where(jnp.arange(private.shape[-1]) % 2 == 0, 1.0, -1.0)
    mean = jnp.mean(jnp.abs(private), axis=-1, keepdims=True)
    return signs * size * (jnp.abs(private) + mean)


def excess(recovery: EmbeddingRecovery, seen: PyTree) -> tuple[Array, Array]:
    """What no p and e explain of one step's kernel `p ⊗ e` and bias e, however they are chosen.

    `[kernel; bias]` is of rank one, so that its other singular values are what is left
    (Eckart-Young). Nothing is said, 0, where entries were dropped.

    Args:
        recovery: leaves that determine p, with a bias.
        seen: the upload of one step, in units of the noise.

    Returns:
        The squared norm, float `[]`, and the degrees of freedom that it has, int `[]`: the numbers
        of kernel and bias less those that are fitted, `D (H - 1)`.

    Raises:
        ValueError: if the recovery has no bias.

    Example:
        >>> seen = {'kernel': jnp.array([[1.0, 2.0], [2.0, 4.0]]), 'bias': jnp.array([1.0, 2.0])}
        >>> square, size = excess(EmbeddingRecovery('kernel', 0, 'bias'), seen)
        >>> round(square.item(), 6), size.item()
        (0.0, 2)
    """
    kernel, bias = _kernel(recovery, seen), _bias(recovery, seen)
    values = jnp.linalg.svd(jnp.concatenate([kernel, bias[None]]), compute_uv=False)
    complete = jnp.all((kernel != 0) == (bias != 0))
    square = jnp.where(complete, jnp.sum(values[1:] ** 2), 0)
    return square, jnp.asarray(len(kernel) * (len(bias) - 1))


def direction(recovery: EmbeddingRecovery, seen: PyTree) -> Array:
    """The unit vector `[D]` along p, up to its sign, from one step's upload.

    This is the first left singular vector of the kernel's leaf, or zero if that leaf is zero.
    """
    kernel = _kernel(recovery, seen)
    size = jnp.max(jnp.abs(kernel))
    scaled = kernel / jnp.where(size > 0, size, 1)
    vector = jnp.linalg.eigh(scaled @ scaled.T)[1][:, -1]
    return jnp.where(size > 0, vector, 0)
