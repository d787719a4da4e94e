"""How much the uploads determine, without running an attack: 'insufficient constraints' in numbers.

An auditor calls these functions, no attack does. They say whether an attack failed because the
labels are not determined, how many gradients would determine them, and how much noise prevents it.
All are functions of the Jacobians of the uploads, A in the labels and J in the private parameters,
at the truth or at an attacker's estimate (`jax.jacfwd` of `objective.Problem.residual`).

Example:
    Two gradients of one number each, from a client with three labels, in units of the noise.

    >>> steps = [4 * np.array([[1.0, 1.0, 0.0]]), 4 * np.array([[0.0, -1.0, 1.0]])]
    >>> labels = np.array([1, 1, 0])
    >>> box_unique(steps[0], labels)  # the third label does not move the first gradient
    False
    >>> smallest_num_gradients(steps, labels)
    2

    If a private parameter can cause any change of the first gradient, one equation is left.

    >>> jacobian = jnp.concatenate([jnp.asarray(step) for step in steps])
    >>> left = project(jacobian, jnp.array([[1.0], [0.0]]))
    >>> box_unique(left, labels)
    False

    Labels that may be any real numbers need as many equations as there are labels. With a third
    equation, rounding a least-squares estimate gets 8% of the labels wrong.

    >>> where = jnp.ones(3, bool)
    >>> predicted_error(jacobian.T @ jacobian, where).tolist()
    [inf, inf, inf]
    >>> jacobian = jnp.concatenate([jacobian, jnp.array([[0.0, 0.0, 4.0]])])
    >>> round(predicted_flips(jacobian.T @ jacobian, where).item(), 2)
    0.08
"""

from collections.abc import Sequence

import jax.numpy as jnp
import jax.scipy.stats
import numpy as np
import scipy.optimize

from fedinv_jax.types import Array


def project(jacobian: Array, private: Array) -> Array:
    """The Jacobian of the labels without changes that the private parameters could cause as well.

    `(I - Q Q') A` for an orthonormal basis Q of the range of J. Conclusions from it hold, to first
    order, for any private parameters. A column of which only rounding is left is set to zero.

    Args:
        jacobian: float `[M, K]`, A.
        private: float `[M, P]`, J, the derivatives in the private parameters of all steps.

    Returns:
        float `[M, K]`.

    Example:
        >>> project(jnp.eye(2), jnp.array([[1.0], [0.0]])).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    scale = jnp.linalg.norm(private, axis=0)
    scaled = private / jnp.where(scale > 0, scale, 1)
    basis, values, _ = jnp.linalg.svd(scaled, full_matrices=False)
    least = jnp.max(values) * max(private.shape) * jnp.finfo(private.dtype).eps
    basis = jnp.where(values > least, basis, 0)
    rest = jacobian - basis @ (basis.T @ jacobian)
    before, after = (jnp.linalg.norm(matrix, axis=0) for matrix in (jacobian, rest))
    rounding = max(jacobian.shape[0], private.shape[1]) * jnp.finfo(jacobian.dtype).eps
    return jnp.where(after > rounding * before, rest, 0)


def box_unique(jacobian: np.ndarray, labels: np.ndarray, where: np.ndarray | None = None) -> bool:
    """Whether no other labels in the box give the same uploads as these, without noise.

    True iff some w has `(A'w)_i > 0` wherever y_i = 0 and `< 0` wherever y_i = 1. One linear
    program decides: `max t` over `s_i (A'w)_i >= t, |w_m| <= 1`, on columns of norm 1; t > 0 iff
    the labels are unique.

    Args:
        jacobian: float `[M, K]`, on the host.
        labels: 0-1 `[K]`.
        where: 0-1 `[K]`, 0 for padding.

    Example:
        >>> box_unique(np.array([[1.0, 1.0]]), np.array([1, 1]))  # only both ones add up to 2
        True
        >>> box_unique(np.array([[1.0, 1.0]]), np.array([1, 0]))
        False
    """
    kept = np.ones(len(labels), bool) if where is None else np.asarray(where) > 0
    matrix = np.asarray(jacobian, np.float64)[:, kept]
    if not matrix.shape[1]:
        return True
    norms = np.linalg.norm(matrix, axis=0)
    if not np.all(norms > 0):
        return False
    # In a basis of the range of A, w has as many entries as the rank and is well scaled.
    basis, values, _ = np.linalg.svd(matrix / norms, full_matrices=False)
    matrix = basis[:, values > 1e-12 * values[0]].T @ (matrix / norms)
    signed = (1 - 2 * (np.asarray(labels, float)[kept] > 0.5)) * matrix
    size = len(signed)
    result = scipy.optimize.linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=np.column_stack([-signed.T, np.ones(signed.shape[1])]),
        b_ub=np.zeros(signed.shape[1]),
        bounds=[(-1, 1)] * size + [(0, None)],
        method='highs',
    )
    # The solver's optimum is accurate to 1e-7 only, so the condition on w is checked directly.
    return bool(result.status == 0 and np.min(result.x[:size] @ signed) > 1e-9)


def predicted_error(gram: Array, where: Array) -> Array:
    """Standard deviation `[K]` of each label's least-squares estimate, `sqrt((G^-1)_ii)`.

    It is inf for labels that the uploads do not determine and 0 for padding.

    Args:
        gram: float64 `[K, K]`, `A'A` in units of the noise.
        where: bool `[K]`, False for padding.

    Example:
        >>> predicted_error(jnp.diag(jnp.array([4.0, 0.0])), jnp.ones(2, bool)).tolist()
        [0.5, inf]
    """
    values, vectors = jnp.linalg.eigh(gram)
    known = values > jnp.max(values) * 1e-13
    inverse = jnp.where(known, 1 / jnp.where(known, values, 1), 0)
    variance = vectors**2 @ inverse
    outside = vectors**2 @ (~known).astype(gram.dtype)
    return jnp.where(where, jnp.where(outside > 1e-9, jnp.inf, jnp.sqrt(variance)), 0)


def predicted_flips(gram: Array, where: Array) -> Array:
    """The expected share of labels, `[]`, that rounding the least-squares estimate gets wrong.

    This is the mean over labels of `Phi(-1 / (2 std))`, with `std` from `predicted_error`. Solvers
    that use the box and a prior do better.

    Args:
        gram: see `predicted_error`.
        where: bool `[K]`, False for padding.

    Example:
        >>> predicted_flips(jnp.diag(jnp.array([1e6, 0.0])), jnp.ones(2, bool)).item()
        0.25
    """
    deviation = predicted_error(gram, where)
    flips = jax.scipy.stats.norm.cdf(-0.5 / jnp.where(deviation > 0, deviation, 1))
    return jnp.sum(jnp.where(where, flips, 0)) / jnp.maximum(jnp.sum(where), 1)


def smallest_num_gradients(
    jacobians: Sequence[np.ndarray], labels: np.ndarray, where: np.ndarray | None = None
) -> int | None:
    """The least T for which the first T gradients determine the labels in their box, without noise.

    Args:
        jacobians: A of each step, `[M, K]`, in the order of the steps.
        labels: 0-1 `[K]`.
        where: 0-1 `[K]`, 0 for padding.

    Returns:
        T, or None if all gradients together do not determine the labels.

    Example:
        >>> steps = [np.array([[1.0, 1.0]]), np.array([[1.0, -1.0]])]
        >>> smallest_num_gradients(steps, np.array([1, 0]))
        2
    """
    for steps in range(1, len(jacobians) + 1):
        if box_unique(np.concatenate(list(jacobians)[:steps]), labels, where):
            return steps
    return None
